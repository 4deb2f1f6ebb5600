"""The verdict in plain words: a few cards, each with the numbers that it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, final

from bayesreg._readings import number
from bayesreg.compare import Comparison
from bayesreg.posterior import AbstractPosterior
from bayesreg.predictive import Predictive
from bayesreg.report.calibration import Confidence, Judgement, clearly_off, confidence, counted, coverage_sentence, judge
from bayesreg.report.rows import epistemic_shares
from bayesreg.report.text import bounds, listing, name_of, percent, plural, plus_minus

State = Literal["good", "neutral", "bad"]
WORDS: dict[State, tuple[str, str]] = {"good": ("✓", "Good"), "neutral": ("i", "Note"), "bad": ("!", "Caution")}
_STATES: dict[Judgement, State] = {"overconfident": "bad", "cautious": "neutral", "consistent": "good", "too few": "neutral"}
CLEAR = 2.0  # standard errors
SAME = 0.01  # nats over all rows
COLLAPSED, SMALL = 0.1, 0.5  # noise scale over test error
_FEW = 10


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
    noises: Mapping[str, str] | None = None,
    *,
    seed: int = 0,
) -> list[Card]:
    """The cards of a report, those that cast doubt on all the others first.

    Args:
        posteriors: By name.
        comparison: What `compare` found for them.
        y: The targets that it scored.
        noises: By name, what the noise of dropout or of random batches makes, in words.
        seed: Seed of what is drawn.

    Returns:
        Three to five cards.
    """
    convergence = convergence_card(posteriors)
    calibration = coverage_card(comparison) if comparison.kind == "regression" else confidence_card(comparison, y, seed=seed)
    epistemic = epistemic_card(comparison.predictives)
    lines = (Line("neutral", f"{name}: {found}") for name, found in (noises or {}).items())
    cards = [calibration, best_card(comparison), replace(epistemic, lines=(*epistemic.lines, *lines))]
    noise = noise_card(posteriors, comparison, y)
    if noise is not None:
        cards.insert(0 if noise.state == "bad" else len(cards), noise)
    return [convergence, *cards] if convergence.state == "bad" else [*cards, convergence]


def coverage_card(comparison: Comparison) -> Card:
    """Whether 95 % intervals hold 95 %, with the uncertainty of the count.

    Args:
        comparison: A regression's.

    Returns:
        The card.
    """
    values = counted(comparison)
    found = {name: scores.coverages[-1] for name, scores in comparison.scores.items()}
    judged: dict[str, Judgement] = {name: judge(coverage) for name, coverage in found.items()}
    lines = [Line(_STATES[judged[name]], f"{name}: {coverage_sentence(c, values)}.") for name, c in found.items()]
    others = {
        name: [c for c in scores.coverages[:-1] if clearly_off(c)]
        for name, scores in comparison.scores.items()
        if judged[name] == "consistent"
    }
    for name, off in others.items():
        if off:
            farthest = max(off, key=lambda c: abs(c.rate - c.level))
            lines.append(Line("neutral", f"{name}: {coverage_sentence(farthest, values)}."))
    several = found[comparison.best].num_data // comparison.num_data
    if several > 1:
        lines.append(
            Line("neutral", f"A row's {several} values are counted as independent; if they are not, the CIs are too narrow.")
        )
    few = "Too few test rows to judge the intervals by."
    sure = {name: clearly_off(coverage) for name, coverage in found.items()}
    good, uneven = "The 95 % intervals hold what they say.", [name for name, off in others.items() if off]
    if uneven:
        good = f"The 95 % intervals hold what they say, but other levels of {listing(uneven)} do not."
    state = "neutral" if uneven and _worst(judged) == "good" else _worst(judged)
    return Card("Calibration", state, _calibration_headline(judged, sure, good, few), tuple(lines), "calibration")


def confidence_card(comparison: Comparison, y: Any, *, seed: int = 0) -> Card:
    """Whether the predicted class is right as often as it is said to be.

    Args:
        comparison: A classification's.
        y: Class labels (N,).
        seed: Seed of what is drawn.

    Returns:
        The card.
    """
    found = {n: confidence(p, y, comparison.scores[n]["ece"], seed=seed) for n, p in comparison.predictives.items()}
    judged: dict[str, Judgement] = {name: c.judgement for name, c in found.items()}
    uneven = [name for name, c in found.items() if judged[name] == "consistent" and c.ece > c.ece_limit]
    states: dict[str, State] = {name: "neutral" if name in uneven else _STATES[judged[name]] for name in found}
    lines = tuple(Line(states[name], f"{name}: {confidence_sentence(c)}") for name, c in found.items())
    sure = {name: min(c.at_most, c.at_least) < 0.005 for name, c in found.items()}
    good, few = "Classes are right as often as they are said to be.", "Too few test rows to judge the probabilities by."
    if uneven:
        good = f"{listing(uneven)}: right as often as said over all rows, but not at every level of confidence."
    state = "neutral" if uneven and _worst(judged) == "good" else _worst(judged)
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
    limit = "above" if found.ece > found.ece_limit else "below"
    right = f"right on {percent(found.accuracy)} of {plural(found.num_data, 'test row')}"
    return (
        f"{right} (95 % CI {bounds(found.lower, found.upper)}), {percent(found.confidence)} by its own probabilities: {says}. "
        f"ECE {percent(found.ece)}, {limit} the {percent(found.ece_limit)} that chance allows."
    )


def best_card(comparison: Comparison) -> Card:
    """Which posterior predicts best, and whether the difference exceeds its paired standard error.

    Args:
        comparison: What `compare` found.

    Returns:
        The card.
    """
    best, scores = comparison.best, comparison.scores
    point = {"rmse": "RMSE {} in target units", "accuracy": "accuracy {}"}
    shown = [text.format(_point(key, scores[best][key])) for key, text in point.items() if key in scores[best]]
    lines = [Line("neutral", f"{best}: log density {number(scores[best]['mlpd'], 3)} nats a row, {', '.join(shown)}.")]
    others = sorted((n for n in scores if n != best), key=lambda n: -comparison.differences[n].sum)
    clear = []
    for name in others:
        d = comparison.differences[name]
        ratio = math.inf if d.sum_se == 0 else abs(d.sum) / d.sum_se
        if abs(d.sum) < SAME or math.isnan(ratio):
            same = abs(d.sum) < SAME
            why = "it predicts the same" if same else "one row gives no standard error"
            behind = "less than 0.01" if same else number(abs(d.sum), 3)
            lines.append(Line("neutral", f"{name_of(name)} is {behind} nats behind: {why}."))
            continue
        behind = f"{name_of(name)} is {plus_minus(abs(d.sum), d.sum_se)} nats behind over all rows"
        if ratio >= CLEAR:
            clear.append(name)
            lines.append(Line("neutral", f"{behind}: {_times(ratio)} its standard error, more than chance explains."))
        else:
            size = "within its standard error" if ratio < 1 else f"{_times(ratio)} its standard error"
            lines.append(Line("neutral", f"{behind}: {size}, which chance may explain."))
    if not others:
        return Card(
            "Prediction", "neutral", f"Only {name_of(best)} is here: nothing to compare it with.", tuple(lines), "comparison"
        )
    unclear = [name for name in others if name not in clear]
    if all(abs(comparison.differences[name].sum) < SAME for name in others):
        head = f"{listing([name_of(best), *others])} predict the same."
        return Card("Prediction", "neutral", head, tuple(lines), "comparison")
    if not unclear:
        return Card("Prediction", "good", f"{name_of(best)} predicts best.", tuple(lines), "comparison")
    if not clear:
        them = "the others" if len(unclear) > 2 else listing(unclear, "or")
        head = f"{name_of(best)} is ahead, but {plural(comparison.num_data, 'row')} cannot tell it from {them}."
        return Card("Prediction", "neutral", head, tuple(lines), "comparison")
    head = f"{name_of(best)} predicts better than {listing(clear)}; it cannot be told apart from {listing(unclear, 'or')}."
    return Card("Prediction", "good", head, tuple(lines), "comparison")


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


def convergence_card(posteriors: Mapping[str, AbstractPosterior]) -> Card:
    """Whether every fit passed its own check.

    Args:
        posteriors: By name.

    Returns:
        The card.
    """
    failed = {name: p.certificate.sentence for name, p in posteriors.items() if not p.certificate.converged}
    if not failed:
        head = {1: "The fit converged.", 2: "Both fits converged."}.get(
            len(posteriors), f"All {len(posteriors)} fits converged."
        )
        text = f"{listing(list(posteriors))}: passed the check that each method makes of itself."
        return Card("Convergence", "good", head, (Line("good", text),), "convergence")
    head = f"{listing(list(failed))} cannot be trusted: the fit did not pass its check."
    lines = tuple(Line("bad", f"{name}: {sentence}") for name, sentence in failed.items())
    return Card("Convergence", "bad", head, lines, "convergence")


def noise_card(posteriors: Mapping[str, AbstractPosterior], comparison: Comparison, y: Any) -> Card | None:
    """Whether a learned noise scale has collapsed: far below what the fit misses new targets by.

    A mode's noise scale is all of its predictive sd, so half of its test error is already too little; a posterior's is
    only the aleatoric part, and a tenth is too little.

    Args:
        posteriors: By name.
        comparison: What `compare` found for them.
        y: The targets that it scored.

    Returns:
        The card; None where no noise scale is learned, or said by the network.
    """
    lines, collapsed = [], []
    for name, posterior in posteriors.items():
        learned = [key for key, latent in posterior.model.latents.items() if latent.is_noise]
        by_row = posterior.model.likelihood.heteroscedastic
        if comparison.kind != "regression" or (learned != ["noise_scale"] and not by_row):
            continue
        predictive = comparison.predictives[name]
        error = (predictive.target(y) - predictive.mean).double().square().mean(0).sqrt().cpu().reshape(-1)
        if by_row:  # one number for all rows, as the error is
            noise = predictive.aleatoric_variance.double().mean(0).sqrt().cpu().reshape(-1)
        else:
            noise = posterior.mean["noise_scale"].double().cpu().reshape(-1).expand(error.shape)
        k = int((noise / error).argmin()) if bool((error > 0).all()) else 0
        ratio = float(noise[k] / error[k]) if float(error[k]) > 0 else math.inf
        limit = SMALL if predictive.num_samples == 1 else COLLAPSED
        bad = ratio < limit and comparison.num_data >= _FEW
        collapsed += [name] if bad else []
        where = f" (output {k})" if len(error) > 1 else ""
        what = "noise scale (root mean square over the test rows)" if by_row else "noise scale"
        text = f"{name}: {what} {number(float(noise[k]), 3)} against a test RMSE of {number(float(error[k]), 3)}{where}"
        lines.append(
            Line("bad" if bad else "good", f"{text}: it followed the noise of its training rows." if bad else f"{text}.")
        )
    if not lines:
        return None
    if not collapsed:
        return Card("Noise", "good", "The noise scale has not collapsed.", tuple(lines), "uncertainty")
    head = f"The noise scale of {listing(collapsed)} has collapsed: new rows are missed by far more than it says."
    return Card("Noise", "bad", head, tuple(lines), "uncertainty")


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


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio < 100 else "over 100 times"
