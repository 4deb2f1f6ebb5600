"""How the log evidence changes with the scales of the priors and of the noise, about a Gaussian approximation N(u*, Σ).

For a scale s of n weights and H = G + D, the curvature of the likelihood and that of the prior, t = log s:

    ∂/∂t log p(y)  ≈  Σᵢ (hᵢ + ½ Σᵢᵢ hᵢ″ − 1)  −  aᵀ du*/dt,      h = w ∂(−log p(w))/∂w,   a = ∂/∂u ½ log|H|
    Normal:            Σᵢ wᵢ²/s² − γ  − …,                         γ = n − Σᵢ Σᵢᵢ/s²,  so that s² = Σ wᵢ²/γ at its maximum
    known noise σ:     RSS/σ² − (NK − γ)  − …,                     γ of all unknowns,  so that σ² = RSS/(NK − γ)

γ is the number of weights that the data determine. The last term is zero where H does not depend on u (a linear model under
Gaussian noise). Without it the first ones are also the derivative of an ELBO to second order in the sds.

References:
    MacKay (1992), Bayesian interpolation. Tipping (2001), Sparse Bayesian learning and the relevance vector machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.func import jvp, vmap

from bayesreg.behaviour import DOUBLE, FORWARD, VMAP
from bayesreg.data.rows import Data
from bayesreg.model.model import BayesianModel
from bayesreg.objective.curvature import output_blocks
from bayesreg.objective.curvature_products import Product, hessian_product
from bayesreg.objective.flat import LogJoint, Segment
from bayesreg.objective.whole import gradient_of
from bayesreg.priors.base import AbstractElementwisePrior
from bayesreg.priors.scaled import AbstractScaledPrior

_ENTRIES = 2**24  # rows × outputs × unknowns that are held at once
_PRODUCTS = 50  # Hessian products of one step at most
_NEAR = 1e-3  # their relative residual
_NODES, _WIDE = 401, 8.0  # nodes of an expectation, over so many sds on either side
_REACH, _HALVINGS = 8.0, 40  # change of a scale's logarithm that an M-step may find, and bisections
_KEPT = 20_000  # rows up to which a backward pass is kept and differentiated once more for each product


@dataclasses.dataclass(frozen=True)
class Slopes:
    """Derivatives in the logarithms of scales.

    Attributes:
        names: Tensors whose prior has a scale, and last the known noise where there is one.
        slope: The derivative in each, (S,), in nats.
        bend: About minus its own derivative, (S, S): exact for Normal priors while the curvature does not depend on u.
        determined: γ of each tensor, the number of its entries that the data determine.
        free: NK − γ of all, where the noise is known.
    """

    names: tuple[str, ...]
    slope: np.ndarray
    bend: np.ndarray
    determined: dict[str, float]
    free: float = 0.0

    @property
    def metric(self) -> np.ndarray:
        """2γ of each tensor and 2(NK − γ): with it a step in the logarithms is MacKay's update, (S,)."""
        return 2 * np.array([self.determined.get(name, self.free) for name in self.names])


def known_noise(model: BayesianModel) -> str | None:
    """Name of the known scale of squared errors; None where there is none."""
    name = model.likelihood.squared_error_scale
    return name if name in model.likelihood.fixed else None


def scaled(model: BayesianModel) -> list[str]:
    """Names of the tensors whose prior has a scale that is a number and that its density is a function of w/scale by."""
    return [r.name for r in model.resolved if r.name in model.latents and _has_scale(model, r)]


def _has_scale(model: BayesianModel, r: Any) -> bool:
    prior: Any = r.specified
    fits = isinstance(prior, AbstractScaledPrior) and isinstance(prior, AbstractElementwisePrior) and prior.proper
    return fits and prior.path_scale is not None and not model.latents[r.name].parents


def _strength(segment: Segment) -> Callable[[torch.Tensor], torch.Tensor]:
    """H as a function of the segment's part of the vector: (w − origin) ∂(−log p)/∂w, entry by entry."""
    prior: Any = segment.latent.prior.at(segment.latent.shape)

    def h(part: torch.Tensor) -> torch.Tensor:
        w = (part if segment.transform is None else segment.transform(part)).view(segment.latent.shape)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(prior.energy(w).sum(), w, create_graph=True)
        return ((w - prior.origin) * slope).reshape(-1)

    return h


