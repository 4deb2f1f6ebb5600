"""Batch normalisation in many fits at once, all of them in one kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def stacks(layer: nn.Module) -> bool:
    """True for a layer that `normalised` can stand for."""
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
    """Batch normalisation of R fits as torch's own of R·C channels: each fit's channels have statistics of their own.

    Args:
        layer: The layer, whose numbers (eps, momentum) are those of all.
        x: (R, B, C).
        affine: Weight and bias, (R, C) each, or None.
        buffers: As a fit's buffers by dotted name, (R, C) each; written in training.
        prefix: Of the layer's buffers, with its dot.
        training: Normalise by the batch, and write the running statistics.

    Returns:
        (R, B, C).
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
