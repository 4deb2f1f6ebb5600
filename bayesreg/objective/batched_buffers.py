"""Buffers in many fits at once: the running statistics of each fit."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence

import torch
from torch import nn

from bayesreg.layers.copying import copied
from bayesreg.model.model import BayesianModel


class ReplicaBuffers:
    """The buffers of one network, once for each of R fits; a training step writes them in place.

    Args:
        modules: One network for all fits, or R that differ in their buffers' numbers; they are copied.
        count: R.
        left_out: Dotted names of buffers that somebody else keeps.

    Attributes:
        values: By dotted name, (R, ...); whole numbers (how many batches a layer has seen) are the same in every fit, and are
            held once: a cumulative mean (`momentum=None`) reads the number itself.
        axes: By the same name, what `vmap` has to know: 0, or None where all fits share the tensor.

    Raises:
        ValueError: If whole numbers differ between the networks.
    """

    def __init__(self, modules: Sequence[nn.Module], count: int, left_out: Collection[str] = ()) -> None:
        self.values: dict[str, torch.Tensor] = {}
        self.axes: dict[str, int | None] = {}
        each = [dict(module.named_buffers()) for module in modules]
        for name, first in (each[0] if each else {}).items():
            if name in left_out:
                continue
            own = [found[name] for found in each]
            shared = not first.is_floating_point()
            if shared and not all(torch.equal(first, other) for other in own):
                raise ValueError(
                    f"networks that are fitted together must have the same whole numbers in their buffers, but those of {name} "
                    "differ (layers that have seen different numbers of batches?); fit them one by one, or call "
                    "reset_running_stats() on their batch normalisation."
                )
            own = own * count if len(own) == 1 else own
            self.values[name] = first.clone() if shared else torch.stack(own).detach()
            self.axes[name] = None if shared else 0

    def part(self, rows: slice | torch.Tensor, dtype: torch.dtype) -> ReplicaBuffers:
        """Copies of those of some fits, in another floating type."""
        made = copy.copy(self)
        made.values = {
            name: value.clone() if self.axes[name] is None else value[rows].to(dtype, copy=True)
            for name, value in self.values.items()
        }
        return made

    def take(self, other: ReplicaBuffers, which: torch.Tensor) -> None:
        """Take over those of some fits from others of the same network, in place; `which` is a mask, (R,)."""
        for name, value in self.values.items():
            if self.axes[name] is None:
                value.copy_(other.values[name])
            else:
                value[which] = other.values[name][which]

    def write(self, index: int, module: nn.Module) -> None:
        """Write one fit's buffers into a private module."""
        with torch.no_grad():
            for name, value in self.values.items():
                module.get_buffer(name).copy_(value if self.axes[name] is None else value[index])

    def carried(self, index: int, model: BayesianModel) -> BayesianModel:
        """A model with the buffers of one fit; the model itself, which is never changed, where there are none."""
        if not self.values:
            return model
        module = copied(model.module)
        self.write(index, module)
        return model.with_module(module)
