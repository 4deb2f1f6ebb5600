"""A further search from a candidate for a mode, by which a certificate judges it."""

from __future__ import annotations

import torch

from bayesreg.data.rows import Data
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.training_copy import TrainingCopy
from bayesreg.objective.whole import in_double
from bayesreg.solvers.history import History
from bayesreg.solvers.loop import run
from bayesreg.solvers.nonsmooth import can_polish, polish
from bayesreg.solvers.schedules import Schedule
from bayesreg.solvers.stepper import EagerAdam

STEPS = 300
ENTRIES = 10**8  # rows × unknowns up to which it sees all rows at each step


def further(
    log_joint: LogJoint,
    u: torch.Tensor,
    data: Data,
    batch_size: int | None = None,
    *,
    jacobian: bool = False,
    num_steps: int = STEPS,
) -> torch.Tensor:
    """Where a few hundred more steps lead: all rows where that is affordable.

    Args:
        log_joint: The objective.
        u: The candidate, (P,).
        data: The rows.
        batch_size: Rows a step of the search that found it; None for all.
        jacobian: As for MAP.
        num_steps: Of them.

    Returns:
        (P,).

    Raises:
        FitError: If the loss stops being finite or a loader raises.
    """
    if can_polish(log_joint, data, batch_size):  # Adam only oscillates about a kink
        return polish(*in_double(log_joint, u, data), jacobian=jacobian, num_steps=num_steps)
    if data.num_data * len(u) <= ENTRIES:
        batch_size = None
    options = {"jacobian": jacobian, "training": False, "rows_a_batch": data.rows_a_batch}
    training = TrainingCopy(log_joint, u, data.num_data, **options)
    run(
        EagerAdam(training.flat, training.backward),
        data.batches(batch_size, torch.Generator().manual_seed(0)),
        Schedule(num_steps, 1e-3),
        layout=log_joint.layout,
        report=lambda step, total, objective: None,
        history=History(),
        objective=training.objective,
    )
    return training.flat.detach()
