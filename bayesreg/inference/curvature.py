"""Second derivatives of the log-joint on the flat vector: the Hessian and the Gauss–Newton matrix, in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.func import grad, hessian, jacrev, jvp, vmap

from bayesreg.data import Data
from bayesreg.flat import LogJoint

_ENTRIES = 2**24  # rows × unknowns that are differentiated at once


def output_jacobian(log_joint: LogJoint, u: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """∂f/∂u of each row and the output itself.

    Args:
        log_joint: The model's flat log-joint.
        u: (P,).
        x: Prepared inputs (B, ...).

    Returns:
        (B, K, P) and (B, K), with K = 1 for a scalar output.
    """

    def row(v: torch.Tensor, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = log_joint.model.forward(log_joint.layout.unflatten(v), inputs[None])[0].reshape(-1)
        return output, output

    jacobian, output = vmap(jacrev(row, has_aux=True), in_dims=(None, 0))(u, x)
    return jacobian.detach(), output.detach()


def prior_hessian(log_joint: LogJoint, u: torch.Tensor) -> torch.Tensor:
    """−∂² log p(θ(u))/∂u², which is diagonal because priors act elementwise, (P,)."""
    u = u.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(log_joint.energy(u), u, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros_like(u)
    (second,) = torch.autograd.grad(gradient.sum(), u, allow_unused=True)
    return torch.zeros_like(u) if second is None else second


def full_hessian(log_joint: LogJoint, u: torch.Tensor, data: Data) -> torch.Tensor:
    """−∂² log-joint/∂u∂uᵀ over all rows, (P, P).

    The log-Jacobian of the positive unknowns is linear in `u` and adds nothing.

    Args:
        log_joint: The model's flat log-joint.
        u: (P,).
        data: Prepared rows.

    Returns:
        (P, P), symmetric.
    """
    total = torch.diag(prior_hessian(log_joint, u))
    rows = max(1, min(4096, _ENTRIES // len(u)))
    for x, y in data.epoch(rows):

        def loss(v: torch.Tensor, x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            return -log_joint.log_likelihood(log_joint.layout.unflatten(v), x, y, len(x))

        def column(direction: torch.Tensor, loss: Callable = loss) -> torch.Tensor:
            return jvp(grad(loss), (u,), (direction,))[1]

        columns = max(1, min(len(u), _ENTRIES // (8 * len(x))))
        total = total + vmap(column, chunk_size=columns)(torch.eye(len(u)).to(u)).detach()
    return 0.5 * (total + total.mT)


def gauss_newton(log_joint: LogJoint, u: torch.Tensor, data: Data) -> torch.Tensor:
    """Σ Jᵢᵀ Hᵢ Jᵢ + prior, with Hᵢ the loss's curvature in the output: never indefinite, exact for a linear network.

    The noise's own second derivative is exact; its cross terms with the weights, zero in expectation, are left out.

    Args:
        log_joint: The model's flat log-joint.
        u: (P,).
        data: Prepared rows.

    Returns:
        (P, P), symmetric.

    References:
        Schraudolph (2002), Fast curvature matrix-vector products. Martens (2020), New insights and perspectives on the
        natural gradient method.
    """
    total = torch.diag(prior_hessian(log_joint, u))
    model, layout = log_joint.model, log_joint.layout
    noisy = [i for s in layout.in_order if s.latent.is_noise for i in range(s.start, s.stop)]
    rows = max(1, min(1024, _ENTRIES // len(u)))
    for x, y in data.epoch(rows):
        jacobian, output = output_jacobian(log_joint, u, x)
        output = output.reshape(len(x), *((-1,) if output.shape[1] > 1 else ()))
        curvature = model.likelihood.output_curvature(output, y, **model.noise(layout.unflatten(u)))
        total = total + torch.einsum("bkp,bkl,blq->pq", jacobian, curvature, jacobian)
        if noisy:

            def loss(v: torch.Tensor, output: torch.Tensor = output, y: torch.Tensor = y) -> torch.Tensor:
                full = u.clone()
                full[noisy] = v
                return -model.likelihood.log_prob_sum(output, y, **model.noise(layout.unflatten(full)))

            block = hessian(loss)(u[noisy])
            index = torch.tensor(noisy, device=u.device)
            total[index[:, None], index] += block
    return 0.5 * (total + total.mT)
