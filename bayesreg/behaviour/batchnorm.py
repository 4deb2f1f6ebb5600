"""What batch normalisation divides by: the rows at hand in training, numbers that it keeps at prediction.

    y = a · (x − m)/√(v + ε) + b,     m and v over rows and positions, one each for a channel; a and b are learned

In training m and v are the batch's own, and running averages follow them: m ← (1−η)m + η·m_batch, likewise v with n/(n−1)·v. In
evaluation the averages take their place. So m and v are a function of the weights and of the rows they were taken over; only
a training step may write the averages, and a draw of the weights from a posterior has statistics of its own.

References:
    Ioffe and Szegedy (2015), Batch normalization: accelerating deep network training.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable

import torch
from torch import nn

from bayesreg.data.moments import Moments
from bayesreg.layers.copying import copied
from bayesreg.layers.sites import dotted, is_norm

AT_ONCE = 2**24  # entries of x that go through the network together; the statistics of more are gathered layer by layer
AVERAGES = "running averages of training"
_Norm = nn.modules.batchnorm._BatchNorm


class ByBatch(nn.Module):
    """Batch normalisation by the statistics of the rows at hand, in every mode, which writes nothing; a and b keep their names.

    Plain operations, so that it can be differentiated to any order and vmapped.

    Args:
        layer: torch's layer, whose affine weights are taken over as they are.

    >>> x, layer = torch.randn(8, 3), nn.BatchNorm1d(3)
    >>> bool(torch.allclose(ByBatch(layer)(x), layer.train()(x), atol=1e-6))
    True
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, layer: _Norm) -> None:
        super().__init__()
        self.register_parameter("weight", layer.weight)
        self.register_parameter("bias", layer.bias)
        self.eps, self.num_features = layer.eps, layer.num_features
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] | None = None  # what it normalises by, where somebody listens
        self.fixed: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape, (B, C) or (B, C, ...).

        Raises:
            ValueError: If there is one value a channel only, whose variance is zero.
        """
        if self.fixed is not None:
            mean, variance = self.fixed
        elif x.numel() == x.shape[1]:
            raise ValueError(
                "batch normalisation by the rows at hand needs two values a channel at least, but one row came; pass more rows."
            )
        else:
            variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
        if self.kept is not None:
            self.kept.append((mean, variance))
        along = (-1, *[1] * (x.dim() - 2))
        found = (x - mean.view(along)) * (variance.view(along) + self.eps).rsqrt()
        found = found if self.weight is None else found * self.weight.view(along)
        return found if self.bias is None else found + self.bias.view(along)


class _Enough(Exception):
    """A layer has seen its input; what comes behind it need not run."""


def batchnorms(module: nn.Module) -> dict[str, _Norm]:
    """Torch's batch normalisation layers, by dotted name: 1d, 2d, 3d, synchronised.

    Those that a network keeps in evaluation mode, by a `train` of its own, are left out where they keep statistics: they are
    fixed affine maps.
    """
    found = {name: layer for name, layer in module.named_modules() if isinstance(layer, _Norm)}
    if found and any(type(layer).train is not nn.Module.train for layer in module.modules()):
        trained = dict(copied(module).train().named_modules())
        return {name: layer for name, layer in found.items() if trained[name].training or layer.running_mean is None}
    return found


def has_batchnorm(module: nn.Module) -> bool:
    """True where a layer normalises by the batch in training, or keeps running statistics of it.

    >>> has_batchnorm(nn.BatchNorm1d(2)), has_batchnorm(nn.InstanceNorm1d(2)), has_batchnorm(nn.LayerNorm(2))
    (True, False, False)
    """
    instance = (layer for layer in module.modules() if isinstance(layer, nn.modules.instancenorm._InstanceNorm))
    return bool(batchnorms(module)) or any(map(is_norm, instance))


def unlike_torch(module: nn.Module) -> list[str]:
    """Names of batch normalisations with a forward of their own, which nothing can stand in for."""
    known = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return [name for name, layer in batchnorms(module).items() if type(layer) not in known]


def _replaced(module: nn.Module, make: Callable[[_Norm], nn.Module]) -> nn.Module:
    """A deep copy with another layer in each one's place, also where one layer stands twice."""
    if isinstance(module, _Norm):
        return make(copied(module)).train(module.training)
    found = copied(module)
    own = set(batchnorms(found).values())
    made: dict[int, nn.Module] = {}
    for parent in list(found.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, _Norm) and child in own:
                made.setdefault(id(child), make(child).train(child.training))
                parent._modules[name] = made[id(child)]
    return found


