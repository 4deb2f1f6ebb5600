"""The identity as a forward map: measurements are the unknown itself."""

from __future__ import annotations

import torch

from bayesreg.operators.base import AbstractLinearOperator, shape_of


class Identity(AbstractLinearOperator):
    """x itself: the forward map of denoising.

    Args:
        shape: Shape of the unknown.

    Raises:
        ValueError: If a size is no whole number >= 1.

    >>> Identity((2, 3))(torch.ones(5, 2, 3)).shape
    torch.Size([5, 2, 3])
    """

    transformable = True

    def __init__(self, shape: int | tuple[int, ...]) -> None:
        super().__init__()
        self.shape = self.output_shape = shape_of("shape", shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X."""
        return self.field(x)

    def adjoint(self, b: torch.Tensor) -> torch.Tensor:
        """B."""
        return self.measurements(b)

    def spectrum(self) -> tuple[str, torch.Tensor]:
        """Ones."""
        return "dct", torch.ones(self.shape, dtype=torch.float64)
