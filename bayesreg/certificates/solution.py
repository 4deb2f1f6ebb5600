"""The certificate of a solver's solution, by the objective that it followed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.constant import says_the_same, with_word
from bayesreg.certificates.effort import SHARE, Effort, value_near, work
from bayesreg.certificates.linear_gaussian import certify_linear
from bayesreg.certificates.mode import certify, with_restarts
from bayesreg.certificates.norms import with_norms
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.values import Point
from bayesreg.objective.directions import by_all_rows, scale_free
from bayesreg.objective.flat import LogJoint
from bayesreg.solvers.base import Problem, Solution
from bayesreg.solvers.probe import further

_USUAL = 3000  # steps of a search of which nothing is said


def judged(
    problem: Problem, start: torch.Tensor, found: Solution, restarts: Sequence[float] | None, tried: int | None
) -> Certificate:
    """Whether a solution is a mode, and what else is to be said of it.

    `restarts` are the log-joints that several starts reached, None for one start. `tried` is the number of other starts from a
    point that predicts the same for every row, None where it was no such point.
    """
    jacobian, data = problem.options.jacobian, problem.data
    space = "unconstrained" if jacobian else "constrained"
    if found.exact:
        solved = certify_linear(found, space)
        return solved or certify(problem.log_joint, found.u, start, data, jacobian, lambda steps: found.u)
    log_joint, invariant = LogJoint(found.model), scale_free(problem.log_joint)
    if problem.options.certify is False:
        effort = _effort(problem, found)
        rows = data.num_data if effort is None else effort.glimpse()
        point = Point(0.005 * len(found.u), space, value_near(log_joint, found.u, data, rows, jacobian=jacobian))
        unchecked = with_norms(Certificate(Finding.UNCHECKED, point=point), invariant, start, found.u, bool(problem.held))
        return unchecked if restarts is None else with_restarts(unchecked, restarts, max(0.1, point.tolerance))
    whole, rows = by_all_rows(log_joint, data, problem.batch_size)  # where it can be, of the network that sees all rows
    certificate = certify(
        whole,
        found.u,
        start,
        rows,
        jacobian,
        lambda steps: further(whole, found.u, rows, problem.batch_size, jacobian=jacobian, num_steps=steps),
        restarts=restarts,
        trend=found.trend,
        held=invariant if rows.coupled else (),
        effort=_effort(problem, found),
    )
    if problem.held_out is not None and not certificate.converged:
        certificate = certificate.overrule(Finding.STOPPED_EARLY)
    certificate = with_norms(certificate, invariant, start, found.u, bool(problem.held))
    if tried is not None and says_the_same(log_joint, found.u, data):
        certificate = with_word(certificate, problem.log_joint.model, tried)
    return certificate


def _effort(problem: Problem, found: Solution) -> Effort | None:
    """A part of what a search by steps has cost; None where nothing bounds the check."""
    if problem.options.certify == "full" or found.steps is None:
        return None
    data, unknowns = problem.data, len(found.u)
    rows = problem.batch_size or (data.num_data if data.x is not None else max(1, data.num_data // data.steps_an_epoch(None)))
    # a search that ended by itself, early, has saved what the check may spend
    steps = max(found.steps, _USUAL) if problem.options.num_steps is None else found.steps
    return Effort(unknowns, data.num_data, SHARE * work(steps, rows, unknowns))
