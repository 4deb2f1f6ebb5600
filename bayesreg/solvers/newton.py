"""Newton's steps to the last digit from near a mode, damped where they must be, one fit or many at once.

u ← u − (H + λ diag|H|)⁻¹∇F(u)  on what no kink holds; λ = 0 while F falls, or stands still up to rounding as ∇F shrinks
"""

from __future__ import annotations

from collections.abc import Callable

import torch

LEAST = 1e-3  # damping other than none
Tensors = Callable[[torch.Tensor], torch.Tensor]


def newton_steps(
    u: torch.Tensor,
    objective: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    hessian: Tensors,
    *,
    free: Tensors | None = None,
    land: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    most: float = 0.0,
    num_steps: int = 20,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Newton's method with Levenberg's damping on each fit, as long as it gains.

    Args:
        u: Near a mode, (P,), or (R, P) for R fits.
        objective: From points to what falls, a scalar or (R,), and its gradient.
        hessian: From points to (P, P) or (R, P, P).
        free: From points to which entries no kink holds; all when None.
        land: From points and where a step leads to where it may lead; anywhere when None.
        most: Damping λ at which a fit is given up: with none as soon as a step does not gain.
        num_steps: At most.

    Returns:
        As `u`, never a worse point in any fit; and whether each has arrived: its last step was rounding.

    References:
        Marquardt (1963), An algorithm for least-squares estimation of nonlinear parameters.

    >>> target = torch.tensor([3.0, 0.5], dtype=torch.float64)
    >>> parabola = lambda v: (0.5 * (v - target).square().sum(), v - target)
    >>> newton_steps(torch.zeros_like(target), parabola, lambda v: torch.eye(2).double())
    (tensor([3.0000, 0.5000], dtype=torch.float64), tensor(True))
    """
    free = free or (lambda v: torch.ones_like(v, dtype=torch.bool))
    value, gradient = objective(u)
    loose, eye = free(u), torch.eye(u.shape[-1]).to(u)
    damping, better = torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool)
    for _ in range(num_steps):
        if bool(better.any()):
            matrix = torch.where(loose[..., :, None] & loose[..., None, :], hessian(u), eye)
            scale = matrix.diagonal(dim1=-2, dim2=-1).abs().sqrt()
            scale = torch.where(scale > 0, scale, 1.0)
            matrix = matrix / (scale[..., :, None] * scale[..., None, :])
        factor, info = torch.linalg.cholesky_ex(matrix + damping[..., None, None].to(u) * eye)
        move = torch.cholesky_solve((torch.where(loose, gradient, 0.0) / scale)[..., None], factor)[..., 0] / scale
        usable = (info == 0) & move.isfinite().all(-1)
        trial = u - torch.where(usable[..., None], move, 0.0)
        trial = land(u, trial) if land else trial
        after, slope = objective(trial)
        size = (trial - u).abs().amax(-1) / u.abs().amax(-1).clamp_min(1e-3)
        slack, loose_after = 1e-13 * value.abs(), free(trial)
        both = loose & loose_after
        shrinks = torch.where(both, slope, 0.0).norm(dim=-1) < torch.where(both, gradient, 0.0).norm(dim=-1)
        level = usable & ((after - value).abs() <= slack)  # here values no longer tell two points apart, but gradients do
        better = (usable & (after < value - slack)) | (level & shrinks)
        arrived = level & (damping == 0) & (~shrinks | (size < 1e-10))
        pairs = ((trial, u), (slope, gradient), (loose_after, loose))
        u, gradient, loose = (torch.where(better[..., None], new, old) for new, old in pairs)
        value = torch.where(better, after, value)
        eased = torch.where(damping > LEAST, damping / 10, 0.0)
        given_up = ~better & (damping >= most)
        damping = torch.where(better, eased, (10 * damping).clamp_min(LEAST)).clamp_max(most)
        if bool((arrived | given_up).all()):
            break
    return u, arrived
