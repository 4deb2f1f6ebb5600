"""The report's section on the priors: each prior table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from bayesreg.behaviour.invariance import SCALE_NOTE
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.reports.base import AbstractSection, Material


@final
class Priors(AbstractSection):
    """Each distinct prior table."""

    id: ClassVar[str] = "priors"
    title: ClassVar[str] = "Priors"
    place: ClassVar[float] = 2
    template: ClassVar[str] = """<section id="priors">
<h2>Priors</h2>
<p>What was assumed about each unknown before the data{% if data.models | selectattr("standardize") | list %}, in standardised units{% endif %}. A penalty of the loss is minus the log of a prior, in nats.</p>
{% for table in tables %}
{% set noted = table.rows | selectattr("note") | list %}
{% call sheet("Prior table %d" % loop.index, "Prior of " ~ (table.posteriors | listing) ~ (": where it differs from that of " ~ (table.like | listing) ~ "; the other tensors have the same" if table.like), ["tensor", "shape", "prior", "scale used", "penalty", "rule", "note" if noted else ""], "text") %}
{% for row in table.rows %}
<tr><th scope="row"><code>{{ row.tensor }}</code></th><td>{{ row.shape }}</td><td>{{ row.prior }}</td><td>{{ row.scale }}</td><td>{{ row.penalty }}</td><td>{{ row.source }}</td>{% if noted %}<td class="note">{{ row.note }}</td>{% endif %}</tr>
{% endfor %}
{% endcall %}
{% for remark in table.remarks %}
<p>{{ remark }}</p>
{% endfor %}
{% endfor %}
</section>"""

    def facts(self, made: Material) -> dict[str, Any]:
        """The tables."""
        return {"priors": _tables(made.posteriors)}

    def shown(self, made: Material) -> dict[str, Any]:
        """The tables; of one that is nearly the first, the rows that differ."""
        first, *others = made.data["priors"]
        return {"tables": [{**first, "like": []}, *(_beside(first, table) for table in others)]}


def _tables(posteriors: Mapping[str, AbstractPosterior]) -> list[dict[str, Any]]:
    """Each distinct prior table once, with its posteriors."""
    found: list[dict[str, Any]] = []
    for name, posterior in posteriors.items():
        table = posterior.model.prior_table()
        rows, said = table.to_dicts(), list(table.notes)
        for other in found:
            if other["rows"] == rows and other["remarks"][: len(said)] == said:
                other["posteriors"].append(name)
                break
        else:
            found.append({"posteriors": [name], "rows": rows, "remarks": said + _remarks(rows)})
    return found


def _beside(first: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """A table's rows that the first has not, where these are of the same tensors and half of them at most."""
    same = [row["tensor"] for row in first["rows"]] == [row["tensor"] for row in table["rows"]]
    rows = [row for row in table["rows"] if row not in first["rows"]]
    if not same or not 0 < 2 * len(rows) <= len(table["rows"]) or table["remarks"] != first["remarks"]:
        return {**table, "like": []}
    return {**table, "rows": rows, "remarks": [], "like": first["posteriors"]}


def _remarks(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Explanations for which a note in the table is too short."""
    if not any(SCALE_NOTE in row["note"] for row in rows):
        return []
    return [
        "A weight that a batch normalisation follows is scale-invariant: each output unit's weights can be multiplied by any "
        "positive number and the network stays the same function. A Gaussian prior there does not restrict the function; it "
        "sets the weights' length, and with it the size of an optimizer's effective step (van Laarhoven, 2017, L2 "
        "regularization versus batch and weight normalization)."
    ]
