"""∂f/∂u of a network's output, row by row: few outputs of many unknowns, so backward passes are the cheap ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.func import jacrev, vmap

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_ENTRIES = 2**22  # of the derivative that are held at once
_ROWS = 1024


def jacobians(f: Forward, centre: torch.Tensor, x: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """The derivative at one point in blocks of rows; a row's output must not hang on the other rows.

    Args:
        f: From unknowns and inputs to outputs, (P,) and (B, ...) → (B,) or (B, K).
        centre: The point, (P,).
        x: Prepared inputs, (N, ...).

    Yields:
        The rows; the output there, (B,) or (B, K); the derivative, (B, K, P) with K = 1 for a scalar output. All detached.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> [(rows, y.tolist(), j.tolist()) for rows, y, j in jacobians(lambda u, x: (x @ u) ** 2, torch.ones(2), x)]
    [(slice(0, 2, None), [9.0, 49.0], [[[6.0, 12.0]], [[42.0, 56.0]]])]
    """

    def row(u: torch.Tensor, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = f(u, inputs[None])[0]
        return output.reshape(-1), output

    with torch.no_grad():
        width = f(centre, x[:1]).numel()
    step = max(1, min(_ROWS, _ENTRIES // (len(centre) * width)))
    together = vmap(jacrev(row, has_aux=True), in_dims=(None, 0))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        try:
            slopes, output = together(centre, part)
        except (RuntimeError, NotImplementedError):  # an operation that vmap lacks
            slopes, output = _one_by_one(f, centre, part)
        yield slice(start, start + len(part)), output.detach(), slopes.detach()


def _one_by_one(f: Forward, centre: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with nothing but backward passes."""
    with torch.enable_grad():
        u = centre.detach().clone().requires_grad_()
        output = f(u, x)
        entries = output.reshape(len(x), -1)
        slopes = [torch.autograd.grad(entry, u, retain_graph=True)[0] for entry in entries.reshape(-1)]
    return torch.stack(slopes).reshape(*entries.shape, -1), output
