"""The report's section on a mode against a posterior of the same model, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np
import torch

from bayesreg import plots
from bayesreg._text import number, percent
from bayesreg.layers import AbstractMask
from bayesreg.metrics.measures import plain
from bayesreg.model.model import BayesianModel
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.reports.base import AbstractSection, Drawn, Material

MAX_FIGURES, ALL_FIGURES = 4, 16  # tensors of a pair, pairs of a report
_ENTRIES = 2**25  # draws × unknowns held at once
_TOLD = 40  # draws from which the ends of a 95 % interval can be told


@final
class Parameters(AbstractSection):
    """Each pair of a mode and another posterior."""

    id: ClassVar[str] = "parameters"
    title: ClassVar[str] = "Parameters"
    place: ClassVar[float] = 5
    template: ClassVar[str] = """<section id="parameters">
{% set scaled = data.priors | map(attribute="rows") | sum(start=[]) | selectattr("tensor", "equalto", "noise_scale") | list %}
<h2>Mode and posterior, parameter by parameter</h2>
<p>A mode is one point; a posterior says how far each unknown could be from it and still fit the data. Values are in the units that the model works in{{ "; the noise scale is in target units" if scaled }}.</p>
{% if data.pairs | selectattr("hidden") | list %}
<p><strong>Single weights of a network with hidden layers are not identifiable:</strong> hidden units can be exchanged, and often their signs, without any change of the function. Where mode and posterior differ here, compare what they predict rather than their weights.</p>
{% endif %}
{% for pair in data.pairs %}
{% set figures = parameters[loop.index0] %}
<h3>{{ pair.mode | name }} against {{ pair.posterior | name }}</h3>
{% call sheet(pair.mode ~ " against " ~ pair.posterior, "Distance: |posterior mean − mode| in posterior sds. Sd ratio: posterior sd over prior sd, median entry; near 1 the data taught nothing.", ["tensor", "entries", "distance, median", "largest", "95 % leaves out zero", "sd ratio"]) %}
{% set medians = pair.tensors | map(attribute="distance_median") | column %}
{% set largest = pair.tensors | map(attribute="distance_largest") | column %}
{% set learned = pair.tensors | map(attribute="learned") | column %}
{% for t in pair.tensors %}
<tr><th scope="row"><code>{{ t.tensor }}</code></th><td>{{ "{:,}".format(t.size) }}</td><td>{{ medians[loop.index0] }}</td><td>{{ largest[loop.index0] }}</td><td>{{ t.excludes_zero | percent }}</td><td>{{ learned[loop.index0] }}</td></tr>
{% endfor %}
{% endcall %}
{% for t in pair.tensors if t.scalar %}
<p><code>{{ t.tensor }}</code>: {{ t.scalar.mode | number(3) }} at the mode; {{ t.scalar.mean | plus_minus(t.scalar.sd) | words }} in the posterior, 95 % interval {{ t.scalar.lower | number(3) }} to {{ t.scalar.upper | number(3) }}.</p>
{% endfor %}
{{ gallery(figures) }}
{% endfor %}
</section>"""

    def facts(self, made: Material) -> dict[str, Any]:
        """By pair."""
        return {"pairs": pair_facts(made.posteriors, num_samples=made.given["num_samples"], seed=made.seed)}

    def says(self, made: Material) -> bool:
        """Whether there is a pair of one model."""
        return bool(made.data["pairs"])

    def shown(self, made: Material) -> dict[str, Any]:
        """The largest tensors of each pair."""
        return {"parameters": [_drawn(made, pair) for pair in made.data["pairs"]]}


def _drawn(made: Material, pair: Mapping[str, Any]) -> list[Drawn]:
    mode, posterior = made.posteriors[pair["mode"]], made.posteriors[pair["posterior"]]
    return [
        made.draw(
            plots.parameters(mode, posterior, t["tensor"], series=made.series[pair["posterior"]]),
            t["tensor"],
            _tensor_finding(t),
        )
        for t in pair["tensors"]
        if t["tensor"] in pair["figures"]
    ]


def pair_facts(posteriors: Mapping[str, AbstractPosterior], *, num_samples: int | None, seed: int) -> list[dict[str, Any]]:
    """One record for each pair of a mode and another posterior of the same model."""
    found = []
    modes = {name: p for name, p in posteriors.items() if p.is_mode}
    for name, posterior in posteriors.items():
        partners = [mode for mode, p in modes.items() if same_model(p.model, posterior.model)]
        if posterior.at_a_point or not partners:
            continue
        mean, std = posterior.mean, posterior.std
        draws = posterior.sample(
            min(num_samples or posterior.usual_draws, max(100, _ENTRIES // posterior.layout.size)), seed=seed
        )
        replaced = _log_uniform(posterior)
        prior = {key: sd for key, sd in prior_std(posterior).items() if key not in replaced}
        positive = {key for key, segment in posterior.layout.segments.items() if segment.transform is not None}
        for mode in partners:
            point = modes[mode].mean
            told = posterior.num_draws is None or posterior.num_draws >= _TOLD
            tensors = [
                _tensor(k, (point[k], mean[k], std[k], draws[k]), prior.get(k), told and k not in positive) for k in mean
            ]
            largest = sorted((t for t in tensors if t["size"] > 1), key=lambda t: -t["size"])
            found.append(
                {
                    "mode": mode,
                    "posterior": name,
                    "hidden": _has_hidden_layers(posterior.model),
                    "tensors": tensors,
                    "figures": [t["tensor"] for t in largest],
                }
            )
    for pair in found:
        pair["figures"] = pair["figures"][: max(1, min(MAX_FIGURES, ALL_FIGURES // len(found)))]
    return found


def _tensor(name: str, values: Sequence[torch.Tensor], prior: torch.Tensor | None, told: bool) -> dict[str, Any]:
    mode, mean, std, draws = values
    mode, mean, std = (part.detach().cpu().double().reshape(-1) for part in (mode, mean, std))
    draws = draws.detach().cpu().reshape(len(draws), -1)
    distance = ((mean - mode).abs() / std)[std > 0]
    above = (draws > 0).double().mean(0)  # a central interval excludes zero when all but one tail lies on one side of it
    told = told and len(draws) >= _TOLD
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


def _tensor_finding(tensor: Mapping[str, Any]) -> str:
    """One tensor's record in words, for its figure."""
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


