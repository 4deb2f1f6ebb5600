"""What dropout alone makes of a prediction: its layers, their rates, and the epistemic sd that comes from nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bayesreg._text import bounds, listing, number, percent
from bayesreg.layers import VariationalDropout
from bayesreg.metrics.measures import plain
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.masks import Noisy
from bayesreg.posteriors.refreshed import WithStatistics


def noise_facts(posteriors: Mapping[str, AbstractPosterior], parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The noise layers of each fit by dropout, and the uncertainty that they make: its weights are one point without them.

    Args:
        posteriors: By name.
        parts: What `uncertainty_facts` found for them.

    Returns:
        Plain values by name, of fits by dropout only: "layers", "sparsity" by weight, "uncertainty" for each output, and
        "finding", all of it in words.
    """
    found = {}
    for name, posterior in posteriors.items():
        posterior = posterior.base if isinstance(posterior, WithStatistics) else posterior
        if not isinstance(posterior, Noisy):
            continue
        layers = [_layer(layer, posterior) for layer in posterior.network.sites]
        mine = [part for part in parts if part["posterior"] == name]
        keys = ("output", "epistemic_sd", "sd", "epistemic_share")
        found[name] = {
            "layers": layers,
            "sparsity": {weight: plain(share) for weight, share in posterior.sparsity().items()},
            "uncertainty": [{key: part[key] for key in keys} for part in mine],
            "finding": f"{_makes(layers, mine)} {_origin(layers)}",
        }
    return found


def _layer(name: str, posterior: Noisy) -> dict[str, Any]:
    layer: Any = posterior.network.layers[name]
    return {
        "layer": name,
        "noise": posterior.noises[name],
        "rate": None if isinstance(layer, VariationalDropout) else plain(float(layer.rate)),
        "learned": bool(layer.learned),
        "weights": list(posterior.network.sites[name].weights),
    }


def place(name: str) -> str:
    """A layer's name inside a sentence; the network itself has none.

    >>> place("3"), place("")
    ('layer 3', 'the network')
    """
    return f"layer {name}" if name else "the network"


def _makes(layers: Sequence[Mapping[str, Any]], parts: Sequence[Mapping[str, Any]]) -> str:
    """The layers and what they make: one sentence."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(layer["noise"], []).append(layer["layer"])
    said = "; ".join(f"{noise} at {listing([place(name) for name in names])}" for noise, names in groups.items())
    return f"{said}: {makes(parts)}."


def makes(parts: Sequence[Mapping[str, Any]]) -> str:
    """What a noise that is all of a fit's posterior makes of its predictions, as the end of a sentence.

    >>> makes([{"epistemic_sd": 3.0, "sd": 5.0, "epistemic_share": 0.36}])
    'alone, this noise makes an epistemic sd of 3 of 5 in all (36 % of the variance)'
    """
    shares = [part["epistemic_share"] for part in parts]
    if len(parts) == 1:
        sd, total = (number(parts[0][key], 2) for key in ("epistemic_sd", "sd"))
        made = f"an epistemic sd of {sd} of {total} in all ({percent(shares[0])} of the variance)"
    else:
        made = f"{bounds(min(shares), max(shares))} of the predictive variance, from output to output"
    return f"alone, this noise makes {made}"


def _origin(layers: Sequence[Mapping[str, Any]]) -> str:
    """Whether a person or the data decided on that number."""
    by_hand = [place(layer["layer"]) for layer in layers if not layer["learned"]]
    if not by_hand:
        return "How strong it is was learned with the weights."
    if len(by_hand) < len(layers):
        return f"The rate of {listing(by_hand)} was set by hand, and this number in part with it."
    return "A rate that is set by hand sets this number by hand."
