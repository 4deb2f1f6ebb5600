"""The report's section on the data, the models, and the versions of the software."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, final

from bayesreg import _check
from bayesreg.comparison import Comparison
from bayesreg.data.rows import as_tensor, names_of
from bayesreg.model.model import BayesianModel
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.reports.base import AbstractSection, Material


@final
class Data(AbstractSection):
    """The data and each model."""

    id: ClassVar[str] = "data"
    title: ClassVar[str] = "Data"
    place: ClassVar[float] = 1
    template: ClassVar[str] = """<section id="data">
<h2>Data and model</h2>
<dl class="facts">
{% if data.data.source %}
<div><dt>Source</dt><dd>{{ data.data.source }}</dd></div>
{% endif %}
<div><dt>Target</dt><dd>{{ data.data.target or "not named" }}, {{ data.data.kind }}{% if data.data.classes %} with {{ data.data.classes | length }} classes{% elif data.data.num_outputs > 1 %} with {{ data.data.num_outputs }} outputs{% endif %}</dd></div>
{% if not inverse %}
<div><dt>Inputs</dt><dd>{{ data.data.input_shape | join(" × ") }}</dd></div>
{% endif %}
<div><dt>{{ "Measurements" if inverse else "Test rows" }}</dt><dd>{{ "{:,}".format(data.data.num_test) }}</dd></div>
{% set counts = data.num_samples.values() | select("gt", 1) | unique | sort %}
<div><dt>Draws</dt><dd>{{ "{:,}".format(counts[0]) if counts else "none" }}{{ " to {:,}".format(counts[-1]) if counts | length > 1 }} from each posterior that is no mode, seed {{ data.seed }}</dd></div>
<div><dt>Versions</dt><dd>{% for name, version in data.versions.items() %}{{ name }} {{ version }}{{ ", " if not loop.last }}{% endfor %}</dd></div>
</dl>
{% if data.data.notes %}
<ul class="plain">
{% for note in data.data.notes %}
<li>{{ note }}</li>
{% endfor %}
</ul>
{% endif %}
{% for model in data.models %}
<h3>{{ "Model" if data.models | length == 1 else "Model of " + (model.posteriors | listing) }}</h3>
<dl class="facts">
{% if not inverse %}
<div><dt>Training rows</dt><dd>{{ "{:,}".format(model.num_data) }}</dd></div>
{% endif %}
<div><dt>Unknowns, P</dt><dd>{{ "{:,}".format(model.num_parameters) }}</dd></div>
<div><dt>Likelihood</dt><dd>{{ model.likelihood | breaking }}</dd></div>
<div><dt>Standardised</dt><dd>{% if model.standardize %}yes: inputs{{ " and target" if model.target_standardized }}, by the training rows{% else %}no{% endif %}</dd></div>
{% if model.constant %}
<div><dt>Constant in training</dt><dd>{{ model.constant | join(", ") }}</dd></div>
{% endif %}
</dl>
<details><summary>{{ "Operator" if inverse else "Network" }}</summary><pre>{{ model.module }}</pre></details>
{% endfor %}
{% if data.data.features %}
<details><summary>Names of the {{ data.data.features | length }} inputs</summary><p>{{ data.data.features | join(", ") }}</p></details>
{% endif %}
{% if data.data.classes %}
<details><summary>Names of the {{ data.data.classes | length }} classes</summary><p>{% for name in data.data.classes %}{{ loop.index0 }}: {{ name }}{{ ", " if not loop.last }}{% endfor %}</p></details>
{% endif %}
</section>"""

    def facts(self, made: Material) -> dict[str, Any]:
        """What is known about the data, and each distinct model."""
        described = _data(made.X, made.comparison, made.given)
        return {"data": described, "models": _models(made.posteriors, described["features"])}


def _data(X: Any, comparison: Comparison, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is known about the data.

    Raises:
        ValueError: If the names are no list, not as many as what they name or not different, or notes is one text.
    """
    shape = tuple(as_tensor("X", X).shape[1:])
    width = shape[0] if shape else 1
    names = names_of(X)
    if given["feature_names"] is not None:
        names = _listed("feature_names", given["feature_names"], 'one name a column, for example ["age", "dose"]')
        if len(shape) > 1 or len(names) != width:
            raise ValueError(
                f"feature_names must name each input once, but {len(names)} names came for inputs of shape {shape or (1,)}; "
                "give one name a column, or leave them out."
            )
        _check.distinct("feature_names", names)
    said = _listed("notes", given["notes"], "sentences")
    return {
        "source": None if given["source"] is None else str(given["source"]),
        "kind": comparison.kind,
        "num_test": comparison.num_data,
        "input_shape": list(shape) or [1],
        "features": names,
        "target": None if given["target_name"] is None else str(given["target_name"]),
        "num_outputs": comparison.predictives[comparison.best].num_outputs,
        "classes": _classes(comparison, given["classes"]),
        "notes": said,
        "rows_are": given["rows_are"],
    }


def _listed(what: str, values: Any, of: str) -> list[str]:
    """A user's list of names or sentences; a single text is refused, which Python would iterate letter by letter.

    Raises:
        ValueError: If it is no list.
    """
    if isinstance(values, (str, bytes)):
        raise ValueError(f"{what} must be a sequence of {of}, but one text came; write {what}=[{values[:30]!r}].")
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise ValueError(f"{what} must be a sequence of {of}, but {type(values).__name__} came; pass a list.")
    return [str(value) for value in values]


def _models(posteriors: Mapping[str, AbstractPosterior], features: Sequence[str] | None) -> list[dict[str, Any]]:
    """Each distinct model once, with its posteriors."""
    found: list[dict[str, Any]] = []
    for name, posterior in posteriors.items():
        facts = _model(posterior.model, features)
        for other in found:
            if {**other, "posteriors": None} == {**facts, "posteriors": None}:
                other["posteriors"].append(name)
                break
        else:
            found.append({**facts, "posteriors": [name]})
    return found


def _model(model: BayesianModel, features: Sequence[str] | None) -> dict[str, Any]:
    s = model.standardization
    constant = () if s is None else s.constant
    return {
        "num_data": model.total(),
        "num_parameters": model.num_parameters,
        "likelihood": repr(model.likelihood),
        "standardize": model.standardize,
        "target_standardized": s is not None and model.likelihood.location_scale,
        "constant": [features[i] if features and i < len(features) else f"column {i}" for i in constant],
        "module": str(model.module),
    }


def _classes(comparison: Comparison, classes: Sequence[str] | None) -> list[str] | None:
    if comparison.labels is None:
        if classes is not None:
            raise ValueError("classes must be left out for a regression, but names came; pass target_name instead.")
        return None
    width = comparison.labels.class_probabilities(comparison.predictives[comparison.best].mean[:1]).shape[-1]
    if classes is None:
        return [str(k) for k in range(width)]
    names = _listed("classes", classes, "one name a class, in label order")
    if len(names) != width:
        raise ValueError(f"classes must name each of the {width} classes, but {classes!r} came; give them in label order.")
    _check.distinct("classes", names)
    return names
