"""Draws of weights row by row, without making them: what a layer puts out is drawn by its moments instead.

    Linear:    z = μ x + √(σ² x²) ε                       for weights N(μ, σ²), a draw for each row
    elsewhere: z = μ ∗ x + r ∘ ((σ ∘ ξ) ∗ (s ∘ x))        one draw σ ∘ ξ, whose signs r sᵀ each row turns for itself

Both leave the distribution of what each row puts out as it is, and so the expectation of any sum over rows; rows that share one
draw of the weights share its error, rows with a draw each average it away. A layer that applies its weights several times to a
row (a convolution, a sequence) must apply one draw to all of it: there the second line holds, the first would not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bayesreg.objective.training_copy import TrainingCopy

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_GOLDEN = 0x9E3779B97F4A7C15
_ROWS = (5, 3)  # of two passes: what follows their number is the axis of rows


class PairedNoise:
    """Random numbers for steps: the second of each two has those of the first with the opposite sign.

    What is odd in them cancels between the two steps, at no cost, where both see the same rows.

    Args:
        like: Numbers are of its device and type.

    Attributes:
        taken: Steps begun, all that the next one depends on.
    """

    def __init__(self, like: torch.Tensor) -> None:
        self.taken = torch.zeros((), dtype=torch.long)
        self._generator, self._seed = torch.Generator(like.device), torch.initial_seed()
        self._options: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        self._negative = False
        self._kept: list[tuple[Any, torch.Tensor]] = []  # of the first: to make numbers costs more than a layer's product
        self._asked, self._pair = 0, 0

    def begin(self) -> None:
        """Begin a step."""
        pair, second = divmod(int(self.taken), 2)
        if pair != self._pair or not second:
            self._kept = []
        self._negative, self._asked, self._pair = bool(second), 0, pair
        self._seeded()
        self.taken += 1

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal numbers."""
        found = self._numbers(self._normal, shape)
        return found.neg() if self._negative else found

    def signs(self, *shape: int) -> torch.Tensor:
        """±1 with equal probability; the same in both steps."""
        return self._numbers(self._signs, shape)

    def _numbers(self, draw: Any, shape: tuple[int, ...]) -> torch.Tensor:
        """What the first of the two steps had here, where it asked for the same; else new numbers, as if nothing were kept."""
        at, self._asked = self._asked, self._asked + 1
        if not self._negative:
            self._kept.append((draw, draw(*shape)))
            return self._kept[at][1]
        if at < len(self._kept) and self._kept[at][0] == draw and self._kept[at][1].shape == shape:
            return self._kept[at][1]
        if self._kept:
            self._seeded()
            for skipped, like in self._kept[:at]:
                skipped(*like.shape)
            self._kept = []
        return draw(*shape)

    def _seeded(self) -> None:
        self._generator.manual_seed((self._seed * _GOLDEN + self._pair) % 2**63)  # seeds side by side share no pair

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator, **self._options)

    def _signs(self, *shape: int) -> torch.Tensor:
        found = torch.randint(2, shape, generator=self._generator, device=self._options["device"])
        return found.mul_(2).sub_(1).to(self._options["dtype"])


