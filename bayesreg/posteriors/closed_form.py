"""Predictions in closed form, without draws: the output is linear in unknowns that are normal.

With u ~ N(u₀, F Fᵀ) and f(x; u) = f(x; u₀) + J(x) (u − u₀):

    f(x) ~ N(f(x; u₀), J F Fᵀ Jᵀ),      y | x ~ N(f(x; u₀), J F Fᵀ Jᵀ + σ²)

With an unknown σ = g(uₛ): given z = (uₛ − u₀ₛ)/sd(uₛ) the rest is normal with a mean linear in z, and p(y | x) is the mean of
that over z ~ N(0, 1), by Gauss–Hermite quadrature. So it is where the network predicts log σ itself, as another output. For
classes f(x) are logits, see `predictive/probabilities.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import FlatLayout
from bayesreg.objective.jacobian import jacobians
from bayesreg.predictive.drawn import finite
from bayesreg.predictive.function import AbstractFunction
from bayesreg.predictive.normal_function import NormalFunction
from bayesreg.predictive.probabilities import ClassProbabilities
from bayesreg.priors.values import HALF_LOG_2PI

MAX_PARAMETERS = 20_000  # of a network whose linearity is tried
_NODES = 40  # with a log-noise of sd ½ the log density of a row twenty sds out is right to 1e-6
_JOINT_NODES = {2: (24, 16), 3: (20, 8, 6), 4: (16, 6, 4, 4), 5: (12, 5, 4, 3, 3)}  # of the joint density of targets
_AFFINE_ROWS, _PAIRS = 16, 4


@dataclasses.dataclass(frozen=True, eq=False)
class Normal:
    """An unconstrained vector that is normal, as far as its linear functions need it.

    Attributes:
        centre: Its mean u₀, (P,).
        times_factor: Rows (M, P) to rows times F, (M, Q), with the covariance F Fᵀ.
        draw: Some draws and a generator to draws, (S, P).
    """

    centre: torch.Tensor
    times_factor: Callable[[torch.Tensor], Any]
    draw: Callable[[int, torch.Generator], torch.Tensor]


def log_density(u: torch.Tensor, loc: torch.Tensor, factor: torch.Tensor) -> torch.Tensor | None:
    """Log N(u; loc, F Fᵀ) of rows (S, P), in nats: (S,); None where some unknown does not vary. F is (P, Q) or a diagonal (P,).

    >>> u, loc, sd = torch.tensor([[0.5, 2.0]]), torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])
    >>> truth = torch.distributions.Normal(loc, sd).log_prob(u).sum(1)
    >>> torch.allclose(log_density(u, loc, sd), truth), torch.allclose(log_density(u, loc, sd.diag()), truth)
    (True, True)
    """
    if not bool(factor.reshape(len(loc), -1).any(1).all()):
        return None
    if factor.dim() == 1:
        z, log_det = (u - loc) / factor, factor.abs().log().sum()
    else:
        root = torch.linalg.qr(factor.mT, mode="r").R  # F Fᵀ = Rᵀ R, whose diagonal may be negative
        z = torch.linalg.solve_triangular(root.mT, (u - loc).mT, upper=False).mT
        log_det = root.diagonal().abs().log().sum()
    return -0.5 * z.square().sum(-1) - log_det - len(loc) * HALF_LOG_2PI


def function_of(
    model: BayesianModel,
    layout: FlatLayout,
    normal: Normal,
    x: torch.Tensor,
    *,
    linear: bool,
    max_memory: int,
    link: str = "quadrature",
) -> AbstractFunction | None:
    """The distribution of y at prepared rows in closed form, in the data's own units; None where there is none.

    `linear` says that the network is replaced by the linear one at u₀; else it is tried whether it is linear. `link` is one of
    `probabilities.LINKS`.

    There is none for other noise than normal, noise scales of more than five targets that the network predicts, a noise scale
    that depends on another unknown, and where more bytes than `max_memory` were needed.
    """
    labels, by_row = model.likelihood.labels, model.likelihood.normal_log_scale
    known = _scale(model, layout) is not None or ((labels is not None or by_row) and not model.likelihood.latents)
    if not known or not (linear or is_affine(model, layout, normal, x)):
        return None
    if labels is not None:
        found = _output(model, layout, normal, x, None, 1, max_memory)
        if found is None:
            return None
        loc = found.loc.reshape(len(x), -1)
        return ClassProbabilities.of(loc, found.covariance, link)
    function = (with_log_scale if by_row else normal_function)(model, layout, normal, x, max_memory)
    if function is not None and model.standardization is not None:
        function = function.in_units(model.standardization.y_mean, model.standardization.y_scale)
    return function


def with_log_scale(
    model: BayesianModel, layout: FlatLayout, normal: Normal, x: torch.Tensor, max_memory: int
) -> NormalFunction | None:
    """The distribution of y where locations f and log noise scales s are outputs, which are jointly normal.

        f | s = s₀ + z sd(s)  ~  N(f₀ + z cov(f, s)/sd(s), Var[f] − cov(f, s)²/Var[s])

    so entry by entry; the joint density of a row's targets is an integral over all of their s, see `_jointly`. None for more
    targets than there are rules for, or more bytes than allowed.
    """
    with torch.no_grad():
        targets = model.forward(layout.unflatten(normal.centre), x[:1]).shape[-1] // 2
    if targets > 1 and targets not in _JOINT_NODES:
        return None
    count = _NODES + math.prod(_JOINT_NODES.get(targets, ())) * targets
    found = _output(model, layout, normal, x, None, 2 * count, max_memory)
    if found is None:
        return None
    z, weight = _nodes(_NODES, found.loc)
    one, other = slice(targets), slice(targets, 2 * targets)
    variance, between = found.covariance.diagonal(dim1=1, dim2=2), found.covariance[:, one, other].diagonal(dim1=1, dim2=2)
    sd = variance[:, other].sqrt()
    slope = torch.where(sd > 0, between / sd.clamp_min(1e-300), 0.0)
    rest = (variance[:, one] - slope.square()).clamp_min(0)
    loc, log_scale = (found.loc[:, i] + z[:, None, None] * each for i, each in ((one, slope), (other, sd)))
    if targets == 1:
        return NormalFunction(loc[..., 0], rest[:, 0], log_scale[..., 0].exp(), weight)
    joint = _jointly(found.loc[:, one], found.loc[:, other], found.covariance, _JOINT_NODES[targets])
    return NormalFunction(loc, torch.diag_embed(rest), log_scale.exp(), weight, joint)


def _jointly(f: torch.Tensor, s: torch.Tensor, covariance: torch.Tensor, counts: tuple[int, ...]) -> NormalFunction:
    """The mixture over all log scales of a row, by a product rule along the principal axes of s, most nodes along the longest.

    s = s₀ + A z,  A Aᵀ = Var[s];     f | z ~ N(f₀ + G z, Var[f] − G Gᵀ),  G = Cov[f, s] A⁻ᵀ
    """
    size = f.shape[1]
    length, axes = torch.linalg.eigh(covariance[:, size:, size:])  # ascending
    length, axes = length.flip(1).clamp_min(0), axes.flip(2)
    sd = length.sqrt()
    root = axes * sd[:, None]
    across = covariance[:, :size, size:] @ axes / torch.where(sd > 1e-150, sd, math.inf)[:, None]
    rules = [_nodes(count, f) for count in counts]
    z = torch.cartesian_prod(*(points for points, _ in rules))
    weight = torch.cartesian_prod(*(weights for _, weights in rules)).prod(1)
    loc, log_scale = (start + torch.einsum("jk,nik->jni", z, each) for start, each in ((f, across), (s, root)))
    return NormalFunction(loc, covariance[:, :size, :size] - across @ across.mT, log_scale.exp(), weight)


def _nodes(count: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and weights of a standard normal."""
    z, weight = (torch.as_tensor(v).to(like) for v in np.polynomial.hermite_e.hermegauss(count))
    return z, weight / weight.sum()


