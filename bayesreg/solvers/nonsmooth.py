"""The last stretch to a mode on a kink: FISTA on all rows of any model, in turn with Newton's steps."""

from __future__ import annotations

from typing import ClassVar

import torch

from bayesreg.behaviour import FORWARD, VMAP
from bayesreg.data.rows import Data
from bayesreg.objective.affine import is_affine
from bayesreg.objective.alone import Alone
from bayesreg.objective.first_order import exact_zeros
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.whole import in_double
from bayesreg.solvers.base import AbstractSolver, Problem, Solution
from bayesreg.solvers.history import History
from bayesreg.solvers.last_steps import NEWTON_PARAMETERS, TURN, accelerate, take_turns
from bayesreg.solvers.progress import ProgressCallback

DAMPING = 1e3  # of Newton's steps: proximal steps alone would not leave a saddle in time


class Fista(AbstractSolver):
    """Accelerated proximal gradient steps on all rows, for convex problems with a kink: exact zeros.

    References:
        Beck and Teboulle (2009), A fast iterative shrinkage-thresholding algorithm for linear inverse problems.
    """

    name: ClassVar[str] = "fista"
    rank: ClassVar[int] = 20
    local: ClassVar[bool] = False

    def requires(self, problem: Problem) -> str | None:
        """All rows, a network that is the same in training, and no kink behind the network."""
        if not (problem.partial() or problem.log_joint.nonsmooth_outputs):
            return None
        return (
            "all rows, a fixed network and no nonsmooth prior on an output, but "
            f"{problem.partial() or 'an output has one'}; take 'prox-adam' or 'adam'."
        )

    def suits(self, problem: Problem) -> str | None:
        """A convex problem with a kink."""
        log_joint, likelihood = problem.log_joint, problem.log_joint.model.likelihood
        convex = (
            log_joint.nonsmooth and not likelihood.latents and likelihood.log_concave and is_affine(log_joint, problem.data)
        )
        return "the network is linear in its weights, and a prior's penalty has a kink" if convex else None

    def solve(self, problem: Problem, start: torch.Tensor, history: History, report: ProgressCallback) -> Solution:
        """`polish` from the start."""
        log_joint, options = problem.log_joint, problem.options
        wide = in_double(log_joint, start, problem.data)
        u = polish(*wide, jacobian=options.jacobian, num_steps=options.num_steps or 2000).to(start.dtype)
        history.notes.append(f"fista: {exact_zeros(log_joint, u):,} weights are exactly zero.")
        return Solution(u, log_joint.model)


def polish(log_joint: LogJoint, u: torch.Tensor, data: Data, *, jacobian: bool = False, num_steps: int = 400) -> torch.Tensor:
    """Proximal steps on all rows of any model, in turn with Newton's on what is not zero where the matrix is small.

    Args:
        log_joint: The objective, best in float64.
        u: Where to begin, (P,) unconstrained.
        data: All rows in memory.
        jacobian: Add log |dθ/du| to the objective.
        num_steps: Proximal steps at most.

    Returns:
        (P,), never a worse point than `u`.
    """
    alone = Alone(log_joint, data, jacobian=jacobian)
    if u.dtype != torch.float64 or jacobian or not _has_turns(log_joint):
        return accelerate(alone, u[None], num_steps)[0]
    return take_turns(alone, accelerate(alone, u[None], TURN), max(1, num_steps // TURN), DAMPING)[0]


def _has_turns(log_joint: LogJoint) -> bool:
    """True where penalties are convex, on the weights alone and with kinks at zero, and the Hessian is small."""
    convex = all(s.transform is None and s.latent.prior.convex for s in log_joint.layout.in_order)
    at_zero = all(group.elementwise or group.prior.shrinks_groups for group in log_joint.nonsmooth)
    small = log_joint.layout.size <= NEWTON_PARAMETERS and log_joint.model.behaviour.stands(VMAP, FORWARD)
    return convex and at_zero and small and not log_joint.linked and not log_joint.model.outputs


def can_polish(log_joint: LogJoint, data: Data, batch_size: int | None) -> bool:
    """True where proximal steps end a search: a weight's penalty has a kink, no activation's has, all rows are there."""
    nonsmooth = bool(log_joint.nonsmooth) and not log_joint.nonsmooth_outputs
    return nonsmooth and batch_size is None and data.x is not None and log_joint.model.behaviour.deterministic
