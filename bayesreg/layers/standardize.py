"""Data normalisation as a layer: x → (x − mean)/sd with statistics of the training rows, which no training changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bayesreg import _check
from bayesreg.data.arrays import as_tensor
from bayesreg.data.moments import Moments


class Standardize(nn.Module):
    """x → (x − mean)/scale, the statistics fixed when the layer is made.

    `BayesianModel(..., standardize=True)` does the same outside of the network and the target's too; the layer is for networks
    that must carry their own, and for inputs in the middle of one. Unlike batch normalisation it is the same function in
    training and evaluation, and does not depend on the batch. It computes in the type of its input: a float32 column whose mean
    is 10⁶ sds has lost its digits before.

    Args:
        mean: (D,), or (C, 1, ...) for inputs with a channel axis.
        scale: Same shape, > 0.
        constant: Numbers of the columns that do not vary, for information.

    Raises:
        ValueError: If a scale is not above 0, or the shapes differ.

    >>> X = torch.tensor([[1.0, 7.0], [3.0, 7.0]])
    >>> layer = Standardize.of(X)
    >>> layer(X), layer.constant  # a constant column is centred and kept
    (tensor([[-1.,  0.],
            [ 1.,  0.]]), (1,))
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, mean: Any, scale: Any, constant: Sequence[int] = ()) -> None:
        super().__init__()
        mean, scale = (torch.as_tensor(value) for value in (mean, scale))
        mean, scale = (v if v.is_floating_point() else v.to(torch.get_default_dtype()) for v in (mean, scale))
        if mean.shape != scale.shape:
            raise ValueError(
                f"mean and scale must have one shape, but {tuple(mean.shape)} and {tuple(scale.shape)} came; pass one number "
                "of each a column."
            )
        _check.all_finite("mean", mean)
        if not bool((_check.all_finite("scale", scale) > 0).all()):
            raise ValueError(f"scale must be above 0, but {float(scale.min()):g} came; pass 1 for a constant column.")
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("scale", scale.detach().clone())
        self.constant = tuple(constant)

    @classmethod
    def of(cls, X: Any) -> Standardize:
        """The layer for these training rows, in their own floating type.

        Args:
            X: (N, D), or (N, C, ...), whose statistics then are those of each channel. Training rows only: with test rows among
                them the test would be biased.

        Returns:
            The layer; `constant` names the columns that do not vary, which are centred and keep their scale.

        Raises:
            ValueError: If there are no rows, or entries that are not finite.
        """
        x = as_tensor("X", X)  # a data frame too
        if x.dim() < 2:
            raise ValueError(
                f"X must have rows and columns, but shape {tuple(x.shape)} came; pass one column as an array of shape (N, 1)."
            )
        moments = Moments()
        moments.add_channels(x)
        mean, scale, constant = moments.standardizing(x.shape[1:2] + (1,) * (x.dim() - 2))
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        return cls(mean.to(dtype), scale.to(dtype), constant)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Standardised inputs, in the shape of `x`."""
        return (x - self.mean) / self.scale

    def extra_repr(self) -> str:
        """Shape, and the columns that do not vary."""
        constant = f", constant={self.constant}" if self.constant else ""
        return f"{tuple(self.mean.shape)}{constant}"
