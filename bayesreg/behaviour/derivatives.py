"""Derivatives of a network, by the transforms it supports: one vmapped pass, two backward passes, or loops and differences.

    J   a backward pass a row and output          J v   forward mode, or the derivative of Jᵀ·, or (f(u+hv) − f(u−hv))/2h
    H   vmapped forward over backward, or a column a backward pass of ∇L, or (∇L(u+heᵢ) − ∇L(u−heᵢ))/2h

All ways give the same numbers: to rounding, and finite differences to ε^⅔.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.func import grad, jacrev, jvp, vmap

from bayesreg.behaviour.base import Behaviour
from bayesreg.behaviour.trial import DOUBLE, FORWARD, VMAP, difference_step

_ROWS = 16  # rows that one graph holds where each output has a backward pass of its own

Output = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (P,) and rows to (B, ...)
Loss = Callable[[torch.Tensor], torch.Tensor]  # (P,) to a scalar


def each(behaviour: Behaviour, f: Callable[..., torch.Tensor], u: torch.Tensor, **options: Any) -> torch.Tensor:
    """The values of f at several points (S, P), stacked: (S, ...). Options are vmap's `chunk_size` and `randomness`."""
    if behaviour.stands(VMAP):
        return vmap(f, **options)(u)
    return torch.stack([f(point) for point in u])


def together(behaviour: Behaviour, f: Callable[..., Any], in_dims: tuple[Any, ...]) -> Callable[..., Any]:
    """What `vmap` makes of f, or a loop that gives the same; arguments may be lists and dictionaries of tensors.

    `in_dims` is as for `vmap`: 0 or None, for each argument or each tensor in it. A tensor without a batch axis that f writes
    into, such as a batch count, is written once by `vmap`; the loop writes it in its first turn only.
    """
    if behaviour.stands(VMAP):
        return vmap(f, in_dims=in_dims)

    def looped(*arguments: Any) -> Any:
        size = next(n for n in map(_length, arguments, in_dims) if n is not None)
        turns = [[_turn(value, dim, i) for value, dim in zip(arguments, in_dims, strict=True)] for i in range(size)]
        found = [f(*turn) for turn in turns]
        return tuple(map(torch.stack, zip(*found, strict=True))) if isinstance(found[0], tuple) else torch.stack(found)

    return looped


def _inside(value: Any, dim: Any) -> list[tuple[Any, Any, Any]]:
    """The entries of a list or dictionary with their keys and axes."""
    keys = range(len(value)) if isinstance(value, (list, tuple)) else value.keys()
    return [(key, value[key], dim[key] if isinstance(dim, (dict, list, tuple)) else dim) for key in keys]


def _length(value: Any, dim: Any) -> int | None:
    if isinstance(value, torch.Tensor):
        return None if dim is None else len(value)
    if isinstance(value, (dict, list, tuple)):
        return next((n for n in (_length(part, own) for _, part, own in _inside(value, dim)) if n is not None), None)
    return None


def _turn(value: Any, dim: Any, i: int) -> Any:
    """The part of an argument for one turn of a loop."""
    if isinstance(value, torch.Tensor):
        return value[i] if dim is not None else value.clone() if i and not value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _turn(part, own, i) for key, part, own in _inside(value, dim)}
    if isinstance(value, (list, tuple)):
        return [_turn(part, own, i) for _, part, own in _inside(value, dim)]
    return value


