"""The backward pass of R multilayer perceptrons at once, written out: three batched products a layer, and no graph.

    h_l = a(h_{l−1} W_lᵀ + b_l);    δ_{l−1} = (δ_l W_l) ⊙ a'(h_{l−1}),  ∂W_l = δ_lᵀ h_{l−1},  ∂b_l = 1ᵀ δ_l

Autograd finds the same numbers for twice the time on small networks: a graph a step, and gradients that are copied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bayesreg.objective.batched import Replicas

_aten = torch.ops.aten
# activations, and δ times their derivative by their own output
_ACTIVATIONS: dict[type[nn.Module], tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]] = {
    nn.ReLU: (torch.relu, lambda delta, out: _aten.threshold_backward(delta, out, 0)),
    nn.Tanh: (torch.tanh, _aten.tanh_backward),
    nn.Sigmoid: (torch.sigmoid, _aten.sigmoid_backward),
}


class Stack:
    """Minus the log-likelihoods of R perceptrons over all rows, and their gradient.

    Args:
        replicas: The problems, whose network is such a stack.
    """

    def __init__(self, replicas: Replicas) -> None:
        self.replicas = replicas
        segments, places = replicas.log_joint.layout.segments, replicas.model.places
        self.noise = [segments[name] for name in replicas.model.likelihood.latents]
        self.steps: list[tuple[type[nn.Module], Any, Any]] = []
        self.line = None if replicas.line is None else segments[places[f"{replicas.line}weight"]]
        for place, layer in replicas.layers or []:
            if isinstance(layer, nn.Linear):
                bias = None if layer.bias is None else segments[places[f"{place}bias"]]
                self.steps.append((nn.Linear, segments[places[f"{place}weight"]], bias))
            elif type(layer) is not nn.Identity:
                self.steps.append((type(layer), None, None))

    def over(self, replicas: Replicas) -> Stack:
        """The same network over other rows."""
        made = copy.copy(self)
        made.replicas = replicas
        return made

    def __call__(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Minus the log-likelihoods (R,), and their gradient (R, P); zero where an unknown is not in them."""
        count = len(u)
        x = self.replicas.x if self.replicas.own_rows else self.replicas.x.expand(count, *self.replicas.x.shape)
        weights = {s.start: u[:, s.slice].unflatten(1, s.latent.shape) for _, s, _ in self.steps if s is not None}
        outs = [x]
        for kind, weight, bias in self.steps:
            if kind is nn.Linear:
                turned = weights[weight.start].mT
                plain = bias is None
                outs.append(torch.bmm(outs[-1], turned) if plain else torch.baddbmm(u[:, None, bias.slice], outs[-1], turned))
            else:
                outs.append(_ACTIVATIONS[kind][0](outs[-1]))
        if self.line is not None:
            outs[-1] = torch.baddbmm(outs[-1], x, u[:, self.line.slice].unflatten(1, self.line.latent.shape).mT)
        losses, delta, slopes = self.head(outs[-1], u)
        parts = dict(slopes)
        if self.line is not None:
            parts[self.line.start] = torch.bmm(delta.mT, x).flatten(1)
        ones = x.new_ones(1, 1, x.shape[1]).expand(count, 1, x.shape[1])
        first = next(i for i, (_, s, _) in enumerate(self.steps) if s is not None)
        for i in range(len(self.steps) - 1, -1, -1):
            kind, weight, bias = self.steps[i]
            if kind is not nn.Linear:
                delta = _ACTIVATIONS[kind][1](delta, outs[i + 1]) if i > first else delta
                continue
            parts[weight.start] = torch.bmm(delta.mT, outs[i]).flatten(1)
            if bias is not None:
                parts[bias.start] = torch.bmm(ones, delta)[:, 0]
            if i > first:
                delta = torch.bmm(delta, weights[weight.start])
        return losses, torch.cat([parts[start] for start in sorted(parts)], 1)

    def head(self, out: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[int, torch.Tensor]]:
        """Minus the log-likelihoods (R,), and their derivatives by the last layer's output and by the noise's unknowns."""

        def total(out: torch.Tensor, noise: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            named = {}
            for s, part in zip(self.noise, noise, strict=True):
                value = part if s.transform is None else s.transform(part)
                named[s.latent.name] = value.view(len(u), *s.latent.shape)
            output = out[..., 0] if out.shape[-1] == 1 else out
            found = self.replicas.terms(output, named)
            return found.sum(), found

        noise = [u[:, s.slice] for s in self.noise]
        (delta, slopes), losses = torch.func.grad(total, argnums=(0, 1), has_aux=True)(out, noise)
        return losses.detach(), delta, {s.start: slope for s, slope in zip(self.noise, slopes, strict=True)}


def stack_of(replicas: Replicas) -> Stack | None:
    """The stack that a network is, or None where it is none, or holds a weight that is no plain stretch of the vector."""
    layers, segments = replicas.layers, replicas.log_joint.layout.segments
    if layers is None or replicas.weights is not None or replicas.model.outputs:
        return None
    named = [] if replicas.line is None else [replicas.model.places[f"{replicas.line}weight"]]
    for place, layer in layers:
        if type(layer) not in (nn.Linear, nn.Identity, *_ACTIVATIONS):
            return None
        named += [replicas.model.places[f"{place}{leaf}"] for leaf, _ in layer.named_parameters(recurse=False)]
    used = [*named, *replicas.model.likelihood.latents]
    plain = all(name in segments and segments[name].transform is None and segments[name].latent.centered for name in named)
    return Stack(replicas) if plain and len(set(used)) == len(used) and set(used) == set(segments) else None
