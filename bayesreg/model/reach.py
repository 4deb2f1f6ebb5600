"""`standardize="auto"`: whether the data, in their own units, are in the range that the priors expect.

A prior on a network's weights is meant for inputs and targets of size one. It is judged by its predictions before any fit:

    y is out of reach   where |yᵢ − median| > 3 · half the 68 % width of p(y | xᵢ), the prior predictive, for half of the rows
    x is out of reach   where a network's first layer gives sums above 10, or sums that hardly vary from row to row

A linear model has no nonlinear range that its inputs could miss, so only its targets count; improper priors reach everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bayesreg._memory import together
from bayesreg.behaviour import normalises, passes_on
from bayesreg.layers.copying import copied
from bayesreg.model import prior_predictive
from bayesreg.priors import AbstractScaledPrior

ROWS = 256  # rows that are tried
_DRAWS = 64  # draws from the prior,
_FEW = 8  # at least so many draws
_NUMBERS = 2 * 10**6  # most numbers drawn, beyond these few draws
_ORDINARY = 10.0  # data up to this size are never standardised by default
_SDS = 3.0
_SATURATED, _FLAT = 10.0, 0.03
_SUMS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def out_of_reach(model: Any, x: torch.Tensor, y: torch.Tensor) -> tuple[str, str]:
    """Why these rows are out of the priors' reach in their own units: a clause about y and one about x, or empty texts.

    The model must work in the data's own units, and x and y come in these. Data of ordinary size cost nothing; others cost up
    to `_DRAWS` passes of at most `ROWS` rows. No random state is touched.
    """
    x, y = _some(x), _some(y)
    far_y = (model.likelihood.location_scale or model.likelihood.log_link) and _size(y) > _ORDINARY
    spread = x.double().std(0) if x.is_floating_point() and len(x) > 1 else torch.zeros(1)
    far_x = x.is_floating_point() and (_size(x) > _ORDINARY or 0 < float(spread.max()) < 1 / _ORDINARY)
    follows = any(isinstance(r.specified, AbstractScaledPrior) and r.specified.autoscale for r in model.resolved)
    if not (far_y or far_x) or follows:
        return "", ""
    improper = {name: latent for name, latent in model.latents.items() if not latent.prior.proper}
    given = {parent for latent in model.latents.values() for parent in latent.parents}
    if any(latent.kind == "scale" or name in given for name, latent in improper.items()):
        return "", ""  # what depends on it has no draws either
    drawn = {name: latent for name, latent in model.latents.items() if name not in improper}
    count = max(_FEW, min(_DRAWS, _NUMBERS // model.num_parameters))
    values = together(prior_predictive.in_blocks(drawn, model.like, count, 0))
    values |= {name: w.expand(count, *w.shape) for name, w in model.weights().items() if name in improper}
    first = _FirstLayer(copied(model.behaviour.evaluation()))
    with torch.no_grad():
        draws = ({k: v[s] for k, v in values.items()} for s in range(count))
        output = torch.stack([model.forward(draw, x.clone(), first.module) for draw in draws])
        clause_y = ""
        if far_y and all(not latent.is_noise and _is_of_norm(model.module, name) for name, latent in improper.items()):
            noise = torch.vmap(model.noise)(values) if model.likelihood.latents else model.noise(values)
            noise = {name: value.expand(count) for name, value in noise.items()}
            found = prior_predictive.in_data_units(model.likelihood, None, output, noise)
            clause_y = _about_targets(found.sample(4 * _DRAWS, seed=0), y)
    return clause_y, first.verdict(x) if far_x else ""


def _about_targets(drawn: torch.Tensor, y: torch.Tensor) -> str:
    """A clause where half of the targets lie far from the prior predictive's draws, (S, N) or (S, N, K)."""
    lower, middle, upper = torch.quantile(drawn.double(), drawn.new_tensor([0.16, 0.5, 0.84]).double(), 0)
    width = (upper - lower) / 2
    away = ((y.double() - middle).abs() / width.clamp_min(torch.finfo(torch.float64).tiny)).flatten().median()
    if not float(away) > _SDS:
        return ""
    return (
        f"half of the targets lie {_number(float(away))} sds or more from what the priors can reach in the data's own units "
        f"(y is {_number(float(y.double().mean()))} ± {_number(float(y.double().std(correction=0)))}, the prior predictive "
        f"{_number(float(middle.mean()))} ± {_number(float(width.mean()))})"
    )


class _FirstLayer:
    """Records, in a copy of a module, the output of the first layer that computes something."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.first: nn.Module | None = None
        self.second: nn.Module | None = None
        self.others = False  # whether further layers have parameters
        self._sums: list[torch.Tensor] = []
        for layer in module.modules():
            if not list(layer.children()) and not passes_on(layer):
                layer.register_forward_hook(self._hear())

    def _hear(self) -> Callable[..., None]:
        def hear(layer: nn.Module, _: object, output: object) -> None:
            if self.first is None:
                self.first = layer
            if layer is not self.first:
                self.second = self.second or layer
                self.others |= next(layer.parameters(), None) is not None
            elif isinstance(output, torch.Tensor):
                self._sums.append(output.detach())

        return hear

    def verdict(self, x: torch.Tensor) -> str:
        """A clause where the first layer cannot tell the inputs apart."""
        normalised = any(layer is not None and normalises(layer) for layer in (self.first, self.second))
        if self.first is None or not self.others or normalised or isinstance(self.first, (nn.Embedding, nn.EmbeddingBag)):
            return ""
        about = f"X is of size {_number(_size(x))}"
        if not isinstance(self.first, _SUMS):  # recurrent layers, attention: their output is bounded
            return f"{about}, where the priors speak about inputs of size one" if _size(x) > _SATURATED else ""
        size = float(torch.stack([1.4826 * sums.double().abs().median() for sums in self._sums]).median())
        if size > _SATURATED and _size(x) > _ORDINARY:
            return f"{about}, and under the priors the first layer's sums are of size {_number(size)}, where its units saturate"
        varies = float(torch.stack([sums.double().std(0).square().mean().sqrt() for sums in self._sums]).median())
        if varies < _FLAT and float(x.double().std(0).max()) < 1 / _ORDINARY:
            return f"{about}, and under the priors the first layer's sums differ by only {_number(varies)} from row to row"
        return ""


def _is_of_norm(module: nn.Module, name: str) -> bool:
    """True for a normalisation layer's own weights, which are flat by default and about one."""
    return normalises(module.get_submodule(name.rpartition(".")[0]))


def _some(values: torch.Tensor) -> torch.Tensor:
    """Rows at even distances."""
    return values[:: max(1, math.ceil(len(values) / ROWS))]


def _size(values: torch.Tensor) -> float:
    """The root mean square over columns (channels) of their median sizes: a single outlying row has no effect."""
    columns = values.double().reshape(len(values), *(values.shape[1:2] or (1,)), -1).transpose(0, 1).flatten(1)
    return float((1.4826 * columns.abs().median(1).values).square().mean().sqrt())


def _number(value: float) -> str:
    return f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.2g}"
