"""Certifies the exact solution of a linear problem by the problem's own optimality conditions."""

from __future__ import annotations

from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.values import Point
from bayesreg.solvers.base import Solution


def certify_linear(solution: Solution, space: str = "constrained") -> Certificate | None:
    """The certificate of a solved linear problem: its duality gap against the tolerance of every mode.

    None where no gap is known, so that the mode must be judged in another way.
    """
    if solution.gap is None or solution.value is None:
        return None
    enough = 0.005 * len(solution.u)
    point = Point(
        enough,
        space,
        solution.value,
        duality_gap=solution.gap,
        nats_to_gain=solution.gap,
        violation=solution.violation,
        nonsmooth=True,  # the conditions of the problem with or without a kink are KKT's
    )
    return Certificate(Finding.CONVERGED_BY_DUALITY if solution.gap <= enough else Finding.GAP_OPEN, point=point)
