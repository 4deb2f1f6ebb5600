"""Draws of weights to draws of outputs, within a bound on memory.

Two ways: a loop over draws, one forward pass each, which wins for many rows; or draws vmapped in chunks, which wins
for few. Which one is taken follows from the sizes; the answer is the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.func import vmap

from bayesreg.flat import FlatLayout
from bayesreg.jacobian import jacobians
from bayesreg.model import BayesianModel

MAX_MEMORY = 2**31  # bytes that the stored outputs may take unless a caller says otherwise
_VMAP_ROWS = 256  # up to about here one batched product is cheaper than the overhead of a forward pass for each draw
_BLOCK_ENTRIES = 2**22  # rows × draws that go through the network at once


def outputs(
    model: BayesianModel,
    layout: FlatLayout,
    u: torch.Tensor,
    x: torch.Tensor,
    *,
    linearize_at: torch.Tensor | None = None,
    max_memory: int = MAX_MEMORY,
    forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """The network's output at every row for every draw, in the units that the model works in.

    Args:
        model: The model.
        layout: Where each unknown lies in the vector.
        u: Draws, (S, P) unconstrained.
        x: Prepared inputs, (N, ...).
        linearize_at: If given, (P,): the output is f(x; u₀) + J(x; u₀)(u − u₀) instead of f(x; u).
        max_memory: Bytes that the result may take.
        forward: From a draw and inputs to outputs, where a draw is no (P,) vector of unknowns.

    Returns:
        (S, N) or (S, N, K), detached.

    Raises:
        ValueError: If the result would be larger than `max_memory`.
    """
    f = forward or _forward(model, layout)
    with torch.no_grad():
        first = f(u[0], x[:1])
        needed = len(u) * len(x) * first.numel() * first.element_size()
        if needed > max_memory:
            raise ValueError(
                f"the predictive must fit into max_memory={max_memory:,} bytes, but {len(u):,} draws × {len(x):,} rows "
                f"need {needed:,}; lower num_samples, predict the rows in blocks, or raise max_memory."
            )
        result = first.new_empty(len(u), len(x), *first.shape[1:])
        if linearize_at is not None:
            _fill_linear(f, u, x, linearize_at, result)
        elif len(x) <= _VMAP_ROWS:
            chunk = max(1, min(len(u), 20_000 // len(x)))
            for rows in torch.arange(len(u), device=u.device).split(chunk):
                result[rows] = vmap(f, in_dims=(0, None), randomness="different")(u[rows], x)
        else:
            block = max(_VMAP_ROWS, _BLOCK_ENTRIES // max(1, x[0].numel()))
            for s, draw in enumerate(u):
                for start in range(0, len(x), block):
                    result[s, start : start + block] = f(draw, x[start : start + block])
    return result


def _forward(model: BayesianModel, layout: FlatLayout) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def f(u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return model.forward(layout.unflatten(u), x)

    return f


def _fill_linear(f: Callable, u: torch.Tensor, x: torch.Tensor, centre: torch.Tensor, result: torch.Tensor) -> None:
    """By the Jacobian of a block of rows: backward passes for its outputs, and not a forward one for each draw."""
    steps = (u - centre).mT
    for rows, base, slopes in jacobians(f, centre, x):
        moved = (slopes.reshape(-1, len(centre)) @ steps).mT
        result[:, rows] = base + moved.reshape(len(u), *base.shape)
