"""Weights whose scale a batch normalisation cancels: candidates from the structure, confirmed by numbers.

    BatchNorm(c·v·x + s) = BatchNorm(v·x)     for every c > 0 and every s, each output unit v by itself (up to the layer's ε)

A Gaussian prior on such a weight does not restrict the function. It only sets the length of v, and with it the effective step
size of an optimizer: the same step turns a short v further. A bias before a batch normalisation changes nothing at all.

References:
    van Laarhoven (2017), L2 regularization versus batch and weight normalization. Hoffer, Banner, Golan and Soudry (2018), Norm
    matters: efficient and accurate normalization schemes in deep networks.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from bayesreg._threads import drawing
from bayesreg.behaviour.batchnorm import by_batch
from bayesreg.behaviour.kinds import by_the_batch
from bayesreg.behaviour.rows_at_hand import ByBatch
from bayesreg.behaviour.training import batchnorms, unlike_torch
from bayesreg.layers import in_sequence
from bayesreg.layers.sites import dotted

SCALE_NOTE = "scale-invariant: a BatchNorm follows; the prior sets the effective step size only"
SHIFT_NOTE = "shift-invariant: a BatchNorm follows"

# exact types: a subclass may do more in its forward
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_POOLING = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)

_ROWS = 8  # rows of the numerical check
_TINY = 1e-12  # in place of ε: small enough for the invariance to show, large enough to keep a constant channel constant
_ALIKE = 1e-6


@dataclasses.dataclass(frozen=True)
class Invariant:
    """A weight that a batch normalisation follows.

    Attributes:
        weight: Its dotted name.
        bias: Name of the layer's bias, which then changes nothing; None where none is learned.
        batchnorm: Name of the layer that follows.
        groups: Groups of a transposed convolution, whose output channels are the second axis; 0 for every other layer.
    """

    weight: str
    bias: str | None
    batchnorm: str
    groups: int = 0

    def units(self, value: torch.Tensor) -> torch.Tensor:
        """The weights of each output unit, (C, n); a view of the weight where possible."""
        if not self.groups:
            return value.reshape(len(value), -1)
        apart = value.reshape(self.groups, len(value) // self.groups, value.shape[1], -1)
        return apart.transpose(1, 2).reshape(self.groups * value.shape[1], -1)

    def from_units(self, units: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """The weight in its own shape, from (C, n).

        >>> weight = torch.arange(24.0).reshape(4, 3, 2)
        >>> found = Invariant("weight", None, "1", groups=2)
        >>> found.units(weight).shape, bool((found.from_units(found.units(weight), weight.shape) == weight).all())
        (torch.Size([6, 4]), True)
        """
        if not self.groups:
            return units.reshape(shape)
        apart = units.reshape(self.groups, shape[1], shape[0] // self.groups, -1)
        return apart.transpose(1, 2).reshape(shape)


def scale_invariant(module: nn.Module, row_shape: torch.Size | None = None) -> list[Invariant]:
    """The weights that feed straight into a batch normalisation, each output unit of which can be rescaled by itself.

    A layer counts (Linear, a convolution, a transposed one) when its output is the input of one of torch's BatchNorms, directly
    or through Identity or an average over positions. Where `row_shape`, without the batch axis, is known, a pass on a copy
    tells; before that only the order in a `Sequential` does. Then the copy, normalising by its batch, must give the same output
    for other lengths and biases. Tensors that are shared, frozen or not confirmed are left out. The order is that of the
    parameters.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
    >>> [(one.weight, one.bias) for one in scale_invariant(net)]
    [('0.weight', '0.bias')]
    """
    if not any(by_the_batch(layer) or isinstance(layer, ByBatch) for layer in module.modules()):
        return []
    ordered, first = _in_order(module), next(_chain(module), None)
    if row_shape is None and first is not None and type(first[1]) is nn.Linear:
        row_shape = torch.Size([first[1].in_features])
    probe = None if row_shape is None else _Probe.of(module, row_shape)
    found = _named(module, ordered if probe is None else probe.met())
    if probe is not None:
        return probe.confirmed(found)
    certain = {name for name, _, is_certain in ordered if is_certain}
    return [one for one in found if one.weight.removesuffix("weight").removesuffix(".") in certain]


_Pair = tuple[str, str, bool]  # layer, the batch normalisation behind it, and whether this is so for rows of any shape


def _chain(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested Sequentials in the order of a pass; any other module is one step."""
    if in_sequence(module) and not _is_hooked(module):
        for name, child in module._modules.items():
            if child is not None:
                yield from _chain(child, dotted(prefix, name))
    else:
        yield prefix, module


def _is_hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def _in_order(module: nn.Module) -> list[_Pair]:
    """Pairs from the order in a Sequential; of other modules nothing is known before a pass."""
    found: list[_Pair] = []
    moving = set(batchnorms(module).values()) if not unlike_torch(module) else set()
    carried: tuple[str, bool] | None = None
    flat = False  # a linear layer's units are the batch normalisation's channels for rows that are vectors
    for name, layer in _chain(module):
        if _is_hooked(layer):
            carried, flat = None, False
        elif type(layer) is nn.Linear or type(layer) in _CONVOLUTIONS:
            carried = (name, flat or type(layer) is not nn.Linear)
        elif isinstance(layer, ByBatch) or layer in moving:
            if carried is not None:
                found.append((carried[0], name, carried[1]))
            carried = None
        elif not _passes(layer):
            carried = None
            is_flattening = type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1)
            flat = is_flattening or (flat and type(layer).__module__ == "torch.nn.modules.activation")
    return found


