"""Whether stated probabilities came true, as facts and as one sentence a posterior."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, final

import numpy as np

from bayesreg import _check, _readings
from bayesreg.compare import Comparison
from bayesreg.metrics import Coverage, plain
from bayesreg.predictive import Predictive
from bayesreg.report.text import bounds, name_of, percent, plural

Judgement = Literal["overconfident", "cautious", "consistent", "too few"]
_BLIND = 0.10  # a test set that cannot tell two shares this far apart is too small to judge by
_EXACT_ROWS = 3000


def judge(coverage: Coverage) -> Judgement:
    """What an observed coverage says, given its 95 % Wilson interval.

    Args:
        coverage: Observed coverage of one level.

    Returns:
        "too few" when the interval holds the level, but also a level that is wrong by ten points.

    >>> judge(Coverage(0.95, 74, 100, 0.74, 0.65, 0.82)), judge(Coverage(0.95, 9, 10, 0.9, 0.60, 0.98))
    ('overconfident', 'too few')
    """
    if coverage.upper < coverage.level:
        return "overconfident"
    if coverage.lower > coverage.level:
        return "cautious"
    return "too few" if coverage.lower < coverage.level - _BLIND else "consistent"


def clearly_off(coverage: Coverage) -> bool:
    """True when the count would happen in under 1 % of calibrated test sets, by the binomial's own tails.

    >>> clearly_off(Coverage(0.95, 9, 12, 0.75, 0.47, 0.91)), clearly_off(Coverage(0.95, 74, 100, 0.74, 0.65, 0.82))
    (False, True)
    """
    from scipy.stats import binom

    n, level, hits = coverage.num_data, coverage.level, coverage.hits
    return bool(min(binom.cdf(hits, n, level), binom.sf(hits - 1, n, level)) < 0.005)


@final
@dataclass(frozen=True)
class Confidence:
    """How often the predicted class was right, beside how often it was said to be.

    Attributes:
        num_data: N.
        hits: Rows whose predicted class was the observed one.
        accuracy: hits / N.
        lower: Lower end of its 95 % Wilson interval; `upper` is its upper end.
        confidence: Mean stated probability of the predicted class.
        at_most: Probability of so few hits, or fewer, if every stated probability were true.
        at_least: Probability of so many hits, or more.
        ece: Expected calibration error, 15 bins.
        ece_limit: What a calibrated predictive with these probabilities stays below 95 % of the time.
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

    @property
    def judgement(self) -> Judgement:
        """By the number of hits, two-sided at 5 %."""
        if self.at_most < 0.025:
            return "overconfident"
        if self.at_least < 0.025:
            return "cautious"
        return "too few" if self.confidence - self.lower > _BLIND else "consistent"


def confidence(predictive: Predictive, y: Any, ece: float, *, seed: int = 0) -> Confidence:
    """Stated against observed accuracy of a classification.

    Args:
        predictive: A classification's prediction for N rows.
        y: Class labels (N,).
        ece: The expected calibration error found.
        seed: Seed of the labels that are drawn for its limit.

    Returns:
        The numbers.
    """
    stated, right = _readings.stated_and_right(predictive, y)
    top = np.maximum(stated, 1 - stated) if predictive.kind == "binary" else stated
    hit = np.where(stated > 0.5, right, 1 - right) if predictive.kind == "binary" else right
    hits, n = int(hit.sum()), len(hit)
    lower, upper = _readings.wilson(hits, n)
    at_most, at_least = _tails(top, hits)
    limit = ece_limit(stated, seed=seed)
    return Confidence(n, hits, hits / n, float(lower), float(upper), float(top.mean()), at_most, at_least, ece, limit)


def ece_limit(stated: np.ndarray, *, num_bins: int = 15, num_samples: int = 400, seed: int = 0) -> float:
    """The 95 % quantile of the expected calibration error when every stated probability is true.

    Args:
        stated: Stated probabilities (N,).
        num_bins: As in the error itself.
        num_samples: Sets of labels drawn.
        seed: Seed of the draws.

    Returns:
        A probability: about what an error must exceed before it means something.

    References:
        Bröcker and Smith (2007), Increasing the reliability of reliability diagrams.
    """
    generator = np.random.default_rng(_check.seed(seed))
    index = np.clip(np.ceil(stated * num_bins).astype(int) - 1, 0, num_bins - 1)
    found = []
    for _ in range(num_samples):
        gap = (generator.random(len(stated)) < stated) - stated
        found.append(np.abs(np.bincount(index, gap, minlength=num_bins)).sum() / len(stated))
    return float(np.quantile(found, 0.95))


def _tails(stated: np.ndarray, hits: int) -> tuple[float, float]:
    """P(no more hits) and P(no fewer) when row i is a hit with probability stated_i (Poisson-binomial)."""
    n = len(stated)
    if n > _EXACT_ROWS:
        from scipy.stats import norm

        sd = max(float(np.sqrt((stated * (1 - stated)).sum())), 1e-12)
        z = [(hits + half - stated.sum()) / sd for half in (0.5, -0.5)]
        return float(norm.cdf(z[0])), float(norm.sf(z[1]))
    mass = np.zeros(n + 1)
    mass[0] = 1.0
    for p in stated:
        mass[1:] = mass[1:] * (1 - p) + mass[:-1] * p
        mass[0] *= 1 - p
    return float(mass[: hits + 1].sum()), float(mass[hits:].sum())


