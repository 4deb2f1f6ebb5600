"""Batch normalisation of many fits at once, in one kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def stacks(layer: nn.Module) -> bool:
    """True for a layer that `normalised` can replace."""
    return type(layer) is nn.BatchNorm1d


def normalised(
    layer: nn.BatchNorm1d,
    x: torch.Tensor,
    affine: tuple[torch.Tensor, torch.Tensor] | None,
    buffers: Mapping[str, torch.Tensor],
    prefix: str,
    *,
    training: bool,
) -> torch.Tensor:
    """Batch normalisation of R fits, (R, B, C), as torch's own of R·C channels: each fit has statistics of its own.

    Weight and bias are (R, C) each, or None. `buffers` are by dotted name below `prefix`, (R, C) each; with `training` it
    normalises by the batch and updates them. eps and momentum are those of `layer`.
    """
    count, rows, channels = x.shape
    mean, variance = (buffers.get(f"{prefix}{name}") for name in ("running_mean", "running_var"))
    tracked, factor = buffers.get(f"{prefix}num_batches_tracked"), layer.momentum or 0.0
    if training and not layer.track_running_stats:
        mean = variance = None
    elif training and tracked is not None:
        tracked.add_(1)
        factor = 1 / float(tracked) if layer.momentum is None else factor

    def flat(value: Any) -> Any:
        return None if value is None else value.reshape(count * channels)  # a view of a buffer: torch writes into it

    found = functional.batch_norm(
        x.transpose(0, 1).reshape(rows, count * channels),
        flat(mean),
        flat(variance),
        *map(flat, affine or (None, None)),
        training=training or mean is None,
        momentum=factor,
        eps=layer.eps,
    )
    return found.view(rows, count, channels).transpose(0, 1)
