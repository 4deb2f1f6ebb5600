"""The numbers in the figures of priors: ranges, shrinkage of one weight, and where two level lines touch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.distributions import constraints

from bayesreg._threads import drawing
from bayesreg.priors import AbstractElementwisePrior, AbstractPrior
from bayesreg.priors.numeric import ends

MOST = 6  # as many as there are colours and markers
_STEPS = 20_000
_BLOCK = 2**22  # entries of one block of observations × nodes
_WORST_CONDITION = 1e4


def named(priors: Sequence[Any]) -> dict[str, AbstractPrior]:
    """Priors by the name under which they are drawn: their own text, or the key of a mapping.

    Raises:
        ValueError: If these are no priors, or more than there are colours.

    >>> from bayesreg.priors import Normal, Laplace
    >>> named([Normal(0.5)]), named([{"L1": Laplace(2.0)}])
    ({'Normal(scale=0.5)': Normal(scale=0.5)}, {'L1': Laplace(scale=2.0)})
    """
    given = priors[0] if len(priors) == 1 and isinstance(priors[0], Mapping) else {repr(prior): prior for prior in priors}
    for prior in given.values():
        if not isinstance(prior, AbstractPrior):
            raise ValueError(f"what is drawn must be a prior, but {prior!r} came; pass for example priors.Laplace(1.0).")
    if not 1 <= len(given) <= MOST:
        raise ValueError(f"the priors of one figure must be 1 to {MOST}, but {len(given)} came; draw several figures.")
    return {str(name): prior for name, prior in given.items()}


def settled(name: str, prior: AbstractPrior, shape: Sequence[int]) -> Any:
    """The prior of one weight, shape (), or of two, (2,), with every number computed.

    Raises:
        ValueError: If it joins several weights and there is one only, or a number in it is not known.
    """
    if not shape and not isinstance(prior, AbstractElementwisePrior):
        raise ValueError(
            f"a prior of one weight must be elementwise, but {name} joins several weights; draw it with plots.level_sets."
        )
    try:
        return prior.at(shape)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def weight_range(priors: Sequence[AbstractElementwisePrior]) -> tuple[float, float]:
    """Ends of the range where the widest of some elementwise priors has most of its probability, rounded outwards.

    From the median three times as far as the central 60 % reach on either side: 2.5 sd of a normal, four scales of a Cauchy, so
    that heavy tails do not dominate. Improper priors and point masses do not count; alone they give ±3.

    >>> from bayesreg.priors import HalfNormal, Normal
    >>> weight_range([Normal(1.0)]), weight_range([Normal(0.1), HalfNormal(1.0)])
    ((-3.0, 3.0), (-0.5, 2.5))
    """
    found = []
    for prior in priors:
        if not prior.proper or prior.certain:
            continue
        with drawing(0):
            draws = prior.distribution((4001,), dtype=torch.float64).sample().numpy()
        if prior.support is constraints.real:
            half = 3 * np.quantile(np.abs(draws - prior.mode), 0.6)
            found.append((prior.mode - half, prior.mode + half))
        else:
            low, middle, high = np.quantile(draws, [0.2, 0.5, 0.8])
            least, most = ends(prior.support)
            beyond = 0.0 if math.isinf(most) else 0.1 * (most - least)  # an interval's end is drawn as a step
            found.append((max(3 * low - 2 * middle, least - beyond), min(3 * high - 2 * middle, most + beyond)))
    if not found:
        return -3.0, 3.0
    low, high = min(low for low, _ in found), max(high for _, high in found)
    unit = 10 ** math.floor(math.log10((high - low) / 2)) / 2
    return unit * math.floor(low / unit), unit * math.ceil(high / unit)


def shrinkage(
    prior: AbstractElementwisePrior, observation: np.ndarray, noise_scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Estimate of a weight from one noisy observation y ~ N(w, noise_scale²): the MAP estimate as a function of increasing y.

    That is prox(y, noise_scale²). A prior without a mode has no MAP estimate; its posterior mean E[w | y] is used instead, and
    NaN where the prior is also improper: the pole may then contain all of the posterior.

    Returned are observations and estimates, and whether these are MAP. Where a MAP estimate jumps, three more entries say
    where: the two ends of the jump with a NaN between them.

    >>> from bayesreg.priors import Laplace
    >>> y, estimate, is_map = shrinkage(Laplace(1.0), np.array([-3.0, 0.5, 3.0]))
    >>> estimate.tolist(), is_map
    ([-2.0, 0.0, 2.0], True)
    """

    def mode(y: np.ndarray) -> np.ndarray:
        return prior.prox(torch.from_numpy(y), noise_scale**2).numpy()

    if not prior.bounded:
        mean = posterior_mean(prior, observation, noise_scale) if prior.proper else np.full(len(observation), np.nan)
        return observation, mean, False
    return *_broken(observation, mode(observation), mode), True


