"""`whitened.settle` for many fits at once: the last stretch to R modes, each in coordinates where its own curvature is one.

u_r = u₀_r + L_r⁻ᵀ z_r;   a step of all fits is one batched pass, a round costs one Gauss–Newton matrix a fit
"""

from __future__ import annotations

import math

import torch

from bayesreg.data.rows import Data
from bayesreg.objective.batched import Replicas
from bayesreg.objective.whole import in_double
from bayesreg.solvers.history import History
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.schedules import Schedule
from bayesreg.solvers.steps import move_moments, pace
from bayesreg.solvers.whitened import FALL, LEAST, PAYS, RATE, ROUND, ROUNDS, noise_collapses, root_at


def settle_many(
    replicas: Replicas, u: torch.Tensor, data: Data, *, history: History, report: ProgressCallback, done: int = 0
) -> torch.Tensor:
    """Rounds as those of `settle`; a fit is done where a fall of its rate no longer pays.

    The metric of every fit is that of the first model's log-joint, which may differ from its own in the numbers of the priors.

    Args:
        replicas: The problems, in the module's type.
        u: Where each begins, (R, P) unconstrained.
        data: All rows, in that type.
        history: Where the highest log-joint is recorded after each round.
        report: Called after each round.
        done: Steps of the search before, from which they are counted on.

    Returns:
        (R, P) in float64, never a worse point in any fit.
    """
    wide, best = replicas.double(), u.double().clone()
    log_joint, _, rows = in_double(replicas.log_joint, u[0], data)
    values = wide.objectives(best)
    rates, going, pays = torch.full_like(values, RATE), torch.arange(len(u), device=u.device), max(0.1, PAYS * u.shape[1])
    for count in range(1, ROUNDS + 1):
        points = [None if noise_collapses(log_joint, best[r], rows) else best[r] for r in going]
        roots = [None if v is None else root_at(log_joint, v, rows, replicas.jacobian) for v in points]
        going = going[torch.tensor([root is not None for root in roots], dtype=torch.bool, device=u.device)]
        if not len(going):
            break
        metric = torch.stack([root for root in roots if root is not None])
        trial = _stepped(replicas.part(going), best[going].to(u.dtype), metric, rates[going])
        after = wide.part(going).objectives(trial).nan_to_num(-math.inf)
        rise = after - values[going]
        best[going] = torch.where((rise > 0)[:, None], trial, best[going])
        values[going] = torch.where(rise > 0, after, values[going])
        over = (rise.abs() <= pays) & (rates[going] <= LEAST)
        rates[going] = torch.where(rise > pays, rates[going], rates[going] / FALL)
        history.record(done + count * ROUND - 1, float(values.max()))
        report(done + count * ROUND, done + ROUNDS * ROUND, float(values.max()))
        going = going[~over]
    return best


def _stepped(replicas: Replicas, start: torch.Tensor, roots: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
    """Where one round of Adam's steps in each fit's own coordinates leads, (R, P) in float64.

    `start` is (R, P) in the module's type, `roots` (R, P, P) as `root_at` gives them, `rates` (R,) those of the first step.
    """
    back, schedule = roots.to(start), Schedule(ROUND, 1.0)
    flat, gradient = start.clone(), torch.empty_like(start)
    leaves, into = replicas.leaves(flat), replicas.leaves(gradient)
    z, first, second = (torch.zeros_like(start) for _ in range(3))
    for count in range(ROUND):
        replicas.backward(leaves, into)
        with torch.no_grad():
            replicas.add_slopes(gradient, flat, kinks=True)
            move_moments((gradient[:, None] @ back)[:, 0], first, second)
            ahead, floor, whole = pace(count + 1, schedule.rate(count))
            z.addcdiv_(first * rates[:, None].to(first), second.sqrt() + floor, value=-ahead * whole)
            torch.add(start, (back @ z[..., None])[..., 0], out=flat)
    return start.double() + (roots @ z.double()[..., None])[..., 0]
