"""Densities on the real line: flat, fixed, normal (L2), Laplace (L1), and the elastic net, a product of the last two."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import pyro.distributions as dist
import torch

from bayesreg import _check
from bayesreg.priors import numeric
from bayesreg.priors.base import AbstractElementwisePrior, Shape, replaced, shown
from bayesreg.priors.from_tools import AbstractElasticNetTools, AbstractLaplaceTools, AbstractNormalTools
from bayesreg.priors.scaled import AbstractScaledElementwisePrior, interval
from bayesreg.priors.values import HALF_LOG_2PI, log, mass_of, tensors


def _centred(value: torch.Tensor, loc: Any) -> torch.Tensor:
    return value if isinstance(loc, float) and loc == 0.0 else value - loc


def _minus(loc: float) -> str:
    return "w" if loc == 0 else f"(w {'−' if loc > 0 else '+'} {abs(loc):g})"


@dataclasses.dataclass(frozen=True, repr=False)
class Flat(AbstractElementwisePrior):
    """No prior at all: log p(w) = 0, up to a constant that does not exist.

    As a regulariser: none. The mode is maximum likelihood. Improper: there are no draws and no evidence.

    >>> import torch
    >>> Flat().penalty(torch.tensor([3.0, -1e6]))
    tensor(0.)
    """

    regulariser: ClassVar[str] = "none"
    safe_in_single: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    proper: ClassVar[bool] = False
    flat: ClassVar[bool] = True

    def check(self) -> None:
        """Nothing to refuse."""

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """Zero for each entry."""
        return 0.0 * value  # not new zeros: the result must have a gradient, though it is zero

    def energy_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """Zero for each entry."""
        return torch.zeros_like(value)

    @property
    def log_constant(self) -> float:
        """Zero, by convention."""
        return 0.0

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Zero for each entry."""
        return torch.zeros_like(loc)

    def prox(self, value: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
        """The identity."""
        return value.clone()

    @property
    def weight_decay(self) -> float:
        """None is 0."""
        return 0.0

    def gaussian(self, shape: Shape) -> tuple[float, torch.Tensor]:
        """No precision at all."""
        return 0.0, torch.zeros(math.prod(shape), dtype=torch.float64)

    def centred_at(self, value: torch.Tensor) -> Flat:  # noqa: D102
        return self

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return "0"


@dataclasses.dataclass(frozen=True, repr=False)
class Fixed(AbstractElementwisePrior):
    """Certainty: every entry is `value`, a point mass. log p(w) = 0 at the value, −∞ elsewhere.

    As a regulariser: an equality constraint, an infinite penalty. The tensor is no unknown of the model at all.

    Args:
        value: The value of every entry.

    Raises:
        ValueError: If value is not finite.

    >>> import torch
    >>> Fixed(2.0).penalty(torch.tensor([2.0, 2.0])), Fixed(2.0).penalty(torch.tensor([2.0, 2.1]))
    (tensor(0.), tensor(inf))
    """

    value: float = 0.0

    regulariser: ClassVar[str] = "equality constraint"
    smooth: ClassVar[bool] = False
    certain: ClassVar[bool] = True

    def check(self) -> None:
        """Refuse a value that is not finite."""
        _check.finite("value", self.value)

    @property
    def mode(self) -> float:
        """The value."""
        return self.value

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """Zero at the value, ∞ elsewhere."""
        return torch.where(value == self.value, 0.0 * value, math.inf)

    @property
    def log_constant(self) -> float:
        """Zero: log of a probability, not of a density."""
        return 0.0

    def _element(self, options: dict[str, Any]) -> Any:
        (value,) = tensors(options, self.value)
        return dist.Delta(value)

    def prox(self, value: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
        """The value."""
        return torch.zeros_like(value) + self.value

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"∞ unless w = {self.value:g}"


@dataclasses.dataclass(frozen=True, repr=False)
class Normal(AbstractNormalTools, AbstractScaledElementwisePrior):
    """Gaussian prior: log p(w) = −Σ (w − loc)²/(2 scale²) − P log(scale √2π).

    As a regulariser: L2, ridge, weight decay, Tikhonov. With noise sd σ, ridge's alpha is σ²/scale².

    Args:
        scale: Standard deviation of each entry, > 0, in the units of the tensor (standardised data's when the model
            standardises); or a prior of a positive quantity. 1 when None. `fan_in`, `autoscale`, `per`, `centered` and
            `relative_to_noise` say what else decides it: see `priors.scaled`.
        loc: Mean of each entry.

    Raises:
        ValueError: If scale is not > 0 or loc not finite.

    References:
        Hoerl and Kennard (1970), Ridge regression. Neal (1996), Bayesian Learning for Neural Networks (fan-in scaling).

    >>> import torch, math
    >>> w = torch.tensor([1.0, -2.0], dtype=torch.float64)
    >>> float(Normal(0.5).penalty(w)) == (1 + 4) / (2 * 0.5**2)
    True
    >>> float(Normal(0.5).log_prob(w)) == -10.0 - 2 * math.log(0.5 * math.sqrt(2 * math.pi))
    True
    """

    scale: Any = None
    loc: float = 0.0

    regulariser: ClassVar[str] = "L2, ridge, weight decay, Tikhonov"
    safe_in_single: ClassVar[bool] = True
    convex: ClassVar[bool] = True

    def check(self) -> None:
        """Refuse an invalid scale or a loc that is not finite."""
        super().check()
        _check.finite("loc", self.loc)

    @property
    def mode(self) -> Any:
        """The field `loc`."""
        return self.loc

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """(w − loc)²/(2 scale²) for each entry."""
        return 0.5 * (_centred(value, self.loc) / self.scale).square()  # the square of the scale may leave float32's range

    def energy_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """(w − loc)/scale²."""
        if self._extreme:
            return _centred(value, self.loc) / self.scale / self.scale
        return _centred(value, self.loc) * self._precision

    @cached_property
    def _extreme(self) -> bool:
        return isinstance(self.scale, float | int) and not 1e-15 < self.scale < 1e15

    @property
    def weight_decay(self) -> float | None:
        """1/scale², where loc is 0 and the scale one number."""
        known = all(isinstance(number, float | int) for number in (self.scale, self.loc))
        return self._precision if known and self.loc == 0 else None

    @cached_property
    def _precision(self) -> Any:
        return 1 / (self.scale * self.scale)

    @cached_property
    def _half_precision(self) -> Any:
        return 0.5 * self._precision

    @property
    def log_constant(self) -> Any:
        """−log(scale √2π)."""
        return -log(self.scale) - HALF_LOG_2PI

    def _element(self, options: dict[str, Any]) -> Any:
        loc, scale = tensors(options, self.loc, self.scale)
        return dist.Normal(loc, scale)

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """((loc_q − loc)² + scale_q²)/(2 scale²)."""
        return (_centred(loc, self.loc).square() + scale.square()) * self._half_precision

    def expected_slopes(self, loc: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(loc_q − loc)/scale² and scale_q/scale²."""
        return _centred(loc, self.loc) * self._precision, scale * self._precision

    def prox(self, value: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
        """Shrinkage towards loc: loc + (w − loc)/(1 + step/scale²)."""
        prior = self.at(value.shape)
        return prior.loc + (value - prior.loc) / (1 + step / prior.scale**2)

    def gaussian(self, shape: Shape) -> tuple[float, torch.Tensor]:
        """Loc, and 1/scale² for each entry."""
        scale = torch.as_tensor(self.at(shape).scale, dtype=torch.float64)
        return self.loc, scale.pow(-2).expand(torch.Size(shape)).reshape(-1)

    def centred_at(self, value: torch.Tensor) -> Normal:
        """With `loc` at the value."""
        return replaced(self, loc=value)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"Σ {_minus(self.loc)}² / (2·{shown(self.scale)}²)"


@dataclasses.dataclass(frozen=True, repr=False)
class Laplace(AbstractLaplaceTools, AbstractScaledElementwisePrior):
    """Double-exponential prior: log p(w) = −Σ |w − loc|/scale − P log(2 scale).

    As a regulariser: L1, lasso. The mode sets entries to exactly zero; the posterior does not.

    Args:
        scale: Mean absolute deviation of each entry, > 0, or a prior of it; the sd is √2 scale. 1 when None. See
            `priors.scaled` for `fan_in`, `autoscale`, `per`, `centered` and `relative_to_noise`.
        loc: Median of each entry.

    Raises:
        ValueError: If scale is not > 0 or loc not finite.

    References:
        Tibshirani (1996), Regression shrinkage and selection via the lasso. Park and Casella (2008), The Bayesian lasso.

    >>> import torch, math
    >>> w = torch.tensor([1.0, -2.0], dtype=torch.float64)
    >>> float(Laplace(0.5).penalty(w)), float(Laplace(0.5).log_prob(w)) == -6.0 - 2 * math.log(1.0)
    (6.0, True)
    """

    scale: Any = None
    loc: float = 0.0

    regulariser: ClassVar[str] = "L1, lasso"
    absolute = safe_in_single = True
    convex: ClassVar[bool] = True
    smooth: ClassVar[bool] = False

    def check(self) -> None:
        """Refuse an invalid scale or a loc that is not finite."""
        super().check()
        _check.finite("loc", self.loc)

    @property
    def mode(self) -> Any:
        """The field `loc`."""
        return self.loc

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """|w − loc|/scale for each entry."""
        return _centred(value, self.loc).abs() / self.scale

    def energy_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """sign(w − loc)/scale, zero at loc."""
        return _centred(value, self.loc).sign() / self.scale

    @property
    def log_constant(self) -> Any:
        """−log(2 scale)."""
        return -log(self.scale) - math.log(2)

    def _element(self, options: dict[str, Any]) -> Any:
        loc, scale = tensors(options, self.loc, self.scale)
        return dist.Laplace(loc, scale)

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """E|w − loc|/scale, the folded normal's mean: scale_q √(2/π) exp(−μ²/2scale_q²) + μ erf(μ/√2 scale_q)."""
        return folded_mean(_centred(loc, self.loc), scale) / self.scale

    def prox(self, value: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
        """Soft thresholding: the distance to loc shrinks by step/scale and stops at zero."""
        prior = self.at(value.shape)
        shift = value - prior.loc
        return prior.loc + shift.sign() * (shift.abs() - step / prior.scale).clamp_min(0)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"Σ |{_minus(self.loc).strip('()')}| / {shown(self.scale)}"


@dataclasses.dataclass(frozen=True, repr=False)
class ElasticNet(AbstractElasticNetTools, AbstractElementwisePrior):
    """Product of a Laplace and a normal: log p(w) = −Σ |w|/l1_scale + w²/(2 l2_scale²) − P log Z.

    Z = l2_scale √(2π) erfcx(l2_scale/(√2 l1_scale)), stable in both limits: Laplace for l2_scale → ∞, Normal for l1_scale → ∞.

    As a regulariser: the elastic net. Exact zeros as the lasso's, but correlated inputs share a weight.

    Args:
        l1_scale: Scale of the Laplace factor, > 0.
        l2_scale: Standard deviation of the normal factor, > 0.

    Raises:
        ValueError: If a scale is not > 0.

    References:
        Zou and Hastie (2005), Regularization and variable selection via the elastic net. Li and Lin (2010), The Bayesian
        elastic net.

    >>> import torch
    >>> w = torch.tensor([1.0, -2.0], dtype=torch.float64)
    >>> float(ElasticNet(0.5, 2.0).penalty(w)) == (1 + 2) / 0.5 + (1 + 4) / (2 * 2.0**2)
    True
    >>> bool(torch.isclose(ElasticNet(0.5, 1e6).log_prob(w), Laplace(0.5).log_prob(w)))
    True
    """

    l1_scale: float = 1.0
    l2_scale: float = 1.0

    regulariser: ClassVar[str] = "L1 + L2, elastic net"
    safe_in_single: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    smooth: ClassVar[bool] = False

    def check(self) -> None:
        """Refuse scales that are not > 0."""
        _check.positive("l1_scale", self.l1_scale)
        _check.positive("l2_scale", self.l2_scale)

    @property
    def path_scale(self) -> float:
        """`l1_scale`."""
        return self.l1_scale

    def with_path_scale(self, scale: float) -> ElasticNet:
        """Another l1_scale; l2_scale² grows with it, so that the share of the two penalties (scikit-learn's l1_ratio) stays."""
        return dataclasses.replace(self, l1_scale=scale, l2_scale=self.l2_scale * math.sqrt(scale / self.l1_scale))

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """|w|/l1_scale + w²/(2 l2_scale²) for each entry."""
        return value.abs() / self.l1_scale + 0.5 * (value / self.l2_scale).square()

    def energy_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """sign(w)/l1_scale + w/l2_scale², zero at zero."""
        return value.sign() / self.l1_scale + value / self.l2_scale / self.l2_scale

    @property
    def log_constant(self) -> Any:
        """−log Z."""
        ratio = torch.as_tensor(self.l2_scale / self.l1_scale, dtype=torch.float64) / math.sqrt(2)
        inner = torch.special.erfcx(ratio).log()
        return -log(self.l2_scale) - HALF_LOG_2PI - (inner if inner.dim() else float(inner))

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """|w| is a normal of mean −l2²/l1 above zero, by its distribution function; the sign is a coin's."""
        from scipy.special import log_ndtr, ndtri_exp

        size = (num_samples, *shape)
        ratio = self.l2_scale / self.l1_scale
        tail = torch.rand(size, dtype=torch.float64).log().numpy() + log_ndtr(-ratio)  # of P(|w| > ·), in logarithms
        distance = torch.as_tensor(self.l2_scale * (-ndtri_exp(tail) - ratio)).clamp_min(0)
        return (distance * (2 * torch.randint(2, size) - 1)).to(**options)

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The sum of the two factors' expected energies."""
        return folded_mean(loc, scale) / self.l1_scale + (loc.square() + scale.square()) * (
            0.5 / (self.l2_scale * self.l2_scale)
        )

    def prox(self, value: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
        """Soft thresholding by step/l1_scale, then shrinkage by 1 + step/l2_scale²."""
        soft = value.sign() * (value.abs() - step / self.l1_scale).clamp_min(0)
        return soft / (1 + step / (self.l2_scale * self.l2_scale))

    @classmethod
    def from_interval(cls, lower: float, upper: float, mass: float = 0.9) -> ElasticNet:
        """The prior with equal scales that holds `mass` of each entry in [−upper, upper].

        Args:
            lower: −upper: the prior has no location.
            upper: Upper end, in the units of the tensor.
            mass: Probability between them.

        Returns:
            The prior.

        Raises:
            ValueError: If lower is not −upper or mass not between 0 and 1.

        >>> ElasticNet.from_interval(-1, 1, mass=0.5).prox(torch.zeros(1), 1.0)
        tensor([0.])
        """
        low, high = interval(lower, upper)
        if low != -high:
            raise ValueError(
                f"the interval of ElasticNet must be symmetric about 0, where its mode is, but [{lower}, {upper}] came; take "
                "Normal or Laplace for a prior about another point."
            )
        unit = cls()
        level = 0.5 * (1 + mass_of(mass))
        (reach,) = numeric.quantiles(lambda w: unit.log_constant - unit.energy(w), unit.support, 0.0, [level])
        scale = high / reach
        return cls(scale, scale)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"Σ |w| / {shown(self.l1_scale)} + w² / (2·{shown(self.l2_scale)}²)"


def folded_mean(loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """E|w| for w ~ N(loc, scale²): scale √(2/π) exp(−loc²/2scale²) + loc erf(loc/√2 scale), in the shape of both."""
    ratio = loc / (scale * math.sqrt(2))
    return scale * math.sqrt(2 / math.pi) * (-ratio.square()).exp() + loc * ratio.erf()
