"""The report's section on calibration, in words, numbers and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, ClassVar, final

import numpy as np

from bayesreg import plots
from bayesreg._text import bounds, counted, listing, name_of, percent
from bayesreg.comparison import Comparison
from bayesreg.metrics import readings as _readings
from bayesreg.metrics.measures import LEVELS, Coverage, plain
from bayesreg.predictive.mixture import Predictive
from bayesreg.reports.base import AbstractSection, Card, Drawn, Line, Material, State
from bayesreg.reports.chance import CALIBRATION
from bayesreg.reports.judged import BLIND, Confidence, Finding, Judged, Judgement, judgements

_MOST_CLASSES = 12  # of a confusion matrix that is shown
_STATES: dict[Judgement, State] = {"overconfident": "bad", "cautious": "neutral", "consistent": "good", "too few": "neutral"}


@final
class Calibration(AbstractSection):
    """Stated against observed."""

    id: ClassVar[str] = "calibration"
    title: ClassVar[str] = "Calibration"
    place: ClassVar[float] = 6
    tests: ClassVar[bool] = True
    template: ClassVar[str] = """<section id="calibration">
<h2>Calibration</h2>
{% if regression %}
<p>A predictive is calibrated when its 80 % intervals hold 80 % of the truths, and so on for every level. Grey bands and dashed lines: where counts of a calibrated one would lie 95 % of the time.</p>
{% else %}
<p>Probabilities are calibrated when, of all rows given 80 %, 80 % come true. Points on the diagonal are right; bars are 95 % intervals, larger dots hold more rows.</p>
{% endif %}
{{ gallery(calibration) }}
{% if regression %}
{% set caption = "Observed share inside central intervals, with its 95 % interval; ! where that is more than chance does among so many counts" %}
{% set heads = levels + ["calibration error ↓"] %}
{% else %}
{% set caption = "Stated against observed. Chance: the calibration error that a calibrated predictive stays below 95 % of the time." %}
{% set heads = ["accuracy (95 % CI)", "mean confidence", "ECE ↓", "chance", "Brier ↓"] %}
{% endif %}
{% call sheet("Calibration table", caption, ["posterior"] + heads) %}
{% for name, facts in data.calibration.items() %}
{% if regression %}
<tr><th scope="row">{{ name }}</th>{% for c in facts.coverages %}<td{% if c.judgement in ("overconfident", "cautious") %} class="off"{% endif %}>{{ c.rate | percent }} ({{ c.lower | bounds(c.upper, c.level) }}){{ " !" if c.judgement in ("overconfident", "cautious") }}</td>{% endfor %}<td>{{ facts.calibration_error | percent }}</td></tr>
{% else %}
<tr><th scope="row">{{ name }}</th><td>{{ facts.accuracy | percent }} ({{ facts.lower | bounds(facts.upper) }})</td><td>{{ facts.confidence | percent }}</td><td{% if facts.ece_off %} class="off"{% endif %}>{{ facts.ece | percent }}{{ " !" if facts.ece_off }}</td><td>{{ facts.ece_limit | percent }}</td><td>{{ facts.brier | number(3) }}</td></tr>
{% endif %}
{% endfor %}
{% endcall %}
{% if not regression and data.data.classes | length <= most %}
{% set best = data.comparison.best %}
{% call sheet("Confusion matrix", "Test rows of each class (row) by the class that " ~ (best | name) ~ " gives the highest probability (column)", ["observed"] + data.data.classes) %}
{% for counts in data.calibration[best].confusion %}
{% set own = loop.index0 %}
<tr><th scope="row">{{ data.data.classes[loop.index0] }}</th>{% for count in counts %}<td{% if loop.index0 == own %} class="best"{% endif %}>{{ "{:,}".format(count) }}</td>{% endfor %}</tr>
{% endfor %}
{% endcall %}
{% endif %}
</section>"""

    def facts(self, made: Material) -> dict[str, Any]:
        """By posterior."""
        each = _regression if made.regression else _classification
        found: Mapping[str, Any] = made.once(judgements)
        return {"calibration": {name: each(made.comparison, name, made.y, part) for name, part in found.items()}}

    def cards(self, made: Material) -> Iterable[Card]:
        """Whether what was stated came true."""
        yield calibration_card(made.comparison, made.once(judgements))

    def shown(self, made: Material) -> dict[str, Any]:
        """Coverage and PIT values of a regression, reliability of a classification."""
        levels = [f"{percent(level)} intervals" for level in LEVELS]
        return {"calibration": [*_figures(made)], "levels": levels, "most": _MOST_CLASSES}


def _figures(made: Material) -> Iterable[Drawn]:
    facts, predictives, y = made.data["calibration"], made.comparison.predictives, made.y
    if made.regression:
        said = "; ".join(facts[name]["curve_finding"] for name in predictives)
        finding = f"{said}. By chance, a calibrated one leaves it at about 2."
        yield made.draw(plots.coverage(made.comparison, y), "All: coverage of central intervals", finding)
    each = plots.pit if made.regression else plots.reliability
    for name, predictive in predictives.items():
        yield made.draw(each(predictive, y, series=made.series[name]), name, facts[name]["finding"])


def _regression(comparison: Comparison, name: str, y: Any, found: Finding) -> dict[str, Any]:
    predictive, scores = comparison.predictives[name], comparison.scores[name]
    u = predictive.pit(y).cpu().double().numpy().ravel()
    observed = _readings.coverage_curve(predictive, y)
    low, high = _readings.binomial_band(u.size, _readings.LEVELS)
    ends = float(((u < 0.05) | (u > 0.95)).mean())
    below, above = int((observed < low).sum()), int((observed > high).sum())
    return {
        "coverages": [{**asdict(c), "judgement": found.judgements[c.level]} for c in scores.coverages],
        "levels": list(_readings.LEVELS),
        "observed": [float(share) for share in observed],
        "calibration_error": plain(scores["calibration_error"]),
        "outside_band": below + above,
        "pit_counts": [int(count) for count in np.histogram(u, 10, (0, 1))[0]],
        "pit_mean": float(u.mean()),
        "ends": ends,
        "shift": {"mean": found.shift.mean, "standard_errors": plain(found.shift.distance), "clear": found.shifted},
        "finding": pit_finding(ends, found),
        "curve_finding": _curve_finding(name, below, above, len(observed)),
    }


def pit_finding(ends: float, found: Finding) -> str:
    """The histogram of PIT values in words: the verdict on them, and their share at the ends."""
    said = {"overconfident": "more than chance: too narrow", "cautious": "fewer than chance: too wide"}.get(
        found.judgements[0.9], "as chance allows"
    )
    text = f"{percent(ends)} of the values lie in the outermost 10 % of their predictive, {said}."
    return f"{text} {_shift(found)}" if found.shifted else text


def _shift(found: Finding) -> str:
    """That the predictions lean to one side, in words."""
    where = "" if found.output is None else f" (output {found.output})"
    return (
        f"Predictions are too {found.side} on average{where}: the truths lie at the {percent(found.shift.mean)} point of their "
        f"predictives, {abs(found.shift.distance):.1f} standard errors from the middle."
    )


def _curve_finding(name: str, below: int, above: int, levels: int) -> str:
    if not below and not above:
        return f"{name_of(name)} stays inside the band at all {levels} levels"
    parts = [f"{side} the band at {count}" for side, count in (("below", below), ("above", above)) if count]
    return f"{name_of(name)} lies {' and '.join(parts)} of {levels} levels"


def _classification(comparison: Comparison, name: str, y: Any, found: Confidence) -> dict[str, Any]:
    predictive, scores = comparison.predictives[name], comparison.scores[name]
    stated, observed, count = (part.tolist() for part in _readings.reliability_bins(predictive, y))
    return {
        **{key: plain(value) for key, value in asdict(found).items()},
        "judgement": found.judgement,
        "ece_off": found.p_ece <= CALIBRATION,
        "brier": plain(scores["brier"]),
        "bins": [list(row) for row in zip(stated, observed, count, strict=True)],
        "confusion": _confusion(predictive, y).tolist(),
        "finding": f"Calibration error {_ece(found)}.",
    }


def _confusion(predictive: Predictive, y: Any) -> np.ndarray:
    """Numbers of rows by observed and by most probable class, (K, K)."""
    labels, mean = predictive.likelihood.labels, predictive.mean.cpu().double()
    assert labels is not None  # otherwise it is no classification
    shares = labels.class_probabilities(mean)
    counts = np.zeros((shares.shape[-1], shares.shape[-1]), dtype=np.int64)
    np.add.at(counts, (predictive.target(y).cpu().long().numpy(), labels.choice(mean).long().numpy()), 1)
    return counts


def _ece(found: Confidence) -> str:
    """A calibration error compared with its size by chance."""
    error, limit = percent(found.ece), percent(found.ece_limit, apart=found.ece)
    if found.p_ece <= CALIBRATION:
        return f"{error}, above the {limit} that chance allows"
    if found.ece > found.ece_limit:
        return f"{error}, above the {limit} that chance alone passes in one test set of twenty, but too near to say more"
    return f"{error}, below the {limit} that chance allows"


def _coverage(coverage: Coverage, values: str, judgement: Judgement) -> str:
    """One level's coverage in words, with its 95 % interval and the conclusion that this allows."""
    level = percent(coverage.level)
    ends = bounds(coverage.lower, coverage.upper, coverage.level)
    found = f"{percent(coverage.rate)} of the {values} (95 % CI {ends})"
    text = f"its {level} intervals cover {found}"
    holds = coverage.lower <= coverage.level <= coverage.upper
    says: dict[Judgement, str] = {
        "overconfident": ": too narrow",
        "cautious": ": wider than they need be",
        "consistent": f": cannot be told apart from {level}" if holds else ", but chance may explain that",
        "too few": f": too few rows to tell whether that is {level} or {percent(coverage.level - BLIND)}",
    }
    return text + says[judgement]


