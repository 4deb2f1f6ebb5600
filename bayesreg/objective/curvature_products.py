"""Curvature without its matrix: products with the Hessian or the Gauss–Newton matrix, their diagonal, and both ends of it.

    v ↦ H v     two backward passes          v ↦ JᵀΛJ v     three, Λ the loss's curvature in the output

A matrix over P unknowns takes P² numbers; a product takes P, and some tens of them tell the smallest eigenvalue.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bayesreg import behaviour
from bayesreg.data.rows import Data
from bayesreg.model.unknowns import Latent
from bayesreg.objective.curvature import curvature_of_log_jacobian, noise_over_rows, noisy_entries, output_blocks, row_loss
from bayesreg.objective.flat import LogJoint
from bayesreg.priors import AbstractElementwisePrior

Product = Callable[[torch.Tensor], torch.Tensor]

_ENTRIES = 2**27  # rows × outputs × unknowns up to which the diagonal is exact
_BLOCK = 2**24  # of them at once
_LOOPED = 512  # outputs of which each has its own backward pass, where they cannot be had side by side
_PROBES = 16
_STREAMED = 1024  # rows of a loader that are kept at once
_ROWS = 1024  # rows that one backward pass sees
_COUPLED = 1000  # unknowns up to which it is, where rows depend on each other and each Jacobian is one of all of them
_TENSOR = 256  # entries of a tensor whose prior's own matrix is formed


def sample(data: Data, rows: int) -> Data:
    """So many rows of the data, which stand for all N.

    Args:
        data: All rows.
        rows: How many.

    Returns:
        The data themselves where they are no more than that, or coupled; else a fixed random choice, or a loader's first rows.
    """
    if data.x is not None and data.y is not None:
        if rows >= len(data.x) or data.coupled:
            return data
        chosen = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(0))[:rows].to(data.x.device)
        return dataclasses.replace(data, x=data.x[chosen], y=data.y[chosen])
    kept, seen, rows = [], 0, min(rows, _STREAMED)
    for x, y in data.batches(None, torch.Generator()):
        kept.append((x, y))
        seen += len(x)
        if seen >= min(rows, data.num_data):
            break
    x, y = (torch.cat(parts)[:rows] for parts in zip(*kept, strict=True))
    return dataclasses.replace(data, x=x, y=y, stream=None)


def prior_product(log_joint: LogJoint, u: torch.Tensor, v: torch.Tensor, *, jacobian: bool = False) -> torch.Tensor:
    """The prior's part of `hessian_product`, (P,)."""
    with torch.enable_grad():
        w = u.detach().requires_grad_()
        energy = torch.as_tensor(log_joint.energy(w) - (log_joint.layout.log_jacobian(w) if jacobian else 0.0))
        slope = behaviour.pulled_back(energy, w, create_graph=True)
        # a group's norm has no second derivative where the group is zero; the kink holds it there, and it does not count
        return behaviour.pulled_back(slope, w, v).nan_to_num(0.0, 0.0, 0.0)


def hessian_product(
    log_joint: LogJoint, u: torch.Tensor, data: Data, v: torch.Tensor, *, jacobian: bool = False
) -> torch.Tensor:
    """−∂² log-joint/∂u∂uᵀ times a vector, by differentiating the gradient's product with it (Pearlmutter 1994).

    Args:
        log_joint: The objective.
        u: Where, (P,).
        data: Rows; fewer than N are scaled to N.
        v: (P,).
        jacobian: Of the density of `u` instead of that of θ.

    Returns:
        (P,).
    """
    total, seen = torch.zeros_like(v), 0
    for x, y in data.epoch(_ROWS):
        total += behaviour.product(log_joint.model.behaviour, row_loss(log_joint, x, y), u, v)
        seen += len(x)
    return total * (data.num_data / seen) + prior_product(log_joint, u, v, jacobian=jacobian)


def gauss_newton_product(
    log_joint: LogJoint, u: torch.Tensor, data: Data, v: torch.Tensor, *, jacobian: bool = False
) -> torch.Tensor:
    """The Gauss–Newton matrix times a vector (Schraudolph 2002), with the noise's Fisher information in place of its own.

    Args:
        log_joint: The objective.
        u: Where, (P,).
        data: Rows; fewer than N are scaled to N.
        v: (P,).
        jacobian: As for `hessian_product`.

    Returns:
        (P,).
    """
    model, layout = log_joint.model, log_joint.layout
    total, seen, width = torch.zeros_like(v), 0, 1
    for x, y in data.epoch(_ROWS):
        w, flat, curvature = _output(log_joint, u, x, y)
        pushed = behaviour.pushed_forward(
            model.behaviour, lambda p, x=x: model.forward(layout.unflatten(p), x).reshape(len(x), -1), u, v, (w, flat)
        )
        total += behaviour.pulled_back(flat, w, torch.einsum("bkl,bl->bk", curvature, pushed))
        seen, width = seen + len(x), flat.shape[1]
    total = total * (data.num_data / seen) + prior_product(log_joint, u, v, jacobian=jacobian)
    noisy = noisy_entries(log_joint)
    if len(noisy):
        total[noisy] += _noise_information(log_joint, u, data, width) @ v[noisy]
    return total


