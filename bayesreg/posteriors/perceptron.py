"""A multilayer perceptron at many draws of its weights: batched products, in blocks that stay in the cache.

    H_l = a(W_l H_{l−1} + b_l 1ᵀ),    H_0 = xᵀ

Rows are the last axis: the first layer is one product for all draws, and no weight is turned. For many rows a block is one
draw, for few rows hundreds. A bias is then one more column of W, since a product costs less than a pass over its result.
"""

from __future__ import annotations

import torch
from torch import nn

from bayesreg.model.model import BayesianModel
from bayesreg.objective.batched import ELEMENTWISE, line_beside, plain_layers
from bayesreg.objective.flat import FlatLayout

_BLOCK = 2**17  # draws × rows × units at once
_ROWS = 2**18  # rows × units of one draw at once


class Perceptron:
    """The network of a model whose layers are linear and elementwise.

    Args:
        model: The model.
        layout: Its vector's.
        layers: The layers, with the prefixes of their names.
    """

    def __init__(self, model: BayesianModel, layout: FlatLayout, layers: list[tuple[str, nn.Module]]) -> None:
        self.model, self.layout, self.layers, self.line = model, layout, layers, line_beside(model)
        named = (f"{place}{leaf}" for place, layer in layers for leaf, _ in layer.named_parameters())
        named = [*named, *([] if self.line is None else [f"{self.line}weight"])]
        self.names = [name for name in map(model.places.__getitem__, named) if name in layout.segments]
        self.width = max(layer.out_features for _, layer in layers if isinstance(layer, nn.Linear))

    def fill(self, u: torch.Tensor, x: torch.Tensor, result: torch.Tensor) -> None:
        """The outputs of draws (s, P) at prepared rows into `result`, (s, N) or (s, N, K)."""
        values = self.layout.values(u, self.names)
        for columns in torch.arange(len(x), device=x.device).split(max(1, _ROWS // self.width)):
            rows = slice(int(columns[0]), int(columns[-1]) + 1)
            turned = x[rows].mT.contiguous()
            step = max(1, _BLOCK // (turned.shape[1] * self.width))
            if step == 1:
                self._fill_one_by_one(values, len(u), turned, result[:, rows])
                continue
            for start in range(0, len(u), step):
                part = slice(start, start + step)
                found = self._forward(values, part, turned)
                result[part, rows] = found[:, 0] if result.dim() == 2 else found.mT

    def _fill_one_by_one(self, values: dict[str, torch.Tensor], count: int, turned: torch.Tensor, result: torch.Tensor) -> None:
        """A draw after the other: (W b) times H with a row of ones below it, in memory that is used again for each draw."""
        weights: list[torch.Tensor] = []
        hidden: list[torch.Tensor] = []  # the input of each linear layer, with the row of ones that some need
        ones = turned.new_ones(1, turned.shape[1])
        for place, layer in self.layers:
            if isinstance(layer, nn.Linear):
                parts = [self._tensor(values, f"{place}weight", slice(None))]
                if layer.bias is not None:
                    parts.append(self._tensor(values, f"{place}bias", slice(None))[..., None])
                weights.append(torch.cat([part.expand(count, -1, -1) for part in parts], 2))
                hidden.append(turned.new_ones(layer.out_features + 1, turned.shape[1]))
        start = torch.cat([turned, ones])
        for s in range(count):
            at, done = start, 0
            for _, layer in self.layers:
                if isinstance(layer, nn.Linear):
                    weight, out = weights[done][s], hidden[done]
                    torch.mm(weight, at[: weight.shape[1]], out=out[:-1])
                    at, done = out, done + 1
                elif type(layer) is nn.ReLU and at is not start:
                    at[:-1].relu_()
                else:
                    at = torch.cat([layer(at[:-1]), ones])
            if self.line is not None:
                at = torch.addmm(at[:-1], self._tensor(values, f"{self.line}weight", slice(s, s + 1))[0], turned)
                at = torch.cat([at, ones])
            result[s] = at[0] if result.dim() == 2 else at[:-1].mT

    def _forward(self, values: dict[str, torch.Tensor], part: slice, turned: torch.Tensor) -> torch.Tensor:
        """(k, K, N) of k draws, from xᵀ."""
        hidden, fresh = turned, False
        for place, layer in self.layers:
            if not isinstance(layer, nn.Linear):
                hidden = hidden.relu_() if fresh and type(layer) is nn.ReLU else layer(hidden)
                fresh = False
                continue
            weight = self._tensor(values, f"{place}weight", part)
            bias = None if layer.bias is None else self._tensor(values, f"{place}bias", part)[..., None]
            hidden, fresh = _linear(weight, bias, hidden), True
        return hidden if self.line is None else hidden + _linear(self._tensor(values, f"{self.line}weight", part), None, turned)

    def _tensor(self, values: dict[str, torch.Tensor], place: str, part: slice) -> torch.Tensor:
        """Of these draws, or without their axis where it is certain."""
        name = self.model.places[place]
        return values[name][part] if name in values else self.model.constants[name][None]


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor:
    """W H + b for W (k, o, i), b (k, o, 1) and H (i, N) or (k, i, N); any k may be one."""
    if hidden.dim() == 2:
        shape = (*weight.shape[:2], hidden.shape[1])
        if len(weight) == 1 and bias is not None and len(bias) == 1:
            return torch.addmm(bias[0], weight[0], hidden)[None]
        found = (weight.flatten(0, 1) @ hidden).view(shape)
        return found if bias is None else found + bias if len(bias) > len(found) else found.add_(bias)
    if len(hidden) == len(weight) == 1 and bias is not None and len(bias) == 1:
        return torch.addmm(bias[0], weight[0], hidden[0])[None]
    if bias is not None and len(hidden) == len(weight):
        return torch.baddbmm(bias, weight, hidden)
    found = weight @ hidden
    return found if bias is None else found + bias


def perceptron_of(model: BayesianModel, layout: FlatLayout, x: torch.Tensor) -> Perceptron | None:
    """The network as a perceptron that predicts, or None where it is none.

    >>> model = BayesianModel(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    >>> u, x, found = torch.randn(5, FlatLayout(model).size), torch.randn(4, 2), torch.empty(5, 4)
    >>> perceptron_of(model, FlatLayout(model), x).fill(u, x, found)
    >>> torch.allclose(found[2], model.forward(FlatLayout(model).unflatten(u[2]), x), atol=1e-6)
    True
    """
    layers = plain_layers(model, x.dim())
    if layers is None or model.other_types or x.dtype != model.like.dtype:
        return None
    return Perceptron(model, layout, layers) if all(type(layer) in (nn.Linear, *ELEMENTWISE) for _, layer in layers) else None
