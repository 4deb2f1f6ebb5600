"""Kinds of layers, each defined in one place: which are ordinary, which normalise, keep statistics, or draw random masks."""

from __future__ import annotations

from typing import Any

from torch import nn

from bayesreg.behaviour.rows_at_hand import ByBatch
from bayesreg.layers import MLP, AbstractMask, Standardize
from bayesreg.layers.base import AbstractUnitMask
from bayesreg.operators import AbstractOperator, Observed

# layers that support every transform (a test checks it) and are the same function in training and evaluation, except batch
# normalisation and dropout; for other modules both are tried
KNOWN: tuple[type[nn.Module], ...] = (
    nn.Sequential,
    MLP,
    Standardize,
    nn.Linear,
    nn.Bilinear,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    ByBatch,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.Dropout,
    nn.Dropout2d,
    nn.Embedding,
    nn.Tanh,
    nn.ReLU,
    nn.ReLU6,
    nn.Sigmoid,
    nn.SiLU,
    nn.GELU,
    nn.Softplus,
    nn.Softsign,
    nn.ELU,
    nn.LeakyReLU,
)

# layers whose own weights are about one, and flat by default
NORMALISING: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,
    ByBatch,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)

_FORWARDS = (
    nn.modules.batchnorm._BatchNorm.forward,
    nn.SyncBatchNorm.forward,
    nn.modules.instancenorm._InstanceNorm.forward,
)


def is_known(layer: nn.Module) -> bool:
    """True for an unmodified layer of a type that supports everything: without hooks or a forward of its own."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
    if isinstance(layer, nn.Embedding) and (layer.sparse or layer.max_norm is not None):
        return False
    if isinstance(layer, AbstractOperator) and not layer.transformable:
        return False
    known = type(layer) in KNOWN or isinstance(layer, (AbstractMask, AbstractOperator, Observed))
    return known and not hooks and "forward" not in vars(layer)


def by_the_batch(layer: nn.Module) -> bool:
    """True for torch's batch normalisations, 1d, 2d, 3d and synchronised."""
    return isinstance(layer, nn.modules.batchnorm._BatchNorm)


def normalises(layer: nn.Module) -> bool:
    """True for a layer that normalises its input, in training as in evaluation, by whichever statistics."""
    return isinstance(layer, (*NORMALISING, Standardize))


def name_of(layer: nn.Module) -> str:
    """The name of a layer for which `moves` is true."""
    return "batch normalisation" if by_the_batch(layer) else "instance normalisation"


def moves(layer: nn.Module) -> bool:
    """True for a torch layer that, in training mode, normalises by the batch or updates running statistics.

    >>> [moves(layer) for layer in (nn.BatchNorm1d(2), nn.InstanceNorm1d(2), nn.LayerNorm(2))]
    [True, False, False]
    >>> moves(nn.InstanceNorm1d(2, track_running_stats=True))
    True
    """
    if isinstance(layer, nn.modules.instancenorm._InstanceNorm):  # by each row alone, unless it keeps statistics
        return layer.track_running_stats
    return isinstance(layer, nn.modules.batchnorm._NormBase)


def draws(layer: nn.Module) -> bool:
    """True for a layer of torch or this package that draws a random mask in training; torch's with rate 0 draw none.

    >>> draws(nn.Dropout(0.1)), draws(nn.Dropout(0.0))
    (True, False)
    """
    return isinstance(layer, AbstractMask) or (isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0)


def passes_on(layer: nn.Module) -> bool:
    """True for a layer that in evaluation returns its input's numbers, perhaps in another shape."""
    noise = (nn.modules.dropout._DropoutNd, AbstractUnitMask)
    return isinstance(layer, (nn.Identity, nn.Flatten, nn.Unflatten, *noise))


def works_in_place(layer: nn.Module) -> bool:
    """True for a layer that says it writes into its input."""
    return bool(vars(layer).get("inplace", False))


def has_own_forward(layer: Any) -> bool:
    """True for a normalisation whose forward is not torch's, so that it cannot be replaced."""
    return type(layer).forward not in _FORWARDS or "forward" in vars(layer)
