"""Quantiles of many mixtures of normals at once: few passes over the components, each of order four.

One pass gives F, f, f′ and f″ at a guess y, since the derivatives of a normal's density are that density times polynomials.
With u = (q − F)/f the inverse function's series is

    F⁻¹(q) = y + u − f′/(2f) u² + (f′²/(2f²) − f″/(6f)) u³ + O(u⁴)

The first guess is by Cornish and Fisher's expansion in the mixture's cumulants; single precision brings it near, double
precision ends it. What that does not settle (components far apart, a density that is nearly zero) is left to bracketing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from bayesreg.predictive.roots import root

_NEAR, _SETTLED = 0.15, 1e-3  # of u times the rate at which the density changes: the next term is below its fourth power
_LEAST = -80.0  # exponents below make numbers that are slow and too small to matter
_ROUGH, _FINE = 3, 3  # passes at most in single precision, and further ones in double
_ROOT_HALF, _ROOT_PI = math.sqrt(0.5), math.sqrt(math.pi)


def of_normals(loc: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, wanted: Sequence[float]) -> torch.Tensor:
    """The quantiles of Σⱼ wⱼ N(locⱼ, scaleⱼ²), entry by entry, to about 1e-11 of the smallest scale.

    Args:
        loc: (J, M), float64.
        scale: (J, M), or (J, 1) where it is the same for all entries.
        weight: (J,), with sum one.
        wanted: Probabilities, Q of them.

    Returns:
        (Q, M).

    >>> loc, scale = torch.tensor([[-1.0], [1.0]]).double(), torch.tensor([[0.5], [2.0]]).double()
    >>> found = of_normals(loc, scale, torch.tensor([0.5, 0.5]).double(), [0.3])
    >>> round(float(torch.distributions.Normal(loc, scale).cdf(found[0]).mean()), 9)
    0.3
    """
    mixture, mean, found = _Mixture(loc, scale, weight), weight @ loc, []
    single = _Mixture((loc - mean).float(), scale.float(), weight.float())
    (sd, *shape), least = single.cumulants(), scale.amin(0)
    for q in wanted:
        y = mean + sd * _by_cumulants(q, *shape)
        for _ in range(_ROUGH):
            step, moved = _step(single.series(y - mean), q, sd, least)
            y = y + step
            if bool((moved < _NEAR).all()):
                break
        found.append(_finished(mixture, y, q, sd, least.expand(len(y))))
    return torch.stack(found)


def _finished(mixture: _Mixture, y: torch.Tensor, q: float, sd: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    """The quantiles from near guesses."""
    step, moved = _step(mixture.series(y), q, sd, least)
    y = y + step
    rest = torch.nonzero(~(moved < _SETTLED))[:, 0]
    for _ in range(_FINE):
        if not len(rest):
            return y
        step, moved = _step(mixture.entries(rest).series(y[rest]), q, sd[rest], least[rest])
        y[rest] += step
        rest = rest[~(moved < _SETTLED)]
    if len(rest):
        y[rest] = mixture.entries(rest).bracketed(q)
    return y


def _step(at: Sequence[torch.Tensor], q: float, sd: torch.Tensor, least: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The way to the next guess, and |u| times the rate at which the density changes; NaN and infinity are of unknown ones."""
    below, density, slope, bend = (v.double() for v in at)
    u, first, second = (q - below) / density, slope / density, bend / density
    rate = torch.maximum(torch.maximum(first.abs(), second.abs().sqrt()), 1 / least)
    moved = u.abs() * rate
    step = torch.where(moved < 1, u * (1 - u * (first / 2 - u * (first.square() / 2 - second / 6))), u)
    return torch.nan_to_num(torch.minimum(torch.maximum(step, -sd), sd)), moved


def _by_cumulants(q: float, skew: torch.Tensor, excess: torch.Tensor) -> torch.Tensor:
    """The quantile of the standardised mixture by Cornish and Fisher's expansion, as far as it can be trusted."""
    z = float(torch.special.ndtri(torch.tensor(q, dtype=torch.float64)))
    shift = (z**2 - 1) * skew / 6 + (z**3 - 3 * z) * excess / 24 - (2 * z**3 - 5 * z) * skew.square() / 36
    return z + shift.clamp(-1, 1)


class _Mixture:
    """Components (J, M), and what is computed of them once."""

    def __init__(self, loc: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor) -> None:
        self.loc, self.scale, self.weight = loc, scale, weight
        self._inverse = _ROOT_HALF / scale  # of √2 scale
        self._buffers = [torch.empty_like(loc) for _ in range(3)]  # new memory for each step would cost more than the step
        self._powers = [weight[:, None] * self._inverse**k for k in (1, 2, 3)]

    def _total(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Σⱼ weightsⱼ valuesⱼ for weights (J, 1) or (J, M): (M,)."""
        return weights[:, 0] @ values if weights.shape[1] == 1 else torch.linalg.vecdot(weights, values, dim=0)

    def cumulants(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sd, skewness and excess kurtosis, (M,) each in float64, of a mixture with mean zero; the last two within bounds."""
        away, weight, noise = self.loc, self.weight, self.scale.square()
        square, fourth = away.square(), 3 * (weight @ noise.square())
        variance = weight @ square + weight @ noise
        third = weight @ (square * away) + 3 * self._total(weight[:, None] * noise, away)
        fourth = fourth + 6 * self._total(weight[:, None] * noise, square) + weight @ square.square_()
        skew, excess = (third / variance**1.5).clamp(-1, 1), (fourth / variance.square() - 3).clamp(-1, 3)
        return variance.sqrt().double(), torch.nan_to_num(skew.double()), torch.nan_to_num(excess.double())

    def series(self, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """F, f, f′ and f″ at y, (M,) each."""
        z, bell, square = self._buffers
        torch.sub(self.loc, y.to(self.loc), out=z).mul_(self._inverse)  # (loc − y)/(√2 scale)
        if z.dtype == torch.float64:
            below = self.weight @ torch.erfc(z, out=bell) / 2  # keeps its digits in the lower tail
        else:
            below = (1 - self.weight @ torch.erf(z, out=bell)) / 2
        torch.mul(z, z, out=square)
        torch.neg(square, out=bell).clamp_min_(_LEAST).exp_()
        one, two, three = self._powers
        density, slope = self._total(one, bell), self._total(two, z.mul_(bell))
        bend = self._total(three, square.mul_(2).sub_(1).mul_(bell))
        return below, density / _ROOT_PI, 2 / _ROOT_PI * slope, 2 / _ROOT_PI * bend

    def entries(self, index: torch.Tensor) -> _Mixture:
        """Some of the entries."""
        return _Mixture(self.loc[:, index], self.scale if self.scale.shape[1] == 1 else self.scale[:, index], self.weight)

    def bracketed(self, q: float) -> torch.Tensor:
        """The quantile between the least and the largest of the components'."""
        each = self.loc + self.scale * torch.special.ndtri(torch.tensor(q).to(self.loc))
        tolerance = 1e-11 * self.scale.amin(0).expand(each.shape[1])
        return root(
            lambda y: 0.5 * (self.weight @ torch.erfc((self.loc - y) * self._inverse)) - q,
            each.amin(0),
            each.amax(0),
            tolerance,
        )