def by_batch(module: nn.Module) -> nn.Module:
    """A deep copy that normalises by the statistics of the rows it is given, in every mode, and keeps none.

    On all training rows this network is the function that a fit in training mode is about: its statistics are a function of
    the weights.

    Args:
        module: Any module; names of parameters stay.

    Returns:
        The copy.

    Raises:
        ValueError: If a batch normalisation has a forward of its own.
    """
    if names := unlike_torch(module):
        kind = type(module.get_submodule(names[0])).__name__
        raise ValueError(
            f"to take statistics for a network, its batch normalisation must be torch's own class, but {kind} at "
            f"{names[0] or 'the network'} has a forward of its own; put what it adds into a layer behind it."
        )
    return _replaced(module, ByBatch)


def at_start(module: nn.Module, num_rows: int) -> nn.Module:
    """The network as a first training step meets it: `by_batch` where that can be, whatever statistics it came with."""
    return by_batch(module) if batchnorms(module) and not unlike_torch(module) and num_rows > 1 else module


def tracking(module: nn.Module) -> nn.Module:
    """A deep copy in which every batch normalisation has a place for statistics, also those made without it.

    Args:
        module: Any module; layers with `track_running_stats=False` gain buffers.

    Returns:
        The copy.
    """

    def make(layer: _Norm) -> _Norm:
        if layer.running_mean is None or layer.running_var is None:
            like = next((p for p in layer.parameters()), next(module.parameters()))
            layer.track_running_stats = True
            layer.running_mean = torch.zeros(layer.num_features, dtype=like.dtype, device=like.device)
            layer.running_var = torch.ones_like(layer.running_mean)
            layer.num_batches_tracked = torch.tensor(0, dtype=torch.long, device=like.device)
        return layer

    return _replaced(module, make)


def normalising(module: nn.Module) -> nn.Module:
    """The same module with batch normalisation in training mode and everything else in evaluation mode: no dropout.

    Args:
        module: A private copy, whose modes are changed.

    Returns:
        It.
    """
    layers = batchnorms(module)
    module.eval()
    for layer in layers.values():
        layer.training = True
    return module


def untrained(module: nn.Module) -> list[str]:
    """Names of the batch normalisations whose running statistics nobody has written, or hardly, see `share_of_start`.

    Where some layers of a network are trained and others are not, it may be that no pass meets those, or that they are new.
    """
    return [name for name, layer in batchnorms(module).items() if share_of_start(layer) > 0.5]


def share_of_start(layer: _Norm) -> float:
    """How much of mean 0 and variance 1, which a layer is made with, its running statistics still are: (1 − η)ⁿ, 0 … 1.

    A momentum η of 0 or nearly so leaves them after any number n of steps. What came from elsewhere (a file, `carry`) is told
    by its values, which that sum cannot reach. A step at torch's own momentum counts as taken.

    >>> layer = nn.BatchNorm1d(1, momentum=1e-4).train()
    >>> share_of_start(layer), round(share_of_start((layer(torch.randn(8, 1)), layer)[1]), 4)
    (1.0, 0.9999)
    """
    mean, variance, count = layer.running_mean, layer.running_var, layer.num_batches_tracked
    if mean is None or variance is None or count is None:
        return 0.0
    if int(count) == 0:
        return 1.0
    if layer.momentum is None or layer.momentum >= 0.1:
        return 0.0
    share = (1 - layer.momentum) ** int(count)
    reached = bool((mean == 0).all() and (variance == 1).all()) if share == 1 else bool((variance >= 0.999 * share).all())
    return share if reached else 0.0


def stateless(module: nn.Module) -> list[str]:
    """Names of the batch normalisations that keep no statistics and normalise by the rows at hand at prediction too."""
    return [name for name, layer in batchnorms(module).items() if layer.running_mean is None]


def lacking(module: nn.Module) -> tuple[str, str] | None:
    """What a prediction lacks, "statistics" or "training", and the first layer that lacks it; None where nothing is missing."""
    if names := stateless(module):
        return "statistics", names[0] or "the network"
    layers, names = batchnorms(module), untrained(module)
    met = [name for name in names if int(layers[name].num_batches_tracked or 0) > 0]
    # where other layers are trained, those that no pass has met may stand beside it
    return ("training", (met or names)[0] or "the network") if met or (names and len(names) == len(layers)) else None