def _passes(layer: nn.Module) -> bool:
    """True where a channel that is scaled and shifted stays one that is scaled and shifted."""
    if type(layer) in _POOLING:
        pool: Any = layer
        return not pool.ceil_mode and not any(pool.padding if isinstance(pool.padding, tuple) else (pool.padding,))
    return type(layer) is nn.Identity or type(layer) in _ADAPTIVE


def _named(module: nn.Module, pairs: list[_Pair]) -> list[Invariant]:
    """Pairs of layers without those whose tensors are frozen or shared."""
    places = collections.Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
    learned = {name for name, p in module.named_parameters() if p.requires_grad and places[id(p)] == 1}
    met = collections.Counter(name for name, _, _ in pairs)
    layers: dict[str, Any] = dict(module.named_modules())
    found = []
    for name, norm, _ in pairs:
        weight, bias, layer = dotted(name, "weight"), dotted(name, "bias"), layers[name]
        if met[name] == 1 and weight in learned:
            groups = layer.groups if type(layer) in _TRANSPOSED else 0
            found.append(Invariant(weight, bias if bias in learned else None, norm, groups))
    order = {name: i for i, (name, _) in enumerate(module.named_parameters())}
    return sorted(found, key=lambda one: order[one.weight])


class _Probe:
    """A float64 copy that normalises by its batch, with weights that are nowhere zero, and a few random rows."""

    def __init__(self, module: nn.Module, row_shape: torch.Size) -> None:
        generator = torch.Generator().manual_seed(0)
        # on the CPU: random numbers used as indices raise an error there, but break a GPU's context
        self.net = by_batch(module).to("cpu", torch.float64).eval()
        for layer in self.net.modules():
            if isinstance(layer, ByBatch):
                layer.eps = _TINY
        with torch.no_grad():  # weights that start at zero would make everything look invariant
            for parameter in self.net.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(0.5 * noise * (float(parameter.square().mean().sqrt()) or 1.0))
        self.x = torch.randn(_ROWS, *row_shape, generator=generator, dtype=torch.float64)
        self.generator = generator
        self.before = self.output()

    @classmethod
    def of(cls, module: nn.Module, row_shape: torch.Size) -> _Probe | None:
        """The probe; None where the module does not take such rows (indices of an embedding, float32 only)."""
        try:
            made = cls(module, row_shape)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return None
        return made if isinstance(made.before, torch.Tensor) else None

    def output(self) -> torch.Tensor:
        with torch.no_grad(), drawing(0):
            return self.net(self.x)

    def met(self) -> list[_Pair]:
        """The pairs seen in a pass."""
        names, found = {id(layer): name for name, layer in self.net.named_modules()}, []
        flowing: dict[int, tuple[str, torch.Tensor]] = {}  # tensors are kept alive, so that their ids stay unique

        def after(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
            carried = flowing.get(id(inputs[0]), (None,))[0] if inputs else None
            if isinstance(layer, ByBatch):
                if carried is not None:
                    found.append((carried, names[id(layer)], True))
                return None
            if type(layer) is nn.Linear or type(layer) in _CONVOLUTIONS:
                carried = names[id(layer)]
            elif not _passes(layer):
                # dropout is the identity in evaluation mode only, so the chain ends here
                return output.view_as(output) if id(output) in flowing and not layer._modules else None
            if carried is None:
                return None
            output = output.view_as(output)  # a tensor of its own, also where a layer passes its input on
            flowing[id(output)] = (carried, output)
            return output

        handles = [layer.register_forward_hook(after) for layer in self.net.modules()]
        try:
            self.output()
        finally:
            for handle in handles:
                handle.remove()
        return found

    def confirmed(self, found: list[Invariant]) -> list[Invariant]:
        """The pairs whose length and bias change nothing in numbers."""
        if self._is_unchanged(found, True):
            return found
        kept = []
        for one in found:
            alone = dataclasses.replace(one, bias=None)
            if self._is_unchanged([alone], False):
                kept.append(one if one.bias is not None and self._is_unchanged([one], True) else alone)
        return kept

    @torch.no_grad()
    def _is_unchanged(self, found: list[Invariant], shifted: bool) -> bool:
        """True where other lengths, by factors in [½, 2], and other biases give the same output."""
        names = [name for one in found for name in (one.weight, one.bias) if name is not None]
        kept = {name: self.net.get_parameter(name).clone() for name in names}
        for one in found:
            weight = self.net.get_parameter(one.weight)
            units = one.units(weight)
            factors = torch.rand(len(units), 1, generator=self.generator, dtype=torch.float64).mul(2).sub(1).exp2()
            weight.copy_(one.from_units(units * factors.to(units), weight.shape))
            if shifted and one.bias is not None:
                bias = self.net.get_parameter(one.bias)
                bias.add_(torch.randn(bias.shape, generator=self.generator, dtype=torch.float64).to(bias))
        output = self.output()
        for name, value in kept.items():
            self.net.get_parameter(name).copy_(value)
        apart = (output - self.before).abs().amax()
        return bool(apart <= _ALIKE * self.before.abs().amax())  # False also where one is not finite
