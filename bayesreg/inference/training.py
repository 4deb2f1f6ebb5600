"""The fast loop that MAP and variational methods share: one flat parameter, fused Adam, no tracing.

A bare PyTorch step spends its time in the network's forward and backward pass. What is added here must stay small
beside them: the module's parameters and gradients are views into flat buffers, so that the optimizer sees one tensor,
and the prior is one expression a class.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bayesreg.data import Data
from bayesreg.flat import LogJoint
from bayesreg.inference.base import Report
from bayesreg.model import one_column
from bayesreg.posterior import History

FULL_BATCH_ROWS = 10_000  # up to here a fit sees all rows at each step unless a batch size is given
FULL_BATCH_ENTRIES = 10**7  # rows × unknowns: so little work that mini-batches would only add noise
BATCH_SIZE = 256


class TrainingCopy:
    """A private copy of the module, in training mode, whose parameters are views into one flat vector.

    Args:
        log_joint: The objective.
        start: Where to begin, (P,) unconstrained.
        num_data: N.
        jacobian: Follow the density of the unconstrained vector instead of the constrained one.
        training: Run the copy in training mode (batch normalisation and dropout as in training).
        rows_a_batch: By what a batch's sum is divided, see `Data.rows_a_batch`.
    """

    def __init__(
        self,
        log_joint: LogJoint,
        start: torch.Tensor,
        num_data: int,
        *,
        jacobian: bool = False,
        training: bool = True,
        rows_a_batch: Callable[[torch.Tensor], float] = len,
    ) -> None:
        self.log_joint, self.num_data, self.jacobian = log_joint, num_data, jacobian
        self.rows_a_batch = rows_a_batch
        self.flat = nn.Parameter(start.detach().clone())
        self.flat.grad = torch.zeros_like(self.flat)
        self.module = copy.deepcopy(log_joint.model.module).train(training)
        segments = log_joint.layout.segments
        weights = {name: s for name, s in segments.items() if s.latent.kind == "weight"}
        # a weight that is no plain stretch of the vector (transformed, non-centred) is written into the module at each step
        self.in_place = all(s.transform is None and s.latent.centered for s in weights.values())
        with torch.no_grad():
            for name, value in log_joint.model.constants.items():
                self.module.get_parameter(name).copy_(value)
        if self.in_place:
            for name, s in weights.items():
                self._alias(self.module.get_parameter(name), s.slice, s.latent.shape)
        # one leaf a group, each a view: slicing a leaf would cost a full-size gradient for every slice
        self.leaves: list[Any] = [nn.Parameter(self.flat.detach()[g.slice]) for g in log_joint.groups]
        for leaf, group in zip(self.leaves, log_joint.groups, strict=True):
            self._alias(leaf, group.slice, leaf.shape)

        self._noise_leaves = [
            (name, leaf, s.start - group.start, s.transform)
            for name, s in segments.items()
            if s.latent.is_noise
            for leaf, group in zip(self.leaves, log_joint.groups, strict=True)
            if group.start <= s.start < group.stop
        ]
        # an unknown noise whose own scale is unknown, or on which a weight's scale depends, is no leaf of its own
        self.flat_path = not self.in_place or bool(log_joint.linked)

    def _alias(self, parameter: nn.Parameter, where: slice, shape: torch.Size) -> None:
        parameter.data = self.flat.data[where].view(shape)
        if self.flat.grad is not None:
            parameter.grad = self.flat.grad[where].view(shape)

    def backward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Accumulate the gradient of minus the log-joint divided by N.

        Args:
            x: Prepared inputs (B, ...).
            y: Prepared targets.

        Returns:
            The likelihood's part of the loss, a detached scalar; `objective` adds the prior's when somebody reads it.
        """
        loss = self.likelihood_loss(x, y)
        loss.backward()
        with torch.no_grad():  # the prior's gradient goes straight into its buffer, without a graph
            for group, leaf in zip(self.log_joint.groups, self.leaves, strict=True):
                leaf.grad.add_(group.slope(leaf, jacobian=self.jacobian), alpha=1 / self.num_data)
        return loss.detach()

    def likelihood_loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Minus what is a sum over the rows of a batch divided by B, a scalar with gradient.

        Where scales are unknown, their part of the log-prior is in it, divided by N.
        """
        model, layout = self.log_joint.model, self.log_joint.layout
        if not self.flat_path:
            output, rows = self._run(lambda: one_column(self.module(x)), x)
            rows = model.likelihood.log_prob_sum(output, y, **self._noise()) + rows
            return rows * (-1 / self.rows_a_batch(x))
        values = layout.unflatten(self.flat)
        output, rows = self._run(lambda: model.forward(values, x, self.module), x)
        rows = model.likelihood.log_prob_sum(output, y, **model.noise(values)) + rows
        linked = self.log_joint.linked_energy(self.flat, values)
        if self.jacobian:
            linked = linked - layout.log_jacobian_of_linked(self.flat)
        return rows * (-1 / self.rows_a_batch(x)) + linked * (1 / self.num_data)

    def _run(self, call: Callable[[], torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """The output, and the log-density of the activations that have a prior."""
        model = self.log_joint.model
        if not model.outputs:
            return call(), 0.0
        output, rows = model.watched(call, self.module, len(x))
        return output, rows.sum()

    def _noise(self) -> dict[str, torch.Tensor]:
        model = self.log_joint.model
        return model.noise({name: transform(leaf[start]) for name, leaf, start, transform in self._noise_leaves})

    def objective(self, loss: torch.Tensor) -> float:
        """The log-joint in nats and the data's own units that a loss at the present point stands for."""
        log_joint, u = self.log_joint, self.flat.detach()
        prior = log_joint.log_prior(u) + (log_joint.layout.log_jacobian(u) if self.jacobian else 0.0)
        if self.flat_path:  # the loss has this part already
            linked = log_joint.linked_energy(u)
            prior = prior + (linked - log_joint.layout.log_jacobian_of_linked(u) if self.jacobian else linked)
        return float(prior) + self.num_data * (log_joint.model.log_jacobian - float(loss))


