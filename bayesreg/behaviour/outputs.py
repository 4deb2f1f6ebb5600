"""Checks of a module's output: one tensor with one entry a row, or a sentence that says what came instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_HALF = (torch.bfloat16, torch.float16)


class UnlikeTensor(ValueError):
    """A forward gave something other than one tensor."""


def one_column(output: Any) -> torch.Tensor:
    """(B, 1) as (B,), (B, T, K) as (B, T·K), and the () from a squeeze of one row as (1,); half precision as float32.

    Raises:
        UnlikeTensor: If it is no dense tensor of real numbers.

    >>> one_column(torch.ones(2, 1, dtype=torch.bfloat16))
    tensor([1., 1.])
    """
    if not isinstance(output, torch.Tensor) or output.is_complex() or output.layout is not torch.strided:
        raise UnlikeTensor(_said(output))
    if output.dtype in _HALF:  # sums over rows would keep only two digits
        output = output.float()
    if output.dim() == 0:
        return output[None]
    output = output.flatten(1) if output.dim() == 3 else output
    return output.squeeze(-1) if output.dim() == 2 and output.shape[1] == 1 else output


def _said(output: Any) -> str:
    """What is wrong with an output that is no tensor, and how to correct it, one sentence."""
    kind, advice = type(output).__name__, "return one tensor"
    if isinstance(output, Mapping):
        kind = f"a {kind} with the keys {', '.join(map(repr, list(output)[:5]))}"
        advice = "take the one that counts in a module of your own, for example `return self.net(x)['logits']`"
    elif isinstance(output, (tuple, list)):
        kind = f"a {kind} of {len(output)}"
        advice = "take the first item in a module of your own, for example `return self.out(self.lstm(x)[0][:, -1])`"
    elif isinstance(output, torch.Tensor):
        kind, advice = "complex numbers", "take the real part, or the absolute value"
        if not output.is_complex():
            kind, advice = f"a tensor with layout {output.layout}", "call .to_dense() on it"
    elif output is None:
        kind, advice = "None", "let it end with a return"
    return f"the module must give one tensor with one entry a row, but its forward gives {kind}; {advice}."
