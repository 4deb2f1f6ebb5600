"""Class probabilities where the logits are normal: E[sigmoid(f)] and E[softmax(f)], without draws of weights.

For two classes, f ~ N(m, s²), the integral is done to ten digits: by Gauss–Hermite quadrature where s < 1, else as the logistic
density's mean of Φ((m − l)/s), which no s makes hard. For several there is a choice, `LINKS`:

    "quadrature"  512 points of a Sobol' sequence through the logits' principal axes
    "probit"      1 / Σₗ exp(−(mₖ − mₗ)/√(1 + π/8 Var[fₖ − fₗ])), scaled to sum one; for two classes MacKay's formula
    "bridge"      the mean of the Dirichlet with the Laplace bridge's αₖ

Largest / mean error of a probability (60 rows, logits with sd 2, random correlations, variance 3; 10⁵ draws are the truth):

           512 draws     quadrature     probit       bridge
    K = 3  .02  / .007   .001 / .0003   .10 / .016   .50 / .11
    K = 10 .03  / .004   .005 / .0005   .15 / .020   .42 / .05

References:
    MacKay (1992), The evidence framework applied to classification networks.
    Daunizeau (2017), Semi-analytical approximations to statistical moments of sigmoid and softmax mappings of normal variables.
    Hobbhahn, Kristiadi and Hennig (2022), Fast predictive uncertainty for classification with Bayesian deep networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from bayesreg.predictive.function import AbstractFunction

LINKS = ("quadrature", "probit", "bridge")
_POINTS = 512
_BLOCK = 2**18  # points × rows × classes at once
_HERMITE, _STEP, _REACH = 32, 0.5, 37.0  # e⁻³⁷ is the last bit
_TINY = 1e-300


@final
@dataclass(frozen=True, eq=False)
class ClassProbabilities(AbstractFunction):
    """P(y = k | x, data), and how much of it is not known, in float64.

    Attributes:
        each: Every class's probability, (N, K).
        spread: Var[P(y = k | x, θ)], (N, K).
        binary: Whether `mean` is that of the second class alone, (N,).

    >>> one = ClassProbabilities.of(torch.zeros(1, 1).double(), torch.tensor([[[4.0]]]).double(), "quadrature")
    >>> round(float(one.mean), 9), round(float(one.epistemic_variance), 4), round(float(one.aleatoric_variance), 4)
    (0.5, 0.0986, 0.1514)
    """

    each: torch.Tensor
    spread: torch.Tensor
    binary: bool

    @classmethod
    def of(cls, loc: torch.Tensor, covariance: torch.Tensor, link: str) -> ClassProbabilities:
        """Those of normal logits: mean (N, K), covariance (N, K, K), with K = 1 for the logit of the second of two classes."""
        if loc.shape[1] > 1:
            return cls(*_of_softmax(loc, covariance, link), binary=False)
        mean, variance = loc[:, 0], covariance[:, 0, 0]
        if link == "bridge":  # of the logits 0 and f
            both, wide = torch.stack([torch.zeros_like(mean), mean], 1), torch.zeros(len(loc), 2, 2).to(loc)
            wide[:, 1, 1] = variance
            return cls(*_of_softmax(both, wide, link), binary=True)
        if link == "probit":
            scaled = mean / (1 + math.pi / 8 * variance).sqrt()
            each = torch.stack([(-scaled).sigmoid(), scaled.sigmoid()], 1)
            slope = mean.sigmoid() * (-mean).sigmoid()
            return cls(each, torch.minimum(slope.square() * variance, each.prod(1))[:, None].expand_as(each), binary=True)
        one, two, spread = of_sigmoid(mean, variance.sqrt())
        return cls(torch.stack([one, two], 1), spread[:, None].expand(-1, 2), binary=True)

    @property
    def num_components(self) -> int:
        """One."""
        return 1

    def _shown(self, values: torch.Tensor) -> torch.Tensor:
        return values[:, 1] if self.binary else values

    @property
    def mean(self) -> torch.Tensor:
        """P(y = 1) (N,), or every class's probability, (N, K)."""
        return self._shown(self.each)

    @property
    def epistemic_variance(self) -> torch.Tensor:
        """Var[P(y = k | x, θ)], in the shape of `mean`."""
        return self._shown(self.spread)

    @property
    def aleatoric_variance(self) -> torch.Tensor:
        """E[p (1 − p)], in the shape of `mean`."""
        each = self.each
        others = 1 - each if each.shape[1] > 2 else each.flip(1)
        return self._shown((each * others - self.spread).clamp_min(0))

    def log_prob(self, y: torch.Tensor) -> torch.Tensor:
        """Log probability of each row's class, (N,)."""
        return self.each.gather(1, y.long()[:, None])[:, 0].clamp_min(_TINY).log()

    def rows(self, index: Any) -> ClassProbabilities:
        """The same for some rows, by numbers or a slice."""
        return ClassProbabilities(self.each[index], self.spread[index], self.binary)


