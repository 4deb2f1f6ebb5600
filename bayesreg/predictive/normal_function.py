"""p(y | x, data) without draws, where the function's values are normal: y = f(x) + ε with f(x) and ε normal given the noise.

    p(y | x, data) = Σⱼ wⱼ N(y; locⱼ, covariance + noiseⱼ²)

There is one component where the noise scale is known, else one for each node of a Gauss–Hermite rule over it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, final

import torch

from bayesreg.predictive.function import AbstractFunction

_BLOCK = 2**21  # pairs of components × entries at once


@final
@dataclass(frozen=True, eq=False)
class NormalFunction(AbstractFunction):
    """A weighted mixture of few normals for each row, in float64.

    Attributes:
        loc: E[f(x) | noiseⱼ], (J, N) or (J, N, K); (1, N) or (1, N, K) where it is the same for each j.
        covariance: Var[f(x) | noise], the same for each j: (N,), or (N, K, K) between a row's outputs.
        noise: The noise's sd, (J, 1) or (J, N), or (J, 1, 1), (J, 1, K) or (J, N, K).
        weight: wⱼ, (J,), with sum one.
        joint: What the density of a row's outputs together is taken from, where each output has a noise of its own that is
            unknown: the components of this one then hold entry by entry only. None where they hold jointly.

    >>> one = NormalFunction(torch.zeros(1, 1), torch.tensor([3.0]), torch.ones(1, 1), torch.ones(1))
    >>> float(one.epistemic_variance), float(one.aleatoric_variance), round(float(one.log_prob(torch.zeros(1)).exp()), 6)
    (3.0, 1.0, 0.199471)
    """

    loc: torch.Tensor
    covariance: torch.Tensor
    noise: torch.Tensor
    weight: torch.Tensor
    joint: NormalFunction | None = None

    @property
    def num_components(self) -> int:
        """J."""
        return len(self.weight)

    def _average(self, values: torch.Tensor) -> torch.Tensor:
        """Σⱼ wⱼ valuesⱼ."""
        return values[0] if len(values) == 1 else torch.tensordot(self.weight, values, 1)

    @property
    def _variance(self) -> torch.Tensor:
        return self.covariance if self.loc.dim() == 2 else self.covariance.diagonal(dim1=-2, dim2=-1)

    @property
    def mean(self) -> torch.Tensor:
        """E[y | x], (N,) or (N, K)."""
        return self._average(self.loc)

    @property
    def aleatoric_variance(self) -> torch.Tensor:
        """The noise's variance, in the shape of `mean`."""
        return self._average(self.noise.square()).expand(self.loc.shape[1:])

    @property
    def epistemic_variance(self) -> torch.Tensor:
        """Var[f(x)], in the shape of `mean`: given the noise, and with it where the function's mean depends on it."""
        return self._variance if len(self.loc) == 1 else self._variance + self._average((self.loc - self.mean).square())

    @property
    def normals(self) -> torch.distributions.Normal:
        """The components entry by entry, (J, N) or (J, N, K)."""
        return torch.distributions.Normal(self.loc, (self._variance + self.noise.square()).sqrt(), validate_args=False)

    def cdf(self, y: torch.Tensor) -> torch.Tensor:
        """F(y), entry by entry, in the shape of y."""
        normals = self.normals
        return self._average(
            0.5 * torch.erfc((normals.loc - y) / (math.sqrt(2) * normals.scale))
        )  # keeps the lower tail's digits

    def log_prob(self, y: torch.Tensor) -> torch.Tensor:
        """Log density of each row, (N,), joint over its K outputs."""
        if self.joint is not None:
            return self.joint.log_prob(y)
        if self.loc.dim() == 2:
            each = self.normals.log_prob(y)
        else:
            total = self.covariance + torch.diag_embed(self.noise.square().expand(-1, -1, self.loc.shape[-1]))
            each = torch.distributions.MultivariateNormal(self.loc, total, validate_args=False).log_prob(y)
        return torch.logsumexp(each + self.weight.log()[:, None], 0)

    def rows(self, index: Any) -> NormalFunction:
        """The same for some rows, by numbers or a slice."""
        noise = self.noise if self.noise.shape[1] == 1 else self.noise[:, index]
        joint = None if self.joint is None else self.joint.rows(index)
        return replace(self, loc=self.loc[:, index], covariance=self.covariance[index], noise=noise, joint=joint)

    def in_units(self, mean: torch.Tensor, width: torch.Tensor) -> NormalFunction:
        """The distribution of mean + width · y, with numbers or (K,) tensors, width > 0."""
        mean, width = mean.to(self.loc), width.to(self.loc)
        squares = width.square() if self.loc.dim() == 2 else width[..., :, None] * width[..., None, :]
        loc, noise = mean + width * self.loc, width * self.noise
        joint = None if self.joint is None else self.joint.in_units(mean, width)
        return replace(self, loc=loc, covariance=squares * self.covariance, noise=noise, joint=joint)


def crps_of_normals(y: torch.Tensor, normals: torch.distributions.Normal, weight: torch.Tensor) -> torch.Tensor:
    """Continuous ranked probability score of a mixture of normals (J, ...), in closed form, in the shape of y.

    With A(μ, σ) = E|N(μ, σ²)| = 2σ φ(μ/σ) + μ (2Φ(μ/σ) − 1):

        Σⱼ wⱼ A(y − mⱼ, sⱼ)  −  ½ Σⱼₖ wⱼ wₖ A(mⱼ − mₖ, √(sⱼ² + sₖ²))

    References:
        Grimit, Gneiting, Berrocal and Johnson (2006), The continuous ranked probability score for circular variables and its
        application to mesoscale forecast ensemble verification.

    >>> standard = torch.distributions.Normal(torch.zeros(1, 1), torch.ones(1, 1))
    >>> exact = (math.sqrt(2) - 1) / math.sqrt(math.pi)
    >>> abs(float(crps_of_normals(torch.zeros(1), standard, torch.ones(1))) - exact) < 1e-7
    True
    """
    loc, scale = normals.loc, normals.scale
    size = loc.shape[1:]
    loc, scale, target = (part.reshape(*part.shape[: part.dim() - len(size)], -1) for part in (loc, scale, y))
    weight = weight.to(loc)
    scale = scale.expand_as(loc)
    found = []
    for part in torch.arange(loc.shape[1], device=loc.device).split(max(1, _BLOCK // len(weight) ** 2)):
        m, s = loc[:, part], scale[:, part]
        apart = _mean_absolute(m[:, None] - m, (s[:, None].square() + s.square()).sqrt())
        away = _mean_absolute(target[part] - m, s)
        found.append(weight @ away - 0.5 * torch.einsum("j,k,jkn->n", weight, weight, apart))
    return torch.cat(found).reshape(size)


def _mean_absolute(loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """E|N(loc, scale²)|."""
    z = loc / scale
    return scale * math.sqrt(2 / math.pi) * torch.exp(-0.5 * z.square()) + loc * torch.erf(z / math.sqrt(2))
