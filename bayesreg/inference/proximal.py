"""The last stretch to a mode on a kink: accelerated proximal gradient steps, which reach exact zeros.

    u ← prox_{t·penalty}(v − t ∇smooth(v)),  v with Nesterov's momentum, t by backtracking

Adam oscillates about a kink and comes near zero; a proximal step lands on it, and stays where the subgradient condition
holds.
"""

from __future__ import annotations

import math

import torch

from bayesreg.data import Data
from bayesreg.flat import LogJoint


def polish(log_joint: LogJoint, u: torch.Tensor, data: Data, *, jacobian: bool = False, num_steps: int = 400) -> torch.Tensor:
    """FISTA with restarts (Beck and Teboulle 2009; O'Donoghue and Candès 2015) on all rows.

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
    kinked = [group for group in log_joint.groups if group.kinked]

    def smooth(v: torch.Tensor) -> tuple[float, torch.Tensor]:
        v = v.detach().requires_grad_()
        value = -log_joint.prepared(v, x, y, data.num_data, jacobian=jacobian)
        for group in kinked:
            value = value - group.energy(v[group.slice])
        return float(value.detach()), torch.autograd.grad(value, v)[0]

    def penalty(v: torch.Tensor) -> float:
        return sum(float(group.energy(v[group.slice])) for group in kinked)

    def forward(v: torch.Tensor, gradient: torch.Tensor, t: float) -> torch.Tensor:
        moved = v - t * gradient
        for group in kinked:
            moved[group.slice] = group.prox(moved[group.slice], t)
        return moved

    best = smooth(u)[0] + penalty(u)
    ahead, momentum, step = u, 1.0, 1.0 / data.num_data
    for _ in range(num_steps):
        value, gradient = smooth(ahead)
        while True:
            trial = forward(ahead, gradient, step)
            change = trial - ahead
            at_trial = smooth(trial)[0]
            bound = value + float(gradient @ change) + float(change @ change) / (2 * step)
            if at_trial <= bound + 1e-12 * abs(bound) or step < 1e-16:
                break
            step *= 0.5
        total = at_trial + penalty(trial)
        if not math.isfinite(total) or total > best:  # the momentum overshot: begin anew from the best point
            if ahead is u:
                break
            ahead, momentum = u, 1.0
            continue
        grown = 0.5 * (1 + math.sqrt(1 + 4 * momentum**2))
        ahead, u, best, momentum = trial + (momentum - 1) / grown * (trial - u), trial, total, grown
        step *= 1.1
    return u
