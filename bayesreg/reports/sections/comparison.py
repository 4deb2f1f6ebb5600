"""The report's section on which posterior predicts better, beyond chance, when several are compared."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import numpy as np
import torch

from bayesreg._text import column, counted, listing, name_of, number, percent, plus_minus
from bayesreg.baselines import verdict
from bayesreg.comparison import METRICS, Comparison, Difference
from bayesreg.metrics import readings as _readings
from bayesreg.predictive.mixture import Predictive
from bayesreg.reports.base import AbstractSection, Card, Line, Material, State
from bayesreg.reports.chance import AHEAD, adjusted, ranked
from bayesreg.reports.judged import Judged, judgements

_SAME = 0.01  # nats over all rows
_SETS, _COMPONENTS, _ROWS = 500, 50, 2000
READS: dict[str, str] = {
    "mlpd": "mean log probability (density) of the observed targets, in nats a row; the one score of the whole distribution.",
    "difference": "log density summed over the rows, minus that of {best}, ± its standard error, paired by row; the verdict "
    "says where it may be chance.",
    "rmse": "root mean squared error of the predicted mean, in target units; says nothing about the intervals.",
    "r2": "share of these targets' variance that the predicted mean explains; 0 is no better than their mean.",
    "crps": "a distance between the predicted distribution and what happened, in target units; for a prediction without any "
    "spread it is the absolute error.",
    "mean_width": "mean width of the 95 % intervals, in target units; narrow is good only where the coverage is right.",
    "coverage_95": "share of the truths inside the 95 % intervals; right at 95 %, too narrow below, too wide above.",
    "accuracy": "share of the rows whose most probable class was the observed one.",
    "auc": "probability that a row of the second class is given a higher probability of it than one of the first; 50 % by chance.",
    "brier": "mean squared distance between the stated probabilities and what happened.",
    "ece": "mean gap between stated probability and observed share, in 15 bins; chance alone makes it larger than zero.",
}


@final
class Scores(AbstractSection):
    """The scores."""

    id: ClassVar[str] = "comparison"
    title: ClassVar[str] = "Comparison"
    place: ClassVar[float] = 4
    tests: ClassVar[bool] = True
    template: ClassVar[str] = """<section id="comparison">