def _values(comparison: Comparison) -> str:
    """The units that the coverage counts, in words."""
    count = comparison.scores[comparison.best].coverages[0].num_data
    return counted(count, "test row" if count == comparison.num_data else "test value")


def calibration_card(comparison: Comparison, found: Judged) -> Card:
    """The card for findings of either kind."""
    regression = {name: part for name, part in found.items() if isinstance(part, Finding)}
    return (
        coverage_card(comparison, regression)
        if regression
        else confidence_card({name: part for name, part in found.items() if isinstance(part, Confidence)})
    )


def coverage_card(comparison: Comparison, found: Mapping[str, Finding]) -> Card:
    """Whether 95 % intervals hold 95 % of the targets, and whether predictions are shifted to one side."""
    values, lines = _values(comparison), []
    judged: dict[str, Judgement] = {name: part.judgement for name, part in found.items()}
    for name, part in found.items():
        covered = {c.level: c for c in comparison.scores[name].coverages}
        cause = ", because of a shift" if part.by_shift and judged[name] == "overconfident" else ""
        lines.append(Line(_STATES[judged[name]], f"{name}: {_coverage(covered[0.95], values, judged[name])}{cause}."))
        if part.shifted:
            lines.append(Line("bad", f"{name}: {_shift(part)}"))
        if part.uneven:
            level = max(part.uneven, key=lambda level: abs(covered[level].rate - level))
            lines.append(Line("neutral", f"{name}: {_coverage(covered[level], values, part.judgements[level])}."))
    several = comparison.scores[comparison.best].coverages[0].num_data // comparison.num_data
    if several > 1:
        lines.append(
            Line("neutral", f"A row's {several} values are counted as independent; if they are not, the CIs are too narrow.")
        )
    shifts, state, rest = _coverage_headline(found)
    return Card("Calibration", state, " ".join([*shifts, *rest]), tuple(lines), "calibration", 1)


