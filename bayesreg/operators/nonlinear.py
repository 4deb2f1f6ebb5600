"""Any function as a forward map: F(x) = b, differentiated by autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn

from bayesreg.operators.base import AbstractOperator, shape_of


class Nonlinear(AbstractOperator):
    """A function of the unknown, written with torch: F(x) = b.

    Args:
        function: Takes one x of `shape`, gives one b. A module is copied, its weights stay constants and it evaluates.
        shape: Shape of the unknown.
        output_shape: Shape of the measurements; by default what the function gives for zeros.

    Raises:
        ValueError: If the function fails on zeros, or gives no real floating-point tensor, an empty one or one of another
            shape than `output_shape`.

    >>> F = Nonlinear(lambda x: x.exp().cumsum(0), shape=3)
    >>> F(torch.zeros(3)).tolist(), F(torch.zeros(5, 3)).shape
    ([1.0, 2.0, 3.0], torch.Size([5, 3]))
    """

    linear: ClassVar[bool] = False

    def __init__(
        self,
        function: Callable[[torch.Tensor], torch.Tensor],
        shape: int | tuple[int, ...],
        output_shape: int | tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        if not callable(function):
            raise ValueError(
                f"function must be callable, but {type(function).__name__} came; write Nonlinear(lambda x: x**2, shape)."
            )
        self.function = _constant(function) if isinstance(function, nn.Module) else function
        self.shape = shape_of("shape", shape)
        self.output_shape = self._output_shape()
        if output_shape is not None and shape_of("output_shape", output_shape) != self.output_shape:
            raise ValueError(
                f"the function must give output_shape, but {output_shape} and {self.output_shape} came; leave it out, or "
                "reshape what the function gives."
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """F(x) of each x, (..., *output_shape)."""
        x = self.field(x)
        lead = x.shape[: x.dim() - len(self.shape)]
        if not lead:
            return self._one(x)
        return torch.stack([self._one(part) for part in x.reshape(-1, *self.shape)]).reshape(*lead, *self.output_shape)

    def _one(self, x: torch.Tensor) -> torch.Tensor:
        first = next(self.function.parameters(), None) if isinstance(self.function, nn.Module) else None
        b = self.function(x if first is None else x.to(first.dtype))
        is_real = isinstance(b, torch.Tensor) and not b.is_complex()
        return torch.atleast_1d(b).to(x.dtype) if is_real else b

    def _output_shape(self) -> tuple[int, ...]:
        try:
            with torch.no_grad():
                found = self._one(torch.zeros(self.shape, dtype=torch.float64))
        except Exception as error:  # a user's function may raise anything
            raise ValueError(
                f"the function must take an x of shape {self.shape}, but for zeros it failed: {type(error).__name__}: {error}; "
                "correct the function or the shape."
            ) from error
        if not isinstance(found, torch.Tensor) or found.is_complex() or not found.numel():
            kind = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise ValueError(
                f"the function must give a real tensor with entries, but {kind} came; write it with torch, and stack real and "
                "imaginary parts."
            )
        return tuple(found.shape)


def _constant(module: nn.Module) -> nn.Module:
    """A copy in float64 that evaluates and is not learned."""
    return copy.deepcopy(module).double().eval().requires_grad_(False)
