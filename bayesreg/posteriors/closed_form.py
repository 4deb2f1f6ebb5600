"""Predictions in closed form, without draws: the output is linear in unknowns that are normal.

With u ~ N(u₀, F Fᵀ) and f(x; u) = f(x; u₀) + J(x) (u − u₀):

    f(x) ~ N(f(x; u₀), J F Fᵀ Jᵀ),      y | x ~ N(f(x; u₀), J F Fᵀ Jᵀ + σ²)

With an unknown σ = g(uₛ): given z = (uₛ − u₀ₛ)/sd(uₛ) the rest is normal with a mean linear in z, and p(y | x) is the mean of
that over z ~ N(0, 1), by Gauss–Hermite quadrature.
"""

from __future__ import annotations

import numpy as np
import torch

from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import FlatLayout
from bayesreg.objective.jacobian import jacobians
from bayesreg.predictive.mixture import Predictive
from bayesreg.predictive.normal_function import NormalFunction

MAX_PARAMETERS = 20_000
_NODES = 40  # with a log-noise of sd ½ the log density of a row twenty sds out is right to 1e-6
_AFFINE_ROWS, _PAIRS = 16, 4


def with_function(
    predictive: Predictive,
    model: BayesianModel,
    layout: FlatLayout,
    normal: tuple[torch.Tensor, torch.Tensor],
    x: torch.Tensor,
    *,
    linear: bool,
    max_memory: int,
) -> Predictive:
    """The predictive of draws, in the data's own units, with its closed form added where it has one within `max_memory` bytes.

    `normal` is the mean of the unconstrained vector with a factor of its covariance, or the diagonal of one. `linear` says that
    the draws' outputs are those of the network linearised at the mean; else linearity is tested.
    """
    if not linear and not is_affine(model, layout, *normal, x):
        return predictive
    function = normal_function(model, layout, *normal, x, max_memory)
    if function is not None and model.standardization is not None:
        function = function.in_units(model.standardization.y_mean, model.standardization.y_scale)
    return Predictive(predictive.likelihood, predictive.output, predictive.noise, function)


def normal_function(
    model: BayesianModel, layout: FlatLayout, centre: torch.Tensor, factor: torch.Tensor, x: torch.Tensor, max_memory: int
) -> NormalFunction | None:
    """The distribution of y under a model that is linear in its unknowns, in the units that it works in.

    The network is replaced by the linear one at `centre` u₀, (P,); `factor` is F, (P, Q), or a diagonal (P,). None where there
    is no closed form: other noise than normal, a noise that the network predicts or whose scale depends on another unknown,
    more than `MAX_PARAMETERS` unknowns, or more bytes than allowed.
    """
    noise = [s for s in layout.in_order if s.latent.is_noise]
    known = len(noise) == 1 and noise[0].stop - noise[0].start == 1 and noise[0].latent.centered
    sigma = model.likelihood.squared_error_scale
    if sigma is None or not (known or model.likelihood.fixed) or layout.size > MAX_PARAMETERS:
        return None
    entry = noise[0].start if noise else None

    def f(u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return model.forward(layout.unflatten(u), x)

    with torch.no_grad():
        shape = f(centre, x[:1]).shape[1:]
    width, count = shape.numel(), 1 if entry is None else _NODES
    if 8 * len(x) * width * (width + count) > max_memory:
        return None
    still, shift, sd = _given(factor.double(), entry)
    base = still.new_empty(len(x), *shape)
    slope, covariance = torch.empty_like(base), still.new_empty(len(x), width, width)
    for rows, output, part in jacobians(model.behaviour, f, centre, x):
        part = part.double()
        root = part * still if still.dim() == 1 else part @ still
        base[rows], covariance[rows] = output.double(), root @ root.mT
        slope[rows] = (part @ shift).reshape(-1, *shape)
    z, weight = (torch.as_tensor(v).to(base) for v in np.polynomial.hermite_e.hermegauss(count))
    u = centre.double().repeat(count, 1)
    if entry is not None:
        u[:, entry] += sd * z
    scale = torch.vmap(lambda v: model.noise(layout.unflatten(v))[sigma])(u.to(centre)).double()
    across = [-1, *[1] * base.dim()]
    loc = base + z.reshape(across) * slope
    return NormalFunction(loc, covariance if shape else covariance[:, 0, 0], scale.reshape(across), weight / weight.sum())


def _given(factor: torch.Tensor, entry: int | None) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The factor of the covariance given one entry, the shift of the mean per sd of that entry, and the sd."""
    still = factor.new_zeros(len(factor))
    if entry is None:
        return factor, still, 0.0
    if factor.dim() == 1:
        sd, rest = float(factor[entry]), factor.clone()
        still[entry], rest[entry] = sd, 0.0
        return rest, still, sd
    sd = float(factor[entry].norm())
    along = factor[entry] / sd if sd > 0 else factor[entry]
    shift = factor @ along
    return factor - shift[:, None] * along, shift, sd


def is_affine(model: BayesianModel, layout: FlatLayout, centre: torch.Tensor, factor: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether a few rows' outputs are linear in the unknowns over the range of draws: f(a) + f(b) = f(a + b − u₀) + f(u₀).

    `centre` is u₀, (P,), and `factor` F, (P, Q), or a diagonal (P,).
    """
    noise = torch.randn(_PAIRS, 2, factor.shape[-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(factor)
    steps = noise * factor if factor.dim() == 1 else noise @ factor.mT
    tiny = torch.finfo(centre.dtype).eps

    def f(u: torch.Tensor) -> torch.Tensor:
        return model.forward(layout.unflatten(u), x[:_AFFINE_ROWS]).double()

    with torch.no_grad():
        base = f(centre)
        for a, b in steps.to(centre):
            one, two, both = f(centre + a), f(centre + b), f(centre + a + b)
            moved = max(float((part - base).abs().max()) for part in (one, two, both))
            size = max(float(part.abs().max()) for part in (base, one, two, both))
            # a thousandth of the move in float32, a millionth in float64, beside the rounding of the output itself
            if float((one + two - both - base).abs().max()) > 2 * tiny**0.4 * moved + 16 * tiny * size:
                return False
    return True
