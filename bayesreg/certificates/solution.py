"""The certificate of a solver's solution, by the objective that it followed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.constant import says_the_same, with_word
from bayesreg.certificates.linear_gaussian import certify_linear
from bayesreg.certificates.mode import certify
from bayesreg.certificates.norms import with_norms
from bayesreg.certificates.outcome import Finding
from bayesreg.objective.directions import by_all_rows, scale_free
from bayesreg.objective.flat import LogJoint
from bayesreg.solvers.base import Problem, Solution
from bayesreg.solvers.probe import further


def judged(
    problem: Problem, start: torch.Tensor, found: Solution, restarts: Sequence[float] | None, tried: int | None
) -> Certificate:
    """Whether a solution is a mode, and what else is to be said of it.

    `restarts` are the log-joints that several starts reached, None for one start. `tried` is the number of other starts from a
    point that predicts the same for every row, None where it was no such point.
    """
    jacobian, data = problem.options.jacobian, problem.data
    if found.exact:
        solved = certify_linear(found, "unconstrained" if jacobian else "constrained")
        return solved or certify(problem.log_joint, found.u, start, data, jacobian, lambda: found.u)
    log_joint, invariant = LogJoint(found.model), scale_free(problem.log_joint)
    whole, rows = by_all_rows(log_joint, data, problem.batch_size)  # where it can be, of the network that sees all rows
    certificate = certify(
        whole,
        found.u,
        start,
        rows,
        jacobian,
        lambda: further(whole, found.u, rows, problem.batch_size, jacobian=jacobian),
        restarts=restarts,
        trend=found.trend,
        held=invariant if rows.coupled else (),
    )
    if problem.held_out is not None and not certificate.converged:
        certificate = certificate.overrule(Finding.STOPPED_EARLY)
    certificate = with_norms(certificate, invariant, start, found.u, bool(problem.held))
    if tried is not None and says_the_same(log_joint, found.u, data):
        certificate = with_word(certificate, problem.log_joint.model, tried)
    return certificate
