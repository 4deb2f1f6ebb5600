"""The report's section on the rows that were predicted worst."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import numpy as np

from bayesreg.comparison import Comparison
from bayesreg.data.rows import as_tensor
from bayesreg.metrics import readings as _readings
from bayesreg.metrics.measures import plain
from bayesreg.reports.base import AbstractSection, Material

MAX_INPUTS = 6


@final
class Worst(AbstractSection):
    """The rows with the lowest density under the best posterior."""

    id: ClassVar[str] = "worst"
    title: ClassVar[str] = "Worst rows"
    place: ClassVar[float] = 8
    tests: ClassVar[bool] = True
    template: ClassVar[str] = """<section id="worst">
<h2>Worst rows</h2>
<p>The {{ data.worst_rows | length }} test rows that {{ data.comparison.best | name }}, the best posterior, thought least likely. {{ data.data.rows_are }} Look at these rows first: an error in the data looks like this too.</p>
{% set regressed = ["output" if data.data.num_outputs > 1 else "", "observed", "predicted", "95 % interval", "sds away"] %}
{% set classified = ["observed", "its probability", "predicted", "its probability"] %}
{% set few = data.worst_rows[0].inputs | length == most and data.data.input_shape | first > most %}
{% set inputs = "inputs" ~ (", the most unusual" if few else "") if data.worst_rows | map(attribute="inputs") | select | list else "" %}
{% call sheet("Worst rows", "Lowest log density under " ~ (data.comparison.best | name), ["row"] + (regressed if regression else classified) + ["−log density (nats)", inputs]) %}
{% for r in data.worst_rows %}
<tr><th scope="row">{{ "{:,}".format(r.row) if r.row is number else r.row }}</th>
{%- if regression -%}
{% if data.data.num_outputs > 1 %}<td>{{ r.output }}</td>{% endif %}<td>{{ r.observed | number }}</td><td>{{ r.predicted | number }}</td><td>{{ r.lower | number(3) }} to {{ r.upper | number(3) }}</td><td>{{ r.distance | number(2) }}</td>
{%- else -%}
<td>{{ r.observed }}</td><td>{{ r.p_observed | percent }}</td><td>{{ r.predicted }}</td><td>{{ r.p_predicted | percent }}</td>
{%- endif %}<td>{{ (0 - r.log_density) | number(3) if r.log_density is not none else "–" }}</td>{% if r.inputs %}<td class="note inputs">{% for name, value in r.inputs %}<span>{{ name }} = {{ value if value is string else value | number }}{{ "," if not loop.last }}</span> {% endfor %}{% if few %}<span>…</span>{% endif %}</td>{% endif %}</tr>
{% endfor %}
{% endcall %}
</section>"""

    def facts(self, made: Material) -> dict[str, Any]:
        """By row."""
        known, names = made.data["data"], made.given["row_names"]
        found = worst_rows(made.comparison, made.y, classes=known["classes"], X=made.X, names=names, features=known["features"])
        return {"worst_rows": found}

    def shown(self, made: Material) -> dict[str, Any]:
        """How many inputs of a row are shown."""
        return {"most": MAX_INPUTS}


def worst_rows(
    comparison: Comparison,
    y: Any,
    *,
    count: int = 5,
    classes: Sequence[str] | None = None,
    X: Any = None,
    names: Sequence[str | int] | None = None,
    features: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """The rows with the lowest log density under the best posterior, the worst first."""
    predictive = comparison.predictives[comparison.best]
    target = predictive.target(y)
    log_density = predictive.log_prob(target).cpu().double()
    chosen = log_density.argsort(stable=True)[:count]
    part = _readings.take(predictive, chosen)
    truth, mean = target[chosen.to(target.device)].cpu(), part.mean.cpu().double()
    rows = [int(row) for row in chosen]
    inputs = [[] for _ in rows] if X is None else inputs_of(X, rows, features)
    found: list[dict[str, Any]] = [
        {"row": row + 1 if names is None else names[row], "log_density": plain(float(log_density[row])), "inputs": shown}
        for row, shown in zip(rows, inputs, strict=True)
    ]
    if (labels := predictive.likelihood.labels) is not None:
        for record, p, observed in zip(found, labels.class_probabilities(mean).tolist(), truth, strict=True):
            seen, said = int(observed), int(np.argmax(p))
            record |= {"observed": _label(seen, classes), "predicted": _label(said, classes)}
            record |= {"p_observed": plain(p[seen]), "p_predicted": plain(p[said])}
        return found
    lower, upper = (end.cpu().double() for end in part.interval(0.95))
    distance = (truth.double() - mean) / part.std.cpu().double()
    for i, record in enumerate(found):
        k = None if distance.dim() == 1 else int(distance[i].abs().argmax())
        at = (i,) if k is None else (i, k)
        ends = {"lower": lower[at], "upper": upper[at], "observed": truth[at], "predicted": mean[at], "distance": distance[at]}
        record |= {"output": k, **{key: plain(float(value)) for key, value in ends.items()}}
    return found


def inputs_of(X: Any, rows: Sequence[int], names: Sequence[str] | None) -> list[list[list[Any]]]:
    """The inputs of some rows: all of them where there are few, else those farthest from the median of all rows.

    Of a category's inputs, "colour=red" and so on, the one that is 1 is shown, with the level as its value.

    >>> inputs_of([[1.0, 0.0, 3.5], [0.0, 1.0, 2.5]], [0, 1], ["colour=red", "colour=blue", "size"])
    [[['colour', 'red'], ['size', 3.5]], [['colour', 'blue'], ['size', 2.5]]]
    """
    values = as_tensor("X", X)
    values = values[:, None] if values.dim() == 1 else values
    if values.dim() != 2:
        return [[] for _ in rows]
    table = values.detach().cpu().double().numpy()
    middle, spread = np.median(table, 0), table.std(0)
    far = np.abs(table[list(rows)] - middle) / np.where(spread > 0, spread, 1)
    named = [str(k) for k in range(1, table.shape[1] + 1)] if names is None else names
    level = np.array(["=" in name for name in named]) & np.isin(table, (0, 1)).all(0)
    far = np.where(level & (table[list(rows)] == 0), -1.0, far)
    chosen = [[k for k in np.sort(np.argsort(-each, kind="stable")[:MAX_INPUTS]) if each[k] >= 0] for each in far]

    def shown(row: int, k: int) -> list[Any]:
        name, _, value = named[k].partition("=")
        return [name, value] if level[k] else [named[k], plain(float(table[row, k]))]

    return [[shown(row, k) for k in each] for row, each in zip(rows, chosen, strict=True)]


def row_names(X: Any, num_rows: int, given: Sequence[Any] | None = None) -> tuple[list[str | int], str]:
    """The names of the rows, and a sentence on where these come from.

    Raises:
        ValueError: If the names are no list, or not as many as the rows.

    >>> row_names([[0.5], [1.5]], 2)
    ([1, 2], 'Rows are numbered from 1, in the order in which they were given.')
    """
    import pandas as pd

    sentence = "Rows are called by the names that came with them."
    if given is None and isinstance(X, pd.DataFrame):
        given, sentence = list(X.index), "Rows are called as in the data frame's index."
    elif given is None:
        given, sentence = range(1, num_rows + 1), "Rows are numbered from 1, in the order in which they were given."
    if isinstance(given, (str, bytes)) or not isinstance(given, (Sequence, np.ndarray, pd.Index, pd.Series)):
        raise ValueError(f"row_names must be a sequence of one name a row, but {given!r} came; pass for example [3, 17, 20].")
    if len(given) != num_rows:
        raise ValueError(f"row_names must name each row, but {len(given):,} came for {num_rows:,} rows; name all of them.")
    whole = (int, np.integer)
    return [int(name) if isinstance(name, whole) and not isinstance(name, bool) else str(name) for name in given], sentence


def _label(number: int, classes: Sequence[str] | None) -> str:
    return str(number) if classes is None else str(classes[number])
