"""Which layers of a network are other ones in training, and what its own code does there beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bayesreg._threads import drawing
from bayesreg.behaviour import kinds
from bayesreg.behaviour.trial import Model
from bayesreg.layers.copying import copied

_ROWS = 8  # that training is looked at on


def in_training(module: nn.Module, what: Callable[[nn.Module], bool]) -> dict[str, Any]:
    """The layers of a kind that `module.train()` puts into training mode, by dotted name.

    A network may keep some in evaluation mode by a `train` of its own.

    Args:
        module: Any module; it is not changed.
        what: Tells the kind.

    Returns:
        Layers of the module itself.
    """
    found = {name: layer for name, layer in module.named_modules() if what(layer)}
    if found and any(type(layer).train is not nn.Module.train for layer in module.modules()):
        trained = dict(copied(module).train().named_modules())
        return {name: layer for name, layer in found.items() if trained[name].training}
    return found


def moving(module: nn.Module) -> dict[str, Any]:
    """The layers that normalise by the rows at hand while they are trained, by dotted name.

    Those that the network keeps in evaluation mode are left out where they keep statistics: they are fixed affine maps.
    """
    trained, layers = in_training(module, kinds.moves), dict[str, Any](module.named_modules())
    return {n: layer for n, layer in layers.items() if kinds.moves(layer) and (n in trained or layer.running_mean is None)}


def batchnorms(module: nn.Module) -> dict[str, Any]:
    """Those of `moving` that normalise a row by the rows beside it: torch's batch normalisations, 1d, 2d, 3d, synchronised."""
    return {name: layer for name, layer in moving(module).items() if kinds.by_the_batch(layer)}


def unlike_torch(module: nn.Module) -> list[str]:
    """Names of the normalisations of `moving` with a forward of their own, which nothing can stand in for."""
    return [name for name, layer in moving(module).items() if kinds.has_own_forward(layer)]


def normalising(module: nn.Module) -> nn.Module:
    """The same module with what normalises in training mode and everything else in evaluation mode: no dropout.

    Args:
        module: A private copy, whose modes are changed.

    Returns:
        It.
    """
    layers = moving(module)
    module.eval()
    for layer in layers.values():
        layer.training = True
    return module


def own_code(model: Model, x: torch.Tensor) -> bool:
    """True where a network's own code gives something else in training mode, or changes a buffer, beside its layers.

    Normalisation stands in evaluation mode here, so that what is left is the network's own doing. Where a layer draws noise it
    is not looked at: training is another function then in any case.

    Args:
        model: The model that the network is in.
        x: Prepared rows; a few are taken.

    Returns:
        Whether it does.

    Raises:
        ValueError: If its forward draws random numbers of its own.
    """
    if in_training(model.module, kinds.draws):
        return False
    values, rows, module = model.weights(), x[:_ROWS], copied(model.module).train()
    for layer in filter(kinds.moves, module.modules()):
        layer.eval()
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    check_draws(model.module, lambda: model.forward(values, rows, copied(module)), "which no fit could switch")
    with torch.no_grad(), drawing(0):
        trained, settled = model.forward(values, rows, module), model.forward(values, rows)
    changed = any(not torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
    size = float(settled.abs().max().nan_to_num(0.0))
    return changed or not torch.allclose(trained, settled, rtol=1e-5, atol=max(1e-7, 1e-6 * size))


def check_draws(module: nn.Module, call: Callable[[], torch.Tensor], consequence: str) -> None:
    """Refuse a network whose forward draws random numbers that belong to no layer.

    Args:
        module: The network, for its name.
        call: One pass without the noise of its layers, which changes nothing; torch's random state is as it was afterwards.
        consequence: What cannot be done about such numbers.

    Raises:
        ValueError: If two passes from the same random state on differ.
    """
    with torch.no_grad(), drawing(0):
        if torch.equal(call(), call()):
            return
    raise ValueError(
        f"randomness in training must be that of a layer (nn.Dropout), but the forward of {type(module).__name__} draws "
        f"numbers of its own (functional dropout?), {consequence}; put an nn.Dropout in its place."
    )
