"""From near a mode to the mode, on all rows, for one fit or many at once: Newton's and proximal steps take turns.

Proximal steps find what a kink holds, Newton's reach the mode of the rest to about ten digits.
"""

from __future__ import annotations

import torch

from bayesreg.behaviour import FORWARD, VMAP
from bayesreg.objective.alone import Alone
from bayesreg.objective.batched import Replicas
from bayesreg.solvers.accelerated import fista
from bayesreg.solvers.newton import newton_steps

NEWTON_WORK = 4 * 10**9  # fits × rows × unknowns², up to which Newton's steps end them
NEWTON_PARAMETERS = 500  # up to here a full Hessian costs less than the search it finishes
TURN, TURNS = 60, 40  # proximal steps between two attempts by Newton's, and attempts at most
STEPS = 200  # proximal steps where there are no Newton's


def finish(problem: Replicas, u: torch.Tensor) -> torch.Tensor:
    """`take_turns` where the Hessians of R fits are affordable, else proximal steps.

    Args:
        problem: Best in float64.
        u: (R, P), near modes.

    Returns:
        (R, P), never a worse point in any fit.
    """
    return take_turns(problem, u) if newton_pays(problem, u) else accelerate(problem, u, STEPS)


def newton_pays(problem: Replicas, u: torch.Tensor) -> bool:
    """Whether the Hessians of R fits at (R, P) are affordable."""
    size = u.shape[1]
    affordable = size <= NEWTON_PARAMETERS and len(u) * problem.num_rows * size**2 <= NEWTON_WORK
    return affordable and problem.model.behaviour.stands(VMAP, FORWARD)


def take_turns(problem: Replicas | Alone, u: torch.Tensor, turns: int = TURNS, damping: float = 0.0) -> torch.Tensor:
    """Newton's steps on what is not zero and accelerated proximal steps, until no fit moves.

    Args:
        problem: Best in float64.
        u: (R, P), near modes.
        turns: At most so many of both; of a smooth objective as many proximal steps, but fewer of Newton's.
        damping: See `newton_on_support`.

    Returns:
        (R, P), never a worse point in any fit.
    """
    going = torch.arange(len(u), device=u.device)
    u, part, left, length = u.clone(), problem, turns * TURN, TURN
    while left > 0:
        found, arrived = newton_on_support(part, u[going], damping)
        u[going] = found
        if bool(arrived.all()):
            break
        if bool(arrived.any()):
            going, part = going[~arrived], part.part((~arrived).nonzero()[:, 0])
        u[going] = accelerate(part, u[going], min(length, left))
        left -= length
        length *= 1 if problem.nonsmooth else 2  # no kink is found on the way, and each attempt costs a Hessian of every fit
    return u


def accelerate(problem: Replicas | Alone, u: torch.Tensor, num_steps: int) -> torch.Tensor:
    """`fista` on (R, P), so many steps at most; never a worse point in any fit."""

    def prox(v: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        moved = v.clone()
        for group in problem.nonsmooth:
            part = group.first.slice
            moved[:, part] = group.prox(moved[:, part], step)
        return moved

    slope = lambda v: problem.gradient(v, kinks=False)  # noqa: E731
    return fista(slope, prox, u, step=1 / problem.num_data[:, None], num_steps=num_steps, values=problem.parts)


def newton_on_support(problem: Replicas | Alone, u: torch.Tensor, damping: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """`newton_steps` on what is not held at zero.

    Args:
        problem: Best in float64.
        u: (R, P), near modes.
        damping: Largest one of `newton_steps`; a damped step can take a fit that is not convex to another mode.

    Returns:
        (R, P), and whether each has arrived, (R,): its last step was rounding, and no entry at zero wants to leave it.
    """
    kinked = torch.zeros(u.shape[1], dtype=torch.bool, device=u.device)
    crossed = kinked.clone()  # where a step over the kink ends on it
    for group in problem.nonsmooth:
        kinked[group.first.slice], crossed[group.first.slice] = True, group.first.elementwise
    u, arrived = newton_steps(
        u,
        problem.falling,
        problem.hessians,
        free=lambda v: ~kinked | (v != 0),
        land=lambda v, trial: torch.where(crossed & (trial * v < 0), 0.0, trial),
        most=damping,
    )
    if not problem.nonsmooth:
        return u, arrived
    moved = accelerate(problem, u, 1)  # would an entry at a kink leave it?
    return u, arrived & ~((u == 0) & (moved != 0) & kinked).any(1)
