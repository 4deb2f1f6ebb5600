"""Draws from the prior, and what they predict: the look at a model that costs no fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bayesreg.data import Standardization
from bayesreg.latents import Latent
from bayesreg.likelihoods import AbstractLikelihood
from bayesreg.predictive import Predictive, seeded


def sample(latents: Mapping[str, Latent], like: torch.Tensor, num_samples: int, seed: int) -> dict[str, torch.Tensor]:
    """Draws of every unknown, parents before children.

    Args:
        latents: The unknowns.
        like: A tensor with the dtype and device wanted.
        num_samples: S.
        seed: Same seed, same draws; the global random state is not touched.

    Returns:
        By name, (S, *shape), in constrained space.

    Raises:
        ValueError: If a prior is improper.
    """
    improper = [f"{name} ({latent.prior})" for name, latent in latents.items() if not latent.prior.proper]
    if improper:
        raise ValueError(
            f"a draw from the prior needs proper priors, but {', '.join(improper)} came; give them proper ones, for example "
            "Normal(10.0); the rule '@norm' finds normalisation layers."
        )
    options: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
    drawn: dict[str, torch.Tensor] = {}
    with seeded(like.device, seed), torch.no_grad():
        for name, latent in latents.items():
            if not latent.parents:
                drawn[name] = latent.prior.at(latent.shape).draw(latent.shape, num_samples, options)
                continue
            each = [{parent: drawn[parent][s] for parent in latent.parents} for s in range(num_samples)]
            drawn[name] = torch.cat([latent.given(values).draw(latent.shape, 1, options) for values in each])
    return drawn


def in_data_units(
    likelihood: AbstractLikelihood,
    scale: Standardization | None,
    output: torch.Tensor,
    noise: Mapping[str, torch.Tensor],
) -> Predictive:
    """Outputs and noise in the units that a model works in, as a predictive in the data's own.

    Args:
        likelihood: What is assumed about the noise.
        scale: The standardisation, if there is one.
        output: (S, N) or (S, N, K), or (S, N, 2K) where the network says the noise too.
        noise: Name to one number a draw, (S,).

    Returns:
        The predictive.
    """
    # (S,) → (S, 1), and (S, 1, 1) for K outputs, so that one draw's noise stands beside all its rows
    noise = {name: value.detach().reshape(-1, *[1] * (output.dim() - 1)) for name, value in noise.items()}
    if scale is not None and likelihood.location_scale:
        mean, width = scale.y_mean, scale.y_scale
        far = bool((mean.abs() > 100 * width).any())  # then float32 would round away the scatter
        output = output.double() if far else output
        output = likelihood.in_units(output, mean.to(output.dtype), width.to(output.dtype))
        noise = {name: value * width.to(value.dtype) for name, value in noise.items()}
    return Predictive(likelihood, output, noise)
