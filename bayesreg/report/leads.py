"""Who predicts better than whom, beside what chance does to a difference when several are compared."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, final

from bayesreg._readings import number
from bayesreg.compare import Comparison, Difference
from bayesreg.report.chance import AHEAD, adjusted
from bayesreg.report.text import name_of, percent, plus_minus

_SAME = 0.01  # nats over all rows


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


def leads(comparison: Comparison) -> dict[str, Lead]:
    """The best against each of the others.

    The test is Student's on the paired differences of the rows, or the sign test where a few rows carry the difference.
    The best was chosen by looking, so any of the k(k − 1)/2 pairs might have come out on top: Holm's multipliers begin there.

    Args:
        comparison: What `compare` found.

    Returns:
        By name, without the best.
    """
    others = [name for name in comparison.scores if name != comparison.best]
    p: dict[Hashable, tuple[float, float]] = {n: (_p(comparison.differences[n], comparison.num_data), 1.0) for n in others}
    p |= {(i,): (1.0, 1.0) for i in range(len(others) * (len(others) - 1) // 2)}  # the pairs without the best
    together = adjusted(p)
    return {n: _lead(name_of(n), name_of(comparison.best), comparison.differences[n], together[n] <= AHEAD) for n in others}


def _p(d: Difference, rows: int) -> float:
    """Two-sided."""
    from scipy.stats import t

    if d.heavy_tailed:
        return d.sign_test
    if rows < 2 or abs(d.sum) < _SAME or math.isnan(d.sum_se):
        return 1.0
    return 0.0 if d.sum_se == 0 else float(2 * t.sf(abs(d.sum) / d.sum_se, rows - 1))


def _lead(name: str, best: str, d: Difference, clear: bool) -> Lead:
    if abs(d.sum) < _SAME and not d.heavy_tailed:
        return Lead("same", f"{name} is less than 0.01 nats behind: it predicts the same.")
    if math.isnan(d.sum_se):
        return Lead("unclear", f"{name} is {number(abs(d.sum), 3)} nats behind: one row gives no standard error.")
    if d.heavy_tailed:
        return _few_rows(name, best, d, clear)
    behind = f"{name} is {plus_minus(abs(d.sum), d.sum_se)} nats behind over all rows"
    ratio = math.inf if d.sum_se == 0 else abs(d.sum) / d.sum_se
    times = f"{ratio:.1f} times" if ratio < 100 else "over 100 times"
    if clear:
        return Lead("clear", f"{behind}: {times} its standard error, more than chance explains.")
    size = "within its standard error" if ratio < 1 else f"{times} its standard error"
    return Lead("unclear", f"{behind}: {size}, which chance may explain.")


def _few_rows(name: str, best: str, d: Difference, clear: bool) -> Lead:
    """A sum that a few rows make says little: the median row and the share of rows say more."""
    ahead = d.share < 0.5
    share, median = 1 - d.share if ahead else d.share, number(abs(d.median), 2)
    made = f"{name} is {number(abs(d.sum), 3)} nats behind in sum, but a few rows make that"
    rows = f"{best if ahead else name} is ahead on {percent(share)} of the rows"
    if not clear:
        return Lead("few rows", f"{made}; {rows}, which chance may explain.")
    kind = "clear" if ahead else "mixed"
    return Lead(kind, f"{made}; {rows}, by {median} nats on the median one, more than chance explains.")
