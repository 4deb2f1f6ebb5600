"""The numbers in the figures of priors: ranges, shrinkage of one weight, and where two level lines touch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.distributions import constraints

from bayesreg.predictive import seeded
from bayesreg.priors import AbstractElementwisePrior, AbstractPrior

MOST = 6  # as many as there are colours and markers
_STEPS = 20_000
_WORST_CONDITION = 1e4


def named(priors: Sequence[Any]) -> dict[str, AbstractPrior]:
    """Priors by the name under which they are drawn: their own text, or the key of a mapping.

    Args:
        priors: Several priors, or one mapping from names to priors.

    Returns:
        One entry a prior, in the order given.

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


def of_one_weight(name: str, prior: AbstractPrior) -> AbstractElementwisePrior:
    """The prior of a single weight, every scale worked out.

    Args:
        name: How it is called.
        prior: Any prior.

    Returns:
        The same as an elementwise prior.

    Raises:
        ValueError: If it is about several weights at once, or its scale waits for the shape of a layer.
    """
    if not isinstance(prior, AbstractElementwisePrior):
        raise ValueError(
            f"a prior of one weight must be elementwise, but {name} joins several weights; draw it with plots.level_sets."
        )
    try:
        return prior.resolve(())
    except ValueError:
        raise ValueError(
            f"a prior of one weight must have its scale worked out, but {name} depends on the shape of its tensor; say which, "
            "for example prior.resolve((50, 10))."
        ) from None


def centre(prior: AbstractPrior) -> float:
    """Where a prior has its kink, spike or pole if it has one: its `loc`, or zero."""
    return float(getattr(prior, "loc", 0.0))


def weight_range(priors: Sequence[AbstractElementwisePrior]) -> tuple[float, float]:
    """Where the widest of some priors has most of its probability, rounded outwards.

    From the median three times as far as the central 60 % reach on either side: 2.5 sd of a normal, four scales of a Cauchy.
    Heavy tails therefore do not run away with it.

    Args:
        priors: Elementwise priors; improper ones have no say.

    Returns:
        Lower and upper end; ±3 when none is proper.

    >>> from bayesreg.priors import HalfNormal, Normal
    >>> weight_range([Normal(1.0)]), weight_range([Normal(0.1), HalfNormal(1.0)])
    ((-3.0, 3.0), (-0.5, 2.5))
    """
    ends = []
    for prior in priors:
        if prior.proper:
            with seeded(torch.device("cpu"), 0):
                draws = prior.distribution((4001,), dtype=torch.float64).sample().numpy()
            if prior.support is constraints.real:
                loc, half = centre(prior), 3 * np.quantile(np.abs(draws - centre(prior)), 0.6)
                ends.append((loc - half, loc + half))
            else:
                low, middle, high = np.quantile(draws, [0.2, 0.5, 0.8])
                ends.append((max(3 * low - 2 * middle, 0.0), 3 * high - 2 * middle))
    if not ends:
        return -3.0, 3.0
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    unit = 10 ** math.floor(math.log10((high - low) / 2)) / 2
    return unit * math.floor(low / unit), unit * math.ceil(high / unit)


def shrinkage(
    prior: AbstractElementwisePrior, observation: np.ndarray, noise_scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray, bool]:
    """What one noisy observation y ~ N(w, noise_scale²) of a weight makes of it: the MAP estimate as a function of y.

    That is prox(y, noise_scale²). A prior without a mode has no MAP estimate; its posterior mean E[w | y] stands in.

    Args:
        prior: An elementwise prior.
        observation: Increasing observations (M,).
        noise_scale: Sd of the noise.

    Returns:
        Observations and estimates, and whether the estimates are MAP. Where a MAP estimate jumps, three more entries say
        where: the two ends of the jump with a NaN between them.

    >>> from bayesreg.priors import Laplace
    >>> y, estimate, is_map = shrinkage(Laplace(1.0), np.array([-3.0, 0.5, 3.0]))
    >>> estimate.tolist(), is_map
    ([-2.0, 0.0, 2.0], True)
    """

    def mode(y: np.ndarray) -> np.ndarray:
        return prior.prox(torch.from_numpy(y), noise_scale**2).numpy()

    try:
        estimate = mode(observation)
    except ValueError:  # so says a prior whose density is unbounded at zero
        return observation, posterior_mean(prior, observation, noise_scale), False
    return *_broken(observation, estimate, mode), True


def posterior_mean(prior: AbstractElementwisePrior, observation: np.ndarray, noise_scale: float = 1.0) -> np.ndarray:
    """E[w | y] for y ~ N(w, noise_scale²) and w from the prior, by the trapezoidal rule in log |w − loc|.

    In the logarithm a spike at loc, be it unbounded, is as smooth as everything else.

    Args:
        prior: An elementwise prior.
        observation: Observations (M,).
        noise_scale: Sd of the noise.

    Returns:
        (M,).

    >>> from bayesreg.priors import Normal
    >>> posterior_mean(Normal(2.0), np.array([-1.0, 5.0])).round(9).tolist()     # y τ²/(1 + τ²)
    [-0.8, 4.0]
    """
    w, log_weight = _nodes(prior, float(np.abs(observation).max()) + 10 * noise_scale, noise_scale)
    log_joint = log_weight - (observation[:, None] - w) ** 2 / (2 * noise_scale**2)
    joint = np.exp(log_joint - log_joint.max(1, keepdims=True))
    return joint @ w / joint.sum(1)


