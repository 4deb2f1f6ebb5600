"""The report's section on each fit's own check, and on the uncertainty that dropout or random batches alone make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, final

import torch

from bayesreg import plots
from bayesreg._text import bounds, listing, number, percent
from bayesreg.behaviour.reasons import PREDICTION
from bayesreg.certificates import Certificate, Finding, Outcome
from bayesreg.metrics.measures import plain
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.masks import MaskedNetwork
from bayesreg.reports.base import AbstractSection, Card, Line, Material, State
from bayesreg.reports.sections.uncertainty import parts


@final
class Convergence(AbstractSection):
    """How each fit went."""

    id: ClassVar[str] = "convergence"
    title: ClassVar[str] = "Convergence"
    place: ClassVar[float] = 3
    words: ClassVar[Mapping[str, str]] = {
        "Chain": "a walk through the posterior whose steps, once it has settled, are draws from it.",
        "R̂": "how much wider all chains together are than each by itself; 1 where they agree.",
        "ESS": "effective sample size: as many independent draws would know a mean (bulk) or the ends of an interval (tail) as "
        "well as these draws, each of which resembles the one before it.",
        "Converged in function space": "chains agree on every prediction, and not on single weights: hidden units can change "
        "places, and each chain has them in an order of its own.",
        "Temperature": "T of a posterior whose density is taken to the power 1/T; at any other T than 1 it is no posterior.",
    }
    template: ClassVar[str] = """<section id="convergence">
<h2>Convergence</h2>
{% set kinds = data.fits.values() | map(attribute="objective") | unique | list %}
{% if kinds | length > 1 %}
<p>A log joint and an ELBO are different quantities: compare each curve with itself only, never their heights.</p>
{% endif %}
<div class="fits">
{% for name, reason in data.missing.items() %}
<article>
<h3>{{ name }}</h3>
<p>{{ badge("neutral", "Not fitted") }}</p>
<p>{{ reason | words }}</p>
</article>
{% endfor %}
{% for name, fit in data.fits.items() %}
<article>
<h3>{{ dot(name) }}{{ name }}</h3>
<p>{{ badge(fit.state, fit.verdict) }}</p>
{% if name in history %}
{% set f = history[name] %}
<figure aria-labelledby="{{ f.label }}">
{{ f.svg | safe }}
<figcaption id="{{ f.label }}">{{ f.finding | words }}</figcaption>
</figure>
{% endif %}
<p>{{ fit.certificate | words }}</p>
<dl class="small">
<div><dt>Method</dt> <dd>{{ fit.method }}, seed {{ fit.seed }}, {{ fit.seconds | seconds }}</dd></div>
{% if fit.space %}
<div><dt>Mode taken</dt> <dd>in {{ fit.space }} space</dd></div>
{% endif %}
{% if fit.log_evidence is not none %}
<div><dt>Log evidence</dt> <dd>{{ fit.log_evidence | number(5) }} nats</dd></div>
{% endif %}
{% if name in data.dropout %}
<div><dt>Dropout</dt> <dd>{{ data.dropout[name].finding | words }}</dd></div>
{% for layer in data.dropout[name].layers if layer.weights %}
<div><dt>Noise{% if layer.layer %} at layer {{ layer.layer }}{% endif %}</dt> <dd>on {% for weight in layer.weights %}<code>{{ weight }}</code>{{ ", " if not loop.last }}{% endfor %}; {% if layer.rate is not none %}rate {{ layer.rate | number(3) }}, {% endif %}{{ "learned" if layer.learned else "set by hand" }}</dd></div>
{% endfor %}
{% for weight, share in data.dropout[name].sparsity.items() %}
<div><dt>Sparsity of <code>{{ weight }}</code></dt> <dd>{{ share | percent }} of its entries are noise alone and can be set to zero</dd></div>
{% endfor %}
{% endif %}
{% if name in data.batchnorm %}
<div><dt>Batch normalisation</dt> <dd>{{ data.batchnorm[name].finding | words }}{% if data.batchnorm[name].noise %} {{ data.batchnorm[name].noise | words }}{% endif %}</dd></div>
{% endif %}
{% for note in fit.notes %}
<div><dt>Note</dt> <dd>{{ note | words }}</dd></div>
{% endfor %}
</dl>
{% if fit.details %}
<details><summary>Numbers behind it</summary><dl class="small">
{% for key, value in fit.details.items() %}
<div><dt>{{ key }}</dt> <dd>{{ value if value is string else value | number }}</dd></div>
{% endfor %}
</dl></details>
{% endif %}
</article>
{% endfor %}
</div>
</section>"""

    def facts(self, made: Material) -> dict[str, Any]:
        """By posterior; for dropout and batch normalisation only where there is some."""
        found = made.once(parts)
        return {
            "fits": {name: _fit(posterior) for name, posterior in made.posteriors.items()},
            "dropout": noise_facts(made.posteriors, found),
            "batchnorm": batchnorm_facts(made.posteriors, found),
        }

    def cards(self, made: Material) -> Iterable[Card]:
        """Whether all passed their check."""
        yield convergence_card(made.posteriors, made.data["missing"])

    def shown(self, made: Material) -> dict[str, Any]:
        """The course of the objective."""
        return {
            "history": {
                name: made.draw(plots.history(p, series=made.series[name]), p.history.label, _history(p))
                for name, p in made.posteriors.items()
                if len(p.history.steps) > 1
            }
        }


def _fit(posterior: AbstractPosterior) -> dict[str, Any]:
    history, certificate = posterior.history, posterior.certificate
    return {
        "method": posterior.method,
        "seed": posterior.seed,
        "seconds": plain(posterior.elapsed),
        "num_data": posterior.num_data,
        "num_parameters": posterior.model.num_parameters,
        "converged": certificate.converged,
        "outcome": str(certificate.outcome),
        "state": _verdict(certificate)[0],
        "verdict": _verdict(certificate)[1],
        "certificate": certificate.sentence,
        "details": {k: plain(v) if isinstance(v, (int, float)) else str(v) for k, v in certificate.details.items()},
        "objective": history.label,
        "steps": [int(step) for step in history.steps],
        "history": [plain(value) for value in history.objective],
        "notes": history.said,
        "space": posterior.space,
        "log_evidence": None if posterior.log_evidence is None else plain(posterior.log_evidence),
    }


def _verdict(certificate: Certificate) -> tuple[State, str]:
    """The state and the word of a certificate's badge."""
    if certificate.outcome is Outcome.CONVERGED_IN_FUNCTION:
        return "good", "Converged in function space"
    if certificate.converged:
        return "good", "Converged"
    if certificate.mixing is not None and certificate.outcome is Outcome.NOT_CERTIFIED:
        return ("neutral" if certificate.finding is Finding.SEPARATE else "bad"), "Not certified"
    return "bad", "Not converged"


