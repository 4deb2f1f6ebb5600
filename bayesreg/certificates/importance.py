"""Whether an approximation covers the posterior: the tail of its importance weights, and the evidence that they give.

wₛ = p(y, uₛ)/q(uₛ), uₛ ~ q      p(y) = E[w]      k̂: the generalised Pareto shape of the largest weights
"""

from __future__ import annotations

import math

import torch
from pyro.ops.stats import fit_generalized_pareto

from bayesreg.certificates.values import Importance
from bayesreg.data.rows import Data
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.whole import values_of

NUM_DRAWS = 1000
_WORK = 4e9  # draws × rows × unknowns that a check may take
_FEWEST = 200  # draws below which the tail is too short to judge
_ALONE = 1e-280  # of the largest weight; below it the fit's own numbers overflow
_TAIL = 10  # weights in the tail, at least


def num_draws(log_joint: LogJoint, data: Data) -> int:
    """How many draws a check can afford on all rows; 0 where too few."""
    affordable = int(_WORK / max(1, data.num_data * log_joint.layout.size))
    return min(NUM_DRAWS, affordable) if affordable >= _FEWEST else 0


def of_draws(log_joint: LogJoint, draws: torch.Tensor, log_q: torch.Tensor, data: Data) -> Importance:
    """How well the distribution of these draws covers the posterior of the unconstrained vector.

    Args:
        log_joint: The objective, best in float64.
        draws: Independent draws, (S, P); `num_draws` says how many can be afforded.
        log_q: Their normalised log density under what they were drawn from, (S,).
        data: All rows.

    Returns:
        The shape, and the evidence where every prior is proper.
    """
    ratio = values_of(log_joint, draws, data, jacobian=True) - log_q.double()
    smoothed, shape = pareto_smoothed(ratio)
    count = len(ratio)
    limit = min(1 - 1 / math.log10(count), 0.7)
    if not log_joint.model.has_evidence or shape == math.inf:
        return Importance(shape, count, limit)
    evidence = float(torch.logsumexp(smoothed, 0)) - math.log(count)
    weights = (smoothed - evidence).exp()
    return Importance(shape, count, limit, evidence, float(weights.std() / math.sqrt(count)))


def pareto_smoothed(log_weights: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Pareto-smoothed log weights, (S,) float64, and the shape k̂ of their tail.

    The largest min(0.2 S, 3√S) weights are replaced by the quantiles of a generalised Pareto distribution that is fitted to
    them, and cut at the largest weight. Weights that are all alike have shape −∞: nothing needs correction.

    Args:
        log_weights: (S,), up to a constant.

    Returns:
        The log weights and the shape; +∞ where a weight is not finite, or where the tail is too short.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling. Yao, Vehtari, Simpson and Gelman
        (2018), Yes, but did it work? Evaluating variational inference.

    >>> k = 0.4                                                       # weights of an exact Pareto distribution
    >>> smoothed, shape = pareto_smoothed(-k * ((torch.arange(4000.0, dtype=torch.float64) + 0.5) / 4000).log())
    >>> abs(shape - k) < 0.05
    True
    """
    given = log_weights.detach().double().cpu()
    if bool(given.isnan().any() | (given == math.inf).any()):
        return given, math.inf
    order = given.argsort()
    count = math.ceil(min(0.2 * len(given), 3 * math.sqrt(len(given))))
    if count < _TAIL:
        return given, math.inf
    top, tail = float(given[order[-1]]), order[-count:]
    cut = max(float(given[order[-count - 1]]), math.log(torch.finfo(torch.float64).tiny) + top)
    above = (given[tail] - top).exp() - math.exp(cut - top)
    if float(above[-1]) <= 1e-9:
        return given, -math.inf
    if float(above[len(above) // 4]) <= _ALONE:  # a fit needs a spread of weights, and this is one of them alone
        return given, math.inf
    shape, scale = fit_generalized_pareto(above)
    rank = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    exceeds = -scale * (-rank).log1p() if abs(shape) < 1e-12 else scale / shape * torch.expm1(-shape * (-rank).log1p())
    smoothed = given.clone()
    smoothed[tail] = (exceeds + math.exp(cut - top)).log().clamp(max=0.0) + top
    return smoothed, shape
