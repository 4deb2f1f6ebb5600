"""Differences of neighbours: a derivative, where slopes or curvatures are measured."""

from __future__ import annotations

import torch

from bayesreg import _check
from bayesreg.operators.base import AbstractLinearOperator, shape_of


class Difference(AbstractLinearOperator):
    """Differences of neighbours along an axis, of order 1 (xᵢ₊₁ − xᵢ), 2 (curvature) or more; the axis is shorter by the order.

    Its null space are the polynomials below that order.

    Args:
        order: How many times the difference is taken.
        axis: Along which axis; the last by default.
        shape: Shape of the unknown.

    Raises:
        ValueError: If order or a size is no whole number >= 1, or there is no such axis or it is not longer than the order.

    >>> Difference(2, shape=4).matrix().tolist()
    [[1.0, -2.0, 1.0, 0.0], [0.0, 1.0, -2.0, 1.0]]
    """

    transformable = True

    def __init__(self, order: int = 1, axis: int = -1, *, shape: int | tuple[int, ...]) -> None:
        super().__init__()
        self.order, self.shape = _check.count("order", order), shape_of("shape", shape)
        if axis not in range(-len(self.shape), len(self.shape)):
            raise ValueError(f"axis must be one of the {len(self.shape)} of shape {self.shape}, but {axis} came; take another.")
        self.axis = axis - len(self.shape) if axis >= 0 else int(axis)  # from the end, so that leading axes do not count
        length = self.shape[self.axis]
        if length <= self.order:
            raise ValueError(
                f"the axis must be longer than the order of the difference, but {length} and {self.order} came; lower the "
                "order, or take another axis."
            )
        sizes = list(self.shape)
        sizes[self.axis] = length - self.order
        self.output_shape = tuple(sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Dᵏ x, (..., *output_shape)."""
        return self.field(x).diff(self.order, self.axis)

    def adjoint(self, b: torch.Tensor) -> torch.Tensor:
        """Dᵏᵀ b, (..., *shape): differences again, with zeros beyond the ends."""
        b = self.measurements(b)
        sizes = list(b.shape)
        sizes[self.axis] = self.order
        edge = b.new_zeros(sizes)
        return (-1) ** self.order * torch.cat([edge, b, edge], self.axis).diff(self.order, self.axis)

    def spectrum(self) -> tuple[str, torch.Tensor] | None:
        """Of first differences, 2 − 2 cos(πk/N)."""
        if self.order > 1:
            return None
        length = self.shape[self.axis]
        values = 2 - 2 * (torch.pi / length * torch.arange(length, dtype=torch.float64)).cos()
        sizes = [1] * len(self.shape)
        sizes[self.axis] = length
        return "dct", values.reshape(sizes).expand(self.shape)
