"""Which layers of a network change in training, and what its own code does there besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bayesreg._threads import drawing
from bayesreg.behaviour import kinds
from bayesreg.behaviour.trial import Model
from bayesreg.layers.copying import copied

_ROWS = 8  # rows on which training is tried


def in_training(module: nn.Module, what: Callable[[nn.Module], bool]) -> dict[str, Any]:
    """The layers of a kind (`what` tells) that `module.train()` puts into training mode, by dotted name.

    A network may keep some in evaluation mode by a `train` of its own. The module is not changed.
    """
    found = {name: layer for name, layer in module.named_modules() if what(layer)}
    if found and any(type(layer).train is not nn.Module.train for layer in module.modules()):
        trained = dict(copied(module).train().named_modules())
        return {name: layer for name, layer in found.items() if trained[name].training}
    return found


def moving(module: nn.Module) -> dict[str, Any]:
    """The layers that normalise by the current rows in training, by dotted name.

    A layer that keeps statistics and that the network holds in evaluation mode is left out: it is a fixed affine map.
    """
    trained, layers = in_training(module, kinds.moves), dict[str, Any](module.named_modules())
    return {n: layer for n, layer in layers.items() if kinds.moves(layer) and (n in trained or layer.running_mean is None)}


def batchnorms(module: nn.Module) -> dict[str, Any]:
    """Those of `moving` that use the other rows of the batch: torch's batch normalisations, 1d, 2d, 3d, synchronised."""
    return {name: layer for name, layer in moving(module).items() if kinds.by_the_batch(layer)}


def unlike_torch(module: nn.Module) -> list[str]:
    """Names of the normalisations of `moving` with a forward of their own, which cannot be replaced."""
    return [name for name, layer in moving(module).items() if kinds.has_own_forward(layer)]


def normalising(module: nn.Module) -> nn.Module:
    """Put the normalising layers of a private copy into training mode, everything else into evaluation mode: no dropout."""
    layers = moving(module)
    module.eval()
    for layer in layers.values():
        layer.training = True
    return module


def own_code(model: Model, x: torch.Tensor) -> bool:
    """True where a network's own code, apart from its layers, changes its output or a buffer in training mode.

    A few of the prepared rows are tried with normalisation in evaluation mode. Where a layer draws masks there is no trial:
    training differs from evaluation in any case.

    Raises:
        ValueError: If its forward draws random numbers of its own.
    """
    if in_training(model.module, kinds.draws):
        return False
    values, rows, module = model.weights(), x[:_ROWS], copied(model.module).train()
    for layer in filter(kinds.moves, module.modules()):
        layer.eval()
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    check_draws(model.module, lambda: model.forward(values, rows, copied(module)), "which no fit can switch off")
    with torch.no_grad(), drawing(0):
        trained, settled = model.forward(values, rows, module), model.forward(values, rows)
    changed = any(not torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
    size = float(settled.abs().max().nan_to_num(0.0))
    return changed or not torch.allclose(trained, settled, rtol=1e-5, atol=max(1e-7, 1e-6 * size))


def check_draws(module: nn.Module, call: Callable[[], torch.Tensor], consequence: str) -> None:
    """Refuse a network whose forward draws random numbers that belong to no layer.

    `call` is one pass without its layers' masks, which changes nothing; torch's random state is restored. `consequence`
    completes the error.

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
