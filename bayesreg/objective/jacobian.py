"""∂f/∂u of a network's output, row by row: few outputs of many unknowns, so backward passes are the cheap ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from bayesreg.behaviour import Behaviour, output_jacobian

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_ENTRIES = 2**22  # of the derivative that are held at once
_ROWS = 1024


def jacobians(
    behaviour: Behaviour, f: Forward, centre: torch.Tensor, x: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """The derivative at one point in blocks of rows; a row's output must not hang on the other rows.

    Args:
        behaviour: What the network stands.
        f: From unknowns and inputs to outputs, (P,) and (B, ...) → (B,) or (B, K).
        centre: The point, (P,).
        x: Prepared inputs, (N, ...).

    Yields:
        The rows; the output there, (B,) or (B, K); the derivative, (B, K, P) with K = 1 for a scalar output. All detached.

    >>> x, square = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), lambda u, x: (x @ u) ** 2
    >>> [(rows, y.tolist(), j.tolist()) for rows, y, j in jacobians(Behaviour(torch.nn.Identity()), square, torch.ones(2), x)]
    [(slice(0, 2, None), [9.0, 49.0], [[[6.0, 12.0]], [[42.0, 56.0]]])]
    """
    with torch.no_grad():
        width = f(centre, x[:1]).numel()
    step = max(1, min(_ROWS, _ENTRIES // (len(centre) * width)))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        slopes, output = output_jacobian(behaviour, f, centre, part)
        yield slice(start, start + len(part)), output.detach(), slopes.detach().reshape(len(part), -1, len(centre))
