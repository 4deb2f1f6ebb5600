"""By how much a log density that is a mean over draws is off, because the draws are finitely many.

    ℓᵢ = log (1/S) Σₛ pᵢₛ,   wᵢₛ = pᵢₛ / mean over s,   Var ℓᵢ ≈ Var(wᵢ)/S,   E ℓᵢ − truth ≈ −Var(wᵢ)/2S

A draw is one function for all rows, so rows are off together: the variance of the sum over rows is that of Σᵢ wᵢₛ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch

from bayesreg.predictive.mixture import Predictive, tails

_BATCHES = 10
FEW = 10.0  # draws that carry a row's density: below, the error itself is not known well


@final
@dataclass(frozen=True, eq=False)
class LogDensityError:
    """Monte Carlo error of the log density, summed over rows, in nats.

    Attributes:
        num_samples: S; 0 where nothing is drawn.
        spread: Standard deviation.
        bias: How far below the truth it lies on average.
        least: The effective number of draws behind a row's density, (Σw)²/Σw², the smallest over rows.
        few: Rows for which that is below `FEW`: how far their density is off is a guess.
        influence: What each pair of draws adds to the sum, (S/2,), or each draw where their number is odd.
    """

    num_samples: int
    spread: float
    bias: float
    least: float
    few: int
    influence: torch.Tensor

    @property
    def error(self) -> float:
        """√(spread² + bias²)."""
        return math.hypot(self.spread, self.bias)

    def against(self, other: LogDensityError) -> float:
        """Monte Carlo error of the difference of two sums.

        Draws of one seed may move together, so that it is less than each one's error; with other numbers of draws they are
        taken to be independent.

        Args:
            other: Of the same rows.

        Returns:
            In nats.
        """
        if self.num_samples == other.num_samples and len(self.influence):
            own, its = self.influence, other.influence
            shared = float((own * its).sum()) / (len(own) * max(len(own) - 1, 1))
            spread = math.sqrt(max(self.spread**2 + other.spread**2 - 2 * shared, 0.0))
        else:
            spread = math.hypot(self.spread, other.spread)
        return math.hypot(spread, self.bias - other.bias)


NONE = LogDensityError(0, 0.0, 0.0, math.inf, 0, torch.zeros(0))


def log_density_error(predictive: Predictive, y: Any) -> LogDensityError:
    """Monte Carlo error of Σᵢ log p(yᵢ | xᵢ, data).

    Draws s and s + S/2 may be a pair loc ± step, which are not independent: their mean is what counts, and there are S/2 of
    those. Where few draws carry a row, its density is taken to be distributed as a Gamma variable of the same variance, whose
    logarithm's mean and variance are known; for many draws that is the formula above. With fewer than `FEW` the draws may have
    missed what matters: a regression's density there is set against that of one normal with the mean and covariance of all
    draws, and what it lacks to that counts as bias.

    Args:
        predictive: The prediction for N rows.
        y: What was observed there.

    Returns:
        The error; none for a mode or a closed form.

    Raises:
        ValueError: If y does not fit.

    References:
        Efron and Stein (1981), The jackknife estimate of variance (influence functions of a smooth statistic).
    """
    if predictive.function is not None or predictive.num_samples == 1:
        return NONE
    y, count = predictive.target(y), predictive.num_samples
    units = count // 2 if count % 2 == 0 and count >= 4 else count
    influence = torch.zeros(units, dtype=torch.float64, device=y.device)
    excess, bias, few, least = 0.0, 0.0, 0, math.inf
    with torch.no_grad():
        for rows, part in predictive.split():
            logs = part.likelihood.log_prob(part.output, y[rows], **part.noise).double()
            weight = (logs - (torch.logsumexp(logs, 0) - math.log(count))).exp_()
            carried = count / weight.square().mean(0)
            pairs = weight.reshape(-1, units, weight.shape[1]).mean(0)
            variance = (pairs.var(0) / units).clamp_min(1e-300)
            influence += (pairs - 1).sum(1)
            shape = 1 / variance
            excess += float((torch.special.polygamma(1, shape) - variance).clamp_min(0).sum())
            below = shape.log() - torch.digamma(shape)
            thin = carried < FEW
            if not predictive.likelihood.discrete and bool(thin.any()):
                below[thin] = torch.maximum(
                    below[thin], _as_normal(part, y[rows], thin) - torch.logsumexp(logs[:, thin], 0) + math.log(count)
                )
            bias += float(below.sum())
            few, least = few + int(thin.sum()), min(least, float(carried.min()))
    spread = math.sqrt(float(influence.var()) / units + excess)
    return LogDensityError(count, spread, bias, least, few, influence.cpu())


def batch_errors(predictive: Predictive, scores: Callable[[Predictive], Mapping[str, float]]) -> dict[str, float]:
    """Monte Carlo error of any score by batch means: its spread over ten parts of the draws, over √10.

    Args:
        predictive: The prediction for N rows.
        scores: Scores of a predictive of the same rows, by name.

    Returns:
        By name; zero where nothing is drawn, NaN where there are fewer than four draws.
    """
    count = predictive.num_samples
    if predictive.function is not None or count == 1:
        return dict.fromkeys(scores(predictive), 0.0)
    units = count // 2 if count % 2 == 0 else count  # draws s and s + S/2 may be a pair
    batches = min(_BATCHES, units)
    if count < 4:
        return dict.fromkeys(scores(predictive), math.nan)
    batch = torch.arange(count) % units % batches
    found = [scores(predictive.mixed(torch.nonzero(batch == b)[:, 0])) for b in range(batches)]
    spread = {name: torch.tensor([part[name] for part in found], dtype=torch.float64).std() for name in found[0]}
    return {name: float(value) / math.sqrt(batches) for name, value in spread.items()}


def interval_errors(
    predictive: Predictive, lower: torch.Tensor, upper: torch.Tensor, y: torch.Tensor, level: float
) -> dict[str, float]:
    """Monte Carlo error of the mean width and the interval score, by what a draw moves a quantile.

        q̂ − q ≈ −(F̂(q) − p)/f(q)

    Args:
        predictive: A regression's prediction for N rows.
        lower: Lower ends of the central intervals, (N,) or (N, K).
        upper: Upper ends.
        y: What was observed there.
        level: Probability inside.

    Returns:
        "interval_score" and "mean_width"; zero where nothing is drawn.
    """
    count = predictive.num_samples
    if predictive.function is not None or count == 1:
        return {"interval_score": 0.0, "mean_width": 0.0}
    units, total = count // 2 if count % 2 == 0 and count >= 4 else count, y.numel()
    width = torch.zeros(2, units, dtype=torch.float64, device=y.device)  # of the score, and of the width
    with torch.no_grad():
        for rows, part in predictive.split():
            components: Any = part.components
            for end, p, sign in ((lower[rows], tails(level)[0], -1.0), (upper[rows], tails(level)[1], 1.0)):
                density = components.log_prob(end).exp().mean(0).clamp_min(1e-300)
                moved = -(part.likelihood.cdf(part.output, end, **part.noise) - p) / density
                outside = (y[rows] - end) * sign > 0  # the score moves with the end, and against it by 2/α where y is outside
                slope = 1 - outside * (2 / (1 - level))
                for i, factor in enumerate((slope * sign, torch.full_like(end, sign))):
                    width[i] += (moved * factor).double().reshape(-1, units, moved[0].numel()).mean(0).sum(1)
    score, mean = (float(each.std()) / math.sqrt(units) / total for each in width)
    return {"interval_score": score, "mean_width": mean}


def _as_normal(part: Predictive, y: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Log density of some rows under one normal with the draws' mean and covariance."""
    mean = part.likelihood.mean(part.output, **part.noise)[:, rows].double()
    noise = part.likelihood.variance(part.output, **part.noise)[:, rows].double().mean(0)
    single = mean.dim() == 2
    mean, noise, target = (v[..., None] if single else v for v in (mean, noise, y[rows].double()))
    off = mean - mean.mean(0)
    covariance = torch.einsum("snk,snl->nkl", off, off) / len(off) + torch.diag_embed(noise)
    return torch.distributions.MultivariateNormal(mean.mean(0), covariance, validate_args=False).log_prob(target)
