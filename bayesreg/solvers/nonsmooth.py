"""The last stretch to a mode on a kink: FISTA on all rows of any model, ended by proximal Newton steps."""

from __future__ import annotations

import torch

from bayesreg.data.rows import Data
from bayesreg.objective.flat import LogJoint
from bayesreg.solvers.accelerated import fista
from bayesreg.solvers.newton_lasso import fits, proximal_newton


def polish(log_joint: LogJoint, u: torch.Tensor, data: Data, *, jacobian: bool = False, num_steps: int = 400) -> torch.Tensor:
    """`fista` on all rows of any model, ended by proximal Newton steps where their matrix is small.

    Args:
        log_joint: The objective, best in float64.
        u: Where to begin, (P,) unconstrained.
        data: All rows in memory.
        jacobian: Add log |dθ/du| to the objective.
        num_steps: Steps at most.

    Returns:
        (P,), never a worse point than `u`.
    """
    x, y = data.full("a proximal search")
    kinked = log_joint.kinked

    def smooth(v: torch.Tensor) -> tuple[float, torch.Tensor]:
        v = v.detach().requires_grad_()
        value = -log_joint.prepared(v, x, y, data.num_data, jacobian=jacobian)
        for group in kinked:
            value = value - group.energy(v[group.slice])
        return float(value.detach()), torch.autograd.grad(value, v)[0]

    def penalty(v: torch.Tensor) -> float:
        return sum(float(group.energy(v[group.slice])) for group in kinked)

    def prox(v: torch.Tensor, t: float) -> torch.Tensor:
        moved = v.clone()
        for group in kinked:
            moved[group.slice] = group.prox(moved[group.slice], t)
        return moved

    u = fista(smooth, prox, penalty, u, step=1.0 / data.num_data, num_steps=num_steps)[0]
    if u.dtype == torch.float64 and not jacobian and fits(log_joint, data):
        u = proximal_newton(log_joint, u, data)
    return u


def exact_zeros(log_joint: LogJoint, u: torch.Tensor) -> int:
    """How many weights whose penalty has a kink stand on it at a point, (P,)."""
    return sum(int((u[g.slice] == 0).sum()) for g in log_joint.kinked)
