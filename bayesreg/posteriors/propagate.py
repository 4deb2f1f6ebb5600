"""Draws of weights to draws of outputs, within a bound on memory.

Draws are made and used in blocks; only their outputs are stored. There are three ways through the network: batched products
where it is a plain perceptron (`perceptron.py`); else a loop over draws, one forward pass each, which wins for many rows; or
draws vmapped in chunks, which wins for few. The choice follows from the network and the sizes; the answer is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.func import vmap

from bayesreg._memory import MAX_MEMORY, check_room, together
from bayesreg.behaviour import VMAP, Behaviour
from bayesreg.model.model import BayesianModel
from bayesreg.model.prior_predictive import in_data_units, widened
from bayesreg.objective.flat import FlatLayout
from bayesreg.objective.jacobian import jacobians
from bayesreg.posteriors.perceptron import perceptron_of
from bayesreg.predictive.drawn import Drawn
from bayesreg.predictive.function import AbstractFunction
from bayesreg.predictive.mixture import Predictive

_VMAP_ROWS = 256  # up to about here one batched product is cheaper than the overhead of a forward pass for each draw
_BLOCK_ENTRIES = 2**22  # rows × draws that go through the network at once

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def mixture(
    model: BayesianModel,
    layout: FlatLayout,
    draws: Iterable[torch.Tensor],
    count: int,
    x: torch.Tensor,
    *,
    probe: torch.Tensor,
    forward: Forward | None = None,
    unknowns: Callable[[torch.Tensor], torch.Tensor] = lambda u: u,
    linearize_at: torch.Tensor | None = None,
    max_memory: int = MAX_MEMORY,
) -> Predictive:
    """The predictive, in the data's own units, of draws that come in blocks; only outputs and noise are kept.

    A draw is the parameters of its network; `unknowns` gives the unknowns (s, P) of a block where these differ. `forward` is as
    for `outputs`, or runs a draw of the unknowns when None. `probe` is one draw. With `linearize_at` the network is linearised
    there.
    """
    noises: list[dict[str, torch.Tensor]] = []

    def heard() -> Iterator[torch.Tensor]:
        for block in draws:
            noises.append(noise_of(model, layout, unknowns(block)))
            yield block

    def plain(u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return model.forward(layout.unflatten(u), x)

    model.behaviour.meet(model, x)
    options: dict[str, Any] = {"probe": probe, "linearize_at": linearize_at, "max_memory": max_memory}
    if forward is None and linearize_at is None and (network := perceptron_of(model, layout, x)) is not None:
        options["fill"] = network.fill
    found = outputs(model.behaviour, forward or plain, heard(), count, x, **options)
    return in_data_units(model.likelihood, model.standardization, found, together(noises))


def noise_of(model: BayesianModel, layout: FlatLayout, u: torch.Tensor) -> dict[str, torch.Tensor]:
    """The noise parameters of draws (s, P), (s,) each."""
    found = model.noise(layout.values(u, model.likelihood.latents))
    return {name: value.expand(len(u)) for name, value in found.items()}


def later(
    model: BayesianModel,
    layout: FlatLayout,
    centre: torch.Tensor,
    count: int,
    x: torch.Tensor,
    make: Callable[[], Predictive],
    function: AbstractFunction,
) -> Predictive:
    """A predictive in closed form, whose `count` draws are those of `make`, made when first asked for."""
    with torch.no_grad():
        first = widened(model.likelihood, model.standardization, model.forward(layout.unflatten(centre), x[:1]))
    like = first.new_empty(()).expand(count, len(x), *first.shape[1:])

    def parts() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        made = make()
        return made.output, made.noise

    return Predictive(model.likelihood, Drawn(like, parts), None, function)


def outputs(
    behaviour: Behaviour,
    forward: Forward,
    draws: Iterable[torch.Tensor],
    count: int,
    x: torch.Tensor,
    *,
    probe: torch.Tensor,
    linearize_at: torch.Tensor | None = None,
    fill: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None] | None = None,
    max_memory: int = MAX_MEMORY,
) -> torch.Tensor:
    """The network's output at every row for every draw, (S, N) or (S, N, K), detached, in the units that the model works in.

    `forward` maps the parameters of one draw's network, and inputs, to outputs. Draws come in blocks (s, ...), `count` in all;
    `probe` is one draw, which shows the size of an output before any is made. With `linearize_at`, (P,), the output is f(x; u₀)
    + J(x; u₀)(u − u₀). `fill` writes the outputs of a block of draws at all rows where there is a faster way to them.

    Raises:
        ValueError: If the result would be larger than `max_memory`, or than the machine allows.
    """
    with torch.no_grad():
        first = forward(probe, x[:1])
        came, advice = f"{count:,} draws × {len(x):,} rows", "lower num_samples, predict the rows in blocks"
        needed = count * len(x) * first.numel() * first.element_size()
        check_room(needed, max_memory, "the predictive", came, f"{advice}, or raise max_memory")
        try:
            result = first.new_empty(count, len(x), *first.shape[1:])
        except RuntimeError:
            raise ValueError(
                f"the predictive must fit into this machine's memory, but it does not give the {needed:,} bytes that {came} "
                f"need; {advice}."
            ) from None
        done, at_once = 0, behaviour.stands(VMAP)
        for block in draws:
            part = result[done : done + len(block)]
            done += len(block)
            if fill is not None:
                fill(block, x, part)
            elif linearize_at is not None:
                _fill_linear(behaviour, forward, block, x, linearize_at, part)
            elif len(x) <= _VMAP_ROWS and at_once:
                _fill_together(forward, block, x, part)
            else:
                _fill_one_by_one(forward, block, x, part)
    return result


def _fill_together(f: Forward, u: torch.Tensor, x: torch.Tensor, result: torch.Tensor) -> None:
    chunk = max(1, min(len(u), 20_000 // len(x)))
    for rows in torch.arange(len(u), device=u.device).split(chunk):
        result[rows] = vmap(f, in_dims=(0, None), randomness="different")(u[rows], x)


def _fill_one_by_one(f: Forward, u: torch.Tensor, x: torch.Tensor, result: torch.Tensor) -> None:
    block = max(_VMAP_ROWS, _BLOCK_ENTRIES // max(1, x[0].numel()))
    for s, draw in enumerate(u):
        for start in range(0, len(x), block):
            result[s, start : start + block] = f(draw, x[start : start + block])


def _fill_linear(
    behaviour: Behaviour, f: Forward, u: torch.Tensor, x: torch.Tensor, centre: torch.Tensor, result: torch.Tensor
) -> None:
    """By the Jacobian of a block of rows: backward passes for its outputs instead of a forward pass for each draw."""
    steps = (u - centre).mT
    for rows, base, slopes in jacobians(behaviour, f, centre, x):
        moved = (slopes.reshape(-1, len(centre)) @ steps).mT
        result[:, rows] = base + moved.reshape(len(u), *base.shape)
