"""Whether the exact solution of a linear problem is one, by its own conditions."""

from __future__ import annotations

from bayesreg.certificates.certificate import Certificate
from bayesreg.solvers.base import Solution


def certify_linear(solution: Solution, space: str = "constrained") -> Certificate | None:
    """The certificate of a solved linear problem: its duality gap against the tolerance of every mode.

    Args:
        solution: What the solver gave.
        space: The space of the mode.

    Returns:
        The certificate; None where no gap is known, and the mode must be judged in another way.
    """
    if solution.gap is None or solution.value is None:
        return None
    enough = 0.005 * len(solution.u)
    details: dict[str, float | str] = {
        "log joint": solution.value,
        "duality gap": solution.gap,
        "nats to gain": solution.gap,
        "tolerance": enough,
        "space": space,
    }
    if solution.violation is not None:
        details["largest KKT violation in posterior sds"] = solution.violation
    bound = "less than 1e-6 nats" if solution.gap < 1e-6 else f"at most {solution.gap:.2g} nats"
    said = f"{bound} are left to gain, by the duality gap"
    if solution.gap <= enough:
        return Certificate(True, f"Converged to the mode: {said} (tolerance {enough:.2g}).", details)
    sentence = f"Not converged: {said} (tolerance {enough:.2g}); standardise the inputs, drop collinear ones, "
    sentence += "or let the module be float64 (module.double()), which holds more digits."
    return Certificate(False, sentence, details)