def adam(
    parameter: nn.Parameter,
    backward: Callable[[], torch.Tensor],
    *,
    num_steps: int,
    learning_rate: float,
    report: Report,
    history: History,
    objective: Callable[[torch.Tensor], float],
) -> torch.Tensor:
    """Fused Adam on one tensor, the rate falling to zero along half a cosine.

    Args:
        parameter: What is learned; its `grad` is a buffer that `backward` adds to.
        backward: Computes one step's loss and gradient.
        num_steps: How many.
        learning_rate: The first rate.
        report: Called about a hundred times with (step, of how many, objective).
        history: Where the objective is recorded at the same steps.
        objective: From a loss to what a person reads.

    Returns:
        The loss of every step, (num_steps,).

    Raises:
        ValueError: If the loss stops being finite; says at which step.
    """
    optimizer = torch.optim.Adam([parameter], lr=learning_rate, fused=parameter.device.type in ("cpu", "cuda"))
    group = optimizer.param_groups[0]
    gradient = parameter.grad
    losses = torch.empty(num_steps, dtype=parameter.dtype, device=parameter.device)
    every = max(1, num_steps // 100)
    for step in range(num_steps):
        group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / num_steps))
        gradient.zero_()  # pyright: ignore[reportOptionalMemberAccess]
        loss = backward()
        losses[step] = loss
        if step % every == 0 or step == num_steps - 1:
            if not math.isfinite(loss):
                raise ValueError(
                    f"the loss must stay finite, but it is {float(loss)} at step {step}; "
                    f"lower learning_rate (now {learning_rate:g}) or standardise the data."
                )
            value = objective(loss)
            history.record(step, value)
            report(step + 1, num_steps, value)
        optimizer.step()
    return losses


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
