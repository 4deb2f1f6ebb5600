"""A training step's gradient at the price of a bare PyTorch step: views into one flat parameter, no tracing.

A bare PyTorch step spends its time in the network's forward and backward pass. What is added here must stay small
beside them: the module's parameters and gradients are views into flat buffers, so that the optimizer sees one tensor,
and the prior is one expression a class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributions.transforms import ExpTransform

from bayesreg.behaviour import one_column
from bayesreg.layers.copying import copied
from bayesreg.objective.flat import LogJoint


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of the flat vector that an optimizer sees as a tensor of its own.

    Attributes:
        slice: Where it lies in the vector.
        tensor: A view of it, in the unknown's shape; its gradient is what `backward` left there.
        weight_decay: What the optimizer must add to that gradient, times the tensor.
    """

    slice: slice
    tensor: Any
    weight_decay: float


class TrainingCopy:
    """A private copy of the module, in training mode, whose parameters are views into one flat vector.

    Args:
        log_joint: The objective.
        start: Where to begin, (P,) unconstrained.
        num_data: N.
        jacobian: Follow the density of the unconstrained vector instead of the constrained one.
        training: Run the copy in training mode (batch normalisation and dropout as in training).
        noise: In training, draw the noise of its layers; without it only what normalises is as in training.
        rows_a_batch: By what a batch's sum is divided, see `Data.rows_a_batch`.
        proximal: Leave the penalties that have a kink out of the gradient, for a prox.
    """

    def __init__(
        self,
        log_joint: LogJoint,
        start: torch.Tensor,
        num_data: int,
        *,
        jacobian: bool = False,
        training: bool = True,
        noise: bool = True,
        proximal: bool = False,
        rows_a_batch: Callable[[torch.Tensor], float] = len,
    ) -> None:
        self.log_joint, self.num_data, self.jacobian = log_joint, num_data, jacobian
        self.rows_a_batch = rows_a_batch
        self.flat = nn.Parameter(start.detach().clone())
        self.flat.grad = torch.zeros_like(self.flat)
        model = log_joint.model
        self.module = model.behaviour.training_copy(noise=noise) if training else copied(model.module).eval()
        segments = log_joint.layout.segments
        weights = {name: s for name, s in segments.items() if s.latent.kind == "weight"}
        # a weight that is no plain stretch of the vector (transformed, non-centred) is written into the module at each step
        self.in_place = (
            all(s.transform is None and s.latent.centered for s in weights.values()) and not log_joint.model.other_types
        )
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
        pairs = list(zip(log_joint.groups, self.leaves, strict=True))
        self._sloped = [(group, leaf) for group, leaf in pairs if not (proximal and group.nonsmooth)]
        self._own: list[Any] = []  # tensors with gradients of their own, see `split`
        self._noise_leaves = [
            (name, leaf, s.start - group.start, _forward(s.transform))
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

    def split(self) -> list[Piece]:
        """Let each tensor have a gradient of its own instead of a stretch of the flat buffer, from now on.

        Where a large network has zero-mean Gaussian priors, their gradient then is the optimizer's weight decay, and autograd's
        own buffers become the gradients: four passes over all weights fewer. `flat.grad` is not written any more.

        Returns:
            The pieces, which cover the vector; none, and nothing is changed, where a weight's prior is no weight decay.
        """
        segments = self.log_joint.layout.segments
        weights = {name: s for name, s in segments.items() if s.latent.kind == "weight"}
        decays = {name: s.latent.prior.weight_decay for name, s in weights.items()}
        if self.flat_path or None in decays.values():
            return []
        places = [s.slice for s in weights.values()]
        self._sloped = [(group, leaf) for group, leaf in self._sloped if not any(_within(p, group.slice) for p in places)]
        pieces = [
            Piece(s.slice, self.module.get_parameter(name), decays[name] / self.num_data)  # pyright: ignore
            for name, s in weights.items()
        ]
        pieces += [Piece(group.slice, leaf, 0.0) for group, leaf in self._sloped]
        self._own = [piece.tensor for piece in pieces]
        return pieces

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
        for tensor in self._own:
            if tensor.grad is None:  # the loss does not use it: its prior's part still must find a place
                tensor.grad = torch.zeros_like(tensor)
        with torch.no_grad():  # the prior's gradient goes straight into its buffer, without a graph
            for group, leaf in self._sloped:
                leaf.grad.add_(group.slope(leaf, jacobian=self.jacobian), alpha=1 / self.num_data)
        return loss.detach()

    def likelihood_loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Minus what is a sum over the rows of a batch divided by B, a scalar with gradient.

        Where scales are unknown, their part of the log-prior is in it, divided by N.
        """
        model, layout = self.log_joint.model, self.log_joint.layout
        if not self.flat_path:
            rows = self._rows(lambda: one_column(self.module(x)), x, y, self._noise())
            return rows * (-1 / self.rows_a_batch(x))
        values = layout.unflatten(self.flat)
        rows = self._rows(lambda: model.forward(values, x, self.module), x, y, model.noise(values))
        linked = self.log_joint.linked_energy(self.flat, values)
        if self.jacobian:
            linked = linked - layout.log_jacobian_of_linked(self.flat)
        return rows * (-1 / self.rows_a_batch(x)) + linked * (1 / self.num_data)

    def _rows(self, call: Callable[[], torch.Tensor], x: torch.Tensor, y: torch.Tensor, noise: dict[str, Any]) -> torch.Tensor:
        """What is a sum over a batch's rows: their log-likelihood, and the activations' log-density where they have one."""
        model = self.log_joint.model
        if not model.outputs:
            return model.likelihood.log_prob_sum(call(), y, **noise)
        output, activations = model.watched(call, self.module, len(x))
        return model.likelihood.log_prob_sum(output, y, **noise) + activations.sum()

    def _noise(self) -> dict[str, Any]:
        learned = {
            name: transform(leaf.view(()) if len(leaf) == 1 else leaf[start])  # an entry of many has a gradient of their size
            for name, leaf, start, transform in self._noise_leaves
        }
        return {**self.log_joint.model.likelihood.fixed, **learned}

    def objective(self, loss: torch.Tensor, u: torch.Tensor | None = None) -> float:
        """The log-joint in nats and the data's own units that a loss stands for, found at `u` or the present point."""
        log_joint, u = self.log_joint, self.flat.detach() if u is None else u
        prior = log_joint.log_prior(u) + (log_joint.layout.log_jacobian(u) if self.jacobian else 0.0)
        if self.flat_path:  # the loss has this part already
            linked = log_joint.linked_energy(u)
            prior = prior + (linked - log_joint.layout.log_jacobian_of_linked(u) if self.jacobian else linked)
        return float(prior) + self.num_data * (log_joint.model.log_jacobian - float(loss))

    def pure_loss(
        self, u: torch.Tensor, x: torch.Tensor, y: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `backward` takes the gradient of, as a pure function of tensors, in evaluation mode.

        Args:
            u: (P,) unconstrained.
            x: Prepared inputs (B, ...).
            y: Prepared targets.
            noise: Not used; a variational method's step has some.

        Returns:
            Minus the log-joint divided by N, without what a prox treats; and what `backward` gives back.
        """
        log_joint, layout = self.log_joint, self.log_joint.layout
        values = layout.unflatten(u)
        loss = log_joint.row_terms(values, x, y, self.num_data) * (-len(x) / self.num_data / self.rows_a_batch(x))
        energy = sum((group.energy(u[group.slice]) for group, _ in self._sloped), u.new_zeros(()))
        if self.flat_path:
            linked = log_joint.linked_energy(u, values)
            linked = linked - layout.log_jacobian_of_linked(u) if self.jacobian else linked
            loss = loss + linked * (1 / self.num_data)
        if self.jacobian:
            energy = energy - layout.log_jacobian(u) + (layout.log_jacobian_of_linked(u) if self.flat_path else 0.0)
        return loss + energy * (1 / self.num_data), loss


def _forward(transform: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The map itself, where torch has one by that name: its wrapper costs a hundredth of a small step."""
    if transform is None:  # an unknown that may be any number
        return _itself
    return torch.exp if isinstance(transform, ExpTransform) else transform


def _itself(value: torch.Tensor) -> torch.Tensor:
    return value


def _within(inner: slice, outer: slice) -> bool:
    return outer.start <= inner.start < outer.stop