class LocalDraws:
    """The layers of a training copy whose weights are drawn row by row, from now on.

    A layer counts where it is exactly torch's `Linear` or `Conv1d` to `Conv3d`, its weights are unknowns that nobody else uses,
    rows are its first axis, and it is called once; all others see what stands in the flat vector of the copy, as ever. None
    counts in a network in which rows depend on each other.

    Args:
        copy: The copy; its module is changed.
        x: A prepared batch.

    Attributes:
        noise: Where its random numbers come from.
        drawn: 1 for an entry that the flat vector must hold a draw of, 0 for one that it must hold the mean of, (P,).
        found: Names of the layers.
    """

    def __init__(self, copy: TrainingCopy, x: torch.Tensor) -> None:
        self._copy = copy
        self.noise = PairedNoise(copy.flat)
        self.drawn = torch.ones_like(copy.flat.detach())
        self._squared = torch.zeros_like(self.drawn)  # 1 where a layer takes the variance, 0 where it takes σ ∘ ξ
        self._spread = torch.zeros_like(self.drawn)
        self._slope = torch.zeros_like(self.drawn)
        self.found: list[str] = []
        try:
            layers = _candidates(copy, x)
        except Exception:  # a person's module may raise anything; it will do so where somebody is told
            layers = {}
        for name, linear in layers.items():
            self._take(name, linear)

    def _take(self, name: str, linear: bool) -> None:
        layer: Any = self._copy.module.get_submodule(name)
        segments = self._copy.log_joint.layout.segments
        parts = {}
        for kind in ("weight", "bias"):
            segment = segments.get(f"{name}.{kind}" if name else kind)
            parts[kind] = None if segment is None else self._leaf(segment.slice, segment.latent.shape)
            if segment is not None:
                self.drawn[segment.slice] = 0.0
                self._squared[segment.slice] = 1.0 if linear or kind == "bias" else 0.0
        layer.forward = (
            _linear(layer, parts["weight"], parts["bias"], self.noise) if linear else _turned(layer, **parts, noise=self.noise)
        )
        self.found.append(name)

    def _leaf(self, where: slice, shape: torch.Size) -> nn.Parameter:
        """A view of `_spread` whose gradient is one of `_slope`."""
        leaf = nn.Parameter(self._spread[where].view(shape))
        leaf.grad = self._slope[where].view(shape)
        return leaf

    def set(self, scale: torch.Tensor, noise: torch.Tensor) -> None:
        """Prepare a pass.

        Args:
            scale: Standard deviations of the unknowns, (P,).
            noise: Standard normal numbers, (P,).
        """
        torch.where(self._squared > 0, scale.square(), scale * noise, out=self._spread)
        self._slope.zero_()

    def by_log_scale(self) -> torch.Tensor:
        """The derivative of the last pass by the logarithm of each sd, (P,), zero where the flat vector holds a draw."""
        return self._slope * self._spread * (1 + self._squared)