def output_jacobian(behaviour: Behaviour, f: Output, u: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """∂f/∂u of each row, (B, ..., P), and the output (B, ...), both detached, for a network whose rows are independent."""
    if behaviour.stands(VMAP):

        def row(v: torch.Tensor, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            output = f(v, inputs[None])[0]
            return output, output

        jacobian, output = vmap(jacrev(row, has_aux=True), in_dims=(None, 0))(u, x)
        return jacobian.detach(), output.detach()
    slopes, outputs = [], []
    for part in x.split(_ROWS):
        w, output = _graph(lambda v, part=part: f(v, part), u)
        slopes.append(_by_output(output, w))
        outputs.append(output.detach())
    return torch.cat(slopes), torch.cat(outputs)


def coupled_jacobian(behaviour: Behaviour, f: Output, u: torch.Tensor, x: torch.Tensor, columns: int) -> torch.Tensor:
    """∂f/∂u, (B, K, P), detached, where rows depend on each other: a forward pass per unknown or a backward one per output.

    So many `columns` of the unknowns are differentiated at once where possible.
    """
    if behaviour.stands(VMAP, FORWARD):
        along = vmap(lambda direction: jvp(lambda v: f(v, x), (u,), (direction,))[1], chunk_size=columns)
        return along(torch.eye(len(u)).to(u)).permute(1, 2, 0).detach()
    w, output = _graph(lambda v: f(v, x), u)
    if output.numel() <= 2 * len(u):
        return _by_output(output, w)
    columns_of = [pushed_forward(behaviour, lambda v: f(v, x), u, direction) for direction in torch.eye(len(u)).to(u)]
    return torch.stack(columns_of, -1)


def pushed_forward(
    behaviour: Behaviour, f: Loss, u: torch.Tensor, v: torch.Tensor, graph: tuple[torch.Tensor, torch.Tensor] | None = None
) -> torch.Tensor:
    """J v of a function at u, v in (P,), detached, without J; in the shape of f(u).

    `graph` is a leaf at u and f there, where the caller has them already.
    """
    if behaviour.stands(DOUBLE):
        w, output = graph or _graph(f, u)
        with torch.enable_grad():
            ones = torch.zeros_like(output, requires_grad=True)
            pulled = pulled_back(output, w, ones, create_graph=True)
            return pulled_back(pulled, ones, v)  # the derivative of Jᵀ· is J
    if behaviour.stands(FORWARD):
        return jvp(f, (u.detach(),), (v,))[1].detach()
    step = difference_step(u, v, behaviour.eps(u.dtype))
    with torch.no_grad():
        return (f(u + step * v) - f(u - step * v)) / (2 * step)


def hessian(behaviour: Behaviour, loss: Loss, u: torch.Tensor, columns: int | None = None) -> torch.Tensor:
    """∂²L/∂u∂uᵀ, (P, P), detached, so many `columns` at once where possible."""
    u = u.detach()
    eye = torch.eye(len(u)).to(u)
    if behaviour.stands(VMAP, FORWARD):
        return vmap(lambda v: jvp(grad(loss), (u,), (v,))[1], chunk_size=columns)(eye).detach()
    if not behaviour.stands(DOUBLE):
        return torch.stack([product(behaviour, loss, u, v) for v in eye])
    w, value = _graph(loss, u)
    slope = pulled_back(value, w, create_graph=True)
    return torch.stack([pulled_back(slope, w, v) for v in eye])


def product(behaviour: Behaviour, loss: Loss, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """∂²L/∂u∂uᵀ v, (P,), detached, by differentiating twice (Pearlmutter 1994) or by a central difference of gradients."""
    if behaviour.stands(DOUBLE):
        w, value = _graph(loss, u)
        return pulled_back(pulled_back(value, w, create_graph=True), w, v)
    if behaviour.stands(FORWARD):
        return jvp(grad(loss), (u.detach(),), (v,))[1].detach()
    step = difference_step(u, v, behaviour.eps(u.dtype))
    ahead, behind = (pulled_back(*reversed(_graph(loss, u + sign * step * v))) for sign in (1.0, -1.0))
    return (ahead - behind) / (2 * step)


def pulled_back(
    value: torch.Tensor, w: torch.Tensor, slope: torch.Tensor | None = None, *, create_graph: bool = False
) -> torch.Tensor:
    """Jᵀ·slope of a value that has a graph, in the shape of `w`; zero where the value does not depend on w.

    `slope` has the value's shape; without one the value is a scalar. The graph stays; `create_graph` keeps one of the result
    too.
    """
    if not value.requires_grad:
        return torch.zeros_like(w)
    (found,) = torch.autograd.grad(value, w, slope, create_graph=create_graph, retain_graph=True, allow_unused=True)
    if found is None:
        return torch.zeros_like(w)
    return found if create_graph else found.detach()


def _graph(f: Loss, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A leaf at u, and f there."""
    with torch.enable_grad():
        w = u.detach().requires_grad_()
        return w, f(w)


def _by_output(output: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The derivative of each entry, one backward pass each."""
    with torch.enable_grad():
        entries = output.reshape(-1).unbind()
    slopes = [pulled_back(entry, w) for entry in entries]
    return torch.stack(slopes).view(*output.shape, len(w))
