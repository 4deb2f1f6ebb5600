"""A mode against a posterior of the same model, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bayesreg._text import number, percent
from bayesreg.layers import ConcreteDropout, VariationalDropout
from bayesreg.metrics.measures import plain
from bayesreg.model.model import BayesianModel
from bayesreg.posteriors.base import AbstractPosterior, Dirac
from bayesreg.posteriors.masks import Noisy
from bayesreg.posteriors.refreshed import WithStatistics

MAX_FIGURES, ALL_FIGURES = 4, 16  # of a pair, of a report
_ENTRIES = 2**25  # draws × unknowns held at once


def same_model(a: BayesianModel, b: BayesianModel) -> bool:
    """True where two posteriors answer the same question: module, priors, likelihood, units and number of rows."""
    return a is b or _signature(a) == _signature(b)


def _signature(model: BayesianModel) -> tuple[Any, ...]:
    latents = tuple((n, tuple(lat.shape), repr(lat.prior)) for n, lat in model.latents.items())
    fixed = tuple((r.name, repr(r.specified)) for r in model.resolved)
    outputs = tuple((output.name, repr(output.prior)) for output in model.outputs)
    adjusted = None if model.autoscale is None else tuple(model.autoscale.reshape(-1).tolist())
    net, noise = _architecture(model.module), repr(model.likelihood)
    return net, latents, fixed, outputs, adjusted, noise, model.standardize, model.num_data


def _architecture(module: torch.nn.Module) -> list[tuple[str, ...]]:
    """Its layers; the rate that a dropout has learned is part of the answer."""
    layers = module.named_modules()
    return [(n, type(m).__name__, "" if isinstance(m, ConcreteDropout) else m.extra_repr()) for n, m in layers]


def has_hidden_layers(model: BayesianModel) -> bool:
    """True where weights feed weights, so that single ones are not identifiable."""
    return sum(len(latent.shape) >= 2 for latent in model.latents.values()) > 1


def pair_facts(posteriors: Mapping[str, AbstractPosterior], *, num_samples: int, seed: int) -> list[dict[str, Any]]:
    """One record for each pair of a mode and another posterior of the same model.

    Args:
        posteriors: By name.
        num_samples: Draws behind the intervals; fewer where they would not fit into memory.
        seed: Seed of the draws.

    Returns:
        Plain values: "mode", "posterior", "hidden" (layers), "tensors", and "figures", the names of the largest tensors.
    """
    found = []
    modes = {name: p for name, p in posteriors.items() if isinstance(p, Dirac)}
    for name, posterior in posteriors.items():
        partners = [mode for mode, p in modes.items() if same_model(p.model, posterior.model)]
        is_point = isinstance(posterior, Dirac) or (isinstance(posterior, WithStatistics) and posterior.at_a_point)
        if is_point or not partners:
            continue
        mean, std = posterior.mean, posterior.std
        draws = posterior.sample(min(num_samples, max(100, _ENTRIES // posterior.layout.size)), seed=seed)
        replaced = log_uniform(posterior)
        prior = {key: sd for key, sd in prior_std(posterior).items() if key not in replaced}
        positive = {key for key, segment in posterior.layout.segments.items() if segment.transform is not None}
        for mode in partners:
            point = modes[mode].mean
            tensors = [_tensor(k, (point[k], mean[k], std[k], draws[k]), prior.get(k), k in positive) for k in mean]
            largest = sorted((t for t in tensors if t["size"] > 1), key=lambda t: -t["size"])
            found.append(
                {
                    "mode": mode,
                    "posterior": name,
                    "hidden": has_hidden_layers(posterior.model),
                    "tensors": tensors,
                    "figures": [t["tensor"] for t in largest],
                }
            )
    for pair in found:
        pair["figures"] = pair["figures"][: max(1, min(MAX_FIGURES, ALL_FIGURES // len(found)))]
    return found


def log_uniform(posterior: AbstractPosterior) -> set[str]:
    """Weights whose declared prior the fit has not used: those under sparse variational dropout."""
    posterior = posterior.base if isinstance(posterior, WithStatistics) else posterior
    if not isinstance(posterior, Noisy):
        return set()
    layers = posterior.network.layers
    sparse = {n for n, layer in layers.items() if isinstance(layer, VariationalDropout) and layer.prior == "log-uniform"}
    return {weight for weight, name in posterior.network.weights.items() if name in sparse}


def prior_std(posterior: AbstractPosterior) -> dict[str, torch.Tensor]:
    """Prior sd of each unknown, in the units of `posterior.std`; without those whose prior has none."""
    found = {}
    like = posterior.model.like
    for name, latent in posterior.model.latents.items():
        if latent.parents:
            continue  # its sd hangs on another unknown
        try:
            distribution = latent.prior.distribution(latent.shape, dtype=like.dtype, device=like.device)
            variance = distribution.variance if latent.prior.proper else None
        except NotImplementedError:
            variance = None
        if variance is not None and bool((torch.isfinite(variance) & (variance > 0)).all()):
            found[name] = variance.detach().sqrt()
    return posterior.to_data_units(found)


def _tensor(name: str, values: Sequence[torch.Tensor], prior: torch.Tensor | None, positive: bool) -> dict[str, Any]:
    mode, mean, std, draws = values
    mode, mean, std = (part.detach().cpu().double().reshape(-1) for part in (mode, mean, std))
    draws = draws.detach().cpu().reshape(len(draws), -1)
    distance = ((mean - mode).abs() / std)[std > 0]
    above = (draws > 0).double().mean(0)  # a central interval leaves zero out when all but a tail lies on one side of it
    told = len(draws) >= 40 and not positive
    learned = None if prior is None else std / prior.cpu().double().reshape(-1)
    record: dict[str, Any] = {
        "tensor": name,
        "size": mean.numel(),
        "distance_median": plain(float(distance.median())) if len(distance) else None,
        "distance_largest": plain(float(distance.max())) if len(distance) else None,
        "excludes_zero": plain(float(((above >= 0.975) | (above <= 0.025)).double().mean())) if told else None,
        "learned": None if learned is None else plain(float(learned.median())),
        "scalar": None,
    }
    if mean.numel() == 1:
        low, high = np.quantile(draws.double().numpy(), [0.025, 0.975])
        scalar = {"mode": mode, "mean": mean, "sd": std, "lower": low, "upper": high}
        record["scalar"] = {key: plain(float(value)) for key, value in scalar.items()}
    return record


def tensor_finding(tensor: Mapping[str, Any]) -> str:
    """One tensor's record in words, for its figure.

    Args:
        tensor: As `pair_facts` gives it.

    Returns:
        One sentence.
    """
    if tensor["distance_median"] is None:
        return "The posterior has no spread here."
    text = (
        f"The mean lies {number(tensor['distance_median'], 2)} posterior sds from the mode in the median entry, "
        f"{number(tensor['distance_largest'], 2)} at most."
    )
    if tensor["excludes_zero"] is not None:
        share = percent(tensor["excludes_zero"]) if tensor["excludes_zero"] else "None"
        text += f" {share} of the 95 % intervals leave out zero."
    if tensor["learned"] is not None:
        text += f" The sd is {number(tensor['learned'], 2)} of the prior's."
    return text
