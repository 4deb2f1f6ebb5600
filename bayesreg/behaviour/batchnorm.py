"""The statistics of batch normalisation: those of the batch in training, running averages at prediction.

    y = a · (x − m)/√(v + ε) + b,     m and v over rows and positions, one each for a channel; a and b are learned

In training m and v are the batch's own, and running averages follow them: m ← (1−η)m + η·m_batch, likewise v with n/(n−1)·v. In
evaluation the running averages are used. So m and v are a function of the weights and of the rows they were taken over. Only
a training step may update the averages; each posterior draw of the weights has statistics of its own.

References:
    Ioffe and Szegedy (2015), Batch normalization: accelerating deep network training.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bayesreg.behaviour import kinds
from bayesreg.behaviour.rows_at_hand import ByBatch
from bayesreg.behaviour.training import batchnorms, moving, unlike_torch
from bayesreg.data.moments import Moments
from bayesreg.layers.copying import copied
from bayesreg.layers.sites import dotted

AT_ONCE = 2**24  # entries of x in one pass; for more, statistics are gathered layer by layer
AVERAGES = "running averages of training"


class _Enough(Exception):
    """Raised once a layer has seen its input: the rest of the pass need not run."""


def _replaced(module: nn.Module, make: Callable[[Any], nn.Module]) -> nn.Module:
    """A deep copy in which each layer that normalises in training is replaced, also where one layer is used twice."""
    found = copied(module)
    made = {layer: make(layer).train(layer.training) for layer in moving(found).values()}
    for parent in list(found.modules()):
        for name, child in list(parent._modules.items()):
            if child in made:
                parent._modules[name] = made[child]
    return made.get(found, found)


def by_batch(module: nn.Module) -> nn.Module:
    """A deep copy that normalises by the statistics of the rows it is given, in every mode, and keeps none.

    On all training rows this network is the function that a fit in training mode optimises: its statistics are a function of
    the weights. Instance normalisation uses the statistics of each row. Names of parameters stay.

    Raises:
        ValueError: If a normalisation has a forward of its own.
    """
    if names := unlike_torch(module):
        layer = module.get_submodule(names[0])
        raise ValueError(
            f"to take statistics for a network, its {kinds.name_of(layer)} must be torch's own class, but "
            f"{type(layer).__name__} at {names[0] or 'the network'} has a forward of its own; put what it adds into a layer "
            "behind it."
        )
    return _replaced(module, lambda layer: ByBatch(layer) if kinds.by_the_batch(layer) else _by_row(layer))


def _by_row(layer: Any) -> nn.Module:
    """The same instance normalisation without running statistics: by each row alone, in every mode."""
    layer.track_running_stats = False
    layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return layer


def at_start(module: nn.Module, num_rows: int) -> nn.Module:
    """The network as a first training step sees it: `by_batch` where possible, whatever statistics it came with."""
    return by_batch(module) if moving(module) and not unlike_torch(module) and num_rows > 1 else module


def tracking(module: nn.Module) -> nn.Module:
    """A deep copy in which every batch normalisation has buffers for statistics, also with `track_running_stats=False`."""

    def make(layer: Any) -> nn.Module:
        if layer.running_mean is None or layer.running_var is None:
            like = next((p for p in layer.parameters()), next(module.parameters()))
            layer.track_running_stats = True
            layer.running_mean = torch.zeros(layer.num_features, dtype=like.dtype, device=like.device)
            layer.running_var = torch.ones_like(layer.running_mean)
            layer.num_batches_tracked = torch.tensor(0, dtype=torch.long, device=like.device)
        return layer

    return _replaced(module, make)


def untrained(module: nn.Module) -> list[str]:
    """Names of the normalisations whose running statistics are still initial, or nearly so, see `share_of_start`.

    Where some layers are trained and others are not, the latter may be ones that no pass runs, or new ones.
    """
    return [name for name, layer in moving(module).items() if share_of_start(layer) > 0.5]


def share_of_start(layer: Any) -> float:
    """The share of the initial mean 0 and variance 1 that is left in a layer's running statistics: (1 − η)ⁿ, 0 … 1.

    A momentum η of 0 or nearly so keeps them for any number n of steps. Statistics from elsewhere (a file, `carry`) are
    recognised by values that this sum cannot reach. A step at torch's default momentum counts as trained.

    >>> layer = nn.BatchNorm1d(1, momentum=1e-4).train()
    >>> share_of_start(layer), round(share_of_start((layer(torch.randn(8, 1)), layer)[1]), 4)
    (1.0, 0.9999)
    """
    mean, variance, count = layer.running_mean, layer.running_var, layer.num_batches_tracked
    if mean is None or variance is None or count is None:
        return 0.0
    if not kinds.by_the_batch(layer):  # torch does not count the steps of an instance normalisation
        return float((mean == 0).all() and (variance == 1).all())
    if int(count) == 0:
        return 1.0
    if layer.momentum is None or layer.momentum >= 0.1:
        return 0.0
    share = (1 - layer.momentum) ** int(count)
    reached = bool((mean == 0).all() and (variance == 1).all()) if share == 1 else bool((variance >= 0.999 * share).all())
    return share if reached else 0.0


def stateless(module: nn.Module) -> list[str]:
    """Names of the batch normalisations that keep no statistics and normalise by the current rows at prediction too."""
    return [name for name, layer in batchnorms(module).items() if layer.running_mean is None]


def lacking(module: nn.Module) -> tuple[str, str] | None:
    """What a prediction lacks, "statistics" or "training", and the first layer that lacks it; None where nothing does."""
    if names := stateless(module):
        return "statistics", names[0] or "the network"
    layers, names = moving(module), untrained(module)
    met = [name for name in names if int(layers[name].num_batches_tracked or 0) > 0]
    # where other layers are trained, an untrained one may be a branch that no pass runs
    return ("training", (met or names)[0] or "the network") if met or (names and len(names) == len(layers)) else None


def described(module: nn.Module) -> str | None:
    """The statistics by which a module predicts, in words; None where it has no batch normalisation.

    >>> described(nn.Linear(1, 1)), described(nn.BatchNorm1d(1))
    (None, 'mean 0 and variance 1: no training step has written any')
    """
    if not batchnorms(module):
        return None
    found = lacking(module)
    if found is None:
        return AVERAGES
    return {
        "statistics": "the statistics of the other rows: the network keeps none",
        "training": _unwritten(module),
    }[found[0]]


def _unwritten(module: nn.Module) -> str:
    for layer in moving(module).values():
        if int(layer.num_batches_tracked or 0) > 0 and share_of_start(layer) > 0.5:
            return f"mean 0 and variance 1, or nearly: momentum={layer.momentum:g} keeps {share_of_start(layer):.0%} of them"
    return "mean 0 and variance 1: no training step has written any"


def check_statistics(module: nn.Module) -> None:
    """Refuse a prediction that would depend on the other rows, and warn where statistics are still the initial ones.

    Raises:
        ValueError: If a batch normalisation keeps no statistics.

    Warns:
        UserWarning: If its statistics are still the initial ones.
    """
    what, where = lacking(module) or ("", "")
    if what == "statistics":
        raise ValueError(
            "a prediction must not depend on the rows beside it, but a batch normalisation that keeps no statistics "
            f"(track_running_stats=False at {where}) normalises by them; take those of the training rows: "
            "bayesreg.refresh_batchnorm(posterior, X)."
        )
    if what == "training":
        layer = module if where == "the network" else module.get_submodule(where)
        advice = "take those of the training rows: bayesreg.refresh_batchnorm(posterior, X)"
        warnings.warn(
            f"{kinds.name_of(layer)} at {where} has no statistics yet, so that it predicts by {_unwritten(module)}; "
            f"{advice if kinds.by_the_batch(layer) else 'fit it by a method that trains them (map)'}.",
            UserWarning,
            stacklevel=3,
        )


def buffer_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Shapes of the statistics by the buffers' dotted names, mean and variance in turn, in the module's order."""
    return {
        dotted(name, leaf): torch.Size([layer.num_features])
        for name, layer in batchnorms(module).items()
        for leaf in ("running_mean", "running_var")
    }


