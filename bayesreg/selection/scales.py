"""The default scales of a path, and the power of a scale that its penalty's weight is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from bayesreg.data.rows import Data
from bayesreg.model.model import BayesianModel
from bayesreg.model.rescaled import own_scale, with_scale
from bayesreg.objective.batched import Replicas
from bayesreg.objective.flat import LogJoint
from bayesreg.solvers.last_steps import finish

NUM_SCALES = 20
BELOW, ABOVE = 1e-2, 10.0  # range of a path in units of the prior's own scale, when the data do not determine its start
SPAN = 1e3  # widest scale over that at which all weights are zero, as in glmnet and scikit-learn


def power(model: BayesianModel, names: Sequence[str]) -> int:
    """2 where all these penalties are quadratic, so that their weight is 1/scale², else 1."""
    latents = [model.latents[name] for name in names]
    return 2 if all(latent.prior.gaussian(latent.shape) is not None for latent in latents) else 1


def default_scales(model: BayesianModel, names: Sequence[str], data: Data, affine: bool) -> torch.Tensor:
    """Scales from the strongest penalty to the weakest, (20,) float64, in equal steps of their logarithm.

    In a model that is linear in its weights (`affine`), under penalties with a kink at zero, from the scale below which all
    weights are zero to 1,000 times that. Elsewhere from 1/100 of the prior's own scale to 10 times it.
    """
    own = own_scale(model, names)
    lowest, highest = BELOW * own, ABOVE * own
    if affine and all(not model.latents[name].prior.smooth for name in names):
        found = _leaves_zero(model, names, data)
        if found is not None:
            lowest, highest = 0.999 * found, SPAN * found
    return torch.logspace(math.log10(lowest), math.log10(highest), NUM_SCALES, dtype=torch.float64)


def _leaves_zero(model: BayesianModel, names: Sequence[str], data: Data) -> float | None:
    """The scale at which the first weight becomes non-zero, the other unknowns at their mode; None where there is none."""
    x, y = data.full("a path")
    own = own_scale(model, names)
    tight = LogJoint(with_scale(model, names, 1e-9 * own))
    u = tight.layout.flatten(model.start(x, y))[None].clone()
    for name in names:
        u[:, tight.layout.segments[name].slice] = 0
    null = Replicas([tight], x, y, 1).double()
    u = finish(null, u.double())
    if any(bool(u[:, tight.layout.segments[name].slice].any()) for name in names):
        return None
    gradient = null.gradient(u, kinks=False)

    step = 1e-3 / data.num_data

    def leaves(scale: float) -> bool:
        log_joint, moved = LogJoint(with_scale(null.model, names, scale)), torch.zeros_like(gradient[0])
        for group in log_joint.nonsmooth:
            moved[group.slice] = group.prox(-step * gradient[0, group.slice], step)
        return any(bool(moved[log_joint.layout.segments[name].slice].any()) for name in names)

    low, high = 1e-9 * own, own
    while not leaves(high):
        high *= 10
        if high > 1e12 * own:
            return None
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if leaves(middle) else (middle, high)
    return high
