"""The last stretch to a mode on a kink: FISTA on all rows of any model, ended by proximal Newton steps."""

from __future__ import annotations

from typing import ClassVar

import torch

from bayesreg.data.rows import Data
from bayesreg.objective.affine import is_affine
from bayesreg.objective.first_order import exact_zeros
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.whole import in_double
from bayesreg.solvers.accelerated import fista
from bayesreg.solvers.base import AbstractSolver, Problem, Solution
from bayesreg.solvers.history import History
from bayesreg.solvers.newton_lasso import fits, proximal_newton
from bayesreg.solvers.progress import ProgressCallback


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
    nonsmooth = log_joint.nonsmooth

    def smooth(v: torch.Tensor) -> torch.Tensor:
        return -log_joint.prepared(v, x, y, data.num_data, jacobian=jacobian) - penalty(v)

    def penalty(v: torch.Tensor) -> torch.Tensor:
        return sum((group.energy(v[group.slice]) for group in nonsmooth), v.new_zeros(()))

    def slope(v: torch.Tensor) -> torch.Tensor:
        v = v.detach().requires_grad_()
        return torch.autograd.grad(smooth(v), v)[0]

    @torch.no_grad()
    def values(v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return smooth(v), penalty(v)

    def prox(v: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        moved = v.clone()
        for group in nonsmooth:
            moved[group.slice] = group.prox(moved[group.slice], float(t))
        return moved

    u = fista(slope, prox, u, step=u.new_tensor([1.0 / data.num_data]), num_steps=num_steps, values=values)
    if u.dtype == torch.float64 and not jacobian and fits(log_joint, data):
        u = proximal_newton(log_joint, u, data)
    return u


def can_polish(log_joint: LogJoint, data: Data, batch_size: int | None) -> bool:
    """True where proximal steps end a search: a weight's penalty has a kink, no activation's has, all rows are there."""
    nonsmooth = bool(log_joint.nonsmooth) and not log_joint.nonsmooth_outputs
    return nonsmooth and batch_size is None and data.x is not None and log_joint.model.behaviour.deterministic
