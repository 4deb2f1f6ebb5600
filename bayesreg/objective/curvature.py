"""Second derivatives of the log-joint on the flat vector: the Hessian and the Gauss–Newton matrix, in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.func import hessian

from bayesreg import behaviour
from bayesreg.data.rows import Data
from bayesreg.model import activations
from bayesreg.objective.conditioning import Rows
from bayesreg.objective.flat import LogJoint
from bayesreg.priors import AbstractElementwisePrior

_MATRIX = 2 * 10**8  # entries of an operator that is written out
_ENTRIES = 2**24  # rows × unknowns that are differentiated at once


def output_jacobian(log_joint: LogJoint, u: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """∂f/∂u of each row and the output itself; where a network normalises by the rows at hand, through the other rows too.

    Args:
        log_joint: The model's flat log-joint.
        u: (P,).
        x: Prepared inputs (B, ...).

    Returns:
        (B, K, P) and (B, K), with K = 1 for a scalar output.
    """
    operator = log_joint.model.linear_operator
    if operator is not None and operator.size * operator.num_data <= _MATRIX:
        rows = operator.matrix()[x.reshape(-1).long()].to(u)
        slopes = u.new_zeros(len(x), len(u))
        slopes[:, log_joint.layout.segments["x"].slice] = rows
        return slopes[:, None], (slopes @ u.detach())[:, None]

    def outputs(v: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return log_joint.model.forward(log_joint.layout.unflatten(v), rows).reshape(len(rows), -1)

    stands = log_joint.model.behaviour
    if not stands.row_by_row:
        columns = max(1, min(len(u), 32, _ENTRIES // (8 * len(x))))
        return behaviour.coupled_jacobian(stands, outputs, u, x, columns), outputs(u, x).detach()
    return behaviour.output_jacobian(stands, outputs, u, x)


def prior_hessian(log_joint: LogJoint, u: torch.Tensor, *, jacobian: bool = False) -> torch.Tensor:
    """−∂² log p(θ(u))/∂u∂uᵀ, (P, P): a diagonal for elementwise priors, a block for a tensor whose entries depend.

    Args:
        log_joint: The model's flat log-joint.
        u: (P,).
        jacobian: Add the log-Jacobian's; it is linear in `u`, and so nothing, but for unknowns on an interval.

    Returns:
        (P, P), symmetric.
    """
    total = torch.zeros(len(u), len(u), dtype=u.dtype, device=u.device)
    for group in log_joint.groups:
        block = group.curvature(u[group.slice])
        total[group.slice, group.slice] += torch.diag(block) if block.dim() == 1 else block
    if log_joint.linked:
        total = total + hessian(log_joint.linked_energy)(u.detach())
    on_interval = any(s.transform is not None and not s.latent.is_positive for s in log_joint.layout.in_order)
    return total - hessian(log_joint.layout.log_jacobian)(u.detach()) if jacobian and on_interval else total


def prior_curvature(log_joint: LogJoint, u: torch.Tensor) -> torch.Tensor:
    """The diagonal of `prior_hessian`, (P,), without the matrix where priors act elementwise."""
    if log_joint.linked:
        return prior_hessian(log_joint, u).diagonal()
    total = torch.zeros_like(u)
    for group in log_joint.groups:
        block = group.curvature(u[group.slice])
        total[group.slice] = block if block.dim() == 1 else block.diagonal()
    return total


def unheld(log_joint: LogJoint, u: torch.Tensor) -> torch.Tensor:
    """Which unknowns can count as decided by the data, (P,): no noise, and no weight that stands at its penalty's kink."""
    free = torch.ones_like(u, dtype=torch.bool)
    for group in log_joint.nonsmooth:
        free[group.slice] = u[group.slice] != (group.prior.mode if group.elementwise else 0.0)
    for segment in log_joint.layout.in_order:
        if segment.latent.is_noise:
            free[segment.slice] = False
    return free


