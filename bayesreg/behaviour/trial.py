"""Tries each transform, and the backward pass, on two rows of a network: numbers are compared, not only errors caught."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import torch
from torch import nn
from torch.func import grad, jvp, vjp, vmap

from bayesreg.layers.copying import copied

VMAP, FORWARD, DOUBLE = "vmap", "forward-mode", "double backward"
FEATURES = (VMAP, FORWARD, DOUBLE)


class Model(Protocol):
    """The part of a model that a trial needs: a pass with other weights, its present weights, and itself in another type."""

    @property
    def module(self) -> nn.Module:
        """The network."""
        ...

    @property
    def constants(self) -> dict[str, torch.Tensor]:
        """Weights that are certain, by name."""
        ...

    def forward(self, values: Mapping[str, torch.Tensor], x: torch.Tensor, module: nn.Module | None = None) -> torch.Tensor:
        """The output, (B,) or (B, K)."""
        ...

    def weights(self) -> dict[str, torch.Tensor]:
        """The unknown weights by name."""
        ...

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        """The same model in another type."""
        ...


def widest(model: Model, x: torch.Tensor) -> tuple[Model, torch.Tensor]:
    """The model and its rows in double precision, or as they are where the network needs its own type."""
    if x.dtype == torch.float64:
        return model, x
    wide, rows = model.to(dtype=torch.float64), x.double() if x.is_floating_point() else x
    try:
        with torch.no_grad():
            wide.forward(wide.weights(), rows)
    except Exception:  # a module may raise anything
        return model, x
    return wide, rows


def _moved(model: Model) -> dict[str, torch.Tensor]:
    """Weights near the present ones, of the same signs: there no difference is hidden by a zero."""
    generator = torch.Generator().manual_seed(0)

    def near(value: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        return value * (1 + 0.1 * noise) + torch.where(value == 0, 0.01 * noise, 0.0)

    return {name: near(value) for name, value in model.weights().items()}


def check_rows(model: Model, x: torch.Tensor) -> None:
    """Refuse a network that takes only one number of rows, as one that keeps a state between passes.

    Raises:
        ValueError: If it is one.
    """
    own = copied(model.module)
    for count in (2, 3):
        try:
            with torch.no_grad():
                model.forward(model.weights(), x[:count], own)
        except Exception as error:  # a module may raise anything
            raise ValueError(
                f"the module must take any number of rows, but {type(model.module).__name__} failed on {count} "
                f"({first_line(error)}); let its forward read the number from x, and keep no state from one pass to the next."
            ) from error


def check_backward(model: Model, x: torch.Tensor) -> bool:
    """Whether the backward pass must run while the weights are in the module, because parts are recomputed.

    Raises:
        ValueError: If there is no gradient, or no backward pass, or the forward pass changes a weight.
    """
    name, values, own = type(model.module).__name__, _moved(model), copied(model.module)
    with torch.no_grad():
        for key, parameter in own.named_parameters():
            parameter.requires_grad_(key in values).grad = None
            if key in model.constants:
                parameter.copy_(model.constants[key])
        for key, value in values.items():
            own.get_parameter(key).copy_(value)
    reason = ""
    with torch.enable_grad():
        try:
            output = own(x)
            if output.requires_grad:
                output.sum().backward()
            else:
                reason = "it has none"
        except Warning:  # a warning that a filter turns into an error is the module's own
            return False
        except Exception as error:  # a module may raise anything
            reason = f"its backward pass failed: {first_line(error)}"
    slopes = [own.get_parameter(key).grad for key in values]
    if reason or all(slope is None for slope in slopes):
        raise ValueError(
            f"the output of {name} must have a gradient with respect to its weights, but {reason or 'no weight has one'}; "
            "remove what stops it (torch.no_grad, detach, .item(), argmax, NumPy, a quantised layer), or give such a step a "
            "backward pass."
        )
    changed = [key for key, value in values.items() if not torch.equal(own.get_parameter(key).to(value.dtype), value)]
    if changed:
        raise ValueError(
            f"a forward must leave the weights as they are, but that of {name} changes {changed[0]} (max_norm of an "
            "embedding?); put a prior on the weight in its place."
        )
    flat = torch.cat([value.reshape(-1) for value in values.values()]).requires_grad_()
    try:
        with torch.enable_grad():  # in a module with other weights of its own
            parts = zip(values.items(), flat.split([value.numel() for value in values.values()]), strict=True)
            pieces = {key: part.view(value.shape) for (key, value), part in parts}
            model.forward(pieces, x, copied(model.module)).sum().backward()
    except Exception:  # it fails outside, so it must run inside
        return True
    mine = [None] * len(slopes) if flat.grad is None else flat.grad.split([value.numel() for value in values.values()])
    eps = torch.finfo(flat.dtype).eps
    return not all(_alike(a, b, 1e4 * eps) for a, b in zip(mine, slopes, strict=True))


def _alike(a: torch.Tensor | None, b: torch.Tensor | None, tolerance: float) -> bool:
    """Equal up to a fraction of the larger one's size; no gradient counts as zero."""
    a, b = (v if v is None else (v.to_dense() if v.is_sparse else v).reshape(-1) for v in (a, b))
    if a is None or b is None:
        other = b if a is None else a
        return other is None or not bool(other.any())
    b = b.to(a.dtype)
    size = torch.maximum(a.abs().max(), b.abs().max()) if a.numel() else a.sum()
    return bool(torch.allclose(a, b, rtol=0.0, atol=float(size.nan_to_num(0.0)) * tolerance, equal_nan=True))