def _scale(model: BayesianModel, layout: FlatLayout) -> str | None:
    """The name of the noise's scale, where that is known, or is one unknown that hangs on no other."""
    noise = [s for s in layout.in_order if s.latent.is_noise]
    single = len(noise) == 1 and noise[0].stop - noise[0].start == 1 and noise[0].latent.centered
    return model.likelihood.plain.squared_error_scale if single or model.likelihood.fixed else None


def normal_function(
    model: BayesianModel, layout: FlatLayout, normal: Normal, x: torch.Tensor, max_memory: int
) -> NormalFunction | None:
    """The distribution of y with normal noise under the model that is linear in its unknowns, in the units that it works in.

    None where it takes more bytes than allowed.
    """
    name = _scale(model, layout)
    assert name is not None  # `function_of` has asked
    noise = next((s for s in layout.in_order if s.latent.is_noise), None)
    count = 1 if noise is None else _NODES
    found = _output(model, layout, normal, x, None if noise is None else noise.start, count, max_memory)
    if found is None:
        return None
    z, weight = _nodes(count, found.loc)
    if noise is None:
        scale = model.noise(layout.unflatten(normal.centre))[name].double().reshape(1)
    else:
        u = normal.centre[noise.slice].double() + found.sd * z
        scale = u if noise.transform is None else noise.transform(u)
    across = [-1, *[1] * found.loc.dim()]
    loc = found.loc[None] if found.slope is None else found.loc + z.reshape(across) * found.slope
    covariance = found.covariance if found.loc.dim() > 1 else found.covariance[:, 0, 0]
    return NormalFunction(loc, covariance, scale.reshape(across), weight)