def _noise_information(log_joint: LogJoint, u: torch.Tensor, data: Data, width: int) -> torch.Tensor:
    """The curvature in the noise's own unknowns, (n, n).

    The Fisher information 2 N K of a log-scale for least squares, else the Hessian without its negative eigenvalues.
    """
    noisy = noisy_entries(log_joint)
    if log_joint.model.likelihood.squared_error_scale is not None:
        return 2.0 * data.num_data * width * torch.eye(len(noisy)).to(u)
    sizes, vectors = torch.linalg.eigh(noise_over_rows(log_joint, u, data))
    return (vectors * sizes.clamp_min(0)) @ vectors.mT


def _output(
    log_joint: LogJoint, u: torch.Tensor, x: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A leaf at u, the output (B, K) as a function of it, and the loss's curvature there, (B, K, K)."""
    model, layout, w = log_joint.model, log_joint.layout, u.detach().requires_grad_()
    with torch.enable_grad():
        output = model.forward(layout.unflatten(w), x)
    noise = model.noise(layout.unflatten(u.detach()))
    return w, output.reshape(len(x), -1), model.likelihood.output_curvature(output.detach(), y, **noise)


def diagonal(log_joint: LogJoint, u: torch.Tensor, data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """The Gauss–Newton matrix's diagonal: the data's part, and the prior's, which may be negative.

    Exact on the rows that are affordable; where these are hardly any, from sixteen products with random signs (Bekas,
    Kokiopoulou and Saad 2007), shrunk towards each tensor's mean, because an entry's own estimate is no better than a third.

    Args:
        log_joint: The objective.
        u: Where, (P,).
        data: Rows; fewer than N are scaled to N.

    Returns:
        (P,) and (P,).
    """
    model, layout = log_joint.model, log_joint.layout
    x, _ = next(data.epoch(2))
    with torch.no_grad():
        width = model.forward(layout.unflatten(u), x[:2]).numel() // len(x[:2])
    rows = _ENTRIES // (width * len(u))
    if not model.behaviour.stands(behaviour.VMAP):  # each row has a backward pass of its own
        rows = min(rows, max(64, _LOOPED // width))
    exact = rows >= data.num_data and len(u) <= _COUPLED if data.coupled else rows >= 64
    total = _exact(log_joint, u, sample(data, rows), width) if exact else _probed(log_joint, u, data)
    noisy = noisy_entries(log_joint)
    if len(noisy):
        total[noisy] += _noise_information(log_joint, u, data, width).diagonal()
    return total, prior_diagonal(log_joint, u)


def _exact(log_joint: LogJoint, u: torch.Tensor, data: Data, width: int) -> torch.Tensor:
    model, seen = log_joint.model, 0
    total = torch.zeros_like(u)
    noise = model.noise(log_joint.layout.unflatten(u))
    for slopes, output, y in output_blocks(log_joint, u, data, max(1, min(1024, _BLOCK // (width * len(u))))):
        curvature = model.likelihood.output_curvature(output, y, **noise)
        total += torch.einsum("bkp,bkl,blp->p", slopes, curvature, slopes)
        seen += len(y)
    return total * (data.num_data / seen)


def _probed(log_joint: LogJoint, u: torch.Tensor, data: Data) -> torch.Tensor:
    """E[(Σᵢ Jᵢᵀ Λᵢ^½ εᵢ)²] with random signs ε is the diagonal; one backward pass a probe."""
    generator = torch.Generator().manual_seed(0)
    total, seen = torch.zeros_like(u), 0
    for x, y in data.epoch(_ROWS):
        w, flat, curvature = _output(log_joint, u, x, y)
        levels, vectors = torch.linalg.eigh(curvature)
        root = vectors * levels.clamp_min(0).sqrt()[:, None, :]
        for probe in range(_PROBES):
            signs = (torch.randint(2, flat.shape, generator=generator) * 2 - 1).to(flat)
            (found,) = torch.autograd.grad(flat, w, torch.einsum("bkl,bl->bk", root, signs), retain_graph=probe < _PROBES - 1)
            total += found.square() / _PROBES
        seen += len(x)
    total *= data.num_data / seen
    for segment in log_joint.layout.in_order:
        part = total[segment.slice]
        part.mul_(_PROBES / (_PROBES + 2)).add_(part.mean() * (2 / _PROBES))
    return total


def prior_diagonal(log_joint: LogJoint, u: torch.Tensor, *, jacobian: bool = False) -> torch.Tensor:
    """The diagonal of the prior's curvature, (P,), exact but for large tensors whose entries depend on each other.

    Args:
        log_joint: The objective.
        u: Where, (P,).
        jacobian: Of the density of `u` instead of that of θ.

    Returns:
        (P,), which may be negative; 0 at a kink.
    """
    total, settled = torch.zeros_like(u), torch.zeros_like(u, dtype=torch.bool)
    for group in log_joint.groups:
        if group.elementwise or group.stop - group.start <= _TENSOR:
            block = group.curvature(u[group.slice])
            total[group.slice] = (block if block.dim() == 1 else block.diagonal()).nan_to_num(0.0)
            settled[group.slice] = True
    for latent in log_joint.linked:
        segment = log_joint.layout.segments[latent.name]
        if latent.centered and isinstance(latent.prior, AbstractElementwisePrior) and segment.transform is None:
            total[segment.slice] = _given_scale(log_joint, u, latent)
            settled[segment.slice] = True
    if log_joint.linked:  # a scale that follows the noise bends the noise's own entry too
        for segment in log_joint.layout.in_order:
            if segment.latent.is_noise:
                settled[segment.slice] = False
    if not bool(settled.all()):  # a matrix would be too large: random signs again
        generator, probed = torch.Generator().manual_seed(0), torch.zeros_like(u)
        for _ in range(_PROBES):
            signs = (torch.randint(2, u.shape, generator=generator) * 2 - 1).to(u)
            probed += signs * prior_product(log_joint, u, signs) / _PROBES
        total = torch.where(settled, total, probed)
    for segment in log_joint.layout.in_order:
        if jacobian and segment.transform is not None and not segment.latent.is_positive:
            total[segment.slice] -= curvature_of_log_jacobian(segment.transform, u[segment.slice])
    return total


def _given_scale(log_joint: LogJoint, u: torch.Tensor, latent: Latent) -> torch.Tensor:
    """The curvature of a prior in its own unknowns, (n,), whose scale is another unknown, as at u."""
    values = log_joint.layout.unflatten(u.detach())
    given = latent.given(values)
    with torch.enable_grad():
        own = values[latent.name].detach().requires_grad_()
        slope = behaviour.pulled_back(-given.log_prob(own), own, create_graph=True)
        return behaviour.pulled_back(slope.sum(), own).reshape(-1)


@dataclasses.dataclass(frozen=True)
class Ends:
    """The ends of a symmetric matrix's spectrum as far as the products went.

    Attributes:
        smallest: vᵀHv, which the smallest eigenvalue does not exceed.
        direction: v, of length one.
        largest: A lower bound of the largest eigenvalue.
    """

    smallest: float
    direction: torch.Tensor
    largest: float


def ends(product: Product, like: torch.Tensor, num_products: int) -> Ends:
    """Both ends of a spectrum by Lanczos (ARPACK), from a fixed start and at a bounded cost.

    The smallest eigenvalue is sought as the far end of H − largest·I, so that a tolerance is one on the spectrum's own scale,
    and an eigenvalue near zero costs no more than another. Tolerances become sharper while products are left.

    Args:
        product: v ↦ H v on (n,), n ≥ 3.
        like: A vector of the space, (n,).
        num_products: At most about so many.

    Returns:
        The ends.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    size, used = len(like), 0

    def times(v: np.ndarray) -> np.ndarray:
        nonlocal used
        used += 1
        return product(torch.from_numpy(v.reshape(-1)).to(like)).double().cpu().numpy()

    def far_end(shift: float, basis: int, start: np.ndarray) -> tuple[float, np.ndarray]:
        operator: Any = LinearOperator((size, size), matvec=lambda v: times(v) - shift * v.reshape(-1), dtype=np.float64)  # pyright: ignore[reportCallIssue]
        # with so wide a tolerance one sweep is always enough, and what it found is never thrown away
        values, vectors = eigsh(operator, 1, which="LM", ncv=basis, tol=1e9, v0=start)  # pyright: ignore[reportArgumentType]
        return float(values[0]) + shift, vectors[:, 0].copy()

    start = np.random.default_rng(0).normal(size=size)
    largest = abs(far_end(0.0, min(size, 10), start)[0])
    basis = min(size, max(10, min(30, 2**26 // size, num_products - used)))
    smallest, direction = far_end(largest, basis, start)
    while used + basis <= num_products:
        before, (smallest, direction) = smallest, far_end(largest, basis, direction)
        if before - smallest <= 1e-9 * largest:
            break
    return Ends(smallest, torch.from_numpy(direction).to(like), max(largest, smallest))


def newton_gain(
    product: Product, gradient: torch.Tensor, metric: torch.Tensor, slack: float, num_products: int
) -> tuple[float, bool]:
    """½ gᵀH⁻¹g by conjugate gradients, for a positive definite matrix.

    Args:
        product: v ↦ H v on (n,).
        gradient: g, (n,).
        metric: A diagonal near that of H, (n,), positive: the preconditioner.
        slack: The length of a residual g − Hx that no longer matters.
        num_products: At most.

    Returns:
        Nats, never more than the whole of it; and whether the residual became as short as that.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    shape, weights = (len(gradient), len(gradient)), metric.double().cpu().numpy()
    times = lambda v: product(torch.from_numpy(v.reshape(-1)).to(gradient)).double().cpu().numpy()  # noqa: E731
    right = gradient.double().cpu().numpy()
    matrix = LinearOperator(shape, matvec=times, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    inverse = LinearOperator(shape, matvec=lambda v: v.reshape(-1) / weights, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    found, left = cg(matrix, right, rtol=0.0, atol=slack, maxiter=num_products, M=inverse)
    return 0.5 * float(right @ found), left == 0
