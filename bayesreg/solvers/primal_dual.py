"""The mode of a linear inverse problem under an L1 penalty of a linear map: total variation, and the lasso of many unknowns.

    ½‖(A x − b)/σ‖² + Σ s |D (x − m)|

It is the problem of `priors/analysis.py`, whose primal–dual steps end by a duality gap in nats.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch

from bayesreg.objective.inverse import Improper, improper, measurements, num_free
from bayesreg.priors.analysis import LeastSquares, diagonal_in_cosines, primal_dual
from bayesreg.priors.values import HALF_LOG_2PI
from bayesreg.solvers.base import AbstractSolver, Problem, Solution, Unsuited
from bayesreg.solvers.history import History
from bayesreg.solvers.krylov import LARGE
from bayesreg.solvers.progress import ProgressCallback

_ENOUGH = 2e-4  # nats an unknown: a twenty-fifth of what a mode may have left
_STEPS = 3000
_BEYOND, _SMALL = 10, 512  # times the steps of such a gap, with so few unknowns, for the last digit
_LEAST = 1e-4  # of the largest entry: what the diagonal of AᵀA in cosines is taken for at least


class _Measured(NamedTuple):
    """A problem, its prior's centre m and the noise."""

    problem: LeastSquares
    loc: float
    sigma: float


class PrimalDual(AbstractSolver):
    """Primal–dual steps in cosines for total variation and L1 penalties on the unknown of a linear operator."""

    name: ClassVar[str] = "primal-dual"
    rank: ClassVar[int] = 7
    local: ClassVar[bool] = False

    def requires(self, problem: Problem) -> str | None:
        """A linear operator, known Gaussian noise, and a prior that is an L1 penalty of a linear map."""
        if asked := problem.asked_to_search:
            return f"no search by steps of its own, but {asked} came; leave it out, or take another optimizer."
        latents = problem.log_joint.model.latents
        if (
            measurements(problem.log_joint.model, problem.data) is None
            or latents["x"].prior.analysis(latents["x"].shape) is None
        ):
            return "a linear operator, known Gaussian noise and a TotalVariation or Laplace prior of known scale; take 'auto'."
        return None

    def suits(self, problem: Problem) -> str | None:
        """Penalties that tie unknowns together, and many unknowns."""
        size, prior = problem.log_joint.layout.size, problem.log_joint.model.latents["x"].prior
        if not prior.separable_prox:
            return "a penalty on differences, by primal–dual steps"
        return f"{size:,} unknowns of a linear operator, so that no matrix is formed" if size > LARGE else None

    def solve(self, problem: Problem, start: torch.Tensor, history: History, report: ProgressCallback) -> Solution:
        """Solve it; the start is of no account.

        Raises:
            Improper: If A does not see what the penalty leaves free, so that there are many modes.
            Unsuited: If the problem is another.
        """
        log_joint, measured = problem.log_joint, _measured(problem)
        if measured is None:
            raise Unsuited("optimizer='primal-dual' needs a linear inverse problem with an L1 penalty; take 'auto'.")
        size = log_joint.layout.size
        if bool((measured.problem.penalty.levels == 0).any()) and (missing := num_free(measured.problem.unseen)):
            raise Improper(improper(missing))
        told = lambda step, gap: report(step, _STEPS, -gap)  # noqa: E731
        beyond = _BEYOND if size <= _SMALL else 1
        found = primal_dual(measured.problem, _ENOUGH * size, num_steps=_STEPS, told=told, beyond=beyond)
        u = (measured.loc + found.x).reshape(-1).to(log_joint.model.like)
        missed = measured.problem.forward(found.x) - measured.problem.target
        count = len(measured.problem.target)
        value = -0.5 * float(missed.square().sum()) - count * (math.log(measured.sigma) + HALF_LOG_2PI)
        value += float(log_joint.log_prior(u))
        history.record(found.steps, value)
        steps = measured.problem.penalty.times(found.x)
        history.notes.append(
            f"primal–dual: {found.steps} steps, duality gap {found.gap:.1g} nats; {int((steps == 0).sum()):,} of "
            f"{len(steps):,} terms of the penalty are exactly zero."
        )
        return Solution(u, log_joint.model, value=value, gap=found.gap, exact=True)


def _measured(problem: Problem) -> _Measured | None:
    """The problem as least squares with such a penalty, None where it is none."""
    model = problem.log_joint.model
    found = measurements(model, problem.data)
    latent = model.latents.get("x")
    penalty = None if latent is None else latent.prior.analysis(latent.shape)
    if found is None or penalty is None or latent is None or problem.data.y is None:
        return None
    shape = torch.Size(latent.shape)

    def forward(x: torch.Tensor) -> torch.Tensor:
        return found.forward(x[None])[0]

    def adjoint(y: torch.Tensor) -> torch.Tensor:
        return found.adjoint(y[None])[0]

    bends = diagonal_in_cosines(lambda v: adjoint(forward(v)), shape)
    bends = bends.clamp_min(_LEAST * float(bends.max()))
    target = problem.data.y.double().reshape(-1) / found.sigma
    loc = float(penalty.loc)
    target = target - forward(torch.full(shape, loc, dtype=torch.float64)) if loc else target
    return _Measured(LeastSquares(forward, adjoint, target, penalty, bends), loc, found.sigma)