@dataclasses.dataclass(frozen=True, eq=False)
class _Output:
    """The output's distribution, given one entry uₛ of the unknowns.

    Attributes:
        loc: Its mean, (N,) or (N, W).
        covariance: Between a row's outputs, (N, W, W), given uₛ.
        slope: What its mean moves by with one sd of uₛ, in the shape of `loc`; None where it does not.
        sd: That of uₛ.
    """

    loc: torch.Tensor
    covariance: torch.Tensor
    slope: torch.Tensor | None
    sd: float


def _output(
    model: BayesianModel,
    layout: FlatLayout,
    normal: Normal,
    x: torch.Tensor,
    entry: int | None,
    count: int,
    max_memory: int,
) -> _Output | None:
    """In float64, from derivatives in the type of the weights; None where with `count` nodes it does not fit."""

    def f(u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return model.forward(layout.unflatten(u), x)

    with torch.no_grad():
        shape, centre = f(normal.centre, x[:1]).shape[1:], normal.centre
    width = shape.numel()
    if 8 * len(x) * width * (width + count) > max_memory:
        return None
    loc = torch.empty(len(x), *shape, dtype=torch.float64, device=centre.device)
    covariance, slope, sd, along = loc.new_empty(len(x), width, width), torch.zeros_like(loc), 0.0, None
    if entry is not None:
        one = torch.zeros_like(centre)[None]
        one[0, entry] = 1.0
        own = normal.times_factor(one)[0].double()
        sd = float(own.norm())
        along = own / sd if sd > 0 else None
    for rows, output, part in jacobians(model.behaviour, f, centre, x):
        root = normal.times_factor(part.reshape(-1, len(centre))).double()
        if along is not None:
            moved = root @ along
            root = root - moved[:, None] * along
            slope[rows] = moved.reshape(-1, *shape)
        loc[rows] = output
        if width == 1:
            covariance[rows, 0, 0] = root.square().sum(1)
        else:
            root = root.reshape(-1, width, root.shape[1])
            covariance[rows] = root @ root.mT
    return _Output(finite("output", loc), finite("its variance", covariance), slope if bool(slope.any()) else None, sd)


def is_affine(model: BayesianModel, layout: FlatLayout, normal: Normal, x: torch.Tensor) -> bool:
    """Whether a few rows' outputs are linear in the unknowns over the range of draws: f(a) + f(b) = f(a + b − u₀) + f(u₀)."""
    centre = normal.centre
    if len(centre) > MAX_PARAMETERS:
        return False
    steps = (normal.draw(2 * _PAIRS, torch.Generator().manual_seed(0)) - centre).reshape(_PAIRS, 2, -1)
    tiny = torch.finfo(centre.dtype).eps

    def f(u: torch.Tensor) -> torch.Tensor:
        return model.forward(layout.unflatten(u), x[:_AFFINE_ROWS]).double()

    with torch.no_grad():
        base = f(centre)
        for a, b in steps:
            one, two, both = f(centre + a), f(centre + b), f(centre + a + b)
            moved = max(float((part - base).abs().max()) for part in (one, two, both))
            size = max(float(part.abs().max()) for part in (base, one, two, both))
            # a thousandth of the move in float32, a millionth in float64, beside the rounding of the output itself
            if float((one + two - both - base).abs().max()) > 2 * tiny**0.4 * moved + 16 * tiny * size:
                return False
    return True
