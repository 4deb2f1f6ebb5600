"""Gradients of a module that recomputes parts of itself in its backward pass (activation checkpointing).

`functional_call` gives a module other weights for one pass. A checkpoint recomputes later, in the backward pass, from the
module's own weights: silently, the gradient is wrong. Here the backward pass runs while the other weights are still in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn
from torch.func import functional_call


class _Backward(nn.Module):
    """One forward and backward pass through a module, while other weights are in place."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, slope: torch.Tensor) -> None:
        torch.autograd.backward(self.inner(x), slope)


class _Recomputing(torch.autograd.Function):
    """The module's output; its backward pass runs the module a second time."""

    @staticmethod
    def forward(ctx: Any, module: nn.Module, x: torch.Tensor, names: tuple[str, ...], *tensors: torch.Tensor) -> torch.Tensor:
        ctx.module, ctx.names = module, names
        ctx.save_for_backward(x, *tensors)
        return functional_call(module, dict(zip(names, tensors, strict=True)), (x,), tie_weights=False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        leaves = [t.detach().requires_grad_(wants) for t, wants in zip(tensors, wanted, strict=True)]
        inside = {f"inner.{name}": leaf for name, leaf in zip(ctx.names, leaves, strict=True)}

        def run() -> None:
            with torch.enable_grad():
                functional_call(_Backward(ctx.module), inside, (x, slope), tie_weights=False)

        with ThreadPoolExecutor(1) as own:  # a reentrant checkpoint refuses to run in the thread of an outer autograd.grad
            own.submit(run).result()
        slopes = (leaf.grad for leaf in leaves)
        return None, None, None, *(s.to_dense() if s is not None and s.is_sparse else s for s in slopes)


def called(module: nn.Module, tensors: Mapping[str, torch.Tensor], x: torch.Tensor, *, recomputes: bool) -> Any:
    """`functional_call`: a pass through a module with other parameters and buffers, by dotted name, tied ones at each place.

    Where the module recomputes in its backward pass, the output can be differentiated only once.
    """
    if recomputes and torch.is_grad_enabled():
        return _Recomputing.apply(module, x, tuple(tensors), *tensors.values())
    return functional_call(module, dict(tensors), (x,), tie_weights=False)
