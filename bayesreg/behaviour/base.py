"""Which ways of differentiating a module stands, found on two rows before a fit, with numbers that are compared.

    vmap             many weights, or many rows' gradients, in one pass
    forward-mode     J v beside f in one pass, and H v by it
    double backward  H v by differentiating vᵀ∇L

A backward pass is all that is asked for. What else a module lacks is gone round: see `derivatives`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Protocol, Self

import torch
from torch import nn
from torch.func import grad, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from bayesreg.layers import MLP, AbstractNoise, Standardize
from bayesreg.layers.batchnorm import ByBatch
from bayesreg.layers.copying import copied

VMAP, FORWARD, DOUBLE = "vmap", "forward-mode", "double backward"
FEATURES = (VMAP, FORWARD, DOUBLE)

# layers that stand all of them, which a test holds; of other modules it is found out
KNOWN: tuple[type[nn.Module], ...] = (
    nn.Sequential,
    MLP,
    Standardize,
    nn.Linear,
    nn.Bilinear,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    ByBatch,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.Dropout,
    nn.Dropout2d,
    nn.Embedding,
    nn.Tanh,
    nn.ReLU,
    nn.ReLU6,
    nn.Sigmoid,
    nn.SiLU,
    nn.GELU,
    nn.Softplus,
    nn.Softsign,
    nn.ELU,
    nn.LeakyReLU,
)


PIECEWISE = {"relu", "relu_", "leaky_relu", "prelu", "threshold", "hardtanh", "hardsigmoid", "hardswish", "abs", "maximum"}
PIECEWISE |= {"minimum", "clamp", "clamp_min", "clamp_max", "max_pool2d_with_indices", "softshrink", "hardshrink", "max", "min"}


class Model(Protocol):
    """What is asked of a model: a pass with other weights, its present ones, and itself in another type."""

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


class Operations(TorchDispatchMode):
    """Hears which operations run inside, and in which floating types.

    Attributes:
        names: Of the operations.
        types: Of what they give.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        for value in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                self.types.add(value.dtype)
        return found


class Behaviour:
    """What one network does beside its forward pass; asked of this face, not of the network's layers.

    Until it has met rows, an unknown network is taken to stand nothing but a backward pass.

    Args:
        module: The network.

    >>> Behaviour(nn.Linear(3, 1)).why_not("vmap") is None
    True
    """

    def __init__(self, module: nn.Module) -> None:
        self.known = all(is_known(layer) for layer in module.modules())
        self.recomputes = False
        self._reasons: dict[str, str | None] = {}
        self._model: Model | None = None
        self._rows: torch.Tensor | None = None

    def met(self, model: Model, x: torch.Tensor) -> Behaviour:
        """The same network's behaviour with these rows to find it out on.

        Args:
            model: The model that the network is in.
            x: Prepared rows; two of them are kept.

        Returns:
            A new one, which knows whether the backward pass runs the network again; the rest is found when it is asked for.

        Raises:
            ValueError: If the output has no gradient with respect to any weight, the backward pass fails, or the network
                fails on another number of rows.
        """
        found = Behaviour(model.module)
        if not found.known:
            _check_rows(model, x)
        found.meet(model, x)
        return found

    def meet(self, model: Model, x: torch.Tensor) -> None:
        """Take these rows to find the network out on, where there were none yet, as in a model that was loaded.

        Args:
            model: The model that the network is in.
            x: Prepared rows; two of them are kept.

        Raises:
            ValueError: As for `met`.
        """
        if self.known or self._rows is not None:
            return
        self.recomputes = _check_backward(model, x[:2])
        self._reasons.clear()
        self._model, self._rows = model, x[:2]
        vars(self).pop("_trial", None)
        vars(self).pop("_heard", None)
        vars(self).pop("_eps", None)

    def why_not(self, feature: str) -> str | None:
        """Why the network does not stand a transform, in words, or None where it does; tried when it is first asked.

        Args:
            feature: One of `FEATURES`.

        Returns:
            The reason.
        """
        if feature not in self._reasons:
            self._reasons[feature] = self._tried(feature)
        return self._reasons[feature]

    def stands(self, *features: str) -> bool:
        """True where the network stands all of them."""
        return all(self.why_not(feature) is None for feature in features)

    @property
    def transforms(self) -> dict[str, str | None]:
        """Each transform with the reason why the network does not stand it, or None."""
        return {feature: self.why_not(feature) for feature in FEATURES}

    @property
    def traceable(self) -> bool:
        """True where gradients can be taken by a transform, as a compiled step takes them."""
        return not self.recomputes and (self.stands(VMAP) or self.stands(FORWARD))

    def _tried(self, feature: str) -> str | None:
        if self.known:
            return None
        return "the network has not met any rows yet" if self._trial is None else self._trial.why_not(feature)

    @cached_property
    def _trial(self) -> _Trial | None:
        if self._model is None or self._rows is None:
            return None
        return _Trial(self._model, self._rows, self._eps, bool(self._heard.names & PIECEWISE))

    @cached_property
    def _heard(self) -> Operations:
        """The operations of one pass in double precision, where the network has it."""
        heard = Operations()
        if self._model is not None and self._rows is not None:
            model, x = _widest(self._model, self._rows)
            with torch.no_grad(), heard:
                model.forward(model.weights(), x)
        return heard

    @cached_property
    def _eps(self) -> float:
        """The coarsest rounding inside the network, also where everything around it is in double precision."""
        types = {torch.float64} if self.known else self._heard.types
        return max((torch.finfo(dtype).eps for dtype in types), default=torch.finfo(torch.float64).eps)

    def eps(self, dtype: torch.dtype) -> float:
        """The relative rounding of outputs and gradients where the weights are of this type."""
        return max(torch.finfo(dtype).eps, self._eps)

    def curvature_error(self, dtype: torch.dtype) -> float:
        """The relative error of a second derivative: of rounding, or of the differences that stand for it."""
        eps = self.eps(dtype)
        return 100 * (eps ** (2 / 3) if self.approximately else eps)

    @property
    def approximately(self) -> str:
        """How second derivatives are found where they are approximate, to be said after their name; else an empty text."""
        return "" if self.stands(DOUBLE) or self.stands(FORWARD) else " by differences of gradients"