def of_sigmoid(loc: torch.Tensor, sd: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """E[1 − σ(f)], E[σ(f)] and Var[σ(f)] for f ~ N(loc, sd²), (N,) each; a probability keeps its digits where it is small.

    With L logistic, E[σ(f)] = P(L < f) = E[Φ((loc − L)/sd)], and its derivative by loc is E[σ(f)(1 − σ(f))].

    >>> [round(float(part), 6) for part in of_sigmoid(torch.tensor([1.0]).double(), torch.tensor([2.0]).double())]
    [0.352274, 0.647726, 0.087679]
    """
    zero, one, spread = (torch.empty_like(loc) for _ in range(3))
    for part in torch.arange(len(loc), device=loc.device).split(_BLOCK // 128):
        wide = sd[part] >= 1
        for rows, rule in ((part[~wide], _narrow), (part[wide], _wide)):
            if len(rows):
                zero[rows], one[rows], spread[rows] = rule(loc[rows], sd[rows])
    return zero, one, spread


def _narrow(m: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    z, w = (torch.as_tensor(v).to(m) for v in np.polynomial.hermite_e.hermegauss(_HERMITE))
    f, w = m + s * z[:, None], w / w.sum()
    values = f.sigmoid()
    one = w @ values
    return w @ (-f).sigmoid(), one, w @ (values - one).square()


def _wide(m: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logit = torch.arange(-_REACH, _REACH + _STEP, _STEP).to(m)[:, None]
    weight = (_STEP * logit.sigmoid() * (-logit).sigmoid())[:, 0]
    z, square = (m - logit) / s, s.square()

    def below(z: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        tail = m + square / 2 + torch.special.log_ndtr(-(_REACH + m + square) / s)  # of logits below −REACH, where σ = exp
        return weight @ torch.special.ndtr(z) + tail.exp()

    zero, one = below(-z.flip(0), -m), below(z, m)
    inside = weight @ torch.exp(-0.5 * z.square()) / (s * math.sqrt(2 * math.pi))
    return zero, one, (zero * one - inside).clamp_min(0)


def _of_softmax(loc: torch.Tensor, covariance: torch.Tensor, link: str) -> tuple[torch.Tensor, torch.Tensor]:
    """E[softmax(f)] and the variance of its entries, (N, K) each."""
    classes = loc.shape[1]
    away = torch.eye(classes).to(loc) - 1 / classes  # softmax does not see a number added to all logits
    loc, covariance = loc @ away, away @ covariance @ away
    rule: Callable[..., Any] = {"quadrature": _by_points, "probit": _by_probit, "bridge": _by_bridge}[link]
    found = [
        rule(m, c) for m, c in zip(*(v.split(max(1, _BLOCK // (_POINTS * classes))) for v in (loc, covariance)), strict=True)
    ]
    each, spread = (torch.cat(parts) for parts in zip(*found, strict=True))
    return each, torch.minimum(spread, each * (1 - each))


def _by_points(loc: torch.Tensor, covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values, vectors = torch.linalg.eigh(covariance)  # ascending; the first is the direction that softmax does not see
    root = (vectors * values.clamp_min(0).sqrt()[:, None, :])[..., 1:].flip(-1)  # Sobol' points are best in their first axes
    half = torch.quasirandom.SobolEngine(root.shape[2], scramble=True, seed=0).draw(_POINTS // 2, dtype=torch.float64)
    z = torch.special.ndtri(half.clamp(1e-9, 1 - 1e-9)).to(loc)
    step = root.flatten(0, 1) @ torch.cat([z, -z]).mT  # one product; the long axis last is the fast one
    each = step.view(*loc.shape, -1).add_(loc[..., None]).softmax(1)
    mean = each.mean(-1)
    return mean, each.sub_(mean[..., None]).square_().mean(-1)


def _by_probit(loc: torch.Tensor, covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    own = covariance.diagonal(dim1=1, dim2=2)
    apart = own[:, :, None] + own[:, None, :] - 2 * covariance
    each = torch.softmax(-torch.logsumexp(-(loc[:, :, None] - loc[:, None, :]) / (1 + math.pi / 8 * apart).sqrt(), -1), -1)
    p = loc.softmax(-1)
    slope = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return each, (slope @ covariance @ slope).diagonal(dim1=1, dim2=2)


def _by_bridge(loc: torch.Tensor, covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    classes, own = loc.shape[1], covariance.diagonal(dim1=1, dim2=2)
    log_ratio = loc + torch.logsumexp(-loc, -1, keepdim=True) - 2 * math.log(classes)
    alpha = (1 - 2 / classes + log_ratio.exp()) / own.clamp_min(1e-12)
    total = alpha.sum(-1, keepdim=True)
    each = alpha / total
    return each, each * (1 - each) / (total + 1)
