"""Measurements of some entries of the unknown only: inpainting, missing data."""

from __future__ import annotations

from typing import Any

import torch

from bayesreg.operators.base import AbstractLinearOperator, as_given


class Mask(AbstractLinearOperator):
    """The observed entries of x, in row-major order: the forward map of inpainting.

    Args:
        observed: Truth values in the unknown's shape, at least one of them true.

    Raises:
        ValueError: If it is not an array of truth values, or nothing is observed.

    >>> A = Mask([True, False, True])
    >>> A(torch.tensor([1.0, 2.0, 3.0])).tolist(), A.adjoint(torch.tensor([1.0, 3.0])).tolist()
    ([1.0, 3.0], [1.0, 0.0, 3.0])
    """

    observed: torch.Tensor
    _at: torch.Tensor
    transformable = True

    def __init__(self, observed: Any) -> None:
        super().__init__()
        observed = as_given(observed)
        if observed.dtype != torch.bool or observed.dim() == 0:
            raise ValueError(
                f"observed must be an array of truth values, but {observed.dtype} of shape {tuple(observed.shape)} came; write "
                "for example observed=~np.isnan(b)."
            )
        if not bool(observed.any()):
            raise ValueError(
                f"observed must be true somewhere, but none of {observed.numel():,} entries is; turn it round if it says what "
                "is missing."
            )
        at = observed.reshape(-1).nonzero()[:, 0]
        self.register_buffer("observed", observed)
        self.register_buffer("_at", at, persistent=False)
        self.shape, self.output_shape = tuple(observed.shape), (len(at),)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The observed entries, (..., M)."""
        x = self.field(x)
        return x.reshape(*x.shape[: x.dim() - len(self.shape)], self.size).index_select(-1, self._at)

    def adjoint(self, b: torch.Tensor) -> torch.Tensor:
        """B where it was observed, and zeros, (..., *shape)."""
        b = self.measurements(b)
        lead = b.shape[:-1]
        return b.new_zeros(*lead, self.size).index_add(-1, self._at, b).reshape(*lead, *self.shape)
