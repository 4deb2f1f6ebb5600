"""What figures and reports read off a prediction: shares with their bounds, bins, rows, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bayesreg import _check
from bayesreg.predictive.mixture import Predictive

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LEVELS = tuple(i / 40 for i in range(2, 40))  # 0.05 … 0.975


def wilson(hits: Any, count: Any) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of a share, (r + z²/2 ± z √(r(n − r)/n + z²/4)) / (n + z²).

    Args:
        hits: r, a number or an array.
        count: n, likewise.

    Returns:
        Lower and upper end.

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
    """Where the observed share of n independent values lies 95 % of the time when the stated probability is true.

    Args:
        count: n.
        levels: Stated probabilities.

    Returns:
        Lower and upper share of each.

    >>> [float(end[0]) for end in binomial_band(10, [0.5])]
    [0.2, 0.8]
    """
    from scipy.stats import binom

    return binom.ppf(0.025, count, levels) / count, binom.ppf(0.975, count, levels) / count


def coverage_curve(predictive: Predictive, y: Any, levels: Sequence[float] = LEVELS) -> np.ndarray:
    """Share of the targets inside the central interval of each level, over all N (or N·K) values.

    Args:
        predictive: A regression's prediction for N rows.
        y: What was observed there.
        levels: Nominal levels.

    Returns:
        (len(levels),).
    """
    needed = np.sort(np.abs(2 * predictive.pit(y).cpu().double().numpy().ravel() - 1))
    return np.searchsorted(needed, np.asarray(levels), side="right") / needed.size


def stated_and_right(predictive: Predictive, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """The probability that a classification states for each row, and whether that came true.

    Args:
        predictive: A classification's prediction for N rows.
        y: Class labels (N,).

    Returns:
        P(y = 1) and y for two classes; the predicted class's probability and whether it was right for several; both (N,).

    Raises:
        ValueError: If this is no classification, or y does not fit.
    """
    labels = predictive.likelihood.labels
    if labels is None:
        raise ValueError("reliability must be asked of a classification, but a regression came; draw coverage or pit instead.")
    stated, right = labels.stated(predictive.mean.cpu().double(), predictive.target(y).cpu())
    return stated.numpy(), right.numpy()


def reliability_bins(predictive: Predictive, y: Any, num_bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean stated probability, observed share and number of rows of each bin that has rows.

    Args:
        predictive: A classification's prediction for N rows.
        y: Class labels (N,).
        num_bins: Bins (0, 1/B], …, ((B − 1)/B, 1], as for `metrics.ece`.

    Returns:
        Three arrays of one length.

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
    rows = torch.as_tensor(rows, device=predictive.output.device)
    noise = {name: value if value.shape[1] == 1 else value[:, rows] for name, value in predictive.noise.items()}
    function = None if predictive.function is None else predictive.function.rows(rows)
    return Predictive(predictive.likelihood, predictive.output[:, rows], noise, function)


def number(value: float, digits: int = 4) -> str:
    """A number as a person reads it: significant digits, thousands apart, no exponent unless it is far from one.

    >>> number(12345.6), number(-0.01234), number(2.5e-7), number(3.0)
    ('12,346', '−0.01234', '2.5 × 10⁻⁷', '3')
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value != 0 and not 1e-4 <= abs(value) < 1e8:
        mantissa, _, exponent = f"{value:.{max(digits - 2, 0)}e}".partition("e")
        raised = str(int(exponent)).translate(SUPERSCRIPT)
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa} × 10{raised}".replace("-", "−")
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0) if value else 0
    text = f"{value:,.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def column(values: Sequence[float | None], digits: int = 3) -> list[str]:
    """Numbers of one column: as many decimals as give the smallest ordinary one its digits, four at most.

    A number that is far larger has fewer of them, none that is not among its first six digits; one that would be lost in four
    decimals has an exponent. Neither costs the others their digits.

    Args:
        values: The column; None for what is not known.
        digits: Significant digits of the smallest.

    Returns:
        The texts.

    >>> column([-5.4, -15.25, None]), column([-33018.0, -2.7182, 2e-7])
    (['−5.40', '−15.25', '–'], ['−33,018.0', '−2.72', '2.0 × 10⁻⁷'])
    >>> column([0.5, 12345.6]), column([0.0, 0.0123])
    (['0.500', '12,345.6'], ['0.0000', '0.0123'])
    """
    known = [abs(value) for value in values if value is not None and math.isfinite(value)]
    ordinary = [value for value in known if 1e-3 <= value < 1e8]
    common = min(max(digits - 1 - math.floor(math.log10(min(ordinary))), 0), 4) if ordinary else 0
    texts = []
    for value in values:
        if value is None or not math.isfinite(value):
            texts.append("–" if value is None else number(value))
        elif value != 0 and not 1e-3 <= abs(value) < 1e8:
            mantissa, _, exponent = f"{value:.{digits - 2}e}".partition("e")
            texts.append(f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPT)}".replace("-", "−"))
        else:
            most = 5 - math.floor(math.log10(abs(value))) if value else common
            texts.append(f"{value:,.{max(min(common, most), 0)}f}".replace("-", "−"))
    return texts


def plus_minus(value: float, error: float) -> str:
    """A value and its standard error, two digits of the error and as many decimals of the value.

    >>> plus_minus(12.345, 5.123), plus_minus(1.2, 0.138), plus_minus(1234.5, 210.0)
    ('12.3 ± 5.1', '1.20 ± 0.14', '1,234 ± 210')
    """
    if not (math.isfinite(value) and math.isfinite(error) and error > 0) or not 1e-4 <= max(abs(value), error) < 1e8:
        return f"{number(value, 3)} ± {number(error, 3)}"
    decimals = min(max(1 - math.floor(math.log10(error)), 0), 4)
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}".replace("-", "−")


def percent(share: float | None, apart: float | None = None) -> str:
    """A share as a percentage: whole per cent from 10 to 99, one decimal nearer to the ends.

    Args:
        share: The share.
        apart: Another share that it must not look equal to: decimals are added until it does not.

    Returns:
        The text.

    >>> percent(0.7412), percent(0.0312), percent(0.997), percent(1.0), percent(0.0002)
    ('74 %', '3.1 %', '99.7 %', '100 %', 'under 0.1 %')
    >>> percent(0.948, apart=0.95)
    '94.8 %'
    """
    if share is None or not math.isfinite(share):
        return "–"
    if 0 < share < 0.0005:
        return "under 0.1 %"
    if 0.9995 < share < 1:
        return "over 99.9 %"
    if apart is not None and share != apart and percent(share) == percent(apart):
        decimals = next((d for d in range(1, 6) if f"{100 * share:.{d}f}" != f"{100 * apart:.{d}f}"), 6)
        return f"{100 * share:.{decimals}f} %"
    near = share < 0.0995 or 0.99 < share < 1
    text = f"{100 * share:.1f}" if near and share > 0 else f"{100 * share:.0f}"
    return text.removesuffix(".0") + " %"


def check_output(predictive: Predictive, output: int) -> None:
    """Refuse a number that is none of the K outputs.

    Raises:
        ValueError: If it is not.
    """
    width = predictive.num_outputs
    if isinstance(output, bool) or not isinstance(output, int) or not 0 <= output < width:
        raise ValueError(f"output must be a number from 0 to {width - 1}, but {output!r} came; pass the number of one output.")
