"""Accelerated proximal gradient steps, which reach exact zeros: one fit or many at once.

    u ← prox_{t·penalty}(v − t ∇smooth(v)),  v with Nesterov's momentum, t known or by backtracking

Adam oscillates about a kink and comes near zero; a proximal step lands on it, and stays where the subgradient condition
holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

PATIENCE = 3  # steps in a row that gain nothing before a search by values ends


def fista(
    slope: Callable[[torch.Tensor], torch.Tensor],
    prox: Callable[[torch.Tensor, Any], torch.Tensor],
    start: torch.Tensor,
    *,
    step: Any,
    num_steps: int,
    values: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None,
    done: Callable[[torch.Tensor], bool] | None = None,
) -> torch.Tensor:
    """FISTA with restarts (Beck and Teboulle 2009; O'Donoghue and Candès 2015) on smooth + penalty, each fit for itself.

    Args:
        slope: From points to the smooth parts' gradients.
        prox: From points and steps t to argmin_z t·penalty(z) + ½‖z − point‖².
        start: (P,), or (R, P) for R fits.
        step: With `values` the first step of each fit, (1,) or (R, 1). Else the only one, at most one over the gradient's
            Lipschitz constant, a number or one for each entry where the prox knows that metric.
        num_steps: Steps at most.
        values: From points to the smooth parts and the penalties, scalars or (R,). With it steps are found by backtracking,
            and a fit begins anew where its objective rises; without it its momentum is dropped where it points against the
            step, which needs no values.
        done: Asked every 20 steps whether the point is good enough.

    Returns:
        As `start`; with `values` never a worse point in any fit.

    >>> target = torch.tensor([3.0, 0.5])  # ½‖z − target‖² + ‖z‖₁: soft thresholding
    >>> prox = lambda z, t: z.sign() * (z.abs() - t).clamp_min(0)
    >>> fista(lambda z: z - target, prox, torch.zeros(2), step=1.0, num_steps=5).tolist()
    [2.0, 0.0]
    """
    u, ahead, momentum = start, start, torch.ones_like(start[..., 0])
    better, still = torch.ones_like(momentum, dtype=torch.bool), torch.zeros_like(momentum)
    best = sum(values(start)) if values else momentum
    for count in range(1, num_steps + 1):
        gradient = slope(ahead)
        if values:
            trial, step, total = _backtracked(values, prox, ahead, gradient, step)
            better, still = total <= best, torch.where(total < best, 0.0, still + 1)
            best, step = torch.where(better, total, best), step * 1.1
        else:
            trial = prox(ahead - step * gradient, step)
            against = (((ahead - trial) / step) * (trial - u)).sum(-1) > 0
            momentum = torch.where(against, 1.0, momentum)
        grown = 0.5 * (1 + (1 + 4 * momentum.square()).sqrt())
        moved = trial - u
        leap = trial + ((momentum - 1) / grown)[..., None] * moved
        ahead = torch.where(better[..., None], leap, u)  # the momentum overshot: begin anew from the best point
        u, momentum = torch.where(better[..., None], trial, u), torch.where(better, grown, 1.0)
        if bool((still > PATIENCE).all()) or (count % 20 == 0 and ((done and done(u)) or not bool(moved.any()))):
            break
    return u


def _backtracked(
    values: Callable, prox: Callable, ahead: torch.Tensor, gradient: torch.Tensor, step: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The point after a step that is halved until the quadratic bound of this curvature holds, the step, and the objective."""
    value = values(ahead)[0]
    while True:
        trial = prox(ahead - step * gradient, step)
        change = trial - ahead
        smooth, penalty = values(trial)
        bound = value + (gradient * change).sum(-1) + change.square().sum(-1) / (2 * step[..., 0])
        short = ~(smooth <= bound + 1e-12 * bound.abs()) & (step[..., 0] > 1e-16)
        if not bool(short.any()):
            return trial, step, smooth + penalty
        step = torch.where(short[..., None], 0.5 * step, step)


def top_of(product: Callable[[np.ndarray], np.ndarray], size: int) -> float:
    """The largest eigenvalue of a symmetric positive semidefinite operator by Lanczos' method, a hair too large.

    Args:
        product: v → M v.
        size: Length of v.

    Returns:
        A number > 0.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    start = np.random.default_rng(0).standard_normal(size)
    if size < 3 or not np.any(product(start)):
        columns = np.stack([product(row) for row in np.eye(size)]) if size < 3 else np.zeros((1, 1))
        return float(np.linalg.eigvalsh(columns)[-1]) * (1 + 1e-10) + 1e-300
    operator: Any = LinearOperator((size, size), matvec=product, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    lanczos: Any = eigsh
    return float(lanczos(operator, k=1, which="LA", v0=start, tol=1e-3, return_eigenvectors=False)[0]) * (1 + 1e-2)
