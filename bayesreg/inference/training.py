"""What the searches share: whether there is a mode, the gradient over all rows, and how many rows a step sees."""

from __future__ import annotations

import torch

from bayesreg.data import Data
from bayesreg.flat import LogJoint
from bayesreg.layers.batchnorm import batchnorms, by_batch, normalising
from bayesreg.layers.copying import copied
from bayesreg.model import BayesianModel

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


def of_rows(log_joint: LogJoint) -> LogJoint:
    """The log-joint whose batch normalisation takes the statistics of the rows it is given, as a training step does.

    It writes nothing, and is the same one where there is no such layer.

    Args:
        log_joint: The objective.

    Returns:
        The other one, over the same vector.
    """
    if not batchnorms(log_joint.model.module):
        return log_joint
    return LogJoint(log_joint.model.with_module(by_batch(log_joint.model.module)))


def _check_batches(model: BayesianModel, data: Data, batch_size: int | None) -> None:
    """Refuse a training batch of one row where batch normalisation would have one value a channel.

    Args:
        model: Bound to the data.
        data: The rows.
        batch_size: What `resolve_batch` gave.

    Raises:
        ValueError: If so.
    """
    if not batchnorms(model.module):
        return
    rows = data.least_batch(batch_size)
    whose = f"batch_size={batch_size}" if batch_size else f"N = {data.num_data}"
    whose = whose if data.stream is None else f"a loader whose smallest batch has {rows}"
    if rows > 1:
        return
    x, _ = next(data.epoch(1))
    try:
        with torch.no_grad():
            model.forward(model.weights(), x[:1], normalising(copied(model.module)))
    except ValueError:
        raise ValueError(
            "a training batch must have two rows at least where batch normalisation sees one value a row, since one row has no "
            f"variance, but {whose} came; pass for example batch_size=32."
        ) from None


def check_has_mode(model: BayesianModel) -> None:
    """Refuse a model that has no mode.

    Args:
        model: The model.

    Raises:
        ValueError: If a prior's scale is unknown, or a density has a pole.
    """
    scales = [name for name, latent in model.latents.items() if latent.kind == "scale"]
    if scales:
        child = scales[0].removesuffix(".scale")
        raise ValueError(
            f"a joint mode over weights and their unknown scale runs to scale zero, so that MAP must have fixed scales, but "
            f"{child} has {model.latents[child].prior}; fix the scale (a number), marginalise it (StudentT is a Normal with an "
            "unknown scale integrated out), or take a posterior method such as MeanField."
        )
    for name, latent in model.latents.items():
        if latent.parents and not latent.prior.smooth:
            raise ValueError(
                f"a mode on a kink must have a known scale, but that of {name}, {latent.prior}, hangs on the unknown noise; "
                "fix noise_scale to a number, take Normal in its place, or a posterior method such as MeanField."
            )
        if not latent.prior.bounded and not latent.is_noise:
            raise ValueError(
                f"a mode must have a finite density, but {name} has {latent.prior}, whose density has a pole; "
                "take a bounded prior for MAP (Laplace, SpikeSlab, StudentT), or a posterior method such as MeanField."
            )


def no_compiling(log_joint: LogJoint, data: Data) -> str:
    """Why a whole step cannot be compiled, or an empty text."""
    if data.x is None:
        return "the rows are streamed by a loader"
    if not log_joint.model.is_deterministic:
        return "batch normalisation or dropout change or draw something at each step"
    if not log_joint.model.behaviour.traceable:
        return f"{type(log_joint.model.module).__name__} has steps that cannot be traced"
    whole = [group.prior for group in log_joint.kinked if not group.prior.prox_by_entry]
    if whole:
        return f"the prox of {whole[0]} is found outside of torch"
    return ""