def _with_derivatives(segment: Segment, part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """h, h′ and h″ of each entry at the segment's part of the vector."""
    with torch.enable_grad():
        u = part.detach().clone().requires_grad_()
        value = _strength(segment)(u * 1.0)
        (first,) = torch.autograd.grad(value.sum(), u, create_graph=True)
        second = torch.zeros_like(u)
        if first.requires_grad:
            (found,) = torch.autograd.grad(first.sum(), u, allow_unused=True)
            second = second if found is None else found
    return value.detach(), first.detach(), second.detach()


def slopes(
    log_joint: LogJoint,
    u: torch.Tensor,
    data: Data,
    covariance: torch.Tensor,
    moving: torch.Tensor | None = None,
    follows: bool = True,
) -> Slopes:
    """The derivatives of the log evidence in the logarithm of each tensor's prior scale, and of the known noise's.

    Args:
        log_joint: The objective, best in float64.
        u: The mode of the unconstrained density, or the mean, (P,).
        data: Prepared rows.
        covariance: Σ, (P, P), or (P,) where entries are independent.
        moving: q = H⁻¹ a of `pull`, (P,), where the curvature moves with the mode.
        follows: Whether the mode follows the scales; False for their slopes at a fixed point.

    Returns:
        The slopes, in nats.
    """
    model, layout, whole = log_joint.model, log_joint.layout, covariance.dim() == 2
    variance = covariance.diagonal() if whole else covariance
    tunable, noise = set(scaled(model)), known_noise(model)
    held, bends = torch.zeros_like(u), torch.zeros_like(u)  # Σᵢⱼ Dᵢⱼ summed to entries, and D's diagonal where it is one
    for group in log_joint.groups:
        block = group.curvature(u[group.slice])
        if block.dim() == 1:
            bends[group.slice] = block
            held[group.slice] = block * variance[group.slice]
        else:
            spread = covariance[group.slice, group.slice] if whole else torch.diag(variance[group.slice])
            held[group.slice] = (block * spread).sum(1)
    determined = {s.latent.name: float(s.stop - s.start - held[s.slice].sum()) for s in layout.in_order}
    names = [s.latent.name for s in layout.in_order if s.latent.name in tunable]
    count = used = 0.0
    columns = torch.zeros(len(u), len(names) + 1).to(u)  # how the gradient of the log-joint moves with each logarithm
    parts, slope, own = torch.zeros_like(columns), np.zeros(len(names) + 1), np.zeros(len(names) + 1)
    for j, name in enumerate(names):
        part = layout.segments[name].slice
        value, first, second = _with_derivatives(layout.segments[name], u[part])
        columns[part, j], parts[part, j] = first, bends[part]
        slope[j] = float((value + 0.5 * variance[part] * second - 1).sum())
        own[j] = float(2 * value.sum() + 2 * held[part].sum())
    if noise is not None:
        squares, count = _residuals(log_joint, u, data)
        used = sum(determined.values())
        columns[:, -1] = -2 * _of_likelihood(log_joint, u, data)
        slope[-1], own[-1] = squares - count + used, 2 * squares + 2 * used
    bend = np.diag(own) - _interplay(covariance, bends, parts, columns if follows else 0 * columns)
    if moving is not None:
        slope -= (moving @ columns).cpu().numpy()
    relative = [j for j, name in enumerate(names) if _relative(model, name)]
    if noise is None:
        return Slopes(tuple(names), slope[:-1], bend[:-1, :-1], determined)
    for j in relative:  # these scales follow the noise
        slope[-1] += slope[j]
    return Slopes((*names, noise), slope, bend, determined, count - used)


def _interplay(covariance: torch.Tensor, bends: torch.Tensor, parts: torch.Tensor, columns: torch.Tensor) -> np.ndarray:
    """2 tr(Dⱼ Σ Dₖ Σ) + cⱼᵀ Σ cₖ, with D of the last one, the noise, the likelihood's curvature: Σ G Σ = Σ − Σ D Σ."""
    times = (lambda m: covariance @ m) if covariance.dim() == 2 else (lambda m: covariance[:, None] * m)
    squared = (lambda m: covariance.square() @ m) if covariance.dim() == 2 else (lambda m: covariance.square()[:, None] * m)
    prior, variance = bends[:, None], covariance.diagonal() if covariance.dim() == 2 else covariance
    found = parts.mT @ squared(parts)
    both = (prior.mT @ squared(prior))[0, 0]
    mixed = parts.mT @ variance - (parts.mT @ squared(prior))[:, 0]
    found[-1, :], found[:, -1] = mixed, mixed
    found[-1, -1] = len(bends) - 2 * (variance @ bends) + both
    return (2 * found + columns.mT @ times(columns)).cpu().numpy()


@dataclasses.dataclass(frozen=True)
class Update:
    """What an M-step of empirical Bayes does to the logarithm of a scale.

    Attributes:
        slope: The derivative of E_q[log p(w | s)] in it, in nats.
        step: Where that is highest, less where it is; for a Normal prior MacKay's step, which leads further the same way.
    """

    slope: float
    step: float


def updates(log_joint: LogJoint, loc: torch.Tensor, sd: torch.Tensor) -> dict[str, Update]:
    """The M-step of each tensor's scale for independent normals q: argmax over s of E_q[log p(w | s)], at which E_q[Σ h] = n.

    Args:
        log_joint: The objective.
        loc: Means of the vector's entries, (P,).
        sd: Their standard deviations.

    Returns:
        By the tensor's name.

    References:
        Dempster, Laird and Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm. MacKay (1992), Bayesian
        interpolation.

    >>> from torch import nn
    >>> from bayesreg import likelihoods, priors
    >>> model = BayesianModel(nn.Linear(2, 1, bias=False), priors.Laplace(1.0), likelihoods.Gaussian(1.0))
    >>> far = updates(LogJoint(model), torch.tensor([3.0, -5.0]), torch.tensor([0.1, 0.1]))["weight"]
    >>> round(float(np.exp(far.step)), 3)                                # E|w| of a Laplace prior: 4
    4.0
    """
    names = set(scaled(log_joint.model))
    return {s.latent.name: _update(s, loc[s.slice], sd[s.slice]) for s in log_joint.layout.in_order if s.latent.name in names}


def _update(segment: Segment, loc: torch.Tensor, sd: torch.Tensor) -> Update:
    prior: Any = segment.latent.prior.at(segment.latent.shape)
    nodes = torch.linspace(-_WIDE, _WIDE, _NODES, dtype=torch.float64, device=loc.device)
    weights = (-0.5 * nodes.square()).softmax(0)
    u = loc.double()[:, None] + sd.double()[:, None] * nodes
    value = (u if segment.transform is None else segment.transform(u)).mT.reshape(_NODES, *segment.latent.shape)
    origin, size = prior.origin, len(loc)

    def strength(log_ratio: float) -> float:
        """Σ E_q[h] at s times exp(log_ratio)."""
        with torch.enable_grad():
            w = ((value - origin) * np.exp(-log_ratio)).requires_grad_()
            (slope,) = torch.autograd.grad(prior.energy(w + origin).sum(), w)
        return float(((w * slope).detach().reshape(_NODES, -1).sum(1) * weights).sum())

    here = strength(0.0)
    if prior.gaussian(segment.latent.shape) is not None and segment.transform is None:
        scale = torch.as_tensor(prior.given_scale).to(loc).expand(segment.latent.shape).reshape(-1)
        used = float(size - (sd / scale).square().sum())  # γ
        means = here - size + used  # Σ m²/s²
        step = 0.5 * np.log(max(means, 1e-12) / used) if used > 0.05 * size else 0.5 * np.log(here / size)
        return Update(here - size, float(step))
    low, high = -_REACH, _REACH
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if strength(middle) > size else (low, middle)
    return Update(here - size, 0.5 * (low + high))


def expected_squares(log_joint: LogJoint, draws: torch.Tensor, data: Data) -> tuple[float, float]:
    """E_q[Σ (y − f)²/σ²] over draws of the vector, (S, P), and NK, over all rows; for a known noise."""
    found = [_residuals(log_joint, u, data) for u in draws]
    return sum(squares for squares, _ in found) / len(found), found[0][1]


def _relative(model: BayesianModel, name: str) -> bool:
    prior = next(r.specified for r in model.resolved if r.name == name)
    return isinstance(prior, AbstractScaledPrior) and prior.relative_to_noise


def _residuals(log_joint: LogJoint, u: torch.Tensor, data: Data) -> tuple[float, float]:
    """Σ (y − f)²/σ² and NK, over all rows."""
    model, values = log_joint.model, log_joint.layout.unflatten(u.detach())
    sigma = float(model.noise(values)[str(known_noise(model))])
    total, seen, count = 0.0, 0, 0
    with torch.no_grad():
        for x, y in data.epoch():
            total += float((y - model.forward(values, x).reshape(y.shape)).square().sum()) / sigma**2
            seen, count = seen + len(y), count + y.numel()
    return total * (data.num_data / seen), count * (data.num_data / seen)


def _of_likelihood(log_joint: LogJoint, u: torch.Tensor, data: Data) -> torch.Tensor:
    """The gradient of the log-likelihood, (P,)."""
    w = u.detach().requires_grad_()
    with torch.enable_grad():
        (prior,) = torch.autograd.grad(log_joint.log_prior(w) + 0.0 * w.sum(), w)
    return gradient_of(log_joint, u, data)[1] - prior


def pull(log_joint: LogJoint, u: torch.Tensor, data: Data, covariance: torch.Tensor) -> torch.Tensor | None:
    """How ½ log|H| of the Gauss–Newton matrix pulls at the mode, q = H⁻¹ a; None where the network stands no such derivative.

    a = ∂/∂u ½ tr(Σ H(u)) at fixed Σ, a pass back through one forward derivative a row; H⁻¹ by `newton_step`.

    Args:
        log_joint: The objective, in float64.
        u: The mode of the unconstrained density, (P,).
        data: Prepared rows.
        covariance: Σ, (P, P).
    """
    if not log_joint.model.behaviour.stands(VMAP, FORWARD) or log_joint.model.outputs:
        return None
    a = _log_det_slope(log_joint, u, data, covariance)
    return newton_step(products(log_joint, u, data)[2], a, lambda v: covariance @ v) if bool(a.any()) else a


def products(log_joint: LogJoint, u: torch.Tensor, data: Data) -> tuple[float, torch.Tensor, Product]:
    """The density of `u` over all rows, its gradient, and v ↦ H v with minus its second derivative, one backward pass each.

    Args:
        log_joint: The objective.
        u: (P,).
        data: Prepared rows.
    """
    if data.x is None or data.y is None or len(data.x) > _KEPT or not log_joint.model.behaviour.stands(DOUBLE):
        value, gradient = gradient_of(log_joint, u, data, jacobian=True)
        return value, gradient, lambda v: hessian_product(log_joint, u, data, v, jacobian=True)
    with torch.enable_grad():
        w = u.detach().requires_grad_()
        value = log_joint.prepared(w, data.x, data.y, data.num_data, jacobian=True)
        (gradient,) = torch.autograd.grad(value, w, create_graph=True)

    def times(v: torch.Tensor) -> torch.Tensor:
        return -torch.autograd.grad(gradient, w, v, retain_graph=True)[0]

    return float(value.detach()) + data.num_data * log_joint.model.log_jacobian, gradient.detach(), times


def newton_step(times: Product, gradient: torch.Tensor, metric: Product) -> torch.Tensor:
    """H⁻¹ g by preconditioned conjugate gradients, which end where H turns out not to be positive definite.

    Args:
        times: v ↦ H v.
        gradient: g, (P,).
        metric: v ↦ about H⁻¹ v.

    References:
        Steihaug (1983), The conjugate gradient method and trust regions in large scale optimization.

    >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> newton_step(lambda v: matrix @ v, torch.tensor([3.0, 3.0]), lambda v: v)
    tensor([1., 1.])
    """
    found, left = torch.zeros_like(gradient), gradient.clone()
    white = metric(left)
    along, size = white.clone(), float(left @ white)
    first = size
    for turn in range(_PRODUCTS):
        pushed = times(along)
        bent = float(along @ pushed)
        if not bent > 0:
            return found if turn else white
        found = found + along * (size / bent)
        left = left - pushed * (size / bent)
        white = metric(left)
        size, before = float(left @ white), size
        if not size > _NEAR**2 * first:
            break
        along = white + along * (size / before)
    return found


def _log_det_slope(log_joint: LogJoint, u: torch.Tensor, data: Data, covariance: torch.Tensor) -> torch.Tensor:
    model, layout = log_joint.model, log_joint.layout
    noisy = [i for s in layout.in_order if s.latent.is_noise for i in range(s.start, s.stop)]
    total, seen = torch.zeros_like(u), 0
    noise = model.noise(layout.unflatten(u))
    blocks = output_blocks(log_joint, u, data, max(1, min(1024, _ENTRIES // len(u))))
    for (jacobian, output, y), (x, _) in zip(blocks, data.epoch(max(1, min(1024, _ENTRIES // len(u)))), strict=True):
        spread = jacobian @ covariance
        weights = model.likelihood.output_curvature(output, y, **noise) @ spread
        with torch.enable_grad():
            v = u.detach().requires_grad_()
            part = _moved(log_joint, v, x, y, weights, spread @ jacobian.mT)
            if noisy:
                part = part + _noise_moved(log_joint, v, x, y, noisy, covariance[noisy][:, noisy])
            (slope,) = torch.autograd.grad(part, v)
        total, seen = total + slope, seen + len(y)
    total = total * (data.num_data / seen)
    variance = covariance.diagonal()
    for group in log_joint.groups:  # ½ Σᵢᵢ d(u) of the priors' own curvature
        if group.elementwise:
            total[group.slice] += 0.5 * _curvature_slope(group, u[group.slice]) * variance[group.slice]
    return total


def _moved(
    log_joint: LogJoint, v: torch.Tensor, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, spread: torch.Tensor
) -> torch.Tensor:
    """A scalar with the derivative of ½ Σᵢ tr(Λᵢ Jᵢ Σ Jᵢᵀ) in v: Σᵢ ⟨Λᵢ Jᵢ Σ, Jᵢ(v)⟩ + ½ ⟨Jᵢ Σ Jᵢᵀ, Λᵢ(v)⟩."""
    model, layout = log_joint.model, log_joint.layout

    def along(row: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        outputs = lambda p: model.forward(layout.unflatten(p), row[None]).reshape(-1)  # noqa: E731
        return vmap(lambda w: jvp(outputs, (v,), (w,))[1])(directions).diagonal().sum()

    values = layout.unflatten(v)
    output = model.forward(values, x)
    curvature = model.likelihood.output_curvature(output, y, **model.noise(values))
    return vmap(along)(x, weights).sum() + 0.5 * (spread * curvature).sum()


def _noise_moved(
    log_joint: LogJoint, v: torch.Tensor, x: torch.Tensor, y: torch.Tensor, noisy: Sequence[int], covariance: torch.Tensor
) -> torch.Tensor:
    """½ tr(Σ H) over the noise's own unknowns, as a function of v."""
    loss = -log_joint.log_likelihood(log_joint.layout.unflatten(v), x, y, len(x))
    (first,) = torch.autograd.grad(loss, v, create_graph=True)
    total = v.new_zeros(())
    for i, row in zip(noisy, covariance, strict=True):
        (second,) = torch.autograd.grad(first[i], v, create_graph=True)
        total = total + 0.5 * (row * second[list(noisy)]).sum()
    return total


def _curvature_slope(group: Any, part: torch.Tensor) -> torch.Tensor:
    """The derivative of the energy's second derivative, entry by entry."""
    with torch.enable_grad():
        u = part.detach().clone().requires_grad_()
        found = group.energy(u)
        for _ in range(3):
            if not found.requires_grad:
                return torch.zeros_like(part)
            (found,) = torch.autograd.grad(found.sum(), u, create_graph=True, allow_unused=True)
            if found is None:
                return torch.zeros_like(part)
    return found.detach()
