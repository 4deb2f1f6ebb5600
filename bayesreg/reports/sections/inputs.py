"""The report's section on how much the predictions depend on each input of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, final

import numpy as np

from bayesreg._text import listing, percent
from bayesreg.data.rows import as_tensor
from bayesreg.metrics.importances import total_indices
from bayesreg.metrics.measures import plain
from bayesreg.reports.base import AbstractSection, Card, Line, Material

_LEAST, _MOST = 10, 60  # rows, and columns
_ROWS, _DRAWS = 200, 30
_SHOWN = 12
_MATTERS = 0.05  # of the function's variance


@final
class Inputs(AbstractSection):
    """Each column's share of the function's variance."""

    id: ClassVar[str] = "inputs"
    title: ClassVar[str] = "Inputs"
    place: ClassVar[float] = 4.5
    template: ClassVar[str] = """<section id="inputs">
<h2>Inputs</h2>
<p>How much the predictions of {{ data.inputs.posterior | name }} depend on each input: the share of their variance over the test rows that goes by it, alone or together with others, so that shares may add up to more than 100 %. ± is the sd over draws of the posterior: what the data leave open. It says what the predictions use, and not what causes what; of inputs that go together, either may be used.</p>
{% call sheet("Inputs", "Share of the variance of the function that is gone where the input is that of another row (Sobol's total index)", ["input", "share", "± sd"]) %}
{% for one in data.inputs.shares[:most] %}
<tr><th scope="row">{{ one.input }}</th><td>{{ one.share | percent }}</td><td>{{ one.sd | percent if one.sd is not none else "–" }}</td></tr>
{% endfor %}
{% endcall %}
{% if data.inputs.shares | length > most %}
<p>The other {{ data.inputs.shares | length - most }} have less.</p>
{% endif %}
</section>"""

    def facts(self, made: Material) -> dict[str, Any]:
        """By input, the largest first; none where inputs are no table of some columns."""
        best = made.comparison.best
        return {"inputs": {"posterior": best, "shares": _shares(made, best)}}

    def says(self, made: Material) -> bool:
        """Whether there are some."""
        return bool(made.data["inputs"]["shares"])

    def cards(self, made: Material) -> Iterable[Card]:
        """Which inputs matter."""
        shares = made.data["inputs"]["shares"]
        if shares:
            yield inputs_card(made.comparison.best, shares)

    def shown(self, made: Material) -> dict[str, Any]:
        """How many are shown."""
        return {"most": _SHOWN}


def inputs_card(name: str, shares: Sequence[dict[str, Any]]) -> Card:
    """Which inputs the predictions of a posterior go by, the largest shares first."""
    matter = [one for one in shares if one["share"] >= _MATTERS][:3]
    if not matter:
        return Card("Inputs", "neutral", f"The predictions of {name} hardly go by any input.", (), "inputs", 4)
    some = [f"{one['input']} {percent(one['share'])}{_spread(one['sd'])}" for one in matter]
    shared = "inputs that go together share theirs"
    lines = (Line("neutral", f"{name}: {', '.join(some)} of the variance of its predictions; {shared}."),)
    head = f"Predictions go most by {listing([one['input'] for one in matter])}."
    return Card("Inputs", "neutral", head, lines, "inputs", 4)


def _spread(sd: float | None) -> str:
    return "" if sd is None else f" (sd {percent(sd)})"


def _shares(made: Material, best: str) -> list[dict[str, Any]]:
    rows = as_tensor("X", made.X)
    if rows.dim() != 2 or len(rows) < _LEAST:
        return []
    groups = _grouped(made.data["data"]["features"] or [str(k) for k in range(1, rows.shape[1] + 1)])
    if not 2 <= len(groups) <= _MOST:
        return []
    order = np.random.default_rng(made.seed % 2**32).permutation(len(rows))[:_ROWS]
    seen = rows.double() if rows.is_floating_point() else rows
    posterior = made.posteriors[best]
    count = min(made.given["num_samples"] or posterior.usual_draws, _DRAWS)
    found = total_indices(posterior, seen.cpu().numpy()[order], list(groups.values()), count, made.seed)
    sds = [None] * len(groups) if len(found) == 1 else [plain(sd) for sd in found.std(0)]
    named = zip(groups, found.mean(0), sds, strict=True)
    shares = [{"input": name, "share": plain(share) or 0.0, "sd": sd} for name, share, sd in named]
    return sorted(shares, key=lambda one: -one["share"])


def _grouped(names: Sequence[str]) -> dict[str, list[int]]:
    """Numbers of the inputs that came of one column, as `Encoder` names them.

    >>> _grouped(["size", "size missing", "colour=red", "colour=blue", "age"])
    {'size': [0, 1], 'colour': [2, 3], 'age': [4]}
    """
    found: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        column = name.partition("=")[0] if "=" in name else name.removesuffix(" missing")
        found.setdefault(column if "=" in name or column in names else name, []).append(number)
    return found