def map_of_two(prior: AbstractPrior, *, estimate: Sequence[float], precision: Sequence[Sequence[float]]) -> torch.Tensor:
    """The MAP of two weights, argmin ½(w − ŵ)ᵀA(w − ŵ) + penalty(w), exact zeros and all.

    Accelerated proximal gradient steps from every local minimum of a coarse grid; the best end is taken, so that a penalty
    that is not convex does not catch the search.

    Args:
        prior: A prior with a proximal step, of a tensor of shape (2,).
        estimate: ŵ, where the loss is least.
        precision: A, the curvature of the loss, symmetric and positive definite; XᵀX/σ² in linear regression.

    Returns:
        (2,) in float64.

    Raises:
        ValueError: If estimate or precision do not make a bowl, or the prior has no proximal step and so no mode.

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
    axes = [torch.linspace(float(min(c, 0) - 0.1 - abs(c)), float(max(c, 0) + 0.1 + abs(c)), 41) for c in least]
    grid = torch.cartesian_prod(*(a.to(least) for a in axes))
    values = (loss(grid, least, bowl) + penalties(prior, grid)).reshape(41, 41)
    padded = torch.nn.functional.pad(values, (1, 1, 1, 1), value=math.inf)
    around = padded.unfold(0, 3, 1).unfold(1, 3, 1).amin((-1, -2))
    starts = [grid[i] for i in (values <= around).reshape(-1).nonzero()[:, 0].tolist()][:8]
    found = [_search(prior, least, bowl, start) for start in (*starts, least)]
    return min(found, key=lambda w: float(loss(w, least, bowl) + prior.penalty(w)))


def loss(w: torch.Tensor, least: torch.Tensor, precision: torch.Tensor) -> torch.Tensor:
    """½(w − ŵ)ᵀA(w − ŵ) of each row of `w`."""
    away = w - least
    return 0.5 * ((away @ precision) * away).sum(-1)


def penalties(prior: AbstractPrior, w: torch.Tensor) -> torch.Tensor:
    """The penalty of each row of `w`, (M, 2) → (M,)."""
    return torch.vmap(prior.penalty, chunk_size=4096)(w)


def quadratic(estimate: Any, precision: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The bowl ½(w − ŵ)ᵀA(w − ŵ) as two tensors.

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
    step = 1 / float(torch.linalg.eigvalsh(bowl)[-1])
    w, ahead, momentum = start, start, 1.0
    for _ in range(_STEPS):
        trial = prior.prox(ahead - step * ((ahead - least) @ bowl), step)
        if float((trial - ahead).abs().max()) <= 1e-15 * (1 + float(trial.abs().max())):
            return trial
        if float((ahead - trial) @ (trial - w)) > 0:  # the momentum points uphill: begin anew
            w, ahead, momentum = trial, trial, 1.0
            continue
        grown = 0.5 * (1 + math.sqrt(1 + 4 * momentum**2))
        w, ahead, momentum = trial, trial + (momentum - 1) / grown * (trial - w), grown
    return w


def _nodes(prior: AbstractElementwisePrior, reach: float, noise_scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes w = loc ± eᵗ of a quadrature over the prior up to `reach`, and the logarithms of density × weight."""
    loc = centre(prior)
    reach += abs(loc)
    width = min(0.02, noise_scale / (4 * reach))  # a quarter of the noise at the far end
    t = np.arange(math.log(1e-16 * reach), math.log(reach) + width, width)
    w = np.concatenate([loc - np.exp(t[::-1]), loc + np.exp(t)])
    density = prior.log_constant - prior.energy(torch.from_numpy(w)).numpy()
    return w, density + np.concatenate([t[::-1], t])


def _broken(x: np.ndarray, y: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A line through (x, y), broken where the function jumps; a steep place is halved until it is known which it is."""
    parts_x, parts_y, start = [], [], 0
    for i in np.flatnonzero(np.abs(np.diff(y)) > 4 * np.diff(x)):
        left, right = x[i], x[i + 1]
        for _ in range(60):
            middle = 0.5 * (left + right)
            at_left, at_middle, at_right = function(np.array([left, middle, right]))
            left, right = (middle, right) if abs(at_right - at_middle) > abs(at_middle - at_left) else (left, middle)
        ends = function(np.array([left, right]))
        if abs(ends[1] - ends[0]) > 0.5 * abs(y[i + 1] - y[i]):
            parts_x += [x[start : i + 1], [left, left, right]]
            parts_y += [y[start : i + 1], [ends[0], np.nan, ends[1]]]
            start = i + 1
    return np.concatenate([*parts_x, x[start:]]), np.concatenate([*parts_y, y[start:]])
