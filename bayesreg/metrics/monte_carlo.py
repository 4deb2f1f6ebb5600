"""The Monte Carlo error of log densities and scores that are means over finitely many draws.

    ℓᵢ = log (1/S) Σₛ pᵢₛ,   wᵢₛ = pᵢₛ / mean over s,   Var ℓᵢ ≈ Var(wᵢ)/S,   E ℓᵢ − truth ≈ −Var(wᵢ)/2S

A draw is one function for all rows, so the rows' errors are correlated: the variance of the sum over rows is that of Σᵢ wᵢₛ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch

from bayesreg.predictive.mixture import Predictive, tails

_BATCHES = 10
FEW = 10.0  # effective draws behind a row's density; with fewer, the error itself is uncertain


@final
@dataclass(frozen=True, eq=False)
class LogDensityError:
    """Monte Carlo error of the log density, summed over rows, in nats.

    Attributes:
        num_samples: S; 0 where nothing is drawn.
        spread: Standard deviation.
        bias: Mean distance below the true value.
        least: Smallest effective number of draws behind a row's density, (Σw)²/Σw².
        few: Rows for which that is below `FEW`: the error of their density is a guess.
        influence: Influence of each pair of draws on the sum, (S/2,), or of each draw where their number is odd.
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
        """Monte Carlo error of the difference of two sums over the same rows, in nats.

        Draws of one seed may be correlated, so it can be less than each one's error; with different numbers of draws they are
        taken to be independent.
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

    Draws s and s + S/2 may be an antithetic pair loc ± step: their mean counts as one draw, and there are S/2 of these. Where
    few draws carry a row, its density is modelled as a Gamma variable of the same variance, whose logarithm has known mean and
    variance; for many draws that is the formula above. With fewer than `FEW` the draws may have missed important ones: a
    regression's density is then compared with that of one normal with the mean and covariance of all draws, and the shortfall
    counts as bias.

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

    `scores` gives the scores of a predictive of the same rows, by name. The errors are zero where nothing is drawn, NaN with
    fewer than four draws.
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
    """Monte Carlo error of "interval_score" and "mean_width", from the influence of a draw on a quantile; zero without draws.

        q̂ − q ≈ −(F̂(q) − p)/f(q)

    The ends of the central intervals, and y, are (N,) or (N, K).
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
