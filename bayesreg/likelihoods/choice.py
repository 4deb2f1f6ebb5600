"""Which likelihood a target asks for, said in a sentence, with what was rejected.

    0/1, yes/no, text → classes     ordered categories → Ordinal     few whole numbers >= 0, down to 0 or 1 → counts
    positive and skewed → LogNormal or Gamma, whichever has the higher density     else Gaussian

Values alone decide; what a likelihood does given x is seen after a fit.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from bayesreg._text import counted, some
from bayesreg.likelihoods.base import AbstractLikelihood
from bayesreg.likelihoods.gamma import Gamma
from bayesreg.likelihoods.gaussian import Gaussian
from bayesreg.likelihoods.labels import Bernoulli, Categorical
from bayesreg.likelihoods.log_normal import LogNormal
from bayesreg.likelihoods.negative_binomial import NegativeBinomial
from bayesreg.likelihoods.ordinal import Ordinal
from bayesreg.likelihoods.poisson import Poisson

_OVERDISPERSED = 1.2  # Var/mean above which counts scatter more than a Poisson's would even if x explained nothing
_SKEWED = 0.75  # skewness of positive numbers
_MOST_VALUES = 0.5  # a count has fewer different values than this share of the rows


@final
@dataclass(frozen=True)
class Choice:
    """A likelihood for a target.

    Attributes:
        likelihood: It.
        said: A sentence: what was chosen and why.
        rejected: What else was thought of, a sentence each.
    """

    likelihood: AbstractLikelihood
    said: str
    rejected: tuple[str, ...] = ()


def choose(y: Any) -> Choice:
    """The likelihood that a target asks for by its values alone.

    Args:
        y: Targets (N,): numbers, Booleans, text, or a pandas series; missing values do not count. Several columns are numbers.

    Returns:
        The choice.

    Raises:
        ValueError: If there is no value.

    >>> choose([0, 3, 1, 0, 2, 9, 0, 1, 1, 0]).likelihood
    NegativeBinomial(dispersion=Gamma(concentration=2.0))
    >>> choose(["yes", "no", "yes"]).said
    "Bernoulli: the target is one of 2 classes ('no', 'yes')."
    """
    dtype: Any = getattr(y, "dtype", None)
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(dtype, pandas.CategoricalDtype):
        levels = [str(level) for level in dtype.categories]
        return _ordered(levels) if dtype.ordered and len(levels) > 2 else _classes(levels)
    values = np.asarray(y)
    if values.dtype.kind not in "biuf":
        values = _there(values.astype(object).ravel())
        try:
            values = values.astype(float)
        except (TypeError, ValueError):
            return _classes(sorted({str(value) for value in values.tolist()}))
    if values.dtype.kind == "b":
        return _classes([f"{value}" for value in np.unique(values)])
    if values.ndim == 2 and values.shape[1] > 1:
        return Choice(Gaussian(), f"Gaussian: the target is {values.shape[1]} columns of numbers.")
    return _numbers(_there(values.astype(float).ravel()))


def _there(values: np.ndarray) -> np.ndarray:
    """The values that are not missing.

    Raises:
        ValueError: If there is none.
    """
    found = values[[value is not None and value == value for value in values.tolist()]]  # NaN is not itself
    if not len(found):
        raise ValueError("a target must have values to choose a likelihood by, but none came; pass the target column.")
    return found


def _classes(levels: list[str]) -> Choice:
    number, shown = len(levels), some((repr(level) for level in levels), 4)
    made = Bernoulli() if number == 2 else Categorical()
    said = f"{type(made).__name__}: the target is one of {counted(number, 'class', 'classes')} ({shown})."
    return Choice(made, said, () if number == 2 else ("Ordinal was left out: nothing says that the classes have an order.",))


def _ordered(levels: list[str]) -> Choice:
    made = Ordinal(len(levels))
    said = f"Ordinal: the target is one of {len(levels)} classes in the order {' < '.join(map(repr, levels[:6]))}."
    return Choice(made, said, ("Categorical was left out: it would forget the order.",))


def _numbers(y: np.ndarray) -> Choice:
    different, mean, variance = np.unique(y), float(y.mean()), float(y.var())
    whole = bool((different == np.rint(different)).all())
    if whole and len(different) == 2:
        shown = " and ".join(f"{value:g}" for value in different)
        return Choice(Bernoulli(), f"Bernoulli: the target has the two values {shown}.", ())
    left = [] if whole else ["Counts were left out: there are fractions."]
    if whole and (why := _no_counts(different, len(y), mean)):
        left.append(f"Counts were left out: {why}.")
    elif whole:
        return _counts(different, mean, variance)
    least, skewness = float(y.min()), _skewness(y)
    if least <= 0:
        left.append(f"LogNormal and Gamma were left out: the least value is {least:g}, not above 0.")
    elif skewness < max(_SKEWED, 2 * math.sqrt(6 / len(y))):
        left.append(f"LogNormal and Gamma were left out: the target is hardly skewed (skewness {skewness:.2g}).")
    else:
        return _positive(y, skewness, left)
    return Choice(Gaussian(), f"Gaussian: the target is {'whole ' if whole else ''}numbers, of no other kind.", tuple(left))


def _no_counts(different: np.ndarray, rows: int, mean: float) -> str:
    """Why whole numbers are no counts; empty where they may be."""
    if different[0] < 0:
        return f"the least value is {different[0]:g}"
    if different[0] > max(1.0, 0.05 * mean):
        return f"no value is below {different[0]:g}, and counts go down to 0 or 1"
    if len(different) > _MOST_VALUES * rows:
        return f"{len(different):,} of {rows:,} values are different"
    step = int(np.gcd.reduce(different.astype(np.int64))) if different[-1] < 2**53 else 1
    return f"all values are multiples of {step}" if step > 1 else ""


def _counts(different: np.ndarray, mean: float, variance: float) -> Choice:
    said = f"the target is whole numbers from {different[0]:g} to {different[-1]:g} with {len(different):,} different values"
    spread = f"variance {variance:.3g}, mean {mean:.3g}"
    left = ("Gaussian was left out: it gives probability to fractions and to numbers below 0.",)
    if variance > _OVERDISPERSED * mean:
        left = (f"Poisson was left out: its variance is its mean ({spread}).", *left)
        return Choice(NegativeBinomial(), f"NegativeBinomial: {said}, and they scatter more than a Poisson's ({spread}).", left)
    left = (f"NegativeBinomial was left out: there is no scatter beyond a Poisson's ({spread}).", *left)
    return Choice(Poisson(), f"Poisson: {said} ({spread}).", left)


def _skewness(y: np.ndarray) -> float:
    sd = float(y.std())
    return float((((y - y.mean()) / sd) ** 3).mean()) if sd > 0 else 0.0


def _positive(y: np.ndarray, skewness: float, left: list[str]) -> Choice:
    from scipy import stats

    log = np.log(y / y.mean())  # in units of the mean: the least squares below do not depend on them
    lognormal = float(stats.norm.logpdf(log, log.mean(), log.std()).mean() - log.mean())
    shape, _, scale = stats.gamma.fit(y / y.mean(), floc=0)
    gamma = float(stats.gamma.logpdf(y / y.mean(), shape, scale=scale).mean())
    chosen, other = (LogNormal(), "Gamma") if lognormal > gamma else (Gamma(), "LogNormal")
    said = f"{type(chosen).__name__}: the target is positive and skewed (skewness {skewness:.2g})."
    apart = f"{other} was left out: without x its density is {abs(lognormal - gamma):.2g} nats a row lower."
    return Choice(chosen, said, (apart, *left, "Gaussian was left out: it gives probability to numbers below 0."))
