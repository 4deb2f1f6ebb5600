"""What the searches share: the gradient over all rows, and how many rows a step sees."""

from __future__ import annotations

import torch

from bayesreg.data import Data
from bayesreg.flat import LogJoint

FULL_BATCH_ROWS = 10_000  # up to here a fit sees all rows at each step unless a batch size is given
FULL_BATCH_ENTRIES = 10**7  # rows × unknowns: so little work that mini-batches would only add noise
BATCH_SIZE = 256


def gradient_of(log_joint: LogJoint, u: torch.Tensor, data: Data, *, jacobian: bool = False) -> tuple[float, torch.Tensor]:
    """The log-joint over all rows, in the data's own units, and its gradient in `u`; in evaluation mode, in blocks.

    Args:
        log_joint: The objective.
        u: (P,) unconstrained.
        data: Prepared rows.
        jacobian: Add log |dθ/du|.

    Returns:
        Nats, and (P,).
    """
    u = u.detach().requires_grad_()
    value = log_joint.log_prior(u) + (log_joint.layout.log_jacobian(u) if jacobian else 0.0)
    value.backward()
    total = float(value.detach()) + data.num_data * log_joint.model.log_jacobian
    for x, y in data.epoch():
        part = log_joint.row_terms(log_joint.layout.unflatten(u), x, y, len(x))
        part.backward()
        total += float(part.detach())
    return total, u.grad  # pyright: ignore[reportReturnType]


def resolve_batch(batch_size: int | None, data: Data, size: int) -> int | None:
    """The batch size that a fit takes: what was said, else all rows while they are few; None for all rows.

    Args:
        batch_size: What was said.
        data: The rows.
        size: P, the number of unknowns.

    Returns:
        Rows a batch, or None for all of them (for a loader, its own batches).
    """
    if data.x is None:
        return None
    if batch_size is None:
        few = data.num_data <= FULL_BATCH_ROWS or data.num_data * size <= FULL_BATCH_ENTRIES
        return None if few else BATCH_SIZE
    return None if batch_size >= data.num_data else batch_size


def no_compiling(log_joint: LogJoint, data: Data) -> str:
    """Why a whole step cannot be compiled, or an empty text."""
    if data.x is None:
        return "the rows are streamed by a loader"
    if not log_joint.model.is_deterministic:
        return "batch normalisation or dropout change or draw something at each step"
    whole = [group.prior for group in log_joint.kinked if not group.prior.prox_by_entry]
    if whole:
        return f"the prox of {whole[0]} is found outside of torch"
    return ""
