"""A forward map as the module of a model: its one weight is the unknown x, and row i of its output is measurement i."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bayesreg.operators.base import AbstractOperator, as_given


class Observed(nn.Module):
    """The module b = F(x): its weight is the unknown "x", its inputs are the numbers of measurements, its outputs these.

    Args:
        operator: The forward map; shared, not copied.

    >>> from bayesreg.operators import Dense
    >>> module = Observed(Dense([[1.0, 1.0], [1.0, -1.0]]))
    >>> module(torch.tensor([1.0, 0.0])).tolist(), [name for name, _ in module.named_parameters()]
    ([0.0, 0.0], ['x'])
    """

    def __init__(self, operator: AbstractOperator) -> None:
        super().__init__()
        self.operator = operator.requires_grad_(False)
        self.x = nn.Parameter(torch.zeros(operator.shape, dtype=torch.float64))

    def rows(self) -> torch.Tensor:
        """The numbers 0 … M − 1 of all measurements, (M,) float64: what a fit takes for X."""
        return torch.arange(self.operator.num_data, dtype=torch.float64)

    def numbered(self, rows: Any) -> Any:
        """The numbers of some measurements, as they came.

        Raises:
            ValueError: If they are not whole numbers from 0 to M − 1 in one line.
        """
        values, most = as_given(rows), self.operator.num_data - 1
        line = values.dim() == 1 or (values.dim() == 2 and values.shape[1] == 1)
        if not line or values.is_complex() or not bool(((values >= 0) & (values <= most) & (values % 1 == 0)).all()):
            raise ValueError(
                f"X must be None for all measurements, or the numbers of some, whole ones from 0 to {most:,}, but shape "
                f"{tuple(values.shape)} with others came; measurements themselves go third: br.fit(model, None, b)."
            )
        return rows

    def measured(self, b: Any) -> torch.Tensor:
        """Measurements as the targets of a fit, (M,), in row-major order.

        Raises:
            ValueError: If they are complex, not of the operator's `output_shape`, or NaN or infinite.
        """
        values = as_given(b)
        if values.is_complex():
            raise ValueError("b must be real, but complex numbers came; stack real and imaginary parts, in the operator too.")
        if values.shape not in (self.operator.output_shape, (self.operator.num_data,)):
            raise ValueError(
                f"b must have the shape of what the operator gives, {self.operator.output_shape}, but {tuple(values.shape)} "
                "came; reshape it, or give the operator the shape of the data."
            )
        missing = int((~torch.isfinite(values)).sum())
        if missing:
            raise ValueError(
                f"b must be finite, but {missing:,} of {values.numel():,} entries are NaN or infinite; take the others alone: "
                "observed = np.isfinite(b), the operator operators.Mask(observed) @ A, and b[observed]."
            )
        return values.reshape(-1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Measurements, (B,), of these numbers, (B,)."""
        return self.operator(self.x).reshape(-1)[rows.long()]
