"""The mode of a large linear inverse problem with a Gaussian prior, and draws about it, by conjugate gradients.

    H x = Ãᵀb̃ + Λ m        preconditioned by the diagonal of H in cosines

The search ends where a bound in nats says that nothing is left to gain, not where a residual is small: see
`objective/inverse.py`. Draws are solutions with the data and the prior's mean perturbed (randomise, then optimise).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch

from bayesreg.objective.inverse import MAX_FREE, InverseProblem, inverse_problem
from bayesreg.priors.values import HALF_LOG_2PI
from bayesreg.solvers.base import AbstractSolver, Problem, Solution, Unsuited
from bayesreg.solvers.history import History
from bayesreg.solvers.progress import ProgressCallback

LARGE = 1500  # unknowns from which products are faster than a factorisation
OF_MODE = 1e-5  # how far off a solution may be, in posterior sds, root mean square over the unknowns
OF_DRAW = 1e-3
_STEPS, _EVERY = 1000, 5


class Solved(NamedTuple):
    """Solutions of H x = r.

    Attributes:
        x: (S, *shape).
        left: Bound of the nats that each still has to gain, (S,).
        steps: Steps that were taken.
    """

    x: torch.Tensor
    left: torch.Tensor
    steps: int

    @property
    def error(self) -> float:
        """How far off the worst one is at most, in posterior sds, root mean square over the unknowns."""
        return math.sqrt(2 * float(self.left.max()) / self.x[0].numel())


def conjugate_gradients(
    problem: InverseProblem,
    right: torch.Tensor,
    error: float,
    *,
    num_steps: int = _STEPS,
    told: Callable[[int, float], None] | None = None,
) -> Solved:
    """H x = r for several r at once, until the bound holds for each.

    Args:
        problem: The problem.
        right: r, (S, *shape).
        error: How far off a solution may be, in posterior sds, root mean square over the unknowns.
        num_steps: Steps at most.
        told: Called now and then with the step and the largest bound in nats.

    Returns:
        The solutions and how far off they are; the bound is of the point itself, not of the recursion.

    References:
        Hestenes and Stiefel (1952), Methods of conjugate gradients for solving linear systems. Bardsley, Solonen, Haario and
        Laine (2014), Randomize-then-optimize: a method for sampling from posterior distributions in nonlinear inverse problems.
    """
    enough = 0.5 * right[0].numel() * error**2
    x, rest = torch.zeros_like(right), right.clone()
    left, step = problem.left(rest), 0
    dot = lambda a, b: (a * b).flatten(1).sum(1)  # noqa: E731
    across = (-1, *[1] * (right.dim() - 1))
    while step < num_steps and float(left.max()) > enough:
        best = float(left.max())
        way = problem.precondition(rest)
        direction, slope = way, dot(rest, way)
        for _ in range(min(num_steps - step, 10 * _EVERY)):  # then anew, from the residual itself
            product = problem.times(direction)
            bend = dot(direction, product)
            length = torch.where(bend > 0, slope / bend, 0.0)
            x.addcmul_(direction, length.reshape(across))
            rest.addcmul_(product, length.reshape(across), value=-1)
            step += 1
            if step % _EVERY == 0:
                left = problem.left(rest)
                if told is not None:
                    told(step, float(left.max()))
                if float(left.max()) <= enough:
                    break
            way = problem.precondition(rest)
            new = dot(rest, way)
            direction = way + torch.where(slope > 0, new / slope, 0.0).reshape(across) * direction
            slope = new
        rest = right - problem.times(x)
        left = problem.left(rest)
        if not float(left.max()) < 0.5 * best:  # rounding holds it
            break
    return Solved(x, left, step)


class Krylov(AbstractSolver):
    """Conjugate gradients for A x = b with a Gaussian prior and known noise: products with A and its adjoint, no matrix."""

    name: ClassVar[str] = "krylov"
    rank: ClassVar[int] = 5
    local: ClassVar[bool] = False

    def requires(self, problem: Problem) -> str | None:
        """A linear operator, known Gaussian noise, a Gaussian prior of known scale, and all measurements."""
        if asked := problem.asked_to_search:
            return f"no search by steps, but {asked} came; leave it out, or take another optimizer."
        if problem.log_joint.model.linear_operator is None:
            return "a linear operator (bayesreg.operators) in place of a network, but this model has none; take 'auto'."
        found = inverse_problem(problem.log_joint.model, problem.data)
        if found is None or found.prior.num_free > MAX_FREE:
            return "a Gaussian prior of known scale that leaves little free, and known Gaussian noise; take 'auto'."
        return None

    def suits(self, problem: Problem) -> str | None:
        """Many unknowns."""
        size = problem.log_joint.layout.size
        return f"{size:,} unknowns of a linear operator, so that no matrix is formed" if size > LARGE else None

    def solve(self, problem: Problem, start: torch.Tensor, history: History, report: ProgressCallback) -> Solution:
        """Solve it; the start is of no account.

        Raises:
            Improper: If neither the data nor the prior determine a direction; its dimension is named.
            Unsuited: If the problem is another.
        """
        log_joint, data = problem.log_joint, problem.data
        found = inverse_problem(log_joint.model, data)
        if found is None or data.y is None:
            raise Unsuited("optimizer='krylov' needs a linear inverse problem; take 'auto'.")
        b = data.y.double().reshape(-1)
        solved = conjugate_gradients(found, found.right(b), OF_MODE, told=lambda step, left: report(step, _STEPS, -left))
        u = solved.x.reshape(-1).to(log_joint.model.like)
        missed = found.forward(u.double().reshape(1, *found.prior.shape))[0] - b / found.sigma
        value = -0.5 * float(missed.square().sum()) - len(b) * (math.log(found.sigma) + HALF_LOG_2PI)
        value += float(log_joint.log_prior(u))
        history.record(solved.steps, value)
        history.notes.append(
            f"conjugate gradients: {solved.steps} steps, at most {float(solved.left.max()):.1g} nats are left."
        )
        return Solution(u, log_joint.model, value=value, gap=float(solved.left.max()), exact=True)
