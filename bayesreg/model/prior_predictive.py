"""Draws from the prior, and their predictions before any fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from bayesreg._memory import blocks, check_room, together
from bayesreg._threads import drawing
from bayesreg.data.rows import Standardization
from bayesreg.likelihoods import AbstractLikelihood
from bayesreg.model.unknowns import Latent
from bayesreg.predictive.mixture import Predictive


def in_blocks(
    latents: Mapping[str, Latent], like: torch.Tensor, num_samples: int, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Draws of every unknown by name, (s, *shape), parents before children, in constrained space, in blocks that fit memory.

    Dtype and device are those of `like`. The global random state is not touched.

    Yields:
        By name, (s, *shape), in constrained space.

    Raises:
        ValueError: If a prior is improper.
    """
    improper = [f"{name} ({latent.prior})" for name, latent in latents.items() if not latent.prior.proper]
    if improper:
        raise ValueError(
            f"a draw from the prior needs proper priors, but {', '.join(improper)} came; give them proper ones, for example "
            "Normal(10.0); the rule '@norm' finds normalisation layers."
        )
    source, width = drawing(seed), sum(latent.shape.numel() for latent in latents.values())
    for size in blocks(num_samples, width):
        with source, torch.no_grad():
            drawn = _drawn(latents, like, size)
        yield drawn


def _drawn(latents: Mapping[str, Latent], like: torch.Tensor, num_samples: int) -> dict[str, torch.Tensor]:
    options: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
    drawn: dict[str, torch.Tensor] = {}
    for name, latent in latents.items():
        if not latent.parents:
            drawn[name] = latent.prior.at(latent.shape).draw(latent.shape, num_samples, options)
            continue
        each = [{parent: drawn[parent][s] for parent in latent.parents} for s in range(num_samples)]
        drawn[name] = torch.cat([latent.given(values).draw(latent.shape, 1, options) for values in each])
    return drawn


def predicted(
    likelihood: AbstractLikelihood,
    scale: Standardization | None,
    draws: Iterable[dict[str, torch.Tensor]],
    forward: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    noise: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    count: int,
    max_memory: int,
) -> Predictive:
    """The predictive of `count` draws of the unknowns that come in blocks; only outputs and noise are kept.

    `forward` maps one draw to its output at all rows, `noise` draws to the noise parameters; `scale` is the standardisation, if
    any.

    Raises:
        ValueError: If the outputs do not fit.
    """
    result, parts, done = torch.empty(0), [], 0
    with torch.no_grad():
        for block in draws:
            parts.append({name: block[name] for name in likelihood.latents})
            for s in range(len(next(iter(block.values())))):
                found = forward({name: value[s] for name, value in block.items()})
                if not done:
                    needed, came = count * found.numel() * found.element_size(), f"{count:,} draws × {len(found):,} rows"
                    advice = "lower num_samples, look at fewer rows, or raise max_memory"
                    check_room(needed, max_memory, "the prior predictive", came, advice)
                    result = found.new_empty(count, *found.shape)
                result[done] = found
                done += 1
        values = together(parts)
        numbers = torch.vmap(noise)(values) if values else noise(values)
    numbers = {name: value.expand(count) for name, value in numbers.items()}
    return in_data_units(likelihood, scale, result, numbers)


def in_data_units(
    likelihood: AbstractLikelihood,
    scale: Standardization | None,
    output: torch.Tensor,
    noise: Mapping[str, torch.Tensor],
) -> Predictive:
    """Outputs and noise in the model's units as a predictive in the data's own units.

    The output is (S, N), (S, N, K), or (S, N, 2K) where the network also predicts the noise; a noise parameter is (S,).
    """
    # (S,) → (S, 1), and (S, 1, 1) for K outputs: one draw's noise holds for all its rows
    noise = {name: value.detach().reshape(-1, *[1] * (output.dim() - 1)) for name, value in noise.items()}
    if likelihood.centre != 0:
        output = output + output.new_tensor(likelihood.centre)
    likelihood = likelihood.plain
    if scale is not None and likelihood.location_scale:
        mean, width = scale.y_mean, scale.y_scale
        output = widened(likelihood, scale, output)
        output = likelihood.in_units(output, mean.to(output.dtype), width.to(output.dtype))
        noise = {name: likelihood.noise_in_units(name, value, width.to(value.dtype)) for name, value in noise.items()}
    return Predictive(likelihood, output, noise)


def widened(likelihood: AbstractLikelihood, scale: Standardization | None, output: torch.Tensor) -> torch.Tensor:
    """Outputs in the model's units in the type that they have in the data's: float32 would round a small scatter away."""
    far = scale is not None and likelihood.location_scale and bool((scale.y_mean.abs() > 100 * scale.y_scale).any())
    return output.double() if far else output
