"""The verdict in plain words: a few cards, each with the numbers that it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, final

from bayesreg._text import bounds, counted, listing, name_of, number, percent
from bayesreg.comparison import Comparison
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.predictive.mixture import Predictive
from bayesreg.reports.ahead import leads
from bayesreg.reports.calibration import (
    Confidence,
    Finding,
    Judgement,
    coverage_sentence,
    ece_words,
    shift_sentence,
    values_counted,
)
from bayesreg.reports.noise_size import noise_scale
from bayesreg.reports.rows import epistemic_shares

State = Literal["good", "neutral", "bad"]
WORDS: dict[State, tuple[str, str]] = {"good": ("✓", "Good"), "neutral": ("i", "Note"), "bad": ("!", "Caution")}
_STATES: dict[Judgement, State] = {"overconfident": "bad", "cautious": "neutral", "consistent": "good", "too few": "neutral"}


@final
@dataclass(frozen=True)
class Line:
    """One sentence and its state."""

    state: State
    text: str


@final
@dataclass(frozen=True)
class Card:
    """One question with its answer.

    Attributes:
        topic: The question, in a word or two.
        state: "good", "neutral" or "bad".
        headline: The answer.
        lines: What it rests on, one sentence each.
        section: Where the report shows more: the id of a section.
    """

    topic: str
    state: State
    headline: str
    lines: tuple[Line, ...]
    section: str

    def to_dict(self) -> dict[str, Any]:
        """The same as plain types."""
        return {**asdict(self), "lines": [asdict(line) for line in self.lines]}


def verdict(
    posteriors: Mapping[str, AbstractPosterior],
    comparison: Comparison,
    y: Any,
    found: Mapping[str, Finding] | Mapping[str, Confidence],
    noises: Mapping[str, str] | None = None,
    missing: Mapping[str, str] | None = None,
    *,
    seed: int = 0,
) -> list[Card]:
    """The cards of a report, those that cast doubt on all the others first.

    Args:
        posteriors: By name.
        comparison: What `compare` found for them.
        y: The targets that it scored.
        found: What `findings` or `confidences` found for it.
        noises: By name, what the noise of dropout or of random batches makes, in words.
        missing: Fits that could not be had, by name, each with the reason.
        seed: Seed of what is drawn.

    Returns:
        Three to five cards.
    """
    convergence = convergence_card(posteriors, missing or {})
    calibration = calibration_card(comparison, found)
    epistemic = epistemic_card(comparison.predictives)
    lines = (Line("neutral", f"{name}: {words}") for name, words in (noises or {}).items())
    cards = [calibration, best_card(comparison, y, seed=seed), replace(epistemic, lines=(*epistemic.lines, *lines))]
    noise = noise_card(posteriors, comparison, y, found)
    if noise is not None:
        cards.insert(0 if noise.state == "bad" else len(cards), noise)
    return [convergence, *cards] if convergence.state == "bad" else [*cards, convergence]


def calibration_card(comparison: Comparison, found: Mapping[str, Finding] | Mapping[str, Confidence]) -> Card:
    """The card of `found`, whichever it is."""
    regression = {name: part for name, part in found.items() if isinstance(part, Finding)}
    return (
        coverage_card(comparison, regression)
        if regression
        else confidence_card({name: part for name, part in found.items() if isinstance(part, Confidence)})
    )


def coverage_card(comparison: Comparison, found: Mapping[str, Finding]) -> Card:
    """Whether 95 % intervals hold 95 %, and whether the truths lie to one side of what was predicted.

    Args:
        comparison: A regression's.
        found: What `findings` found for it.

    Returns:
        The card.
    """
    values, lines = values_counted(comparison), []
    judged: dict[str, Judgement] = {name: part.judgement for name, part in found.items()}
    for name, part in found.items():
        covered = {c.level: c for c in comparison.scores[name].coverages}
        cause = ", because of a shift" if part.by_shift and judged[name] == "overconfident" else ""
        lines.append(Line(_STATES[judged[name]], f"{name}: {coverage_sentence(covered[0.95], values, judged[name])}{cause}."))
        if part.shifted:
            lines.append(Line("bad", f"{name}: {shift_sentence(part)}"))
        if part.uneven:
            level = max(part.uneven, key=lambda level: abs(covered[level].rate - level))
            lines.append(Line("neutral", f"{name}: {coverage_sentence(covered[level], values, part.judgements[level])}."))
    several = comparison.scores[comparison.best].coverages[0].num_data // comparison.num_data
    if several > 1:
        lines.append(
            Line("neutral", f"A row's {several} values are counted as independent; if they are not, the CIs are too narrow.")
        )
    shifts, state, rest = _coverage_headline(found)
    return Card("Calibration", state, " ".join([*shifts, *rest]), tuple(lines), "calibration")


def _coverage_headline(found: Mapping[str, Finding]) -> tuple[list[str], State, list[str]]:
    """What leans to one side, the card's state, and what is said of the intervals beside that."""
    sides = {side: [n for n, part in found.items() if part.shifted and part.side == side] for side in ("low", "high")}
    shifts = [f"{listing(n)} predict{'' if len(n) > 1 else 's'} too {side} on average." for side, n in sides.items() if n]
    left = {name: part for name, part in found.items() if not part.by_shift}  # of the others the shift has been said
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
    """Whether the predicted class is right as often as it is said to be.

    Args:
        found: What `confidences` found.

    Returns:
        The card.
    """
    judged: dict[str, Judgement] = {name: c.judgement for name, c in found.items()}
    uneven = [name for name, c in found.items() if c.uneven]
    states: dict[str, State] = {name: "neutral" if name in uneven else _STATES[judged[name]] for name in found}
    lines = tuple(Line(states[name], f"{name}: {confidence_sentence(c)}") for name, c in found.items())
    good, few = "Classes are right as often as they are said to be.", "Too few test rows to judge the probabilities by."
    if uneven:
        good = f"{listing(uneven)}: right as often as said over all rows, but not at every level of confidence."
    state = "neutral" if uneven and _worst(judged) == "good" else _worst(judged)
    sure = {name: c.sure for name, c in found.items()}
    return Card("Calibration", state, _calibration_headline(judged, sure, good, few), lines, "calibration")


