"""Many draws at once in the Pyro program: sites with leading axes, as parallel prediction and vectorised particles give them.

    value (..., 1, *shape)  or  (S, *shape)   →   output (..., N) or (..., N, K)

The last leading axis is that of the plate "data". A layer takes no batch of weights, so that the draws are vmapped here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import constraints

from bayesreg.behaviour import together
from bayesreg.model.units import AbstractBoundModel
from bayesreg.model.unknowns import Latent

Values = Mapping[str, torch.Tensor]
_TOGETHER = 20_000  # rows × draws that go through the network at once


class PriorGivenScales(TorchDistribution):
    """The prior of one unknown under many values of the scales above it, one for each draw.

    Args:
        latent: The unknown.
        scales: Values of its parents, each (*axes, 1, *its shape).
        own: Shapes of the parents, by name.
        batch_shape: (*axes, 1).
        options: dtype and device of draws.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    has_rsample = False

    def __init__(
        self,
        latent: Latent,
        scales: Values,
        own: Mapping[str, torch.Size],
        batch_shape: Sequence[int],
        options: dict[str, Any],
    ) -> None:
        self.latent, self.scales, self.own, self.options = latent, scales, own, options
        super().__init__(torch.Size(batch_shape), latent.shape, validate_args=False)

    @property
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The prior's support, over the whole event."""
        return constraints.independent(self.latent.prior.support, len(self.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> PriorGivenScales:
        """The same in a batch of this shape."""
        return PriorGivenScales(self.latent, self.scales, self.own, batch_shape, self.options)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-density of each event in nats, in the batch's shape."""
        batch = torch.broadcast_shapes(value.shape[: value.dim() - len(self.event_shape)], self.batch_shape)
        flat = value.expand(*batch, *self.event_shape).reshape(-1, *self.event_shape)
        each = torch.vmap(lambda scales, value: self.latent.given(scales).log_prob(value))
        return each(self._scales(batch), flat).reshape(batch)

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws from torch's global generator: sample, batch and event axes."""
        batch = torch.Size((*sample_shape, *self.batch_shape))
        scales = self._scales(batch)
        with torch.no_grad():
            drawn = [
                self.latent.given({name: value[i] for name, value in scales.items()}).draw(self.event_shape, 1, self.options)
                for i in range(batch.numel())
            ]
        return torch.cat(drawn).reshape(batch + self.event_shape)

    def _scales(self, batch: Sequence[int]) -> dict[str, torch.Tensor]:
        return {name: value.expand(*batch, *self.own[name]).reshape(-1, *self.own[name]) for name, value in self.scales.items()}


class Draws:
    """Values of a program's sites, one draw or many.

    Args:
        latents: The unknowns.
        values: Their values so far, each with any leading axes.

    Raises:
        ValueError: If a value leaves no axis to the plate.
    """

    def __init__(self, latents: Mapping[str, Latent], values: Values) -> None:
        self.values, self.own = values, {name: latents[name].shape for name in values}
        self._axes = {name: _axes(name, value, self.own[name]) for name, value in values.items()}
        self.axes = torch.broadcast_shapes(*self._axes.values()) if values else torch.Size()

    @property
    def single(self) -> bool:
        """True for one draw without leading axes."""
        return all(value.shape == self.own[name] for name, value in self.values.items())

    def standing(self, name: str, num_axes: int) -> torch.Tensor:
        """One unknown's values with so many axes of length one between those of the draws and its own."""
        return self.values[name].reshape(*self._axes[name], *[1] * num_axes, *self.own[name])

    def flat(self) -> dict[str, torch.Tensor]:
        """All draws on one axis, by name, (S, *shape)."""
        return {name: self.standing(name, 0).expand(*self.axes, *shape).reshape(-1, *shape) for name, shape in self.own.items()}


def _axes(name: str, value: torch.Tensor, own: torch.Size) -> torch.Size:
    batch = value.shape[: value.dim() - len(own)]
    if len(batch) > 1 and batch[-1] != 1:
        raise ValueError(
            f"draws of {name} must leave the last axis before its own to the plate 'data', but {tuple(value.shape)} came for "
            f"the shape {tuple(own)}; pass (S, 1, ...), or (S, ...)."
        )
    # Pyro reshapes stored draws as if a site had no axes of its own: a weight comes as (S, *shape), a number as (S, 1)
    return batch[:-1] if len(batch) > 1 or batch == (1,) else batch


def prior_of(latent: Latent, latents: Mapping[str, Latent], values: Values, options: dict[str, Any]) -> Any:
    """The Pyro distribution of an unknown given those above it; a batch where they have many draws."""
    above = Draws(latents, {name: values[name] for name in latent.parents})
    if above.single:  # so too where there are none
        return latent.given(values).distribution(latent.shape, **options)
    scales = {name: above.standing(name, 1) for name in latent.parents}
    return PriorGivenScales(latent, scales, above.own, (*above.axes, 1), options)


def _passed(model: AbstractBoundModel, values: Values, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    output, activations = model.forward_with_activity(values, x)
    return output, torch.as_tensor(activations).to(output).expand(len(x))  # a number where no layer's output has a prior


def targets_of(model: AbstractBoundModel, values: Values, x: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """The distribution of prepared targets, batch shape (N,) or (..., N), and the log-density of each row's activations.

    Args:
        model: The model.
        values: Every unknown by name, one draw or many.
        x: Prepared inputs (N, ...).
    """
    draws = Draws(model.latents, values)
    if draws.single:
        output, activations = model.forward_with_activity(values, x)
        return model.likelihood.distribution(output, **model.noise(values)), activations
    model.behaviour.meet(model, x)
    flat, count = draws.flat(), math.prod(draws.axes)
    run = together(model.behaviour, lambda one: _passed(model, one, x), (0,))
    parts = [run({k: v[part] for k, v in flat.items()}) for part in torch.arange(count).split(max(1, _TOGETHER // len(x)))]
    outputs, activations = (torch.cat(part) for part in zip(*parts, strict=True))
    one = model.likelihood.distribution(outputs[0], **model.noise({name: value[0] for name, value in flat.items()}))
    # target by target, since `distribution` would take (S, N) for N rows' K outputs
    broad = {name: draws.standing(name, outputs.dim() - 1) for name in model.likelihood.latents}
    entries = model.likelihood.entries(outputs.reshape(*draws.axes, *outputs.shape[1:]), **model.noise(broad))
    found = entries.to_event(one.event_dim - entries.event_dim)
    return found, activations.reshape(*draws.axes, *activations.shape[1:])