def posterior_mean(prior: AbstractElementwisePrior, observation: np.ndarray, noise_scale: float = 1.0) -> np.ndarray:
    """E[w | y], (M,), for y ~ N(w, noise_scale²) and w from an elementwise prior, by the trapezoidal rule in log |w − mode|.

    In the logarithm a kink, a spike or a pole at the mode is smooth. The density must be smooth on either side of it.

    >>> from bayesreg.priors import Normal
    >>> posterior_mean(Normal(2.0), np.array([-1.0, 5.0])).round(9).tolist()     # y τ²/(1 + τ²)
    [-0.8, 4.0]
    """
    w, log_weight = _nodes(prior, float(np.abs(observation).max()) + 10 * noise_scale, noise_scale)
    found = []
    for part in np.array_split(observation, -(-len(observation) * len(w) // _BLOCK)):
        log_joint = log_weight - (part[:, None] - w) ** 2 / (2 * noise_scale**2)
        joint = np.exp(log_joint - log_joint.max(1, keepdims=True))
        found.append(joint @ w / joint.sum(1))
    return np.concatenate(found)


def map_of_two(prior: AbstractPrior, *, estimate: Sequence[float], precision: Sequence[Sequence[float]]) -> torch.Tensor:
    """The MAP of two weights, (2,) in float64: argmin ½(w − ŵ)ᵀA(w − ŵ) + penalty(w), with exact zeros.

    `estimate` is ŵ and `precision` A, which is XᵀX/σ² in linear regression. Accelerated proximal gradient steps from every
    local minimum of a coarse grid; the best end is taken, so that a non-convex penalty does not trap the search.

    Raises:
        ValueError: If estimate and precision define no convex quadratic, or the prior has no proximal step and so no mode.

    References:
        Beck and Teboulle (2009), A fast iterative shrinkage-thresholding algorithm for linear inverse problems.
        O'Donoghue and Candès (2015), Adaptive restart for accelerated gradient schemes.

    >>> from bayesreg.priors import Laplace, Normal
    >>> map_of_two(Normal(1.0), estimate=(2.0, 1.0), precision=((3.0, 0.0), (0.0, 1.0))).numpy().round(12).tolist()
    [1.5, 0.5]
    >>> map_of_two(Laplace(1.0), estimate=(2.0, 1.0), precision=((2.0, 0.0), (0.0, 0.5))).tolist()
    [1.5, 0.0]
    """
    least, bowl = quadratic(estimate, precision)
    corners = torch.stack([least, torch.zeros_like(least), own_mode(prior)])
    low, high = corners.amin(0), corners.amax(0)
    margin = 0.5 * float((high - low).max())
    axes = [torch.linspace(float(a) - margin, float(b) + margin, 41, dtype=least.dtype) for a, b in zip(low, high, strict=True)]
    grid = torch.cartesian_prod(*axes)
    values = (loss(grid, least, bowl) + penalties(prior, grid)).reshape(41, 41)
    padded = torch.nn.functional.pad(values, (1, 1, 1, 1), value=math.inf)
    around = padded.unfold(0, 3, 1).unfold(1, 3, 1).amin((-1, -2))
    lowest = (values <= around).reshape(-1).nonzero()[:, 0]
    found = _search(prior, least, bowl, torch.cat([grid[lowest[:8]], least[None]]))
    return found[(loss(found, least, bowl) + penalties(prior, found)).argmin()]


def mean_of_two(
    prior: AbstractElementwisePrior, *, estimate: Sequence[float], precision: Sequence[Sequence[float]]
) -> torch.Tensor:
    """The posterior mean of two weights, (2,) in float64, under exp(−½(w − ŵ)ᵀA(w − ŵ)) times an elementwise prior.

    It exists also where there is no MAP.

    Raises:
        ValueError: If estimate and precision define no convex quadratic, or one far narrower than its distance from zero.

    >>> from bayesreg.priors import Normal
    >>> mean_of_two(Normal(1.0), estimate=(2.0, 1.0), precision=((3.0, 0.0), (0.0, 1.0))).numpy().round(9).tolist()
    [1.5, 0.5]
    """
    least, bowl = quadratic(estimate, precision)
    reach = float(least.abs().max()) + 8 / math.sqrt(float(torch.linalg.eigvalsh(bowl)[0]))
    noise_scale = 1 / math.sqrt(float(bowl.diagonal().max()))
    if reach > 100 * noise_scale:  # the squared number of nodes would fill the memory
        raise ValueError(
            f"estimate must lie within about 100 noise sds (1/√A) for a posterior mean, but {reach / noise_scale:.0f} came; "
            "there the prior makes no difference that one could see: draw it with less precision."
        )
    w, log_weight = _nodes(prior, reach, noise_scale)
    away = [w - float(c) for c in least]
    (a, b), (_, c) = bowl.tolist()
    quad = 0.5 * (a * away[0][:, None] ** 2 + 2 * b * np.outer(*away) + c * away[1] ** 2)
    joint = log_weight[:, None] + log_weight - quad
    joint = np.exp(joint - joint.max())
    return torch.tensor([(joint.sum(1) @ w), (joint.sum(0) @ w)]) / joint.sum()


def own_mode(prior: AbstractPrior) -> torch.Tensor:
    """The mode of the prior of two weights itself, or its pole: (2,)."""
    mode = prior.mode if isinstance(prior, AbstractElementwisePrior) else 0.0
    return torch.full((2,), float(mode), dtype=torch.float64)


def loss(w: torch.Tensor, least: torch.Tensor, precision: torch.Tensor) -> torch.Tensor:
    """½(w − ŵ)ᵀA(w − ŵ) of each row of `w`."""
    away = w - least
    return 0.5 * ((away @ precision) * away).sum(-1)


def penalties(prior: AbstractPrior, w: torch.Tensor) -> torch.Tensor:
    """The penalty of each row of `w`, (M, 2) → (M,)."""
    return torch.vmap(prior.penalty, chunk_size=4096)(w)


def quadratic(estimate: Any, precision: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The quadratic ½(w − ŵ)ᵀA(w − ŵ) as two tensors.

    Raises:
        ValueError: If ŵ is not two finite numbers, or A not a symmetric positive definite 2 × 2 matrix.
    """
    least, bowl = (torch.as_tensor(np.asarray(value, dtype=float)) for value in (estimate, precision))
    if least.shape != (2,) or not bool(least.isfinite().all()):
        raise ValueError(f"estimate must be two finite numbers, but {estimate!r} came; pass for example (1.0, 2.0).")
    if bowl.shape != (2, 2) or not bool(bowl.isfinite().all()) or not torch.equal(bowl, bowl.T):
        raise ValueError(
            f"precision must be a symmetric 2 × 2 matrix, but {precision!r} came; pass for example ((1.0, 0.0), (0.0, 1.0))."
        )
    flat, steep = torch.linalg.eigvalsh(bowl).tolist()
    if not flat > steep / _WORST_CONDITION:
        raise ValueError(
            f"precision must have both eigenvalues > 0 and within a factor of {_WORST_CONDITION:g}, but {flat:.3g} and "
            f"{steep:.3g} came: its level lines are no ellipses that one can see; add data, or take two weights that differ."
        )
    return least, bowl


def _search(prior: AbstractPrior, least: torch.Tensor, bowl: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """The local minimum that each row of `start` descends to, (M, 2)."""
    step = 1 / float(torch.linalg.eigvalsh(bowl)[-1])

    def prox(w: torch.Tensor) -> torch.Tensor:
        if isinstance(prior, AbstractElementwisePrior):
            return prior.prox(w, step)  # all starts at once
        return torch.stack([prior.prox(row, step) for row in w])

    w, ahead, momentum = start, start, torch.ones(len(start), 1, dtype=start.dtype)
    for _ in range(_STEPS):
        trial = prox(ahead - step * ((ahead - least) @ bowl))
        if float(((trial - ahead).abs() - 1e-15 * trial.abs()).max()) <= 1e-15:
            return trial
        uphill = ((ahead - trial) * (trial - w)).sum(1, keepdim=True) > 0  # there the momentum begins anew
        grown = 0.5 * (1 + (1 + 4 * momentum.square()).sqrt())
        w, ahead = trial, trial + torch.where(uphill, 0.0, (momentum - 1) / grown) * (trial - w)
        momentum = torch.where(uphill, 1.0, grown)
    return w


def _nodes(prior: AbstractElementwisePrior, reach: float, noise_scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes w = mode ± eᵗ of a quadrature over the prior up to `reach`, and the logarithms of density × weight."""
    loc = float(prior.mode)
    reach += abs(loc)
    width = min(0.1, noise_scale / (1.5 * reach))  # spacing at the far end: two thirds of the noise's sd, an error of 1e-19
    t = np.arange(math.log(1e-16 * reach), math.log(reach) + width, width)
    w = np.concatenate([loc - np.exp(t[::-1]), loc + np.exp(t)])
    density = prior.log_constant - prior.energy(torch.from_numpy(w)).numpy()
    return w, density + np.concatenate([t[::-1], t])


def _broken(x: np.ndarray, y: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A line through (x, y), broken where the function jumps; steep places are narrowed until it is known which they are."""
    steep = np.flatnonzero(np.abs(np.diff(y)) > 4 * np.diff(x))
    if not len(steep):
        return x, y
    left, right, low, high, rows = x[steep], x[steep + 1], y[steep], y[steep + 1], np.arange(len(steep))
    for _ in range(11):  # each time to the steepest of 32 parts, down to 1e-16 of the first width
        inner = left[:, None] + (right - left)[:, None] * np.linspace(0, 1, 33)
        at = function(inner.ravel()).reshape(inner.shape)
        part = np.abs(np.diff(at)).argmax(1)
        left, right, low, high = inner[rows, part], inner[rows, part + 1], at[rows, part], at[rows, part + 1]
    jumps = np.abs(high - low) > 0.5 * np.abs(y[steep + 1] - y[steep])
    places = np.repeat(steep[jumps] + 1, 3)
    gap = np.full(jumps.sum(), np.nan)
    return (
        np.insert(x, places, np.stack([left, left, right], 1)[jumps].ravel()),
        np.insert(y, places, np.stack([low[jumps], gap, high[jumps]], 1).ravel()),
    )