<h2>Comparison</h2>
{% call sheet("Comparison table", "Scores on {:,} test rows. ↑ higher is better, ↓ lower is better, ★ the best of its column{}".format(data.data.num_test, ", baselines included" if table.baselines else "") ~ (", ! coverage that chance does not explain." if regression else "."), ["posterior"] + table.heads + ["fit time"]) %}
{% for row in table.rows %}
<tr><th scope="row">{{ dot(row[0]) }}{{ row[0] }}</th>
{%- for cell in row[1:] %}<td{% if cell.mark %} class="{{ cell.mark }}"{% endif %}>{{ cell.text }}{{ {"best": " ★", "off": " !", "": ""}[cell.mark] }}</td>{% endfor -%}
<td>{{ data.fits[row[0]].seconds | seconds }}</td></tr>
{% endfor %}
{% for row in table.baselines %}
<tr><th scope="row">{{ row[0] }} (baseline)</th>
{%- for cell in row[1:] %}<td{% if cell.mark %} class="{{ cell.mark }}"{% endif %}>{{ cell.text }}{{ {"best": " ★", "off": " !", "": ""}[cell.mark] }}</td>{% endfor -%}
<td>{{ data.comparison.baselines[row[0]].seconds | seconds }}</td></tr>
{% endfor %}
{% endcall %}
<dl class="small">
{% for key, line in reads.items() %}
<div><dt>{{ "Δ ± se" if key == "difference" else metrics[key].head }}:</dt> <dd>{{ line }}</dd></div>
{% endfor %}
</dl>
{% for note in data.comparison.notes %}
<p>{{ note | words }}</p>
{% endfor %}
</section>"""

    def facts(self, made: Material) -> dict[str, Any]:
        """All that `compare` found."""
        return {"comparison": made.comparison.to_dict()}

    def cards(self, made: Material) -> Iterable[Card]:
        """Which predicts best."""
        yield best_card(made.comparison, made.y, seed=made.seed)
        if made.comparison.baselines:
            yield baselines_card(made.comparison)

    def shown(self, made: Material) -> dict[str, Any]:
        """The table and how its columns are read."""
        kept = {m for m in made.comparison.scores[made.comparison.best] if METRICS[m].headline} | {"difference"}
        reads = {key: line.format(best=name_of(made.comparison.best)) for key, line in READS.items() if key in kept}
        return {"table": comparison_table(made.comparison, made.once(judgements)), "reads": reads, "metrics": METRICS}


def comparison_table(comparison: Comparison, found: Judged) -> dict[str, Any]:
    """The comparison as heads and cells, with the best of each column marked."""
    names, others = list(comparison.scores), comparison.baselines
    heads, columns = [], []
    for metric, values, best in comparison.headline():
        share = metric.startswith("coverage") or metric in ("accuracy", "ece")
        shown = [f"{100 * value:.1f} %" for value in values] if share else column(values, METRICS[metric].digits)
        marks = ["best" if top and len(values) > 1 else "" for top in best]
        if METRICS[metric].goal == "level":
            marks = ["off" if found[name].judgement in ("overconfident", "cautious") else "" for name in names]
            marks += [""] * len(others)
        heads.append(METRICS[metric].head)
        columns.append([{"text": cell, "mark": mark} for cell, mark in zip(shown, marks, strict=True)])
        if metric == "mlpd":
            heads.append("Δ ± se")
            beside = (plus_minus(one.difference.sum, one.difference.sum_se) for one in others.values())
            columns.append([{"text": cell, "mark": ""} for cell in (*comparison.deltas(), *beside)])
    rows = [[name, *cells] for name, *cells in zip([*names, *others], *columns, strict=True)]
    return {"heads": heads, "rows": rows[: len(names)], "baselines": rows[len(names) :]}


def baselines_card(comparison: Comparison) -> Card:
    """Whether the fits are worth more than a constant, a line or trees."""
    good, sentence = verdict(comparison.best, comparison.baselines)
    state: State = "good" if good else "neutral" if good is None else "bad"
    lines = tuple(
        Line("neutral", f"{name}: {plus_minus(d.sum, d.sum_se)} nats against {comparison.best}.")
        for name, d in ((name, one.difference) for name, one in comparison.baselines.items())
    )
    return Card("Baselines", state, sentence, lines, "comparison", 3)


def best_card(comparison: Comparison, y: Any, *, seed: int = 0) -> Card:
    """Which posterior predicts best, and whether that is more than chance explains."""
    best, scores = comparison.best, comparison.scores
    point = {"rmse": "RMSE {} in target units", "accuracy": "accuracy {}"}
    shown = [text.format(_point(key, scores[best][key])) for key, text in point.items() if key in scores[best]]
    lines = [Line("neutral", f"{best}: log density {number(scores[best]['mlpd'], 4)} nats a row, {', '.join(shown)}.")]
    others = sorted((n for n in scores if n != best), key=lambda n: -comparison.differences[n].sum)
    found = leads(comparison, y, seed=seed)
    lines += [Line("neutral", lead.sentence) for lead in (found[name] for name in others)]
    kinds = {kind: [n for n in others if found[n].kind == kind] for kind in ("same", "clear", "unclear", "few rows", "mixed")}
    state, head = _best_headline(comparison, others, kinds)
    if (highest := comparison.highest) != best:
        lines.append(Line("neutral", f"Of all rows of the table, {highest} has the highest log density."))
        state, head = "neutral", f"Of the fits, {head}" if others else head
    return Card("Prediction", state, head, tuple(lines), "comparison", 2)


def _best_headline(comparison: Comparison, others: list[str], kinds: Mapping[str, list[str]]) -> tuple[State, str]:
    best, clear = name_of(comparison.best), kinds["clear"]
    unclear = [n for n in others if n in kinds["same"] or n in kinds["unclear"]]
    few = [n for n in others if n in kinds["few rows"] or n in kinds["mixed"]]
    if not others:
        beside = "it stands beside baselines only" if comparison.baselines else "nothing to compare it with"
        return "neutral", f"Only {best} is here: {beside}."
    if len(kinds["same"]) == len(others):
        return "neutral", f"{listing([comparison.best, *others])} predict the same."
    if len(clear) == len(others):
        return "good", f"{best} predicts best."
    rows = f"a few rows decide between it and {listing(few, 'or')}" if few else ""
    if not clear:
        them = "the others" if len(unclear) > 2 else listing(unclear, "or") if unclear else ""
        told = f"{counted(comparison.num_data, 'row')} cannot tell it from {them}" if them else ""
        return "neutral", f"{best} is ahead, but {', and '.join(filter(None, (told, rows)))}."
    told = f"it cannot be told apart from {listing(unclear, 'or')}" if unclear else ""
    return "good", f"{best} predicts better than {listing(clear)}; {', and '.join(filter(None, (told, rows)))}."


def _point(metric: str, value: float) -> str:
    return percent(value) if metric == "accuracy" else number(value, 3)


@final
@dataclass(frozen=True)
class Lead:
    """The best posterior compared with another one.

    Attributes:
        kind: "same"; "clear" where chance does not explain the lead, "unclear" where it may; "few rows" where a few rows make
            it, "mixed" where they make it against most of the others.
        sentence: That in words.
    """

    kind: Literal["same", "clear", "unclear", "few rows", "mixed"]
    sentence: str


def leads(comparison: Comparison, y: Any, *, seed: int = 0) -> dict[str, Lead]:
    """The best posterior compared with each of the others.

    The test is Student's t on the paired differences of the rows, or the sign test where a few rows carry the difference.
    Differences of log densities are skewed: a narrower prediction gains a little on most rows and loses much on a rare one,
    which few rows may not hold. So a lead must also be improbable if the other's predictive were true: Cox's test, with test
    sets drawn from the other. The best was chosen from the data, so any of the k(k − 1)/2 pairs could have come out on top:
    Holm's multipliers begin there.

    References:
        Cox (1961), Tests of separate families of hypotheses.
    """
    others = [name for name in comparison.scores if name != comparison.best]
    level = AHEAD / max(1, len(others) * (len(others) + 1) // 2)
    paired = {name: _p(comparison.differences[name], comparison.num_data) for name in others}
    best, predictives = comparison.predictives[comparison.best], comparison.predictives
    if_right = {name: _p_if_right(best, predictives[name], y, seed) for name in others if paired[name] <= AHEAD}
    p: dict[Hashable, tuple[float, float]] = {n: (max(paired[n], if_right.get(n, 0.0)), 1.0) for n in others}
    p |= {(i,): (1.0, 1.0) for i in range(len(others) * (len(others) - 1) // 2)}  # the pairs without the best
    together = adjusted(p)
    out = {}
    for name in others:
        in_doubt = if_right[name] if if_right.get(name, 0.0) > max(level, paired[name]) else None
        found = comparison.differences[name], together[name] <= AHEAD, in_doubt
        out[name] = _lead(name_of(name), name_of(comparison.best), *found)
    return out


def _p_if_right(best: Predictive, other: Predictive, y: Any, seed: int) -> float:
    """The p-value of the lead if the other predictive were true, from test sets drawn from it.

    Any statistic has its right distribution there, so a few components and rows suffice.
    """
    rows = torch.arange(0, other.num_rows, -(-other.num_rows // _ROWS))
    best, other, y = _readings.take(best, rows), _readings.take(other, rows), other.target(y)[rows.to(other.like.device)]
    sets, thin = other.sample(_SETS, seed=seed), [_thinned(best), _thinned(other)]
    leads = [[float(p.log_prob(each).double().sum()) for p in thin] for each in (y, *sets)]
    lead = np.array([a - b for a, b in leads])
    return ranked(-float(lead[0]), -lead[1:])


def _thinned(predictive: Predictive) -> Predictive:
    """The same with a few components at even distances."""
    return predictive.mixed(slice(None, None, -(-predictive.num_samples // _COMPONENTS)))


def _p(d: Difference, rows: int) -> float:
    """Two-sided p-value."""
    from scipy.special import stdtr

    if d.heavy_tailed:
        return d.sign_test
    if rows < 2 or abs(d.sum) < _SAME or math.isnan(d.sum_se):
        return 1.0
    return 0.0 if d.sum_se == 0 else float(2 * stdtr(rows - 1, -abs(d.sum) / d.sum_se))


def _lead(name: str, best: str, d: Difference, clear: bool, in_doubt: float | None) -> Lead:
    if abs(d.sum) < _SAME and not d.heavy_tailed:
        return Lead("same", f"{name} is less than 0.01 nats behind: it predicts the same.")
    if math.isnan(d.sum_se):
        return Lead("unclear", f"{name} is {number(abs(d.sum), 3)} nats behind: one row gives no standard error.")
    if_right = f"but if {name} were right, it would be so far behind in {percent(in_doubt)} of such test sets"
    doubt = "" if in_doubt is None else if_right
    if d.heavy_tailed:
        return _few_rows(name, best, d, clear, doubt)
    behind = f"{name} is {plus_minus(abs(d.sum), d.sum_se)} nats behind over all rows"
    ratio = math.inf if d.sum_se == 0 else abs(d.sum) / d.sum_se
    times = f"{ratio:.1f} times its standard error" if ratio < 100 else "over 100 times its standard error"
    if clear:
        return Lead("clear", f"{behind}: {times}, more than chance explains.")
    size = "within its standard error" if ratio < 1 else times
    return Lead("unclear", f"{behind}: {size}, {doubt or 'which chance may explain'}.")


def _few_rows(name: str, best: str, d: Difference, clear: bool, doubt: str) -> Lead:
    """A sum that a few rows make says little: the median row and the share of rows are reported instead."""
    ahead = d.share < 0.5
    share, median = 1 - d.share if ahead else d.share, number(abs(d.median), 2)
    made = f"{name} is {number(abs(d.sum), 3)} nats behind in sum, but a few rows make that"
    rows = f"{best if ahead else name} is ahead on {percent(share)} of the rows"
    if not clear:
        return Lead("few rows", f"{made}; {rows}, {doubt or 'which chance may explain'}.")
    kind = "clear" if ahead else "mixed"
    return Lead(kind, f"{made}; {rows}, by {median} nats on the median one, more than chance explains.")
