"""Several kinds of measurements of one unknown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bayesreg.operators.base import AbstractLinearOperator


class Stack(AbstractLinearOperator):
    """(A x, B x, …), one after the other in a line: several measurements of one unknown.

    Args:
        operators: Linear operators of the same `shape`; each gives its measurements in row-major order.

    Raises:
        ValueError: If there is none, one is not linear, or their shapes differ.

    >>> from bayesreg.operators import Dense, Identity
    >>> Stack([Identity(2), Dense([[1.0, 1.0]])]).matrix().tolist()
    [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    """

    def __init__(self, operators: Sequence[AbstractLinearOperator]) -> None:
        super().__init__()
        operators = list(operators)
        if not operators or not all(isinstance(operator, AbstractLinearOperator) for operator in operators):
            kinds = ", ".join(type(operator).__name__ for operator in operators) or "none"
            raise ValueError(
                f"a stack must be of linear operators, but {kinds} came; write operators.Stack([A, B]), and for maps that are "
                "not linear operators.Nonlinear."
            )
        if len({operator.shape for operator in operators}) > 1:
            shapes = ", ".join(str(operator.shape) for operator in operators)
            raise ValueError(
                f"a stack must be of operators on the same unknown, but shapes {shapes} came; give them one shape."
            )
        self.operators = nn.ModuleList(operators)
        self._sizes = [operator.num_data for operator in operators]
        self.shape, self.output_shape = operators[0].shape, (sum(self._sizes),)

    @property
    def parts(self) -> list[AbstractLinearOperator]:
        """The operators."""
        return list(self.operators)  # pyright: ignore[reportReturnType]

    @property
    def transformable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether all are."""
        return all(operator.transformable for operator in self.parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All measurements, (..., M)."""
        x = self.field(x)
        lead = x.shape[: x.dim() - len(self.shape)]
        return torch.cat([operator(x).reshape(*lead, operator.num_data) for operator in self.parts], -1)

    def adjoint(self, b: torch.Tensor) -> torch.Tensor:
        """The sum of Aᵀ of each part of b, (..., *shape)."""
        pieces = self.measurements(b).split(self._sizes, -1)
        pairs = zip(self.parts, pieces, strict=True)
        return torch.stack([o.adjoint(piece.reshape(*piece.shape[:-1], *o.output_shape)) for o, piece in pairs]).sum(0)

    def matrix(self) -> torch.Tensor:
        """The matrices one below the other."""
        return torch.cat([operator.matrix() for operator in self.parts])

    def spectrum(self) -> tuple[str, torch.Tensor] | None:
        """The sum of the parts' eigenvalues, where one transform has them all."""
        found = [operator.spectrum() for operator in self.parts]
        named = {one[0] for one in found if one is not None}
        if None in found or len(named) > 1:
            return None
        return named.pop(), torch.stack([one[1] for one in found if one is not None]).sum(0)