def _history(posterior: AbstractPosterior) -> str:
    history = posterior.history
    if posterior.certificate.mixing is not None:
        late = torch.tensor(history.objective[len(history.objective) // 2 :], dtype=torch.float64)
        return (
            f"In the second half of the steps the log joint, a mean over the chains, was {number(float(late.mean()))} nats, sd "
            f"{number(float(late.std()), 2)}. Chains that have settled move about a level; it is below the mode's, for away "
            "from the mode there is more room."
        )
    name = "log joint" if history.label == "log joint" else "ELBO, an estimate from a few draws at each step,"
    return (
        f"The {name} went from {number(history.objective[0])} nats at step {history.steps[0]:,} "
        f"to {number(history.objective[-1])} at step {history.steps[-1]:,}."
    )


def convergence_card(posteriors: Mapping[str, AbstractPosterior], missing: Mapping[str, str] | None = None) -> Card:
    """Whether every fit passed its own check, and which fits failed."""
    found = {name: p.certificate for name, p in posteriors.items() if not p.certificate.converged}
    apart = [name for name, one in found.items() if _verdict(one)[0] == "neutral"]
    failed = [name for name in found if name not in apart]
    lines = [Line("bad" if name in failed else "neutral", f"{name}: {one.sentence}") for name, one in found.items()]
    lines += [Line("neutral", f"{name} could not be fitted: {reason}") for name, reason in (missing or {}).items()]
    without = f" {listing(list(missing))} could not be fitted." if missing else ""
    if failed:
        head = f"{listing(failed)} cannot be trusted: the fit did not pass its check.{without}"
        return Card("Convergence", "bad", head, tuple(lines), "convergence", 0)
    if apart:
        head = f"The members of {listing(apart)} do not meet: judge the mixture by its held-out rows.{without}"
        return Card("Convergence", "neutral", head, tuple(lines), "convergence", 5)
    few = {1: "The fit converged.", 2: "Both fits converged."}
    head = few.get(len(posteriors), f"All {len(posteriors)} fits converged.")
    passed = Line("good", f"{listing(list(posteriors))}: passed the check that each method makes of itself.")
    if without:
        return Card("Convergence", "neutral", f"{head}{without}", (passed, *lines), "convergence", 5)
    return Card("Convergence", "good", head, (passed,), "convergence", 5)


def noise_facts(posteriors: Mapping[str, AbstractPosterior], parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The dropout layers of each fit by dropout, and the uncertainty from their masks: otherwise the weights are one point."""
    found = {}
    for name, posterior in posteriors.items():
        fitted: Any = posterior.fitted
        if fitted.masks is None:
            continue
        layers = [_layer(layer, fitted.masks) for layer in fitted.masks.sites]
        mine = [part for part in parts if part["posterior"] == name]
        keys = ("output", "epistemic_sd", "sd", "epistemic_share")
        found[name] = {
            "layers": layers,
            "sparsity": {weight: plain(share) for weight, share in fitted.sparsity().items()},
            "uncertainty": [{key: part[key] for key in keys} for part in mine],
            "finding": f"{_makes(layers, mine)} {_origin(layers)}",
        }
    return found


def _layer(name: str, masks: MaskedNetwork) -> dict[str, Any]:
    layer: Any = masks.layers[name]
    return {
        "layer": name,
        "noise": layer.text,
        "rate": None if layer.rate is None else plain(float(layer.rate)),
        "learned": bool(layer.learned),
        "weights": list(masks.sites[name].weights),
    }


def place(name: str) -> str:
    """A layer's name inside a sentence; the network itself has none.

    >>> place("3"), place("")
    ('layer 3', 'the network')
    """
    return f"layer {name}" if name else "the network"


def _makes(layers: Sequence[Mapping[str, Any]], parts: Sequence[Mapping[str, Any]]) -> str:
    """The layers and the uncertainty from them: one sentence."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(layer["noise"], []).append(layer["layer"])
    said = "; ".join(f"{noise} at {listing([place(name) for name in names])}" for noise, names in groups.items())
    return f"{said}: {makes(parts)}."


def makes(parts: Sequence[Mapping[str, Any]]) -> str:
    """The uncertainty from masks that are the whole posterior of a fit, as the end of a sentence.

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
    """Whether that number was set by the user or by the data."""
    by_hand = [place(layer["layer"]) for layer in layers if not layer["learned"]]
    if not by_hand:
        return "How strong it is was learned with the weights."
    if len(by_hand) < len(layers):
        return f"The rate of {listing(by_hand)} was set by hand, and this number in part with it."
    return "A rate that is set by hand sets this number by hand."


def batchnorm_facts(
    posteriors: Mapping[str, AbstractPosterior], parts: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The statistics that each fit's predictions use."""
    found = {}
    for name, posterior in posteriors.items():
        statistics = posterior.batch_statistics
        if statistics is None:
            continue
        # at one point only the batches differ between draws
        taken = posterior.record.batch_statistics
        alone = posterior.at_a_point and not posterior.is_mode
        mine = [part for part in parts if part["posterior"] == name]
        noise = (
            f"A draw takes {taken.of_a_draw}: {makes(mine)}. How many rows a batch has was set by hand, and this number with "
            "it."
            if alone and taken is not None
            else ""
        )
        # running averages; a point has one draw
        shared = taken is None and not posterior.model.behaviour.why_not(PREDICTION) and not posterior.is_mode
        better = ", one set for all draws; bayesreg.refresh_batchnorm gives each draw its own" if shared else ""
        found[name] = {
            "layers": list(posterior.model.behaviour.coupling),
            "statistics": statistics,
            "finding": f"predicts by {statistics}{better}.",
            "noise": noise,
        }
    return found
