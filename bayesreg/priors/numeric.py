"""Numerical methods for priors without a closed form: prox, quantiles, intervals, expectations under a normal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.distributions import constraints

Function = Callable[[torch.Tensor], torch.Tensor]

_GRID = 200
_HALVINGS = 70
# Nodes of the trapezoidal rule in log(1/λ). The integrands are analytic in a strip of half-width π/4, so that the error is
# exp(−2π · (π/4)/step) ≈ 4e-14; the range serves |w|/scale from NEAR to 1, and moves with the logarithm of what is larger.
STEP, _FIRST, _COUNT = 0.16, -25.0, 395
NEAR = 1e-13  # below, the density is that of the logarithmic pole: each unit of log(1/λ) contributes the same
_NEAREST, _FARTHEST, _PANEL = -45.0, 45.0, 0.25  # range of quadrature: logarithms of the distance from the mode
_RULE = np.polynomial.legendre.leggauss(20)
_APART, _WIDEST = 0.13, 8.5  # of the trapezoidal rule in ε, for an expectation over N(loc, scale²): nodes, and its range;
_FINE, _NEAR_MODE, _AT_POLE, _OUT = 0.1, -14.0, -22.0, 2.8  # of that in log |w − mode|/scale, and its ends
_FAR = 6.0  # sds between a normal's mean and the mode from which the first rule serves: the kink has no weight there
_AT_ONCE = 20_000  # values of an energy at a time
EXPECTED_NODES = 467  # values of an energy that one expectation takes


def ends(support: Any) -> tuple[float, float]:
    """The infimum and supremum of a support: the real line, the positive half line, or an interval.

    >>> ends(constraints.positive), ends(constraints.interval(1.0, 2.0))
    ((0.0, inf), (1.0, 2.0))
    """
    if support is constraints.real:
        return -math.inf, math.inf
    if support is constraints.positive:
        return 0.0, math.inf
    return float(support.lower_bound), float(support.upper_bound)


def above_zero(support: Any) -> bool:
    """True where a support holds no number below zero, as that of a scale must.

    >>> above_zero(constraints.positive), above_zero(constraints.interval(0.1, 2.0)), above_zero(constraints.real)
    (True, True, False)
    """
    return ends(support)[0] >= 0


def prox(
    energy: Function, gradient: Function, support: Any, mode: Any, value: torch.Tensor, step: float | torch.Tensor
) -> torch.Tensor:
    """argmin_z step·energy(z) + ½(z − value)² of each entry, for an energy that grows away from its mode; NaN for NaN.

    The minimum lies between the mode and the value. A grid that is dense at both ends finds the local minima, and bisection on
    the sign of the derivative refines them to the last digit; the two ends are candidates too, since the mode may be a kink or
    the end of the support. `mode` is a number or one for each entry; `step` is > 0.
    """
    low, high = ends(support)
    z = value.detach().double()  # float64 holds the squares of any float32
    start = torch.as_tensor(mode, dtype=z.dtype, device=z.device).expand_as(z)
    end = z.clamp(low, high)

    def cost(point: torch.Tensor) -> torch.Tensor:
        found = step * energy(point) + 0.5 * (point - z).square()
        return torch.where(found.isnan(), math.inf, found)

    at = torch.linspace(0, math.pi / 2, _GRID + 1, dtype=z.dtype, device=z.device).sin().square()
    costs = torch.stack([cost(start + t * (end - start)) for t in at])
    padded = torch.cat([torch.full_like(costs[:1], math.inf), costs, torch.full_like(costs[:1], math.inf)])
    valleys = torch.where((costs <= padded[:-2]) & (costs <= padded[2:]), costs, math.inf)
    # the grid cannot decide between two nearly equal minima: both are refined
    candidates = [start, end]  # an end wins a tie: a kink's zero is exact
    for best in valleys.topk(2, dim=0, largest=False).indices:
        left, right = (start + at[(best + side).clamp(0, _GRID)] * (end - start) for side in (-1, 1))
        towards = (right - left).sign()
        for _ in range(_HALVINGS):
            middle = 0.5 * (left + right)
            rising = (step * gradient(middle) + middle - z) * towards > 0
            left, right = torch.where(rising, left, middle), torch.where(rising, middle, right)
        candidates.append(0.5 * (left + right))
    found = torch.stack(candidates)
    best = found.gather(0, torch.stack([cost(c) for c in candidates]).argmin(0, keepdim=True))[0]
    return torch.where(z.isfinite(), best, end).to(value)


def cdf(log_density: Function, support: Any, mode: float, points: torch.Tensor) -> torch.Tensor:
    """The distribution function of a density on the line at `points`, (n,) float64, to about twelve digits, by quadrature.

    Gauss–Legendre in the logarithm of the distance from the mode, or its log-odds where the support ends: there a kink, a
    logarithmic pole or a power law at either end is infinitely far away, and a heavy tail falls exponentially. The mode is the
    density's one kink or pole.
    """
    low, high = ends(support)
    below, above = _Side(log_density, mode, -1.0, mode - low), _Side(log_density, mode, 1.0, high - mode)
    return torch.where(points < mode, below.mass - below.within(mode - points), below.mass + above.within(points - mode))


def quantiles(log_density: Function, support: Any, mode: float, levels: Sequence[float]) -> list[float]:
    """Quantiles of a density on the line at `levels` in (0, 1), to about ten digits; one quadrature as in `cdf` serves all."""
    low, high = ends(support)
    below, above = _Side(log_density, mode, -1.0, mode - low), _Side(log_density, mode, 1.0, high - mode)
    return [
        mode - below.distance_of(below.mass - p) if p < below.mass else mode + above.distance_of(p - below.mass) for p in levels
    ]


class _Side:
    """The mass of a density on one side of its mode, in a variable v that runs from `_NEAREST` to `_FARTHEST`."""

    def __init__(self, log_density: Function, mode: float, sign: float, reach: float) -> None:
        self.log_density, self.mode, self.sign, self.reach = log_density, mode, sign, reach
        count = round((_FARTHEST - _NEAREST) / _PANEL) + 1
        self.edges = torch.linspace(_NEAREST, _FARTHEST, count if reach > 0 else 0, dtype=torch.float64)
        self.masses = self._panels(self.edges).cumsum(0) if reach > 0 else torch.zeros(1, dtype=torch.float64)
        self.mass = float(self.masses[-1])

    def _panels(self, edges: torch.Tensor) -> torch.Tensor:
        """The mass between each two edges."""
        nodes, weights = (torch.as_tensor(part) for part in _RULE)
        half, middle = 0.5 * edges.diff(), 0.5 * (edges[1:] + edges[:-1])
        v = middle[:, None] + half[:, None] * nodes
        if math.isfinite(self.reach):
            distance = self.reach * v.sigmoid()
            log_slope = math.log(self.reach) + torch.nn.functional.logsigmoid(v) + torch.nn.functional.logsigmoid(-v)
        else:
            distance, log_slope = v.exp(), v
        return ((self.log_density(self.mode + self.sign * distance) + log_slope).exp() * weights).sum(1) * half

    def within(self, distances: torch.Tensor) -> torch.Tensor:
        """The mass within each distance of the mode; zero for one below zero."""
        if self.reach <= 0:
            return torch.zeros_like(distances)
        known = distances.clamp(min=0)
        v = (known / self.reach).clamp(max=1).logit() if math.isfinite(self.reach) else known.log()
        edges = torch.cat([self.edges, v.clamp(_NEAREST, _FARTHEST)]).unique()
        masses = torch.cat([edges.new_zeros(1), self._panels(edges).cumsum(0)])
        return masses[torch.searchsorted(edges, v.clamp(_NEAREST, _FARTHEST))]

    def distance_of(self, mass: float) -> float:
        """The distance within which this much mass lies."""
        from scipy.optimize import brentq

        i = min(int(torch.searchsorted(self.masses, mass)), len(self.masses) - 1)
        before = float(self.masses[i - 1]) if i else 0.0
        left, right = float(self.edges[i]), float(self.edges[i + 1])

        def excess(v: float) -> float:
            return before + float(self._panels(torch.tensor([left, v], dtype=torch.float64))) - mass

        v = right if excess(right) <= 0 else float(brentq(excess, left, right, xtol=1e-13))  # pyright: ignore
        return self.reach / (1 + math.exp(-v)) if math.isfinite(self.reach) else math.exp(v)


def nodes_for(size: torch.Tensor) -> torch.Tensor:
    """The nodes log(1/λ) of the rule for |w|/scale of this size, in its type, with a last axis of their own."""
    nodes = _FIRST + STEP * torch.arange(_COUNT, dtype=size.dtype, device=size.device)
    return nodes - size.detach().clamp_min(1).log()[..., None]


def beside_the_pole(z: torch.Tensor, found: torch.Tensor, near: float) -> torch.Tensor:
    """The log-density for |z| below `near`, from that at max(|z|, near): p grows by (2/π)/√(2π) · log(near/|z|)."""
    below = z.abs() < near
    ratio = (torch.where(below, z.abs().clamp_min(torch.finfo(z.dtype).tiny), near) / near).log()
    at = torch.where(below, found, 0.0)
    return found + torch.log1p(-ratio * torch.exp(math.log(2 / math.pi) - 0.5 * math.log(2 * math.pi) - at))


def expected(
    energy: Function, mode: Any, bounded: bool, loc: torch.Tensor, scale: torch.Tensor, transform: Function | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """E[energy(w)] of each entry, u ~ N(loc, scale²), with its derivatives in loc and in scale, by quadrature, to 1e-7 or so.

    dE/dloc = E[energy ε]/scale,  dE/dscale = E[energy (ε² − 1)]/scale,  ε = (u − loc)/scale.  On the real line w = u, and the
    rule is trapezoidal in log |w − mode|/scale, which a kink or a logarithmic pole there and any width of the prior leave as
    exact, or in ε where the mode is six sds away. Elsewhere w = transform(u), and it is trapezoidal in ε: the energy must
    vary on a scale of one, as for a logarithm or log-odds, and the sd be below five.

    Args:
        energy: Of each entry, zero at the mode.
        mode: A number or one for each entry, the energy's one kink or pole.
        bounded: False where the energy has a pole at its mode.
        loc: Means, (n,).
        scale: Sds, (n,), > 0.
        transform: From the line to the support; None for the line itself.

    Returns:
        Three tensors (n,), in float64.
    """
    loc, scale = loc.detach().double(), scale.detach().double()
    change = transform or (lambda u: u)
    e = torch.arange(-_WIDEST, _WIDEST + 1e-9, _APART, dtype=loc.dtype, device=loc.device)
    weight = (-0.5 * e.square()).exp()
    weight = weight / weight.sum()
    centre = energy(change(loc))
    plain = _weighed(lambda k: energy(change(loc + scale * e[k, None])) - centre, e[:, None], weight[:, None], loc)
    plain[0] += centre
    plain[1:] /= scale
    if transform is not None:
        return plain[0], plain[1], plain[2]
    at = torch.as_tensor(mode, dtype=loc.dtype, device=loc.device)
    v = torch.arange(_NEAR_MODE if bounded else _AT_POLE, _OUT, _FINE, dtype=loc.dtype, device=loc.device)
    t, step = torch.cat([v.exp(), -v.exp()])[:, None], torch.cat([v, v]).exp()[:, None] * (_FINE / math.sqrt(2 * math.pi))
    e = (at - loc) / scale + t
    base = torch.zeros_like(loc) if bounded else energy((at + scale).expand_as(loc))
    split = _weighed(lambda k: energy(at + scale * t[k]) - base, e, (-0.5 * e.square()).exp() * step, loc)
    split[0] += base
    split[1:] /= scale
    found = torch.where((loc - at).abs() < _FAR * scale, split, plain)
    return found[0], found[1], found[2]


def _weighed(at: Callable[[slice], torch.Tensor], e: torch.Tensor, weight: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Sums of an energy at nodes, alone, times ε and times ε² − 1, (3, n), a block of nodes at a time."""
    found, block = like.new_zeros(3, len(like)), max(1, _AT_ONCE // max(1, len(like)))
    for first in range(0, len(e), block):
        k = slice(first, first + block)
        terms, place = at(k) * weight[k], e[k]
        found += torch.stack([terms.sum(0), (terms * place).sum(0), (terms * (place.square() - 1)).sum(0)])
    return found