def confidence_sentence(found: Confidence) -> str:
    """Accuracy, confidence and calibration error of one posterior in words.

    Args:
        found: Its numbers.

    Returns:
        One sentence.
    """
    says = {
        "overconfident": "more than it keeps",
        "cautious": "less than it could",
        "consistent": "no more than chance apart",
        "too few": "too few rows to tell them apart",
    }[found.judgement]
    right = f"right on {percent(found.accuracy)} of {counted(found.num_data, 'test row')}"
    return (
        f"{right} (95 % CI {bounds(found.lower, found.upper)}), {percent(found.confidence)} by its own probabilities: {says}. "
        f"ECE {ece_words(found)}."
    )


def best_card(comparison: Comparison, y: Any, *, seed: int = 0) -> Card:
    """Which posterior predicts best, and whether that is more than chance makes among so many.

    Args:
        comparison: What `compare` found.
        y: The targets that it scored.
        seed: Seed of the test sets that are drawn to see what chance does.

    Returns:
        The card.
    """
    best, scores = comparison.best, comparison.scores
    point = {"rmse": "RMSE {} in target units", "accuracy": "accuracy {}"}
    shown = [text.format(_point(key, scores[best][key])) for key, text in point.items() if key in scores[best]]
    lines = [Line("neutral", f"{best}: log density {number(scores[best]['mlpd'], 3)} nats a row, {', '.join(shown)}.")]
    others = sorted((n for n in scores if n != best), key=lambda n: -comparison.differences[n].sum)
    found = leads(comparison, y, seed=seed)
    lines += [Line("neutral", lead.sentence) for lead in (found[name] for name in others)]
    kinds = {kind: [n for n in others if found[n].kind == kind] for kind in ("same", "clear", "unclear", "few rows", "mixed")}
    return Card("Prediction", *_best_headline(comparison, others, kinds), tuple(lines), "comparison")


def _best_headline(comparison: Comparison, others: list[str], kinds: Mapping[str, list[str]]) -> tuple[State, str]:
    best, clear = name_of(comparison.best), kinds["clear"]
    unclear = [n for n in others if n in kinds["same"] or n in kinds["unclear"]]
    few = [n for n in others if n in kinds["few rows"] or n in kinds["mixed"]]
    if not others:
        return "neutral", f"Only {best} is here: nothing to compare it with."
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


