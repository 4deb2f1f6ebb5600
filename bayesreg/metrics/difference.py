"""Two posteriors on the same rows: the difference of their log densities, its standard error, and whether few rows make it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, final

import torch

from bayesreg.metrics.scores import plain

_CARRIERS = 4.0  # rows: below, a single one has about half of the whole variance


@final
@dataclass(frozen=True)
class Difference:
    """Log predictive density of one posterior minus the best's, paired by row, in nats.

    Attributes:
        sum: Over all rows; zero for the best itself, negative for the others.
        sum_se: Standard error of the sum, √N · sd of the row differences, and the Monte Carlo error with it:
            √(N · variance + monte_carlo²); NaN for a single row.
        mean: Mean over rows, sum / N.
        mean_se: Standard error of the mean, sum_se / N.
        median: Of the row differences.
        num_better: Rows on which this posterior's density is higher than the best's.
        num_worse: Rows on which it is lower; the rest are ties.
        heavy_tailed: True where a few rows carry the variance of the row differences. The sum is then not near normal and
            `sum_se` says little: read `median` and `share`.
        monte_carlo: Monte Carlo error of `sum`, since the densities are means over draws; 0 without draws.
    """

    sum: float
    sum_se: float
    mean: float
    mean_se: float
    median: float
    num_better: int
    num_worse: int
    heavy_tailed: bool
    monte_carlo: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The same as plain types, ready for JSON; a number that is not finite becomes None.

        Returns:
            The attributes, and "share" and "sign_test".
        """
        found = asdict(self) | {"share": self.share, "sign_test": self.sign_test}
        return {name: plain(value) if isinstance(value, float) else value for name, value in found.items()}

    @property
    def sampling_se(self) -> float:
        """√N · sd of the row differences: the part of `sum_se` that is not Monte Carlo error."""
        return math.sqrt(max(self.sum_se**2 - self.monte_carlo**2, 0.0))

    @property
    def share(self) -> float:
        """Share of the rows on which this posterior's density is higher than the best's; NaN where all are ties."""
        decided = self.num_better + self.num_worse
        return self.num_better / decided if decided else math.nan

    @property
    def sign_test(self) -> float:
        """Two-sided p-value of the sign test: that either is better on any row with probability ½; ties are left out."""
        from scipy.special import bdtr

        decided = self.num_better + self.num_worse  # as likely below as above one half, so that a tail counts twice
        return min(1.0, 2 * float(bdtr(min(self.num_better, self.num_worse), decided, 0.5))) if decided else 1.0


def paired_difference(log_prob: torch.Tensor, best: torch.Tensor, monte_carlo: float = 0.0) -> Difference:
    """Sum and mean over rows of log_prob − best, each with its standard error.

    The normal distribution of the sum, on which its standard error rests, comes from many rows that each matter a little.
    With zᵢ the differences about their mean, (Σ z²)² / Σ z⁴ is the number of rows that carry the variance (1 where a single
    one does, N/3 for normal differences); with fewer than four of them, or N/12 where that is less, the tail is heavy.

    Args:
        log_prob: Log density of each row, (N,), in nats.
        best: The same rows under the one to compare with, (N,).
        monte_carlo: Monte Carlo error of the sum, in nats.

    Returns:
        The difference.

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using leave-one-out cross-validation and
        WAIC, section 5. Sivula, Magnusson and Vehtari (2020), Uncertainty in Bayesian leave-one-out cross-validation based
        model comparison.

    >>> found = paired_difference(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 5.0]))
    >>> found.sum, found.sum_se, found.mean, found.mean_se, found.num_worse, found.heavy_tailed
    (-4.0, 2.0, -2.0, 1.0, 2, False)
    >>> outlier = paired_difference(torch.tensor([0.1] * 99 + [-40_000.0]), torch.zeros(100))
    >>> outlier.heavy_tailed, round(outlier.median, 3), outlier.share
    (True, 0.1, 0.99)
    """
    rows = log_prob.double() - best.double()
    n = rows.numel()
    se = math.hypot(float(rows.std()) / math.sqrt(n), monte_carlo / n) if n > 1 else math.nan
    off = rows - rows.mean()
    squares = (off / off.abs().max().clamp_min(1e-300)).square()
    carriers = float(squares.sum().square() / squares.square().sum()) if bool(squares.any()) else float(n)
    return Difference(
        sum=float(rows.sum()),
        sum_se=se * n,
        mean=float(rows.mean()),
        mean_se=se,
        median=float(rows.quantile(0.5)),
        num_better=int((rows > 0).sum()),
        num_worse=int((rows < 0).sum()),
        heavy_tailed=carriers < min(_CARRIERS, n / 12),
        monte_carlo=monte_carlo,
    )