def first_line(error: BaseException) -> str:
    """The first sentence of torch's error message, which may be a page long."""
    said = (str(error).strip().splitlines() or [""])[0].split(". ")[0].rstrip(".")
    return f"{type(error).__name__}: {said[:160]}" if said else type(error).__name__


class Trial:
    """Each transform tried on two rows, and its numbers compared with those of plain backward passes.

    Args:
        model: The model.
        x: Two prepared rows, or one.
        eps: The coarsest rounding inside the network.
        piecewise: Whether it has kinks, across which a difference is no derivative.
    """

    def __init__(self, model: Model, x: torch.Tensor, eps: float, piecewise: bool) -> None:
        self.piecewise = piecewise
        self.model, self.x = widest(model, x)
        self.values = {name: value.clone() for name, value in _moved(self.model).items()}
        self.sizes = [value.numel() for value in self.values.values()]
        self.w = torch.cat([value.reshape(-1) for value in self.values.values()])
        self.eps = max(eps, torch.finfo(self.w.dtype).eps)
        self.generator = torch.Generator().manual_seed(1)

    def why_not(self, feature: str) -> str | None:
        """The reason, or None."""
        return self._why({VMAP: self._vmap, FORWARD: self._forward_mode, DOUBLE: self._double_backward}[feature])

    def f(self, w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The output as (B, K), at a flat vector of weights."""
        parts = zip(self.values.items(), w.split(self.sizes), strict=True)
        values = {name: part.view(value.shape) for (name, value), part in parts}
        return self.model.forward(values, x).reshape(len(x), -1)

    def like(self, *shape: int) -> torch.Tensor:
        """Random numbers of the weights' type."""
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(self.w)

    def _why(self, trial: Callable[[], str]) -> str | None:
        try:
            with warnings.catch_warnings(), torch.enable_grad():
                # torch itself loops over an operation without a batching rule, and warns at each pass
                warnings.filterwarnings("error", message="There is a performance drop")
                return trial() or None
        except Exception as error:  # a module may raise anything under a transform
            return first_line(error)

    def _slope(self, w: torch.Tensor, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Σ weights · ∂f/∂w by a plain backward pass."""
        w = w.detach().requires_grad_()
        return torch.autograd.grad((self.f(w, x) * weights).sum(), w)[0]

    def _vmap(self) -> str:
        both = torch.stack([self.w, self.w + 0.1 * self.w * self.like(len(self.w))])
        with torch.no_grad():
            found, expected = vmap(self.f, in_dims=(0, None))(both, self.x), [self.f(w, self.x) for w in both]
        slopes = self.like(*expected[0].shape)
        leaf = both.clone().requires_grad_()
        (vmap(self.f, in_dims=(0, None))(leaf, self.x) * slopes).sum().backward()
        plain = torch.stack([self._slope(w, self.x, slopes) for w in both])

        def row(x: torch.Tensor) -> torch.Tensor:
            output, pull = vjp(lambda w: self.f(w, x[None])[0], self.w)  # pyright: ignore[reportAssignmentType]
            return vmap(lambda slope: pull(slope)[0])(torch.stack([torch.ones_like(output)] * 2))

        rows = vmap(row)(self.x)[:, 0]
        one = torch.ones_like(slopes[:1])
        alone = torch.stack([self._slope(self.w, self.x[b : b + 1], one) for b in range(len(self.x))])
        pairs = [(found, torch.stack(expected)), (leaf.grad, plain), (rows, alone)]
        return self._unlike(pairs, 1e4 * self.eps, "under vmap")

    def _forward_mode(self) -> str:
        direction = self.w * self.like(2, len(self.w))
        along = vmap(lambda v: jvp(lambda w: self.f(w, self.x), (self.w,), (v,))[1])(direction)
        slopes = self.like(*along.shape[1:])
        expected = direction @ self._slope(self.w, self.x, slopes)
        found = (along * slopes).sum((-1, -2))
        scale = 1e4 * self.eps * float(along.abs().max() * slopes.abs().sum())
        if not torch.allclose(found, expected, rtol=0.0, atol=scale, equal_nan=True):
            return "its numbers in forward mode are others"
        twice = vmap(lambda v: jvp(grad(lambda w: self._loss(w, slopes)), (self.w,), (v,))[1])(direction)
        return self._unlike_difference(twice[0], direction[0], slopes, "in forward mode")

    def _double_backward(self) -> str:
        direction = self.w * self.like(len(self.w))
        w = self.w.detach().requires_grad_()
        slopes = self.like(*self.f(self.w, self.x).shape)
        (slope,) = torch.autograd.grad(self._loss(w, slopes), w, create_graph=True)
        if not slope.requires_grad:
            return "the gradient has no history"
        (found,) = torch.autograd.grad(slope, w, direction)
        return self._unlike_difference(found, direction, slopes, "differentiated twice")

    def _loss(self, w: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
        output = self.f(w, self.x)
        return (output * slopes).sum() + 0.5 * output.square().sum()

    def _difference(self, direction: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
        """H v by a central difference of gradients."""

        def at(w: torch.Tensor) -> torch.Tensor:
            w = w.detach().requires_grad_()
            return torch.autograd.grad(self._loss(w, slopes), w)[0]

        step = difference_step(self.w, direction, self.eps)
        return (at(self.w + step * direction) - at(self.w - step * direction)) / (2 * step)

    def _unlike_difference(self, found: torch.Tensor, direction: torch.Tensor, slopes: torch.Tensor, where: str) -> str:
        if self.piecewise:
            return ""
        return self._unlike([(found, self._difference(direction, slopes))], 1e3 * self.eps ** (2 / 3) + 1e-4, where)

    @staticmethod
    def _unlike(pairs: list[tuple[Any, Any]], tolerance: float, where: str) -> str:
        return "" if all(_alike(a, b, tolerance) for a, b in pairs) else f"its numbers {where} are others"


def difference_step(u: torch.Tensor, direction: torch.Tensor, eps: float) -> float:
    """The step along a direction at which a central difference's error is smallest, ε^⅓ of the point's size."""
    length = float(direction.norm())
    return eps ** (1 / 3) * (1 + float(u.norm())) / length if length > 0 else 1.0