def _coverage_headline(found: Mapping[str, Finding]) -> tuple[list[str], State, list[str]]:
    """The headline on shifts and intervals, and the card's state."""
    sides = {side: [n for n, part in found.items() if part.shifted and part.side == side] for side in ("low", "high")}
    shifts = [f"{listing(n)} predict{'' if len(n) > 1 else 's'} too {side} on average." for side, n in sides.items() if n]
    left = {name: part for name, part in found.items() if not part.by_shift}  # for the others the shift has been stated
    judged: dict[str, Judgement] = {name: part.judgement for name, part in left.items()}
    uneven, worst = [name for name, part in left.items() if part.uneven], _worst(judged)
    state = "bad" if shifts else "neutral" if uneven and worst == "good" else worst
    if shifts and not uneven and not {"overconfident", "cautious"} & set(judged.values()):
        return shifts, state, []
    but = f", but other levels of {listing(uneven)} do not" if uneven else ""
    good = f"The 95 % intervals hold what they say{but}."
    few = "Too few test rows to judge the intervals by."
    if uneven:
        few = f"Too few test rows to judge the 95 % intervals by, but other levels of {listing(uneven)} are off."
    return shifts, state, [_calibration_headline(judged, {n: part.sure for n, part in left.items()}, good, few)]


def confidence_card(found: Mapping[str, Confidence]) -> Card:
    """Whether the predicted class is right as often as it is said to be."""
    judged: dict[str, Judgement] = {name: c.judgement for name, c in found.items()}
    uneven = [name for name, c in found.items() if c.uneven]
    states: dict[str, State] = {name: "neutral" if name in uneven else _STATES[judged[name]] for name in found}
    lines = tuple(Line(states[name], f"{name}: {_confidence(c)}") for name, c in found.items())
    good, few = "Classes are right as often as they are said to be.", "Too few test rows to judge the probabilities by."
    if uneven:
        good = f"{listing(uneven)}: right as often as said over all rows, but not at every level of confidence."
    state = "neutral" if uneven and _worst(judged) == "good" else _worst(judged)
    sure = {name: c.sure for name, c in found.items()}
    return Card("Calibration", state, _calibration_headline(judged, sure, good, few), lines, "calibration", 1)