def calibration_facts(comparison: Comparison, y: Any, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Everything the calibration section shows, by posterior.

    Args:
        comparison: What `compare` found.
        y: The targets that it scored.
        seed: Seed of what is drawn.

    Returns:
        Plain values; "finding" is a sentence for the figure.
    """
    make = _regression if comparison.kind == "regression" else _classification
    return {name: make(comparison, name, y, seed) for name in comparison.scores}


def _regression(comparison: Comparison, name: str, y: Any, seed: int) -> dict[str, Any]:
    predictive, scores = comparison.predictives[name], comparison.scores[name]
    u = predictive.cdf(y).cpu().double().numpy().ravel()
    observed = _readings.coverage_curve(predictive, y)
    low, high = _readings.binomial_band(u.size, _readings.LEVELS)
    ends = float(((u < 0.05) | (u > 0.95)).mean())
    below, above = int((observed < low).sum()), int((observed > high).sum())
    return {
        "coverages": [{**asdict(c), "judgement": judge(c)} for c in scores.coverages],
        "levels": list(_readings.LEVELS),
        "observed": [float(share) for share in observed],
        "calibration_error": plain(scores["calibration_error"]),
        "outside_band": below + above,
        "pit_counts": [int(count) for count in np.histogram(u, 10, (0, 1))[0]],
        "pit_mean": float(u.mean()),
        "ends": ends,
        "finding": pit_finding(ends, float(u.mean()), u.size),
        "curve_finding": _curve_finding(name, below, above, len(observed)),
    }


def pit_finding(ends: float, mean: float, count: int) -> str:
    """The histogram of PIT values in words.

    Args:
        ends: Share of the values below 0.05 or above 0.95.
        mean: Their mean.
        count: Their number.

    Returns:
        One or two sentences.
    """
    low, high = (float(end[0]) for end in _readings.binomial_band(count, [0.1]))
    said = (
        "more than chance: too narrow" if ends > high else "fewer than chance: too wide" if ends < low else "as chance allows"
    )
    text = f"{percent(ends)} of the values lie in the outermost 10 % of their predictive, {said}."
    shift = (mean - 0.5) * np.sqrt(12 * count)
    if abs(shift) > 2:
        text += f" Predictions are too {'low' if shift > 0 else 'high'} on average ({abs(shift):.1f} standard errors)."
    return text


def _curve_finding(name: str, below: int, above: int, levels: int) -> str:
    if not below and not above:
        return f"{name_of(name)} stays inside the band at all {levels} levels"
    parts = [f"{side} the band at {count}" for side, count in (("below", below), ("above", above)) if count]
    return f"{name_of(name)} lies {' and '.join(parts)} of {levels} levels"


def _classification(comparison: Comparison, name: str, y: Any, seed: int) -> dict[str, Any]:
    predictive, scores = comparison.predictives[name], comparison.scores[name]
    found = confidence(predictive, y, scores["ece"], seed=seed)
    stated, observed, count = (part.tolist() for part in _readings.reliability_bins(predictive, y))
    return {
        **{key: plain(value) for key, value in asdict(found).items()},
        "judgement": found.judgement,
        "brier": plain(scores["brier"]),
        "bins": [list(row) for row in zip(stated, observed, count, strict=True)],
        "finding": _ece_sentence(found),
    }


def _ece_sentence(found: Confidence) -> str:
    verdict = "above" if found.ece > found.ece_limit else "within"
    return (
        f"Calibration error {percent(found.ece)}, {verdict} what chance gives a calibrated predictive with these rows "
        f"(up to {percent(found.ece_limit)})."
    )


def coverage_sentence(coverage: Coverage, values: str, subject: str = "its") -> str:
    """One level's coverage in words, with its 95 % interval and what that allows to be said.

    Args:
        coverage: Observed coverage.
        values: What was counted, "92 test rows".
        subject: Whose intervals.

    Returns:
        A clause.
    """
    level = percent(coverage.level)
    ends = bounds(coverage.lower, coverage.upper, coverage.level)
    found = f"{percent(coverage.rate)} of the {values} (95 % CI {ends})"
    text = f"{subject} {level} intervals cover {found}"
    says: dict[Judgement, str] = {
        "overconfident": ": too narrow",
        "cautious": ": wider than they need be",
        "consistent": f": cannot be told apart from {level}",
        "too few": f": too few rows to tell whether that is {level} or {percent(coverage.level - _BLIND)}",
    }
    return text + says[judge(coverage)]


def counted(comparison: Comparison) -> str:
    """What the coverage counts, in words.

    Args:
        comparison: A regression's.

    Returns:
        "92 test rows", or with K outputs "276 test values".
    """
    count = comparison.scores[comparison.best].coverages[0].num_data
    return plural(count, "test row" if count == comparison.num_data else "test value")
