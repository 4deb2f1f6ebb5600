"""Tests of calibration: what chance alone does to a calibrated predictive, at one level for all statements of a verdict.

A predictive is calibrated when its test set could be a draw from it. Rows are not independent in such a draw: all of them share
the function, so that with few training rows all errors lean to one side together. The draws of a predictive share it too
(`Predictive.sample`), so the observed test set is ranked among them:

    p = (1 + #{draws at least as extreme}) / (1 + R)

This holds for any number of rows. Under a mode rows are independent, and the tails are exact binomial ones.

References:
    Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness via realized discrepancies.
    Holm (1979), A simple sequentially rejective multiple test procedure.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, final

import numpy as np

from bayesreg.metrics.measures import LEVELS
from bayesreg.predictive.mixture import Predictive

# All cards together say something wrong of calibrated predictions in at most one test set of twenty
CALIBRATION, AHEAD = 0.03, 0.02
_DRAWS, _LEAST_DRAWS, _ENTRIES = 4000, 1000, 2**22
Key = TypeVar("Key", bound=Hashable)


@final
@dataclass(frozen=True)
class Tails:
    """The tail probabilities of an observed value among test sets from a calibrated predictive.

    Attributes:
        low: Probability of a value as low, or lower.
        high: Probability of one as high, or higher.
        output: Number of the output with the smallest p-value; 0 where there is one output.
    """

    low: float
    high: float
    output: int = 0

    @property
    def p(self) -> float:
        """Two-sided p-value."""
        return min(1.0, 2 * min(self.low, self.high))


@final
@dataclass(frozen=True)
class Shift:
    """The mean position of the targets in their predictive distributions.

    Attributes:
        tails: Of the mean PIT value.
        mean: That mean; above 0.5 the predictions are too low.
        distance: Distance from 0.5, in standard errors that include the common error of the rows.
    """

    tails: Tails
    mean: float
    distance: float


def adjusted(found: Mapping[Key, tuple[float, float]]) -> dict[Key, float]:
    """Holm's adjusted p-values with weights: statements with a value of at most α are all true with probability 1 − α.

    >>> adjusted({"a": (0.01, 1.0), "b": (0.04, 1.0)})
    {'a': 0.02, 'b': 0.04}
    """
    order = sorted(found, key=lambda key: found[key][0] / found[key][1])
    left, highest, out = sum(weight for _, weight in found.values()), 0.0, {}
    for key in order:
        p, weight = found[key]
        highest = max(highest, min(1.0, p * left / weight))
        left -= weight
        out[key] = highest
    return {key: out[key] for key in found}


def binomial_tails(hits: int, count: int, share: float) -> Tails:
    """Exact tails of a count of independent values.

    >>> round(binomial_tails(1, 3, 0.95).low, 5)
    0.00725
    """
    from scipy.special import bdtr, bdtrc

    return Tails(float(bdtr(hits, count, share)), float(bdtrc(hits - 1, count, share)))


def regression_tails(predictive: Predictive, y: Any, *, seed: int = 0) -> tuple[Shift, dict[float, Tails]]:
    """Tails of the mean PIT value and of the coverage at each level; of several outputs the rarest counts."""
    u = predictive.pit(y).cpu().double().numpy().reshape(predictive.num_rows, -1)
    rows = len(u)
    seen = _summaries(u[None])[0]
    if predictive.num_samples == 1:
        z = np.sqrt(12 * rows) * (seen[0] - 0.5)
        pairs = [(_normal(z), _normal(-z))]
        for level, shares in zip(LEVELS, seen[1:], strict=True):
            each = [binomial_tails(round(share * rows), rows, level) for share in shares]
            pairs.append((np.array([tails.low for tails in each]), np.array([tails.high for tails in each])))
    else:
        made = _drawn(predictive, seed)
        z = (seen[0] - 0.5) / np.maximum(made[:, 0].std(0), 1e-12)
        pairs = list(zip(_ranked(seen, made), _ranked(-seen, -made), strict=True))
    (low, high), (own_low, own_high) = pairs[0], _own_error(u)
    pairs[0] = np.maximum(low, own_low), np.maximum(high, own_high)
    tails = [_rarest(*pair) for pair in pairs]
    k = tails[0].output
    return Shift(tails[0], float(seen[0, k]), float(z[k])), dict(zip(LEVELS, tails[1:], strict=True))


def _own_error(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tails of the mean PIT value by its own scatter: too narrow intervals move values to both ends, which is no shift."""
    from scipy.special import stdtr

    if len(u) < 2:
        return np.ones(u.shape[1]), np.ones(u.shape[1])
    ratio = (u.mean(0) - 0.5) / np.maximum(u.std(0, ddof=1) / np.sqrt(len(u)), 1e-12)
    return stdtr(len(u) - 1, ratio), stdtr(len(u) - 1, -ratio)


def num_draws(predictive: Predictive) -> int:
    """R: enough draws to resolve a p-value of one in a few thousand, fewer for many rows; each component equally often."""
    wanted = min(_DRAWS, max(_LEAST_DRAWS, _ENTRIES // (predictive.num_rows * predictive.num_outputs)))
    return -(-wanted // predictive.num_samples) * predictive.num_samples


def ranked(seen: float, made: np.ndarray) -> float:
    """P(a draw at most as large as the observed value).

    Beyond the draws a normal distribution extrapolates.

    >>> ranked(0.5, np.arange(9.0)), ranked(7.0, np.arange(9.0))
    (0.2, 0.9)
    """
    return float(_ranked(np.array(seen), np.asarray(made, float)))


def _ranked(seen: np.ndarray, made: np.ndarray) -> np.ndarray:
    fewer = (made <= seen + 1e-12).sum(0)
    rank = (1 + fewer) / (1 + len(made))
    beyond = _normal((seen - made.mean(0)) / np.maximum(made.std(0), 1e-12))
    return np.where(fewer == 0, np.minimum(rank, beyond), rank)


def _normal(z: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr

    return ndtr(z)


def _summaries(u: np.ndarray) -> np.ndarray:
    """Mean PIT value, then the share inside each level's central interval, of test sets (R, N, K): (R, 1 + levels, K)."""
    inside = np.abs(2 * u - 1)
    return np.stack([u.mean(1), *((inside <= level + 1e-12).mean(1) for level in LEVELS)], 1)


def _drawn(predictive: Predictive, seed: int) -> np.ndarray:
    """The same for R test sets drawn from the predictive; their PIT values are ranks among each other."""
    number, total = num_draws(predictive), 0.0
    for rows, part in predictive.split(number):
        y = part.sample(number, seed=seed + rows.start).cpu().double().numpy().reshape(number, part.num_rows, -1)
        if part.likelihood.discrete:  # ties among whole numbers are broken at random
            y += np.random.default_rng(seed + rows.start).random(y.shape)
        order = y.argsort(0)
        u = np.empty_like(y)
        np.put_along_axis(u, order, np.broadcast_to(((np.arange(number) + 0.5) / number)[:, None, None], y.shape), 0)
        total = total + _summaries(u) * (part.num_rows / predictive.num_rows)
    return np.asarray(total)


def _rarest(low: np.ndarray, high: np.ndarray) -> Tails:
    """The output with the smallest p-value, multiplied by the number of outputs."""
    k = int(np.minimum(low, high).argmin())
    return Tails(min(1.0, len(low) * float(low[k])), min(1.0, len(low) * float(high[k])), k)