def described(module: nn.Module) -> str | None:
    """By which statistics a module predicts, in words; None where it has no batch normalisation.

    >>> described(nn.Linear(1, 1)), described(nn.BatchNorm1d(1))
    (None, 'mean 0 and variance 1: no training step has written any')
    """
    if not batchnorms(module):
        return None
    found = lacking(module)
    if found is None:
        return AVERAGES
    return {
        "statistics": "the statistics of the rows beside it: the network keeps none",
        "training": _unwritten(module),
    }[found[0]]


def _unwritten(module: nn.Module) -> str:
    for layer in batchnorms(module).values():
        if int(layer.num_batches_tracked or 0) > 0 and share_of_start(layer) > 0.5:
            return f"mean 0 and variance 1, or nearly: momentum={layer.momentum:g} keeps {share_of_start(layer):.0%} of them"
    return "mean 0 and variance 1: no training step has written any"


def check_statistics(module: nn.Module) -> None:
    """Refuse to predict a row from the others beside it, and warn where statistics have never been taken.

    Args:
        module: The network.

    Raises:
        ValueError: If a batch normalisation keeps no statistics.

    Warns:
        UserWarning: If its statistics are those it was made with.
    """
    what, where = lacking(module) or ("", "")
    if what == "statistics":
        raise ValueError(
            "a prediction must not depend on the rows beside it, but a batch normalisation that keeps no statistics "
            f"(track_running_stats=False at {where}) normalises by them; take those of the training rows: "
            "bayesreg.refresh_batchnorm(posterior, X)."
        )
    if what == "training":
        warnings.warn(
            f"batch normalisation at {where} has no statistics yet, so that it predicts by {_unwritten(module)}; take those of "
            "the training rows: bayesreg.refresh_batchnorm(posterior, X).",
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
    """Entries of the largest thing that a layer puts out for one row, by a pass of a few."""
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


def statistics(
    module: nn.Module, call: Callable[[torch.Tensor], object], x: torch.Tensor, entries: int | None = None
) -> dict[str, torch.Tensor]:
    """Mean and variance of what reaches each batch normalisation, over all these rows, each layer behind normalised ones.

    The variance is the mean squared deviation (no n/(n−1)), as a forward pass in training normalises by it. Rows that do not
    fit into memory at once go through in blocks, once for each layer, to the same numbers.

    Args:
        module: What `by_batch` gave, which `call` runs.
        call: One pass on prepared rows; may be traced by `vmap` while the rows are few.
        x: Prepared rows.
        entries: What `widest` found; those of a row itself when None.

    Returns:
        By the buffers' dotted names, as `buffer_shapes` lists them.

    Raises:
        ValueError: If a layer is met twice in a pass, or sees one value a channel.
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
                f"a batch normalisation must be met once in a pass to have one set of statistics, but {', '.join(names)} is "
                "met twice; use a layer of its own at each place."
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
    for name, layer in layers.items():  # mean 0 and variance 1 of one that no row meets
        mean, variance = found[layer] or (like.new_zeros(layer.num_features), like.new_ones(layer.num_features))
        taken |= {dotted(name, "running_mean"): mean, dotted(name, "running_var"): variance}
    return taken


def _gather(layer: ByBatch, call: Callable[[torch.Tensor], object], x: torch.Tensor, rows: int) -> None:
    """Fix a layer's statistics over all rows, those before it being fixed already."""
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
    """A deep copy of the module that carries these statistics.

    Args:
        module: Any module.
        found: As `statistics` gives them.

    Returns:
        The copy; its layers count as trained.
    """
    made = tracking(module)
    with torch.no_grad():
        for name, value in found.items():
            made.get_buffer(name).copy_(value)
        for layer in batchnorms(made).values():
            if layer.num_batches_tracked is not None:
                small = 0 < (layer.momentum or 0.0) < 0.1  # as many steps as take them, see `share_of_start`
                layer.num_batches_tracked.clamp_(min=math.ceil(math.log(0.5) / math.log1p(-layer.momentum)) + 1 if small else 1)  # pyright: ignore
    return made
