"""A matrix as a forward map."""

from __future__ import annotations

from typing import Any

import torch

from bayesreg.operators.base import AbstractLinearOperator, real


class Dense(AbstractLinearOperator):
    """A matrix: A x.

    Args:
        matrix: A, (M, N): NumPy array, tensor or nested lists of finite real numbers.

    Raises:
        ValueError: If it is no such matrix.

    >>> Dense([[1.0, 1.0]]).matrix().tolist()
    [[1.0, 1.0]]
    """

    values: torch.Tensor
    transformable = True

    def __init__(self, matrix: Any) -> None:
        super().__init__()
        values = real("A", matrix)
        if values.dim() != 2:
            raise ValueError(f"A must be a matrix (M, N), but shape {tuple(values.shape)} came; give it two axes.")
        self.register_buffer("values", values)
        self.shape, self.output_shape = (values.shape[1],), (values.shape[0],)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A x, (..., M)."""
        x = self.field(x)
        return x @ self.values.T.to(x)

    def adjoint(self, b: torch.Tensor) -> torch.Tensor:
        """Aᵀ b, (..., N)."""
        b = self.measurements(b)
        return b @ self.values.to(b)

    def matrix(self) -> torch.Tensor:
        """A itself, (M, N) float64."""
        return self.values.double()