def widest(module: nn.Module, call: Callable[[torch.Tensor], object], x: torch.Tensor) -> int:
    """Entries of the largest layer output for one row, found by a pass over a few rows."""
    found = [x[0].numel()]

    def heard(layer: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            found.append(output.numel() // len(x))

    hooks = [layer.register_forward_hook(heard) for layer in module.modules()]
    try:
        call(x)
    finally:
        for hook in hooks:
            hook.remove()
    return max(found)


def rows_at_once(entries: int) -> int:
    """Rows that go through a network in one pass when its largest layer output has so many entries a row."""
    return AT_ONCE // entries


def statistics(
    module: nn.Module, call: Callable[[torch.Tensor], object], x: torch.Tensor, entries: int | None = None
) -> dict[str, torch.Tensor]:
    """Mean and variance of the input of each batch normalisation, over all rows, each layer after normalised ones.

    The variance is the mean squared deviation (no n/(n−1)), as a forward pass in training normalises by it. Rows that do not
    fit into memory at once go through in blocks, once for each layer, to the same numbers.

    `module` is from `by_batch`; `call` runs one pass of it on prepared rows, and may be traced by `vmap` while the rows are
    few. `entries` is from `widest`, or those of a row when None. The result is by buffer name, as in `buffer_shapes`.

    Raises:
        ValueError: If a layer is used twice in a pass, or sees one value a channel.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, ByBatch)}
    order: list[ByBatch] = []
    rows = max(2, AT_ONCE // (entries or max(1, x[0].numel())))
    hooks = [layer.register_forward_pre_hook(lambda layer, _: order.append(layer)) for layer in layers.values()]  # pyright: ignore
    for layer in layers.values():
        layer.kept = []
    try:
        call(x if len(x) <= rows else x[:2])
        names = [name or "the network" for name, layer in layers.items() if order.count(layer) > 1]
        if names:
            raise ValueError(
                f"a batch normalisation must be used once in a pass to have one set of statistics, but {', '.join(names)} is "
                "used twice; use a layer of its own at each place."
            )
        if len(x) > rows:
            for layer in list(order):
                _gather(layer, call, x, rows)
        found = {layer: layer.fixed or next(iter(layer.kept or []), None) for layer in layers.values()}
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers.values():
            layer.kept, layer.fixed = None, None
    like = next((pair[0] for pair in found.values() if pair is not None), torch.empty(0, device=x.device))
    taken: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():  # mean 0 and variance 1 for a layer that no row reaches
        mean, variance = found[layer] or (like.new_zeros(layer.num_features), like.new_ones(layer.num_features))
        taken |= {dotted(name, "running_mean"): mean, dotted(name, "running_var"): variance}
    return taken


def _gather(layer: ByBatch, call: Callable[[torch.Tensor], object], x: torch.Tensor, rows: int) -> None:
    """Fix one layer's statistics over all rows; those of the layers before it are fixed already."""
    moments, came = Moments(), []

    def listen(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        moments.add_channels(inputs[0])
        came[:] = inputs
        raise _Enough

    hook = layer.register_forward_pre_hook(listen)
    try:
        for block in x.split(rows):
            with contextlib.suppress(_Enough):
                call(block)
    finally:
        hook.remove()
    mean, sd = moments.finish()
    layer.fixed = mean.to(came[0]), sd.square().to(came[0])


def carry(module: nn.Module, found: dict[str, torch.Tensor]) -> nn.Module:
    """A deep copy of the module with the statistics that `statistics` found; its layers count as trained."""
    made = tracking(module)
    with torch.no_grad():
        for name, value in found.items():
            made.get_buffer(name).copy_(value)
        for layer in batchnorms(made).values():
            if layer.num_batches_tracked is not None:
                small = 0 < (layer.momentum or 0.0) < 0.1  # so many steps that it counts as trained, see `share_of_start`
                layer.num_batches_tracked.clamp_(min=math.ceil(math.log(0.5) / math.log1p(-layer.momentum)) + 1 if small else 1)  # pyright: ignore
    return made
