"""The number of inputs that one unit of a layer sums over, for torch's layers: `fan_in=True` divides a scale by its root.

y = Σᵢ wᵢ xᵢ over fan_in inputs of unit variance:  Var y = 1  where  Var w = 1/fan_in
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn
from torch.nn.utils import parametrizations, parametrize

from bayesreg.priors.scaled import fan_in

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BY_ENTRY = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)
STORED = "fan-in: all axes but the first"


def fan_ins(module: nn.Module) -> dict[int, float]:
    """Inputs of a unit, a number > 0, for every parameter that has them, by the parameter's id; vectors are left out.

    A tensor that is used at several places (an embedding tied to the last layer) gets the largest number among them.

    >>> layer = nn.ConvTranspose2d(64, 1, 3)
    >>> fan_ins(layer)[id(layer.weight)]  # 64 channels × 9 taps
    576.0
    """
    found: dict[int, float] = {}
    for owner, leaf, parameter, whole in _places(module):
        if len(whole) > 1:
            number = _inputs(owner, leaf, whole) * parameter.numel() / math.prod(whole)
            found[id(parameter)] = max(number, found.get(id(parameter), 0.0))
    return found


def _inputs(owner: nn.Module, leaf: str, shape: tuple[int, ...]) -> float:
    """The inputs that one unit sums over, for a weight of this shape.

    A transposed convolution is counted in the interior, on average over the positions of a stride: each output uses
    prod(kernel)/prod(stride) taps. A row of an embedding (or of a bag, whose size depends on the data) is selected: one input.
    The gates of a recurrent layer sum over inputs and over hidden states, each counted for its own weight. A module that is not
    torch's is assumed to store outputs first.
    """
    if isinstance(owner, _BY_ENTRY) or "bias" in leaf:  # attention's bias_k and bias_v have three axes
        return 1.0
    if isinstance(owner, _TRANSPOSED) and shape[:2] == (owner.in_channels, owner.out_channels // owner.groups):
        return owner.in_channels / owner.groups * math.prod(shape[2:]) / math.prod(owner.stride)
    return float(fan_in(shape))


def _places(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter, tuple[int, ...]]]:
    """Layer, name, parameter, and the shape of its weight; for the lengths of weight_norm, that of the directions."""
    modules = dict(module.named_modules(remove_duplicate=False))
    for prefix, owner in modules.items():
        own = dict(owner.named_parameters(recurse=False, remove_duplicate=False))
        layer, leaf, lengths, directions = owner, "", "weight_g", "weight_v"
        if isinstance(owner, parametrize.ParametrizationList):
            above, _, leaf = prefix.rpartition(".parametrizations.")
            layer = modules[above] if prefix.startswith(above + ".") else module
            normed = isinstance(owner[0], parametrizations._WeightNorm)
            lengths, directions = ("original0", "original1") if normed else ("", "")
        for name, parameter in own.items():
            whole = own[directions] if name == lengths and directions in own else parameter
            yield layer, leaf or name, parameter, tuple(whole.shape)


def stored_note(owner: nn.Module) -> str:
    """The assumption about a weight in a layer of unknown kind, where only its author knows which axis is the inputs'."""
    unknown = (nn.Module.__module__, nn.Sequential.__module__)
    known = any(cls.__module__.startswith("torch.nn.") and cls.__module__ not in unknown for cls in type(owner).__mro__)
    return "" if known else STORED
