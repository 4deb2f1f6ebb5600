"""Whether stated probabilities came true, beyond chance, when several posteriors are judged together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import numpy as np

from bayesreg.comparison import Comparison
from bayesreg.likelihoods import AbstractLabels
from bayesreg.metrics import readings as _readings
from bayesreg.metrics.measures import Coverage
from bayesreg.predictive.mixture import Predictive
from bayesreg.reports.base import Material, num_outputs
from bayesreg.reports.chance import CALIBRATION, Shift, Tails, adjusted, num_draws, ranked, regression_tails

Judgement = Literal["overconfident", "cautious", "consistent", "too few"]
BLIND = 0.10  # a test set that cannot distinguish two shares this far apart is too small
_SURE = 0.1  # fraction of the level below which a verdict says "is" instead of "looks"
_EXACT_ROWS = 3000
_WEIGHTS = {"shift": 0.4, 0.95: 0.4, 0.9: 0.2 / 3, 0.8: 0.2 / 3, 0.5: 0.2 / 3}  # share of the level for each test
_HITS, _ECE = 0.7, 0.3


@final
@dataclass(frozen=True)
class Finding:
    """The verdict on a regression's calibration, with all posteriors tested together.

    Attributes:
        judgements: By level of coverage.
        sure: Whether the 95 % coverage is significant at a tenth of the level.
        shift: The mean position of the targets.
        shifted: Whether it is more than chance explains.
        by_shift: Whether the 95 % coverage is right once all targets are corrected for the shift.
        output: Number of the output concerned; None where there is one output.
    """

    judgements: dict[float, Judgement]
    sure: bool
    shift: Shift
    shifted: bool
    by_shift: bool
    output: int | None

    @property
    def judgement(self) -> Judgement:
        """The judgement of the 95 % intervals."""
        return self.judgements[0.95]

    @property
    def side(self) -> Literal["low", "high"]:
        """Whether the predictions are too high or too low."""
        return "low" if self.shift.mean > 0.5 else "high"

    @property
    def uneven(self) -> list[float]:
        """Levels that are miscalibrated while 95 % is not."""
        off = [level for level, said in self.judgements.items() if said in ("overconfident", "cautious")]
        return off if self.judgement in ("consistent", "too few") else []


def findings(comparison: Comparison, y: Any, *, seed: int = 0) -> dict[str, Finding]:
    """The verdict on each posterior of a regression, at one level for all statements."""
    found = {name: regression_tails(predictive, y, seed=seed) for name, predictive in comparison.predictives.items()}
    p: dict[tuple[str, Any], tuple[float, float]] = {}
    for name, (shift, covered) in found.items():
        p[name, "shift"] = shift.tails.p, _WEIGHTS["shift"]
        p |= {(name, level): (tails.p, _WEIGHTS[level]) for level, tails in covered.items()}
    p_adjusted = adjusted(p)
    out = {}
    for name, (shift, covered) in found.items():
        judged: dict[float, Judgement] = {
            c.level: _judgement(c, covered[c.level], p_adjusted[name, c.level] <= CALIBRATION)
            for c in comparison.scores[name].coverages
        }
        sure, shifted = p_adjusted[name, 0.95] <= _SURE * CALIBRATION, p_adjusted[name, "shift"] <= CALIBRATION
        by_shift = shifted and _right_but_moved(comparison.predictives[name], y, seed)
        several = num_outputs(comparison.predictives[name]) > 1
        out[name] = Finding(judged, sure, shift, shifted, by_shift, shift.tails.output if several else None)
    return out


def _right_but_moved(predictive: Predictive, y: Any, seed: int) -> bool:
    if not predictive.likelihood.location_scale:  # such targets cannot be shifted
        return False
    target = predictive.target(y)
    _, covered = regression_tails(predictive, target - (target - predictive.mean).mean(0), seed=seed)
    return covered[0.95].p > _WEIGHTS[0.95] * CALIBRATION


def _judgement(coverage: Coverage, tails: Tails, off: bool) -> Judgement:
    """The judgement of one count; "too few" where chance explains it but would also hide a level wrong by ten points."""
    if off:
        return "overconfident" if tails.low < tails.high else "cautious"
    return "too few" if coverage.lower < coverage.level - BLIND else "consistent"


@final
@dataclass(frozen=True)
class Confidence:
    """The accuracy of the predicted classes and the confidence stated for them.

    Attributes:
        num_data: N.
        hits: Rows whose predicted class was the observed one.
        accuracy: hits / N.
        lower: Lower end of its 95 % Wilson interval; `upper` is its upper end.
        confidence: Mean stated probability of the predicted class.
        at_most: Probability of so few hits, or fewer, in a test set drawn from the predictive.
        at_least: Probability of so many hits, or more.
        ece: Expected calibration error, 15 bins.
        ece_limit: Its 95 % quantile over such test sets.
        ece_at_least: Probability of an ECE as large, or larger.
        p_hits: Holm's adjusted p-value of the hits, over all statements; unadjusted where it is the only one.
        p_ece: The same of the calibration error.
    """

    num_data: int
    hits: int
    accuracy: float
    lower: float
    upper: float
    confidence: float
    at_most: float
    at_least: float
    ece: float
    ece_limit: float
    ece_at_least: float
    p_hits: float
    p_ece: float

    @property
    def judgement(self) -> Judgement:
        """The judgement of the number of hits."""
        if self.p_hits <= CALIBRATION:
            return "overconfident" if self.at_most < self.at_least else "cautious"
        return "too few" if self.confidence - self.lower > BLIND else "consistent"

    @property
    def sure(self) -> bool:
        """Whether it is significant at a tenth of the level."""
        return self.p_hits <= _SURE * CALIBRATION

    @property
    def uneven(self) -> bool:
        """Whether the calibration error is more than chance explains, while the number of hits is not."""
        return self.judgement == "consistent" and self.p_ece <= CALIBRATION


def confidences(comparison: Comparison, y: Any, *, seed: int = 0) -> dict[str, Confidence]:
    """Stated against observed accuracy of each posterior, at one level for all statements."""
    found = {n: confidence(p, y, comparison.scores[n]["ece"], seed=seed) for n, p in comparison.predictives.items()}
    hits = {(name, "hits"): (c.p_hits, _HITS) for name, c in found.items()}
    together = adjusted(hits | {(name, "ece"): (c.p_ece, _ECE) for name, c in found.items()})
    return {n: replace(c, p_hits=together[n, "hits"], p_ece=together[n, "ece"]) for n, c in found.items()}


def confidence(predictive: Predictive, y: Any, ece: float, *, seed: int = 0) -> Confidence:
    """Stated against observed accuracy of one classification."""
    stated, _ = _readings.stated_and_right(predictive, y)
    labels, mean = _labels(predictive), predictive.mean.cpu().double()
    top = labels.class_probabilities(mean).amax(-1).numpy()
    hit = (labels.choice(mean) == predictive.target(y).cpu()).numpy()
    hits, n = int(hit.sum()), len(hit)
    lower, upper = _readings.wilson(hits, n)
    hits_made, ece_made = _drawn_classes(predictive, stated, seed)
    single = predictive.num_samples == 1
    at_most, at_least = _tails(top, hits) if single else (ranked(hits, hits_made), ranked(-hits, -hits_made))
    ece_at_least, p_hits = ranked(-ece, -ece_made), min(1.0, 2 * min(at_most, at_least))
    limit = float(np.quantile(ece_made, 0.95))
    return Confidence(
        n, hits, hits / n, float(lower), float(upper), float(top.mean()), at_most, at_least, ece, limit, ece_at_least,
        p_hits, ece_at_least,
    )  # fmt: skip


def _labels(predictive: Predictive) -> AbstractLabels:
    labels = predictive.likelihood.labels
    assert labels is not None  # otherwise its probabilities were refused
    return labels


def _drawn_classes(predictive: Predictive, stated: np.ndarray, seed: int, num_bins: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """Hits and expected calibration error of test sets drawn from the predictive (Bröcker and Smith, 2007)."""
    number, labels = num_draws(predictive), _labels(predictive)
    index = np.clip(np.ceil(stated * num_bins).astype(int) - 1, 0, num_bins - 1)
    hits, gaps = np.zeros(number), np.zeros((number, num_bins))
    for rows, part in predictive.split(number):
        y, mean = part.sample(number, seed=seed + rows.start).cpu(), part.mean.cpu()
        hits += (y == labels.choice(mean)).double().sum(1).numpy()
        came = labels.stated(mean, y)[1].double().numpy()
        gaps += (came - stated[rows]) @ np.eye(num_bins)[index[rows]]
    return hits, np.abs(gaps).sum(1) / len(stated)


def _tails(stated: np.ndarray, hits: int) -> tuple[float, float]:
    """P(no more hits) and P(no fewer) when row i is a hit with probability stated_i (Poisson-binomial)."""
    n = len(stated)
    if n > _EXACT_ROWS:
        from scipy.special import ndtr

        sd = max(float(np.sqrt((stated * (1 - stated)).sum())), 1e-12)
        z = [(hits + half - stated.sum()) / sd for half in (0.5, -0.5)]
        return float(ndtr(z[0])), float(ndtr(-z[1]))
    mass = np.zeros(n + 1)
    mass[0] = 1.0
    for p in stated:
        mass[1:] = mass[1:] * (1 - p) + mass[:-1] * p
        mass[0] *= 1 - p
    return float(mass[: hits + 1].sum()), float(mass[hits:].sum())


Judged = Mapping[str, Finding] | Mapping[str, Confidence]


def judgements(made: Material) -> Judged:
    """The judgement of each posterior's calibration."""
    return (findings if made.regression else confidences)(made.comparison, made.y, seed=made.seed)