def epistemic_card(predictives: Mapping[str, Predictive]) -> Card:
    """How much of the predictive variance is not knowing the function: what a mode leaves out.

    Args:
        predictives: By name; one with a single component is a mode.

    Returns:
        The card.
    """
    modes = [name for name, p in predictives.items() if p.num_samples == 1]
    shares = {name: epistemic_shares(p) for name, p in predictives.items() if name not in modes}
    lines = [
        Line("neutral", f"{name}: {percent(all_rows)} on average, {percent(top)} on the most uncertain tenth of the rows.")
        for name, (all_rows, top) in shares.items()
    ]
    if modes:
        none = "it is one function" if len(modes) == 1 else "each is one function"
        lines.append(Line("neutral", f"{listing(modes)}: none, since {none}."))
    if not shares:
        head = "Only modes are here: what is not known about the function does not show."
        return Card("Epistemic part", "neutral", head, tuple(lines), "uncertainty")
    ends = [min(part[0] for part in shares.values()), max(part[0] for part in shares.values())]
    alike = percent(ends[0]) == percent(ends[1])
    part = f"{percent(ends[0]) if alike else bounds(*ends)} of the predictive variance"
    head = f"The mode hid {part}." if modes else f"{part} is epistemic."
    return Card("Epistemic part", "neutral", head, tuple(lines), "uncertainty")


def convergence_card(posteriors: Mapping[str, AbstractPosterior], missing: Mapping[str, str] | None = None) -> Card:
    """Whether every fit passed its own check, and which could not be had.

    Args:
        posteriors: By name.
        missing: Fits that could not be had, by name, each with the reason.

    Returns:
        The card.
    """
    failed = {name: p.certificate.sentence for name, p in posteriors.items() if not p.certificate.converged}
    lines = [Line("bad", f"{name}: {sentence}") for name, sentence in failed.items()]
    lines += [Line("neutral", f"{name} could not be fitted: {reason}") for name, reason in (missing or {}).items()]
    without = f" {listing(list(missing))} could not be fitted." if missing else ""
    if failed:
        head = f"{listing(list(failed))} cannot be trusted: the fit did not pass its check.{without}"
        return Card("Convergence", "bad", head, tuple(lines), "convergence")
    few = {1: "The fit converged.", 2: "Both fits converged."}
    head = few.get(len(posteriors), f"All {len(posteriors)} fits converged.")
    passed = Line("good", f"{listing(list(posteriors))}: passed the check that each method makes of itself.")
    if without:
        return Card("Convergence", "neutral", f"{head}{without}", (passed, *lines), "convergence")
    return Card("Convergence", "good", head, (passed,), "convergence")


def noise_card(
    posteriors: Mapping[str, AbstractPosterior], comparison: Comparison, y: Any, found: Mapping[str, Any]
) -> Card | None:
    """Whether a learned noise scale has collapsed: far below what the fit misses new targets by.

    Args:
        posteriors: By name.
        comparison: What `compare` found for them.
        y: The targets that it scored.
        found: What `findings` found for it.

    Returns:
        The card; None where no noise scale is learned, or said by the network.
    """
    if comparison.labels is not None:
        return None
    scales = {name: noise_scale(p, comparison.predictives[name], y, found[name].shifted) for name, p in posteriors.items()}
    known = {name: scale for name, scale in scales.items() if scale is not None}
    if not known:
        return None
    lines = tuple(Line("bad" if scale.small else "good", f"{name}: {scale.sentence}") for name, scale in known.items())
    small = [name for name, scale in known.items() if scale.small]
    if not small:
        return Card("Noise", "good", "The noise scale has not collapsed.", lines, "uncertainty")
    head = f"The noise scale of {listing(small)} has collapsed: new rows are missed by far more than it says."
    return Card("Noise", "bad", head, lines, "uncertainty")


def _worst(judged: Mapping[str, Judgement]) -> State:
    states = {_STATES[j] for j in judged.values()}
    return "bad" if "bad" in states else "neutral" if "neutral" in states else "good"


def _calibration_headline(judged: Mapping[str, Judgement], sure: Mapping[str, bool], good: str, few: str) -> str:
    """What stands out, "is" where chance would do so in under 1 % of test sets, "looks" where in under 5 %."""
    heads = []
    for judgement, word in (("overconfident", "overconfident"), ("cautious", "too cautious")):
        for certain, verbs in ((True, ("is", "are")), (False, ("looks", "look"))):
            names = [name for name, found in judged.items() if found == judgement and sure[name] == certain]
            if names:
                heads.append(f"{listing(names)} {verbs[len(names) > 1]} {word}.")
    if heads:
        return " ".join(heads)
    return few if "too few" in judged.values() else good


def _point(metric: str, value: float) -> str:
    return percent(value) if metric == "accuracy" else number(value, 3)
