"""The last stretch to a mode on all rows: Adam's steps where the curvature is one in every direction.

    u = u₀ + L⁻ᵀz,   LLᵀ = the Gauss–Newton matrix and the prior's at u₀;   rounds of steps in z, whose rate falls to zero

Adam scales every weight by itself, and crawls where weights matter together. In z each direction is as long as an sd of the
posterior. Newton's steps would stall where the pieces of a network meet; momentum and a falling rate average both sides.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from bayesreg.behaviour import FORWARD, VMAP
from bayesreg.data.rows import Data
from bayesreg.objective.curvature import gauss_newton
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.freedom import MOST, used_up
from bayesreg.objective.training_copy import TrainingCopy
from bayesreg.objective.whole import in_double, value_of
from bayesreg.solvers.base import Problem
from bayesreg.solvers.failures import FitError
from bayesreg.solvers.history import History
from bayesreg.solvers.last_steps import NEWTON_WORK
from bayesreg.solvers.loop import run
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.schedules import Schedule
from bayesreg.solvers.stepper import EagerAdam

PARAMETERS = 2000  # unknowns up to which a dense matrix a round is cheap
ROUND, ROUNDS = 300, 12  # steps, and rounds at most
RATE, FALL, LEAST = 0.2, 4.0, 0.05  # of the first step in sds; by what it falls where a round does not pay; and the last one
PAYS = 0.005  # nats an unknown that a round must gain: no less than what a certificate lets pass
_FEW = 1000  # rows whose matrix is looked at after each round
VANISHING = 5e-3  # a learned noise below so many sds of the target, while the search still climbs, is on its way to zero


class Settled(NamedTuple):
    """Where the rounds ended.

    Attributes:
        u: (P,), in float64 where the module can; never worse than the start.
        steps: That were taken.
        value: The log-joint there, in nats and the data's own units.
        gain: How far it rose.
        why: Why they ended.
    """

    u: torch.Tensor
    steps: int
    value: float
    gain: float
    why: str


def can_settle(problem: Problem) -> bool:
    """True where rounds end a search: all rows, smooth penalties, a fixed network, and a Gauss–Newton matrix that is cheap."""
    log_joint, size = problem.log_joint, problem.log_joint.layout.size
    reads = problem.options.step_settings
    if problem.partial(reads) or problem.held_out is not None or problem.held or not log_joint.smooth or size > PARAMETERS:
        return False
    model, (x, _) = log_joint.model, next(problem.data.epoch(2))
    if not model.behaviour.stands(VMAP, FORWARD) or not model.behaviour.row_by_row or problem.data.coupled:
        return False
    with torch.no_grad():
        width = model.forward(model.weights(), x[:2]).numel() // len(x[:2])
    return width * problem.data.num_data * size**2 <= NEWTON_WORK


def settle(
    log_joint: LogJoint,
    u: torch.Tensor,
    data: Data,
    *,
    jacobian: bool,
    history: History,
    report: ProgressCallback,
    done: int = 0,
    rate: float = RATE,
) -> Settled:
    """Rounds of Adam's steps in whitened coordinates, one after the other, until a fall of the rate no longer pays.

    A round that does not rise is taken back. The search also ends where a learned noise collapses, since no mode is there.

    Args:
        log_joint: The objective, in the module's type.
        u: Where to begin, (P,) unconstrained.
        data: All rows, in that type.
        jacobian: Add log |dθ/du| to the objective.
        history: Where the objective is recorded after each round.
        report: Called on the way.
        done: Steps of the search before, from which they are counted on.
        rate: Of the first round's first step, in sds.

    Returns:
        Where they ended.

    References:
        Amari (1998), Natural gradient works efficiently in learning. Vyas et al. (2024), SOAP: improving and stabilizing
        Shampoo using Adam.
    """
    wide, best, rows = in_double(log_joint, u, data)
    first = value = value_of(wide, best, rows, jacobian=jacobian)
    pays, steps, why = max(0.1, PAYS * len(u)), 0, f"its budget of {ROUNDS} rounds was spent"
    for _ in range(ROUNDS):
        if noise_collapses(wide, best, rows):
            why = "the learned noise collapses, and no mode is there to find"
            break
        root = root_at(wide, best, rows, jacobian)
        if root is None:
            why = "the Gauss–Newton matrix could not be formed"
            break
        begun = done + steps
        told = lambda step, total, nats, begun=begun: report(begun + step, done + ROUNDS * ROUND, nats)  # noqa: E731
        trial = stepped(log_joint, best, root, data, rate, jacobian=jacobian, report=told)
        steps += ROUND
        after = -math.inf if trial is None else value_of(wide, trial, rows, jacobian=jacobian)
        rise = after - value
        if rise > 0 and trial is not None:
            best, value = trial, after
        history.record(done + steps - 1, value)
        if rise > pays:
            continue
        if rate <= LEAST and rise > -pays:
            why = f"a fall of the rate gained less than {pays:.2g} nats"
            break
        rate /= FALL
    return Settled(best, steps, value, value - first, why)


def root_at(log_joint: LogJoint, u: torch.Tensor, data: Data, jacobian: bool) -> torch.Tensor | None:
    """L⁻ᵀ of the Gauss–Newton matrix, (P, P) in float64; None where the network does not support it, or it is not finite."""
    try:
        matrix = gauss_newton(log_joint, u, data, jacobian=jacobian)
    except Exception:  # a search that is done is never lost: a person's module may raise anything
        return None
    return inverse_root(matrix.double())


def stepped(
    log_joint: LogJoint,
    u: torch.Tensor,
    root: torch.Tensor,
    data: Data,
    rate: float,
    *,
    jacobian: bool,
    report: ProgressCallback,
    num_steps: int = ROUND,
) -> torch.Tensor | None:
    """Where one round of Adam's steps in whitened coordinates leads.

    Args:
        log_joint: The objective, in the module's type.
        u: Where to begin, (P,).
        root: L⁻ᵀ, (P, P), or its diagonal, (P,).
        data: All rows, in the module's type.
        rate: Of the first step, in sds; it falls to zero.
        jacobian: Add log |dθ/du| to the objective.
        report: Called on the way.
        num_steps: In the round.

    Returns:
        (P,) as `u`; None where the loss stops being finite.
    """
    back = root.to(log_joint.model.like.dtype)
    back, num_data, start, whole = back.contiguous(), data.num_data, u.to(back.dtype), root.dim() == 2
    copy = TrainingCopy(log_joint, start, num_data, jacobian=jacobian, training=False)
    whitened = nn.Parameter(torch.zeros_like(start))
    whitened.grad = torch.zeros_like(start)

    def backward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            if whole:
                torch.addmv(start, back, whitened, out=copy.flat.data)
            else:
                torch.addcmul(start, back, whitened, out=copy.flat.data)
            copy.flat.grad.zero_()  # pyright: ignore[reportOptionalMemberAccess]
        loss = copy.backward(x, y)
        pulled = back.mT @ copy.flat.grad if whole else back * copy.flat.grad  # pyright: ignore
        whitened.grad.add_(pulled, alpha=num_data)  # pyright: ignore[reportOptionalMemberAccess]
        return loss

    try:
        run(
            EagerAdam(whitened, backward),
            data.batches(None, torch.Generator()),
            Schedule(num_steps, rate),
            layout=log_joint.layout,
            report=report,
            history=History(),
            objective=lambda loss, z: copy.objective(loss, start + (back @ z if whole else back * z)),
        )
    except FitError:
        return None
    moved = whitened.detach().double()
    return u + (root @ moved if whole else root * moved).to(u)


def inverse_root(matrix: torch.Tensor) -> torch.Tensor | None:
    """L⁻ᵀ with LLᵀ the matrix, damped until it is positive definite, (P, P); None where it is not finite.

    Args:
        matrix: (P, P), symmetric.
    """
    diagonal = matrix.diagonal().abs()
    diagonal = diagonal.clamp_min(1e-9 * float(diagonal.max()))
    scale = diagonal.rsqrt()
    scaled, eye = scale[:, None] * matrix * scale, torch.eye(len(matrix)).to(matrix)
    for damping in (1e-8, 1e-4, 1e-2, 0.1, 1.0):
        factor, info = torch.linalg.cholesky_ex(scaled + damping * eye)
        if int(info) == 0 and bool(factor.isfinite().all()):
            return torch.linalg.solve_triangular(factor, torch.diag(scale), upper=False).mT
    return None


def noise_collapses(log_joint: LogJoint, u: torch.Tensor, data: Data) -> bool:
    """True where a learned noise is below `VANISHING` sds of the target, or weights use up the rows it is learned from."""
    if data.y is None or not data.y.is_floating_point():
        return False
    spread = float(log_joint.model.likelihood.observed(data.y).double().std(correction=0))
    noises = [s for name, s in log_joint.layout.segments.items() if name in log_joint.model.likelihood.target_scales]
    if any(float(s.transform(u[s.slice]).min()) < VANISHING * spread for s in noises):  # pyright: ignore[reportOptionalCall]
        return True
    share = used_up(log_joint, u, data) if data.y.numel() <= _FEW else None
    return share is not None and share > MOST