def same_model(a: BayesianModel, b: BayesianModel) -> bool:
    """True where two posteriors have one model: module, priors, likelihood, units and number of rows."""
    return a is b or _signature(a) == _signature(b)


def _signature(model: BayesianModel) -> tuple[Any, ...]:
    latents = tuple((n, tuple(lat.shape), repr(lat.prior)) for n, lat in model.latents.items())
    fixed = tuple((r.name, repr(r.specified)) for r in model.resolved)
    outputs = tuple((output.name, repr(output.prior)) for output in model.outputs)
    adjusted = None if model.autoscale is None else tuple(model.autoscale.reshape(-1).tolist())
    net, noise = _architecture(model.module), repr(model.likelihood)
    return net, latents, fixed, outputs, adjusted, noise, model.standardize, model.num_data


def _architecture(module: torch.nn.Module) -> list[tuple[str, ...]]:
    """The layers without numbers that a dropout has learned, which are part of the answer."""
    layers = module.named_modules()
    return [(n, type(m).__name__, m.setting if isinstance(m, AbstractMask) else m.extra_repr()) for n, m in layers]


def _has_hidden_layers(model: BayesianModel) -> bool:
    """True where weights feed weights, so that single ones are not identifiable."""
    return sum(len(latent.shape) >= 2 for latent in model.latents.values()) > 1


def _log_uniform(posterior: AbstractPosterior) -> set[str]:
    """Weights whose declared prior the fit did not use: those under sparse variational dropout."""
    masks = posterior.fitted.masks
    if masks is None:
        return set()
    return {weight for weight, name in masks.weights.items() if not masks.layers[name].uses_prior}


def prior_std(posterior: AbstractPosterior) -> dict[str, torch.Tensor]:
    """Prior sd of each unknown that has one, in the units of `posterior.std`."""
    found = {}
    like = posterior.model.like
    for name, latent in posterior.model.latents.items():
        if latent.parents:
            continue  # its sd depends on another unknown
        try:
            distribution = latent.prior.distribution(latent.shape, dtype=like.dtype, device=like.device)
            variance = distribution.variance if latent.prior.proper else None
        except NotImplementedError:
            variance = None
        if variance is not None and bool((torch.isfinite(variance) & (variance > 0)).all()):
            found[name] = variance.detach().sqrt()
    return posterior.to_data_units(found)
