"""Special functions that torch has not, or not to the last digit, and formulas that keep their digits where Γ's cancel.

    log Γ(x) = (x − ½) log x − x + log √2π + S(x),        S(x) = 1/(12x) − 1/(360x³) + 1/(1260x⁵) − …

A function of SciPy's serves where a prediction is read, which asks for no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from bayesreg import _check
from bayesreg.priors import AbstractPrior, AbstractScaledPrior
from bayesreg.priors.numeric import above_zero

_LARGE = 25.0  # from here on five terms of Stirling's series have all digits of float64
_MOST = 2.0**53  # the largest whole number beyond which float64 has gaps
_SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)


def by_scipy(name: str, *values: Any) -> torch.Tensor:
    """A function of `scipy.special`, entry by entry, in the type and on the device of the first tensor; no gradient.

    >>> float(by_scipy("betainc", torch.tensor(1.0), 1.0, 0.25))
    0.25
    """
    from scipy import special

    like = next(value for value in values if isinstance(value, torch.Tensor))
    found = getattr(special, name)(*(v.detach().cpu().double().numpy() if isinstance(v, torch.Tensor) else v for v in values))
    return torch.as_tensor(found).to(like)


def log1p_exp(x: torch.Tensor) -> torch.Tensor:
    """log(1 + eˣ) with all digits of float64 (torch's own turns to x from 20 on)."""
    return F.softplus(x, threshold=37.0)


def stirling_rest(x: torch.Tensor) -> torch.Tensor:
    """S(x) for x >= 25."""
    inverse = 1 / x
    square, found = inverse.square(), torch.zeros_like(x)
    for term in reversed(_SERIES):
        found = found * square + term
    return found * inverse


def log_gamma_excess(x: torch.Tensor) -> torch.Tensor:
    """The excess x log x − x − log Γ(x), which for large x is ½ log(x/2π) − S(x).

    >>> x = torch.tensor([0.7, 40.0], dtype=torch.float64)
    >>> torch.allclose(log_gamma_excess(x), x * x.log() - x - x.lgamma())
    True
    """
    small, large = x.clamp(max=_LARGE), x.clamp(min=_LARGE)
    return torch.where(
        x < _LARGE,
        small * small.log() - small - small.lgamma(),
        0.5 * (large.log() - math.log(2 * math.pi)) - stirling_rest(large),
    )


def log_rising(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The logarithm log Γ(x + y) − log Γ(x) − y log x = Σ_{j<y} log(1 + j/x) for whole y >= 0; it goes to zero as x grows.

    >>> bool(torch.isclose(log_rising(torch.tensor(2.0), torch.tensor(3.0)), torch.tensor((1 * 1.5 * 2.0)).log()))
    True
    """
    small, large = x.clamp(max=_LARGE), x.clamp(min=_LARGE)
    direct = (small + y).lgamma() - small.lgamma() - y * small.log()
    total = large + y
    series = (total - 0.5) * torch.log1p(y / large) - y + stirling_rest(total) - stirling_rest(large)
    return torch.where(x < _LARGE, direct, series)


def whole_number_quantile(cdf: Callable[[torch.Tensor], torch.Tensor], q: float, guess: torch.Tensor) -> torch.Tensor:
    """The least whole number k >= 0 with cdf(k) >= q, entry by entry, by halves; `guess` is about as large as it."""
    low, high = torch.full_like(guess, -1.0), guess.clamp(1.0, _MOST).ceil()
    while bool((short := cdf(high) < q).any()) and bool((high < _MOST).any()):
        low, high = torch.where(short, high, low), torch.where(short, 2 * high, high)
    while bool((high - low > 1).any()):
        middle = ((low + high) / 2).floor()
        enough = cdf(middle) >= q
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high


def number_or_prior(name: str, value: Any, example: str) -> float | AbstractPrior:
    """A noise parameter as it was given: a number > 0 where it is known, or a prior on positive values.

    Raises:
        ValueError: If it is neither, or its prior takes its scale from the network or the data.
    """
    if not isinstance(value, AbstractPrior):
        return _check.squared(name, value)
    if isinstance(value, AbstractScaledPrior) and (value.fan_in or value.autoscale or value.relative_to_noise):
        raise ValueError(
            f"the noise's prior must have a scale of its own, but {value} came; give a number: HalfNormal(1.0) "
            "with standardize=True, where the target has sd one."
        )
    if not above_zero(value.support):
        raise ValueError(
            f"{name} must have a prior on positive values, but {value} came; pass for example {example}, or a number > 0 when "
            "it is known."
        )
    return value
