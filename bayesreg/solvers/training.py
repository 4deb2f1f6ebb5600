"""What the searches share: whether there is a mode, the gradient over all rows, and how many rows a step sees."""

from __future__ import annotations

import torch

from bayesreg.behaviour import COMPILING
from bayesreg.data.rows import Data
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import LogJoint

FULL_BATCH_ROWS = 10_000  # up to here a fit sees all rows at each step unless a batch size is given
FULL_BATCH_ENTRIES = 10**7  # rows × unknowns: so little work that mini-batches would only add noise
BATCH_SIZE = 256


def resolve_batch(batch_size: int | None, data: Data, log_joint: LogJoint) -> int | None:
    """The batch size that a fit takes: what was said, else all rows while they are few; None for all rows.

    Args:
        batch_size: What was said.
        data: The rows.
        log_joint: The objective.

    Returns:
        Rows a batch, or None for all of them (for a loader, its own batches).

    Raises:
        ValueError: If batch normalisation would see one value a channel in a batch.
    """
    few = data.num_data <= FULL_BATCH_ROWS or data.num_data * log_joint.layout.size <= FULL_BATCH_ENTRIES
    if batch_size is None and not few:
        batch_size = BATCH_SIZE
    if data.x is None or (batch_size is not None and batch_size >= data.num_data):
        batch_size = None
    _check_batches(log_joint.model, data, batch_size)
    return batch_size


def _check_batches(model: BayesianModel, data: Data, batch_size: int | None) -> None:
    """Refuse a training batch of one row where batch normalisation would have one value a channel.

    Args:
        model: Bound to the data.
        data: The rows.
        batch_size: What `resolve_batch` gave.

    Raises:
        ValueError: If so.
    """
    if not model.behaviour.coupling:
        return
    rows = data.least_batch(batch_size)
    whose = f"batch_size={batch_size}" if batch_size else f"N = {data.num_data}"
    whose = whose if data.stream is None else f"a loader whose smallest batch has {rows}"
    if rows > 1:
        return
    x, _ = next(data.epoch(1))
    try:
        with torch.no_grad():
            model.forward(model.weights(), x[:1], model.behaviour.training_copy(noise=False))
    except ValueError:
        raise ValueError(
            "a training batch must have two rows at least where batch normalisation sees one value a row, since one row has no "
            f"variance, but {whose} came; pass for example batch_size=32."
        ) from None


def no_compiling(log_joint: LogJoint, data: Data) -> str:
    """Why a whole step cannot be compiled, or an empty text."""
    if data.x is None:
        return "the rows are streamed by a loader"
    if why := log_joint.model.behaviour.why_not(COMPILING):
        return why
    whole = [group.prior for group in log_joint.kinked if not group.prior.prox_by_entry]
    if whole:
        return f"the prox of {whole[0]} is found outside of torch"
    return ""