class _Rows(torch.autograd.Function):
    """A linear layer of independent normal weights, a draw for each row, from its moments: few operations, few tensors."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, variance: Any, of_bias: Any, noise: Any) -> torch.Tensor:
        square = x.square()
        sd = functional.linear(square, variance, of_bias).clamp_min_(torch.finfo(x.dtype).tiny ** 0.5).sqrt_()
        ctx.save_for_backward(x, square, weight, variance, noise / sd)
        return torch.addcmul(functional.linear(x, weight, bias), sd, noise)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        x, square, weight, variance, ratio = ctx.saved_tensors
        (slope,) = slopes
        needed = ctx.needs_input_grad
        half = slope * ratio * 0.5
        by_x = torch.addcmul(slope @ weight, x, half @ variance, value=2) if needed[0] else None
        return (
            by_x,
            slope.mT @ x if needed[1] else None,
            slope.sum(0) if needed[2] else None,
            half.mT @ square,
            half.sum(0) if needed[4] else None,
            None,
        )


def _linear(layer: nn.Linear, variance: nn.Parameter | None, of_bias: nn.Parameter | None, noise: PairedNoise) -> Any:
    def forward(x: torch.Tensor) -> Any:
        return _Rows.apply(x, layer.weight, layer.bias, variance, of_bias, noise.normal(len(x), layer.out_features))

    return forward


def _turned(layer: Any, weight: nn.Parameter | None, bias: nn.Parameter | None, noise: PairedNoise) -> Any:
    """One draw of a layer's weights, its signs turned for each row (Wen et al. 2018); the bias is drawn for each row."""
    last = isinstance(layer, nn.Linear)

    def signs(like: torch.Tensor, channels: int) -> torch.Tensor:
        return over(like, noise.signs(len(like), channels))

    def over(like: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        places = (1,) * (like.dim() - 2)
        return rows.view(len(rows), *places, -1) if last else rows.view(*rows.shape, *places)

    def applied(x: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
        return functional.linear(x, weight, bias) if last else layer._conv_forward(x, weight, bias)

    def forward(x: torch.Tensor) -> torch.Tensor:
        mean = applied(x, layer.weight, layer.bias)
        turned = applied(x * signs(x, x.shape[-1 if last else 1]), weight, None)
        out = torch.addcmul(mean, turned, signs(mean, mean.shape[-1 if last else 1]))
        if bias is None:
            return out
        return out + over(out, noise.normal(len(x), len(bias)) * bias.clamp_min(torch.finfo(x.dtype).tiny).sqrt())

    return forward


def _candidates(copy: TrainingCopy, x: torch.Tensor) -> dict[str, bool]:
    """Layers that may be drawn row by row, by name: True where each row is one vector, which its weights meet once."""
    model, module = copy.log_joint.model, copy.module
    behaviour = model.behaviour
    if copy.flat_path or behaviour.coupling or not behaviour.row_by_row or len(x) < _ROWS[0]:
        return {}
    unknown = {name for name, s in copy.log_joint.layout.segments.items() if s.latent.kind == "weight"}
    holders: dict[int, int] = {}
    for _, parameter in module.named_parameters(remove_duplicate=False):
        holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    layers = {}
    for name, layer in module.named_modules():
        if type(layer) not in (nn.Linear, *_CONVOLUTIONS) or (f"{name}.weight" if name else "weight") not in unknown:
            continue
        own = list(layer.parameters(recurse=False))
        if all(isinstance(p, nn.Parameter) and holders[id(p)] == 1 for p in own) and "forward" not in vars(layer):
            layers[name] = layer
    (more, shapes), (fewer, others) = (_seen(copy, layers, x[:rows]) for rows in _ROWS)
    if not torch.allclose(more[: _ROWS[1]], fewer, rtol=1e-3, atol=1e-3 * float(fewer.abs().max())):  # rows meet somewhere
        return {}
    return {
        name: isinstance(layer, nn.Linear) and len(shapes[name][0]) == 2
        for name, layer in layers.items()
        if _is_batch(shapes[name], _ROWS[0], layer) and _is_batch(others[name], _ROWS[1], layer)
    }


def _is_batch(shapes: list[torch.Size], rows: int, layer: nn.Module) -> bool:
    """Whether one call came, with the rows in front."""
    least = 2 if isinstance(layer, nn.Linear) else 3
    return len(shapes) == 1 and len(shapes[0]) >= least and shapes[0][0] == rows


def _seen(copy: TrainingCopy, layers: dict[str, Any], x: torch.Tensor) -> tuple[torch.Tensor, dict[str, list[torch.Size]]]:
    """The output, and the shapes that each layer was called with; one more where its weights were used behind its back."""
    found: dict[str, list[torch.Size]] = {name: [] for name in layers}

    def watched(name: str, layer: Any) -> Any:
        def forward(value: torch.Tensor) -> torch.Tensor:
            found[name].append(value.shape)
            bias = None if layer.bias is None else layer.bias.detach()
            if isinstance(layer, nn.Linear):
                return functional.linear(value, layer.weight.detach(), bias)
            return layer._conv_forward(value, layer.weight.detach(), bias)

        return forward

    leaves = {name: [p for p in layer.parameters() if p.requires_grad] for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.forward = watched(name, layer)
        output = copy.module(x)
        if output.requires_grad:
            flat = [leaf for own in leaves.values() for leaf in own]
            slopes = iter(torch.autograd.grad(output.sum(), flat, allow_unused=True))
            for name, own in leaves.items():
                if any(next(slopes) is not None for _ in own):
                    found[name].append(torch.Size())
    finally:
        for layer in layers.values():
            vars(layer).pop("forward", None)
    return output.detach(), found
