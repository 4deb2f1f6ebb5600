"""The mode of a smooth objective that sees all rows: SciPy's L-BFGS in float64, finished by Newton steps."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import numpy as np
import torch

from bayesreg.behaviour import FORWARD, VMAP
from bayesreg.data.rows import Data
from bayesreg.objective.alone import Alone
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.pieces import is_nonsmooth
from bayesreg.objective.training_copy import TrainingCopy
from bayesreg.objective.whole import gradient_of, in_double
from bayesreg.solvers.base import AbstractSolver, Problem, Solution
from bayesreg.solvers.failures import FitError, keeping
from bayesreg.solvers.history import History
from bayesreg.solvers.last_steps import NEWTON_PARAMETERS, newton_on_support
from bayesreg.solvers.progress import ProgressCallback, unheard

LOOPED_PARAMETERS = 100  # the same where its columns cannot be found side by side
NUM_STEPS = 2000


class Lbfgs(AbstractSolver):
    """Limited-memory BFGS on all rows, for smooth objectives, finished by Newton steps up to 500 unknowns.

    References:
        Liu and Nocedal (1989), On the limited memory BFGS method for large scale optimization.
    """

    name: ClassVar[str] = "lbfgs"
    rank: ClassVar[int] = 30

    def requires(self, problem: Problem) -> str | None:
        """All rows, no kink, and a network that is the same in training."""
        obstacle = problem.partial() or (None if problem.log_joint.smooth else "a prior's penalty has a kink")
        if obstacle is None:
            return None
        other = "prox-adam" if problem.log_joint.nonsmooth else "adam"
        return f"all rows, smooth penalties and a fixed network, but {obstacle}; take {other!r}."

    def suits(self, problem: Problem) -> str | None:
        """A network without pieces, whose meeting would stall a line search."""
        return None if is_nonsmooth(problem.log_joint) else "the objective is smooth and sees all rows"

    def solve(self, problem: Problem, start: torch.Tensor, history: History, report: ProgressCallback) -> Solution:
        """`lbfgs` from the start."""
        log_joint, options = problem.log_joint, problem.options
        settings = {"jacobian": options.jacobian, "num_steps": options.num_steps, "history": history, "report": report}
        with keeping(lambda failure: Solution(failure.state["parameter"], log_joint.model)):
            return Solution(lbfgs(log_joint, start, problem.data, **settings), log_joint.model)

    def finish(self, problem: Problem, u: torch.Tensor) -> torch.Tensor:
        """`solve` from there."""
        return self.solve(problem, u, History(), unheard).u


def lbfgs(
    log_joint: LogJoint,
    start: torch.Tensor,
    data: Data,
    *,
    jacobian: bool,
    num_steps: int | None,
    history: History,
    report: ProgressCallback,
) -> torch.Tensor:
    """Limited-memory BFGS (Liu and Nocedal 1989) on all rows.

    Args:
        log_joint: The objective.
        start: Where to begin, (P,) unconstrained.
        data: All rows.
        jacobian: Add log |dθ/du|.
        num_steps: Steps at most; 2,000 when None.
        history: Where the objective and how it ended are recorded.
        report: Called at each step.

    Returns:
        (P,), in the type of `start`.

    Raises:
        FitError: If the objective is not finite where the search begins, or the network raises later.
    """
    from scipy.optimize import minimize

    dtype = start.dtype
    log_joint, start, data = in_double(log_joint, start, data)
    x, y = data.full("L-BFGS")
    copy = TrainingCopy(log_joint, start, data.num_data, jacobian=jacobian, training=False)
    total = num_steps or NUM_STEPS
    best, kept = math.inf, start

    def loss_and_gradient(u: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, kept
        copy.flat.data.copy_(torch.from_numpy(u))
        copy.flat.grad.zero_()  # pyright: ignore[reportOptionalMemberAccess]
        try:
            loss = copy.backward(x, y)
        except Exception as failure:  # a person's module may raise anything
            if not math.isfinite(best):  # nothing is lost
                raise
            raise FitError(
                f"every pass through the network must succeed, but one raised {type(failure).__name__}: {failure}; the "
                "error's `posterior` is the last good point.",
                history.steps[-1] if history.steps else 0,
                {"parameter": kept.to(dtype)},
            ) from failure
        value = -copy.objective(loss) / data.num_data
        gradient = copy.flat.grad.cpu().double().numpy().copy()  # pyright: ignore[reportOptionalMemberAccess]
        if not (math.isfinite(value) and np.isfinite(gradient).all()):
            return math.inf, np.zeros_like(gradient)
        if value < best:
            best, kept = value, copy.flat.detach().clone()
        return value, gradient

    first, _ = loss_and_gradient(start.cpu().numpy())
    if not math.isfinite(first):
        broken = ~gradient_of(log_joint, start, data, jacobian=jacobian)[1].isfinite()
        names = [s.latent.name for s in log_joint.layout.in_order if bool(broken[s.slice].any())]
        raise FitError(
            "the log-joint must be finite where the search begins, but at the module's own weights it is not"
            f"{' (gradient of ' + ', '.join(names[:3]) + ')' if names else ''}; start from smaller weights, or standardise the "
            "data.",
            0,
            {},
        )
    steps = itertools.count(1)

    def heard(u: np.ndarray) -> None:
        step = next(steps)
        if step <= 20 or step % 10 == 0:
            history.record(step, -best * data.num_data)
        report(step, total, -best * data.num_data)

    options = {"maxiter": total, "maxfun": 2 * total, "maxcor": 30, "ftol": 0.0, "gtol": 1e-12}
    found = minimize(loss_and_gradient, start.cpu().numpy(), jac=True, method="L-BFGS-B", callback=heard, options=options)
    history.record(found.nit + 1, -best * data.num_data)
    history.notes.append(f"L-BFGS: {found.nit} steps, {found.nfev} evaluations; it stopped with {found.message!r}.")
    if log_joint.layout.size <= (NEWTON_PARAMETERS if log_joint.model.behaviour.stands(VMAP, FORWARD) else LOOPED_PARAMETERS):
        kept = newton_on_support(Alone(log_joint, data, jacobian=jacobian), kept[None])[0][0]
    return kept.to(dtype)
