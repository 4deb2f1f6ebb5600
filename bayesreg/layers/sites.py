"""Dropout layers in a network: torch's own replaced by this package's, shapes of ε, and which weights a mask multiplies."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from bayesreg._threads import drawing
from bayesreg.layers.base import AbstractMask, AbstractUnitMask, AbstractWeightMask
from bayesreg.layers.copying import copied
from bayesreg.layers.dropout import of_torch

_THROUGH = (nn.Flatten, nn.Identity)  # these pass on any z unchanged
_HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU)  # and these a z that is never negative
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def with_masks(module: nn.Module) -> nn.Module:
    """A deep copy in which torch's own dropout layers are layers of this package; names of parameters stay.

    Args:
        module: Any module.

    Returns:
        The copy.

    Raises:
        ValueError: If a dropout layer is of an unknown kind.
    """
    made = of_torch(module)
    if made is not None:
        return made.train(module.training)
    found = copied(module)
    for parent in list(found.modules()):
        for name, child in list(parent._modules.items()):  # a layer that is used at two places becomes two
            replacement = None if child is None else of_torch(child)
            if child is not None and replacement is not None:
                setattr(parent, name, replacement.train(child.training))
    return found


def dotted(prefix: str, leaf: str) -> str:
    """A tensor's or layer's name below a module of this name; the network itself has none.

    >>> dotted("0.1", "weight"), dotted("", "weight")
    ('0.1.weight', 'weight')
    """
    return f"{prefix}.{leaf}" if prefix else leaf


def mask_layers(module: nn.Module) -> dict[str, AbstractMask]:
    """The layers that draw masks, by dotted name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, AbstractMask)}


def mask_notes(module: nn.Module) -> dict[str, str]:
    """Notes of layers that multiply a weight by z on its prior, by the weight's name.

    >>> from bayesreg.layers import VariationalDropout
    >>> mask_notes(VariationalDropout(nn.Linear(2, 1)))
    {'layer.weight': 'MCDropout takes the log-uniform prior 1/|w| in its place'}
    """
    layers = mask_layers(module).items()
    return {dotted(name, "layer.weight"): layer.note for name, layer in layers if isinstance(layer, AbstractWeightMask)}


class Site:
    """One dropout layer, as one row of data passes through it.

    Attributes:
        draw: Shape of one draw's ε.
        row: Shape of one row's ε, or None where rows share a draw.
        width: Shape of one row of its input.
        weights: Dotted names of the weights that its z multiplies.
    """

    def __init__(self, layer: AbstractMask, width: torch.Size, out: torch.Size) -> None:
        self.width = width
        self.draw, self.row = layer.draw_shape(width, out), layer.row_shape(width, out)
        self.weights: list[str] = []

    def rows(self, batch: int) -> torch.Size:
        """Shape of ε in training on so many rows."""
        return self.draw if self.row is None else torch.Size([batch, *self.row])


def mask_sites(module: nn.Module, call: Callable[[nn.Module], Any]) -> dict[str, Site]:
    """Dropout layers of a module from `with_masks`, by dotted name in the order of the pass, and the weights they multiply.

    They are found by `call`, one pass over a few rows in evaluation mode, on a copy.

    Raises:
        ValueError: If a dropout layer is used twice in one pass, or two masks multiply one weight.
    """
    probe = copied(module).eval()
    layers, names = mask_layers(probe), {id(layer): name for name, layer in probe.named_modules()}
    found: dict[str, Site] = {}
    flowing: dict[int, tuple[str, torch.Tensor]] = {}  # tensors with a unit's z; kept alive: unique ids

    def after(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        name, came = names[id(layer)], inputs[0] if inputs else None
        carried = flowing.get(id(came), (None,))[0]  # the z that reaches this layer, and passes through it
        if isinstance(layer, AbstractMask):
            if name in found:
                raise ValueError(
                    f"a dropout layer must be used once in a pass, but {name or type(layer).__name__} is used "
                    "twice, which would repeat its mask; use a layer of its own at each place."
                )
            found[name] = Site(layer, came.shape[1:], output.shape[1:])  # pyright: ignore[reportOptionalMemberAccess]
            carried = name if isinstance(layer, AbstractUnitMask) and layer.multiplies else None
        elif carried is not None and isinstance(layer, (nn.Linear, *_CONVOLUTIONS)):
            found[carried].weights.append(dotted(name, "weight"))
            return None
        elif carried is not None and not _passes(layer, layers[carried]):
            return None
        if carried is None:
            return None
        output = output.view_as(output)  # a tensor of its own, also where the layer passes its input on
        flowing[id(output)] = (carried, output)
        return output

    handles = [layer.register_forward_hook(after) for layer in probe.modules()]
    try:
        with torch.no_grad():
            call(probe)
    finally:
        for handle in handles:
            handle.remove()
    for name, layer in layers.items():
        if isinstance(layer, AbstractWeightMask) and name in found:
            found[name].weights.append(dotted(name, "layer.weight"))
    every = [weight for site in found.values() for weight in site.weights]
    twice = sorted({weight for weight in every if every.count(weight) > 1})
    if twice:
        raise ValueError(
            f"a weight must be under one mask, but {', '.join(twice)} is under two (dropout before another dropout layer, "
            "or a layer used twice); leave one of them out."
        )
    return found


def _passes(layer: nn.Module, noise: AbstractMask) -> bool:
    """True where a factor on the layer's input is the same factor on its output."""
    signed = isinstance(noise, AbstractUnitMask) and noise.signed
    return isinstance(layer, _THROUGH) or (isinstance(layer, _HOMOGENEOUS) and not signed)


def effective(layer: AbstractMask, site: Site, noise: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
    """The weight W that replaces M, one of `site.weights`, for ε of a draw: single entries multiplied, or columns or channels.

    None where no weight gives the same network (a z for each pixel before a convolution).
    """
    if isinstance(layer, AbstractWeightMask):
        return layer.weight_of(noise, weight)
    unit: Any = layer
    z = unit.multiplier(noise)
    if weight.dim() == 2:
        columns = z.expand(site.width).reshape(1, -1)
        return weight * columns if columns.shape[1] == weight.shape[1] else None
    one_a_channel = z.numel() == z.shape[0] and z.shape[0] == weight.shape[1]
    return weight * z.reshape(1, -1, *[1] * (weight.dim() - 2)) if one_a_channel else None


@contextlib.contextmanager
def sampling(module: nn.Module, seed: int | None = None) -> Iterator[nn.Module]:
    """Inside the block dropout layers draw a mask for each row, all others are in evaluation mode; modes are restored after it.

    Args:
        module: What `with_masks` gave, run by this thread alone.
        seed: Seed of draws that leave torch's global random state as it is; None draws from that state.

    Yields:
        The module.
    """
    modes, source = {layer: layer.training for layer in module.modules()}, None if seed is None else drawing(seed)

    def drawn(x: torch.Tensor, layer: AbstractMask) -> torch.Tensor:
        with source or contextlib.nullcontext():  # a whole pass inside would cost more
            return type(layer).sampled(layer, x)

    try:
        module.eval()
        for layer in mask_layers(module).values():
            layer.training = True
            vars(layer)["sampled"] = functools.partial(drawn, layer=layer)
        yield module
    finally:
        for layer in mask_layers(module).values():
            vars(layer).pop("sampled", None)
        for layer, mode in modes.items():
            layer.training = mode