def _confidence(found: Confidence) -> str:
    """Accuracy, confidence and calibration error of one posterior in words."""
    says = {
        "overconfident": "more than it keeps",
        "cautious": "less than it could",
        "consistent": "no more than chance apart",
        "too few": "too few rows to tell them apart",
    }[found.judgement]
    right = f"right on {percent(found.accuracy)} of {counted(found.num_data, 'test row')}"
    return (
        f"{right} (95 % CI {bounds(found.lower, found.upper)}), {percent(found.confidence)} by its own probabilities: {says}. "
        f"ECE {_ece(found)}."
    )


def _worst(judged: Mapping[str, Judgement]) -> State:
    states = {_STATES[j] for j in judged.values()}
    return "bad" if "bad" in states else "neutral" if "neutral" in states else "good"


def _calibration_headline(judged: Mapping[str, Judgement], sure: Mapping[str, bool], good: str, few: str) -> str:
    """What stands out: "is" where chance would do so in under 1 % of test sets, "looks" where in under 5 %."""
    heads = []
    for judgement, word in (("overconfident", "overconfident"), ("cautious", "too cautious")):
        for certain, verbs in ((True, ("is", "are")), (False, ("looks", "look"))):
            names = [name for name, found in judged.items() if found == judgement and sure[name] == certain]
            if names:
                heads.append(f"{listing(names)} {verbs[len(names) > 1]} {word}.")
    if heads:
        return " ".join(heads)
    return few if "too few" in judged.values() else good