def is_known(layer: nn.Module) -> bool:
    """True for a layer of a type that stands everything, as it left its factory: without hooks or a forward of its own."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
    if isinstance(layer, nn.Embedding) and (layer.sparse or layer.max_norm is not None):
        return False
    return (type(layer) in KNOWN or isinstance(layer, AbstractNoise)) and not hooks and "forward" not in vars(layer)


def _widest(model: Model, x: torch.Tensor) -> tuple[Model, torch.Tensor]:
    """The model and its rows in double precision, or as they are where it insists on a type of its own."""
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
    """Weights beside the present ones, of the same signs: at others a difference cannot hide behind a zero."""
    generator = torch.Generator().manual_seed(0)

    def near(value: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        return value * (1 + 0.1 * noise) + torch.where(value == 0, 0.01 * noise, 0.0)

    return {name: near(value) for name, value in model.weights().items()}


def _check_rows(model: Model, x: torch.Tensor) -> None:
    """Refuse a network that takes so many rows and no more, as one does that keeps a state from pass to pass.

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


def _check_backward(model: Model, x: torch.Tensor) -> bool:
    """Whether a backward pass must happen while the weights are in the module, since parts of it are computed again.

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
        except Exception as error:  # a module may raise anything
            reason = f"its backward pass failed: {first_line(error)}"
    slopes = [own.get_parameter(key).grad for key in values]
    if reason or all(slope is None for slope in slopes):
        raise ValueError(
            f"the output of {name} must have a gradient with respect to its weights, but {reason or 'no weight has one'}; take "
            "out what cuts it (torch.no_grad, detach, .item(), argmax, NumPy, a quantised layer), or give such a step a "
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
        with torch.enable_grad():  # in a module that has other weights by itself
            parts = zip(values.items(), flat.split([value.numel() for value in values.values()]), strict=True)
            pieces = {key: part.view(value.shape) for (key, value), part in parts}
            model.forward(pieces, x, copied(model.module)).sum().backward()
    except Exception:  # outside it cannot be had: it is had inside
        return True
    mine = [None] * len(slopes) if flat.grad is None else flat.grad.split([value.numel() for value in values.values()])
    eps = torch.finfo(flat.dtype).eps
    return not all(_alike(a, b, 1e4 * eps) for a, b in zip(mine, slopes, strict=True))


def _alike(a: torch.Tensor | None, b: torch.Tensor | None, tolerance: float) -> bool:
    """Equal up to a part of the larger one's size; no gradient is a gradient of zero."""
    a, b = (v if v is None else (v.to_dense() if v.is_sparse else v).reshape(-1) for v in (a, b))
    if a is None or b is None:
        other = b if a is None else a
        return other is None or not bool(other.any())
    b = b.to(a.dtype)
    size = torch.maximum(a.abs().max(), b.abs().max()) if a.numel() else a.sum()
    return bool(torch.allclose(a, b, rtol=0.0, atol=float(size.nan_to_num(0.0)) * tolerance, equal_nan=True))


def first_line(error: BaseException) -> str:
    """The first sentence of what torch said, which may go on for a page."""
    said = (str(error).strip().splitlines() or [""])[0].split(". ")[0].rstrip(".")
    return f"{type(error).__name__}: {said[:160]}" if said else type(error).__name__


class _Trial:
    """Each transform tried on two rows, and its numbers compared with those of plain backward passes.

    Args:
        model: The model.
        x: Two prepared rows, or one.
        eps: The coarsest rounding inside the network.
        piecewise: Whether it has kinks, across which a difference says something else than a derivative.
    """

    def __init__(self, model: Model, x: torch.Tensor, eps: float, piecewise: bool) -> None:
        self.piecewise = piecewise
        self.model, self.x = _widest(model, x)
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
                # torch loops by itself where an operation lacks a rule, and warns at each pass
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
