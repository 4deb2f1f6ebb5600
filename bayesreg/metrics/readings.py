"""Numbers that figures and reports take from a prediction: shares with their bounds, bins, rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bayesreg import _check
from bayesreg.predictive.mixture import Predictive

LEVELS = tuple(i / 40 for i in range(2, 40))  # 0.05 … 0.975


def wilson(hits: Any, count: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % interval of a share r/n: (r + z²/2 ± z √(r(n − r)/n + z²/4)) / (n + z²); numbers or arrays.

    References:
        Wilson (1927), Probable inference, the law of succession, and statistical inference.

    >>> [round(float(end), 3) for end in wilson(0, 10)]
    [0.0, 0.278]
    """
    hits, count, z = np.asarray(hits, float), np.asarray(count, float), 1.959963984540054
    half = z * np.sqrt(np.maximum(hits * (count - hits) / count, 0) + z * z / 4)
    centre = hits + z * z / 2
    return np.clip((centre - half) / (count + z * z), 0, 1), np.clip((centre + half) / (count + z * z), 0, 1)


def binomial_band(count: int, levels: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % range of the observed share of n independent values, for each stated probability if it is true.

    >>> [float(end[0]) for end in binomial_band(10, [0.5])]
    [0.2, 0.8]
    """
    from scipy.special import bdtr, bdtrik

    def end(mass: float) -> np.ndarray:
        above = np.ceil(bdtrik(mass, count, levels))  # the inverse of a step: rounding may end one above
        below = np.maximum(above - 1, 0)
        return np.where(bdtr(below, count, levels) >= mass, below, above) / count

    return end(0.025), end(0.975)


def coverage_curve(predictive: Predictive, y: Any, levels: Sequence[float] = LEVELS) -> np.ndarray:
    """Share of the targets inside the central interval of each level, (len(levels),), over all N (or N·K) values."""
    needed = np.sort(np.abs(2 * predictive.pit(y).cpu().double().numpy().ravel() - 1))
    return np.searchsorted(needed, np.asarray(levels), side="right") / needed.size


def stated_and_right(predictive: Predictive, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """The probability that a classification states for each row, and whether the event happened, both (N,).

    For two classes these are P(y = 1) and y; for several the predicted class's probability and whether it was right.

    Raises:
        ValueError: If this is no classification, or y does not fit.
    """
    labels = predictive.likelihood.labels
    if labels is None:
        raise ValueError("reliability must be asked of a classification, but a regression came; draw coverage or pit instead.")
    stated, right = labels.stated(predictive.mean.cpu().double(), predictive.target(y).cpu())
    return stated.numpy(), right.numpy()


def reliability_bins(predictive: Predictive, y: Any, num_bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean stated probability, observed share and number of rows of each non-empty bin, as for `metrics.ece`.

    Raises:
        ValueError: If this is no classification, y does not fit, or num_bins is not a whole number >= 1.
    """
    stated, right = stated_and_right(predictive, y)
    index = np.clip(np.ceil(stated * _check.count("num_bins", num_bins)).astype(int) - 1, 0, num_bins - 1)
    count = np.bincount(index, minlength=num_bins).astype(float)
    full = count > 0
    sums = [np.bincount(index, values, minlength=num_bins)[full] / count[full] for values in (stated, right)]
    return sums[0], sums[1], count[full]


def variance_rows(predictive: Predictive, output: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Aleatoric and epistemic variance of each row; for several classes the sum over classes.

    Args:
        predictive: The prediction for N rows.
        output: Which of K outputs of a regression.

    Returns:
        Both (N,).

    Raises:
        ValueError: If there is no such output.
    """
    parts = [p.cpu().double() for p in (predictive.aleatoric_variance, predictive.epistemic_variance)]
    if predictive.likelihood.labels is None:
        check_output(predictive, output)
        parts = [p if p.dim() == 1 else p[:, output] for p in parts]
    else:
        parts = [p if p.dim() == 1 else p.sum(-1) for p in parts]
    return parts[0].numpy(), parts[1].numpy()


def take(predictive: Predictive, rows: Any) -> Predictive:
    """The same prediction for some of its rows.

    Args:
        predictive: The prediction for N rows.
        rows: Row numbers.

    Returns:
        A predictive.
    """
    return predictive.rows(torch.as_tensor(rows, device=predictive.like.device))


def check_output(predictive: Predictive, output: int) -> None:
    """Refuse a number that is none of the K outputs.

    Raises:
        ValueError: If it is not.
    """
    width = predictive.num_outputs
    if isinstance(output, bool) or not isinstance(output, int) or not 0 <= output < width:
        raise ValueError(f"output must be a number from 0 to {width - 1}, but {output!r} came; pass the number of one output.")
