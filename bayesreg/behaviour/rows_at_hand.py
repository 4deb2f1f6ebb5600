"""Batch normalisation by the current rows, in every mode, in plain operations.

y = a · (x − m)/√(v + ε) + b,     m and v over the rows and positions that came, one each for a channel
"""

from __future__ import annotations

import torch
from torch import nn


class ByBatch(nn.Module):
    """Batch normalisation by the statistics of the current rows, in every mode, without updates; a and b keep their names.

    Plain operations, so that it can be differentiated to any order and vmapped.

    Args:
        layer: torch's layer, whose affine weights are taken over as they are.

    >>> x, layer = torch.randn(8, 3), nn.BatchNorm1d(3)
    >>> bool(torch.allclose(ByBatch(layer)(x), layer.train()(x), atol=1e-6))
    True
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, layer: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.register_parameter("weight", layer.weight)
        self.register_parameter("bias", layer.bias)
        self.eps, self.num_features = layer.eps, layer.num_features
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] | None = None  # the statistics of each pass, where a list is set
        self.fixed: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape, (B, C) or (B, C, ...).

        Raises:
            ValueError: If there is one value a channel only, whose variance is zero.
        """
        if self.fixed is not None:
            mean, variance = self.fixed
        elif x.numel() == x.shape[1]:
            raise ValueError("batch statistics need at least two values a channel, but one row came; pass more rows.")
        else:
            variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
        if self.kept is not None:
            self.kept.append((mean, variance))
        along = (-1, *[1] * (x.dim() - 2))
        found = (x - mean.view(along)) * (variance.view(along) + self.eps).rsqrt()
        found = found if self.weight is None else found * self.weight.view(along)
        return found if self.bias is None else found + self.bias.view(along)