def full_hessian(log_joint: LogJoint, u: torch.Tensor, data: Data, *, jacobian: bool = False) -> torch.Tensor:
    """−∂² log-joint/∂u∂uᵀ over all rows, (P, P).

    Args:
        log_joint: The model's flat log-joint.
        u: (P,).
        data: Prepared rows.
        jacobian: Of the density of `u` instead of that of θ.

    Returns:
        (P, P), symmetric.
    """
    total = prior_hessian(log_joint, u, jacobian=jacobian)
    rows = max(1, min(4096, _ENTRIES // len(u)))
    for x, y in data.epoch(rows):
        columns = max(1, min(len(u), 32, _ENTRIES // (8 * len(x))))  # more at once leave the processor's cache
        total = total + behaviour.hessian(log_joint.model.behaviour, row_loss(log_joint, x, y), u, columns)
    return 0.5 * (total + total.mT)


def output_blocks(
    log_joint: LogJoint, u: torch.Tensor, data: Data, rows: int = 1024
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The derivative (B, K, P), the output in the likelihood's shape and the targets, so many rows at once."""
    for x, y in data.epoch(rows):
        slopes, output = output_jacobian(log_joint, u, x)
        yield slopes, output.reshape(len(x), *((-1,) if output.shape[1] > 1 else ())), y


def row_loss(log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Minus the log-likelihood of some rows as a function of the vector."""
    return lambda v: -log_joint.row_terms(log_joint.layout.unflatten(v), x, y, len(x))


def likelihood_gauss_newton(
    log_joint: LogJoint, u: torch.Tensor, data: Data, among: torch.Tensor | None = None
) -> torch.Tensor:
    """`gauss_newton` without the priors.

    Args:
        log_joint: The model's flat log-joint.
        u: (P,).
        data: Prepared rows.
        among: Which unknowns, (P,), and the noise's curvature is left out; all when None.

    Returns:
        (P, P), or of those among.
    """
    likelihood, noise = log_joint.model.likelihood, log_joint.model.noise(log_joint.layout.unflatten(u))
    noisy = noisy_entries(log_joint)
    size = len(u) if among is None else int(among.sum())
    total = torch.zeros(size, size, dtype=u.dtype, device=u.device)
    for slopes, output, y in output_blocks(log_joint, u, data, max(1, min(1024, _ENTRIES // len(u)))):
        slopes = slopes if among is None else slopes[..., among]
        total += torch.einsum("bkp,bkl,blq->pq", slopes, likelihood.output_curvature(output, y, **noise), slopes)
        if len(noisy) and among is None:
            total[noisy[:, None], noisy] += noise_curvature(log_joint, u, output, y, noisy)
    return total


def gauss_newton(log_joint: LogJoint, u: torch.Tensor, data: Data, *, jacobian: bool = False) -> torch.Tensor:
    """Σ Jᵢᵀ Hᵢ Jᵢ + prior, with Hᵢ the loss's curvature in the output: never indefinite, exact for a linear network.

    Where the network says the noise too, Hᵢ is the Fisher information, and exact in expectation only.

    Activations that have a prior count as outputs with that penalty.

    The noise's own second derivative is exact; its cross terms with the weights, zero in expectation, are left out.

    Args:
        log_joint: The model's flat log-joint.
        u: (P,).
        data: Prepared rows.
        jacobian: Of the density of `u` instead of that of θ.

    Returns:
        (P, P), symmetric.

    References:
        Schraudolph (2002), Fast curvature matrix-vector products. Martens (2020), New insights and perspectives on the
        natural gradient method.
    """
    total = prior_hessian(log_joint, u, jacobian=jacobian) + likelihood_gauss_newton(log_joint, u, data)
    for output in log_joint.model.outputs:
        total = total + activity_curvature(log_joint, u, data, output)
    return 0.5 * (total + total.mT)


def gauss_newton_rows(log_joint: LogJoint, u: torch.Tensor, data: Data) -> Rows | None:
    """`gauss_newton` as a triangle made from the rows of its root, Hᵢ^½ Jᵢ on top of the prior's: no digit is lost to squares.

    Args:
        log_joint: The model's flat log-joint, in float64.
        u: (P,).
        data: Prepared rows.

    Returns:
        The rows taken in; None where a part of the matrix has no root (a prior that is concave at u, priors on activations,
        scales or intervals).
    """
    model, layout = log_joint.model, log_joint.layout
    if model.outputs or log_joint.linked or any(s.transform is not None and not s.latent.is_positive for s in layout.in_order):
        return None
    noisy = noisy_entries(log_joint)
    found, diagonal = _prior_rows(log_joint, u)
    noise = torch.diag(diagonal[noisy])
    diagonal[noisy] = 0.0
    if found is None or bool((diagonal < 0).any()):
        return None
    found = [torch.diag(diagonal.sqrt()), *found]
    rows = Rows(torch.cat(found) if len(found) > 1 else diagonal.sqrt())
    for slopes, output, y in output_blocks(log_joint, u, data, max(1, min(1024, _ENTRIES // len(u)))):
        root = model.likelihood.curvature_root(output, y, **model.noise(layout.unflatten(u)))
        rows.add((root @ slopes).reshape(-1, len(u)))
        if len(noisy):
            noise = noise + noise_curvature(log_joint, u, output, y, noisy)
    if len(noisy):
        factor, info = torch.linalg.cholesky_ex(noise)
        if int(info) != 0:
            return None
        last = torch.zeros(len(noisy), len(u)).to(u)
        last[:, noisy] = factor.mT
        rows.add(last)
    return rows


def curvature_of_log_jacobian(transform: Any, part: torch.Tensor) -> torch.Tensor:
    """The second derivative of each entry's log |dθ/du|, (n,), for unknowns on an interval."""
    first = torch.func.grad(lambda v: transform.log_abs_det_jacobian(v, transform(v)).sum())
    return torch.func.jvp(first, (part.detach(),), (torch.ones_like(part),))[1]


def noisy_entries(log_joint: LogJoint) -> torch.Tensor:
    """Numbers of the noise's own unknowns."""
    return torch.tensor([i for s in log_joint.layout.in_order if s.latent.is_noise for i in range(s.start, s.stop)]).long()


def _prior_rows(log_joint: LogJoint, u: torch.Tensor) -> tuple[list[torch.Tensor] | None, torch.Tensor]:
    """Roots of the curvature of priors whose entries depend on each other, None where one has none; the others' diagonal."""
    blocks, diagonal = [], torch.zeros_like(u)
    for group in log_joint.groups:
        if group.elementwise:
            diagonal[group.slice] = group.curvature(u[group.slice])
            continue
        root = group.prior.gaussian_root(group.shape)
        if root is None:
            return None, diagonal
        block = torch.zeros(len(root), len(u)).to(u)
        block[:, group.slice] = root.to(u)
        blocks.append(block)
    return blocks, diagonal


def noise_curvature(
    log_joint: LogJoint, u: torch.Tensor, output: torch.Tensor, y: torch.Tensor, noisy: torch.Tensor
) -> torch.Tensor:
    """−∂² log p(y | f)/∂u∂uᵀ in the noise's own unknowns."""
    model, layout = log_joint.model, log_joint.layout

    def loss(v: torch.Tensor) -> torch.Tensor:
        full = u.clone()
        full[noisy] = v
        return -model.likelihood.log_prob_sum(output, y, **model.noise(layout.unflatten(full)))

    return hessian(loss)(u[noisy])


def noise_over_rows(
    log_joint: LogJoint, u: torch.Tensor, data: Data, of_rows: Callable[..., torch.Tensor] = noise_curvature
) -> torch.Tensor:
    """A sum over rows in the noise's own unknowns, (n, n), in one pass.

    Args:
        log_joint: The model's flat log-joint.
        u: (P,).
        data: Prepared rows; fewer than N are scaled to N.
        of_rows: What a block of rows adds; takes what `noise_curvature` takes.

    Returns:
        (n, n).
    """
    noisy, u = noisy_entries(log_joint).to(u.device), u.detach()
    values, total, seen = log_joint.layout.unflatten(u), u.new_zeros(len(noisy), len(noisy)), 0
    for x, y in data.epoch():
        with torch.no_grad():
            output = log_joint.model.forward(values, x)
        total, seen = total + of_rows(log_joint, u, output, y, noisy), seen + len(x)
    return total * (data.num_data / seen)


def activity_curvature(log_joint: LogJoint, u: torch.Tensor, data: Data, output: activations.Output) -> torch.Tensor:
    """The Gauss–Newton matrix of one layer's prior on its output, Σ Jᵢᵀ Hᵢ Jᵢ with J the activation's derivative.

    Args:
        log_joint: The model's flat log-joint.
        u: (P,).
        data: Prepared rows.
        output: The layer and its prior.

    Returns:
        (P, P), positive semidefinite.
    """
    model, layout = log_joint.model, log_joint.layout
    total = torch.zeros(len(u), len(u), dtype=u.dtype, device=u.device)

    def put_out(v: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        with activations.captured(model.to_run(), (output,)) as found:
            model.forward(layout.unflatten(v), rows)
        return torch.stack(list(found[output.name]), 1)

    rows = max(1, min(256, _ENTRIES // len(u)))
    for x, _ in data.epoch(rows):
        jacobian, values = behaviour.output_jacobian(model.behaviour, put_out, u, x)
        for call in range(values.shape[1]):
            value, slope = values[:, call].detach(), jacobian[:, call].detach().reshape(len(x), -1, len(u))
            if isinstance(output.prior, AbstractElementwisePrior):
                curved = activations.curvature(output.prior, value.reshape(len(x), -1))
                total += torch.einsum("bap,ba,baq->pq", slope, curved, slope)
            else:
                total += torch.einsum("bap,bac,bcq->pq", slope, activations.curvature(output.prior, value), slope)
    return total
