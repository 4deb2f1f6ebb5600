"""Who predicts better than whom, beside what chance does to a difference when several are compared."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch

from bayesreg._text import name_of, number, percent, plus_minus
from bayesreg.comparison import Comparison, Difference
from bayesreg.metrics import readings as _readings
from bayesreg.predictive.mixture import Predictive
from bayesreg.reports.chance import AHEAD, adjusted, ranked

_SAME = 0.01  # nats over all rows
_SETS, _COMPONENTS, _ROWS = 500, 50, 2000


@final
@dataclass(frozen=True)
class Lead:
    """The best against another one.

    Attributes:
        kind: "same"; "clear" where chance does not explain the lead, "unclear" where it may; "few rows" where a few rows make
            it, "mixed" where they make it against most of the others.
        sentence: That in words.
    """

    kind: Literal["same", "clear", "unclear", "few rows", "mixed"]
    sentence: str


def leads(comparison: Comparison, y: Any, *, seed: int = 0) -> dict[str, Lead]:
    """The best against each of the others.

    The test is Student's on the paired differences of the rows, or the sign test where a few rows carry the difference.
    Differences of log densities are skewed: a narrower prediction gains a little on most rows and loses much on a rare one,
    which few rows may not hold. So a lead must besides be one that the other's own predictive would not give it: Cox's test,
    with test sets drawn from the other. The best was chosen by looking, so any of the k(k − 1)/2 pairs might have come out on
    top: Holm's multipliers begin there.

    Args:
        comparison: What `compare` found.
        y: The targets that it scored.
        seed: Seed of the test sets.

    Returns:
        By name, without the best.

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
    """How often the best would lead by so much, or more, in test sets that the other predictive makes.

    Any statistic has its right distribution there, so a few components and rows are enough for one.
    """
    rows = torch.arange(0, other.num_rows, -(-other.num_rows // _ROWS))
    best, other, y = _readings.take(best, rows), _readings.take(other, rows), other.target(y)[rows.to(other.output.device)]
    sets, thin = other.sample(_SETS, seed=seed), [_thinned(best), _thinned(other)]
    leads = [[float(p.log_prob(each).double().sum()) for p in thin] for each in (y, *sets)]
    lead = np.array([a - b for a, b in leads])
    return ranked(-float(lead[0]), -lead[1:])


def _thinned(predictive: Predictive) -> Predictive:
    """The same with a few components at even distances."""
    each = slice(None, None, -(-predictive.num_samples // _COMPONENTS))
    noise = {name: value[each] for name, value in predictive.noise.items()}
    return Predictive(predictive.likelihood, predictive.output[each], noise)


def _p(d: Difference, rows: int) -> float:
    """Two-sided."""
    from scipy.stats import t

    if d.heavy_tailed:
        return d.sign_test
    if rows < 2 or abs(d.sum) < _SAME or math.isnan(d.sum_se):
        return 1.0
    return 0.0 if d.sum_se == 0 else float(2 * t.sf(abs(d.sum) / d.sum_se, rows - 1))


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
    """A sum that a few rows make says little: the median row and the share of rows say more."""
    ahead = d.share < 0.5
    share, median = 1 - d.share if ahead else d.share, number(abs(d.median), 2)
    made = f"{name} is {number(abs(d.sum), 3)} nats behind in sum, but a few rows make that"
    rows = f"{best if ahead else name} is ahead on {percent(share)} of the rows"
    if not clear:
        return Lead("few rows", f"{made}; {rows}, {doubt or 'which chance may explain'}.")
    kind = "clear" if ahead else "mixed"
    return Lead(kind, f"{made}; {rows}, by {median} nats on the median one, more than chance explains.")
