"""Densities on a range: inverse-gamma, log-normal, log-uniform and uniform."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch.distributions import constraints

from bayesreg import _check
from bayesreg.priors.base import AbstractElementwisePrior, Shape, shown
from bayesreg.priors.positive import gamma_through
from bayesreg.priors.scaled import interval, positive_interval
from bayesreg.priors.values import HALF_LOG_2PI, log, mass_of, tensors, wide


@dataclass(frozen=True, repr=False)
class InverseGamma(AbstractElementwisePrior):
    """Inverse gamma for a positive quantity: log p(s) = Σ −(a+1) log s − b/s + P (a log b − log Γ(a)), s > 0.

    The conjugate prior of a normal's variance.

    As a regulariser: a barrier at zero, stronger than any power; logarithmic above the mode b/(a+1).

    Args:
        concentration: Shape a, > 0.
        rate: Scale b, > 0: s is b over a Gamma(a, 1) variable.

    Raises:
        ValueError: If concentration or rate is not > 0.

    References:
        Gelman (2006), Prior distributions for variance parameters in hierarchical models (also on why small a, b are a poor
        choice).

    >>> float(InverseGamma(3.0, 2.0).penalty(torch.tensor(0.5)))  # the mode is 2/(3 + 1)
    0.0
    """

    concentration: float = 2.0
    rate: float = 1.0

    regulariser: ClassVar[str] = "strong barrier at zero, logarithmic above the mode"
    support: ClassVar[Any] = constraints.positive

    def check(self) -> None:
        """Refuse numbers that are not > 0."""
        _check.positive("concentration", self.concentration)
        _check.positive("rate", self.rate)

    @property
    def mode(self) -> Any:
        """rate/(concentration + 1)."""
        return self.rate / (self.concentration + 1)

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """(a+1) (log(s/mode) + mode/s − 1) for each entry, ∞ at and below zero."""
        inside = value > 0
        ratio = torch.where(inside, value, 1.0) / self.mode
        return torch.where(inside, (self.concentration + 1) * (ratio.log() + 1 / ratio - 1), math.inf)

    @property
    def log_constant(self) -> Any:
        """The log-density at the mode."""
        a, b, mode = (torch.as_tensor(v, dtype=torch.float64) for v in (self.concentration, self.rate, self.mode))
        peak = a * b.log() - torch.lgamma(a) - (a + 1) * (mode.log() + 1)
        return peak if peak.dim() else float(peak)

    def _element(self, options: dict[str, Any]) -> Any:
        return dist.InverseGamma(*tensors(options, self.concentration, self.rate))

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """(a+1) (loc_q − log mode + mode E[1/s] − 1) with log s ~ N(loc_q, scale_q²)."""
        log_mode = log(self.mode)
        return (self.concentration + 1) * (loc - log_mode + (log_mode - loc + 0.5 * scale.square()).exp() - 1)

    @classmethod
    def from_interval(cls, lower: float, upper: float, mass: float = 0.9) -> InverseGamma:
        """The prior that holds `mass` of each entry in [lower, upper], with equal tails.

        Args:
            lower: Lower end, > 0, in the units of the quantity.
            upper: Upper end.
            mass: Probability between them.

        Returns:
            The prior.

        Raises:
            ValueError: If the ends are not 0 < lower < upper or mass not between 0 and 1.
        """
        low, high = positive_interval(lower, upper, "InverseGamma")
        return cls(*gamma_through(1 / high, 1 / low, mass, "InverseGamma"))

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"Σ {shown(self.concentration + 1)}·log w + {shown(self.rate)}/w + const, w > 0"


@dataclass(frozen=True, repr=False)
class LogNormal(AbstractElementwisePrior):
    """Log-normal for a positive quantity: log s ~ N(loc, scale²), log p(s) = Σ −(log s − loc)²/(2 scale²) − log s + const.

    As a regulariser: L2 on the logarithm: it keeps a quantity within a factor of e^scale, up or down.

    Args:
        loc: Mean of log s; e^loc is the median.
        scale: Standard deviation of log s, > 0.

    Raises:
        ValueError: If scale is not > 0 or loc not finite.

    References:
        Gelman et al. (2013), Bayesian Data Analysis, section 2.8 (positive quantities on a logarithmic scale).

    >>> import torch
    >>> float(LogNormal(0.0, 1.0).penalty(torch.tensor(-1.0, dtype=torch.float64).exp()))  # the mode is e^(loc − scale²)
    0.0
    """

    loc: float = 0.0
    scale: float = 1.0

    regulariser: ClassVar[str] = "L2 on the logarithm"
    support: ClassVar[Any] = constraints.positive

    def check(self) -> None:
        """Refuse a scale that is not > 0 or a loc that is not finite."""
        _check.finite("loc", self.loc)
        _check.positive("scale", self.scale)

    @property
    def mode(self) -> Any:
        """e^(loc − scale²)."""
        peak = self.loc - self.scale * self.scale
        return peak.exp() if isinstance(peak, torch.Tensor) else math.exp(peak)

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """(log s − loc + scale²)²/(2 scale²) for each entry, ∞ at and below zero."""
        inside = value > 0
        variance = self.scale * self.scale
        shift = torch.where(inside, value, 1.0).log() - self.loc + variance
        return torch.where(inside, shift.square() * (0.5 / variance), math.inf)

    @property
    def log_constant(self) -> Any:
        """The log-density at the mode: −log(scale √2π) − loc + scale²/2."""
        return -log(self.scale) - HALF_LOG_2PI - self.loc + 0.5 * self.scale * self.scale

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-density of the whole tensor, a scalar in nats; not via the mode, which a wide scale puts at e^(−scale²)."""
        s = wide(value)
        logs = torch.where(s > 0, s, 1.0).log()
        found = -0.5 * ((logs - self.loc) / self.scale).square() - logs - log(self.scale) - HALF_LOG_2PI
        return torch.where(s.isnan(), s, torch.where(s > 0, found, -math.inf)).sum().to(value.dtype)

    def _element(self, options: dict[str, Any]) -> Any:
        loc, scale = tensors(options, self.loc, self.scale)
        return dist.LogNormal(loc, scale)

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """((loc_q − loc + scale²)² + scale_q²)/(2 scale²) with log s ~ N(loc_q, scale_q²)."""
        variance = self.scale * self.scale
        return ((loc - self.loc + variance).square() + scale.square()) * (0.5 / variance)

    @classmethod
    def from_interval(cls, lower: float, upper: float, mass: float = 0.9) -> LogNormal:
        """The prior that holds `mass` of each entry in [lower, upper], with equal tails.

        Args:
            lower: Lower end, > 0, in the units of the quantity.
            upper: Upper end.
            mass: Probability between them.

        Returns:
            The prior.

        Raises:
            ValueError: If the ends are not 0 < lower < upper or mass not between 0 and 1.

        >>> round(LogNormal.from_interval(1.0, 100.0, mass=0.95).loc, 12) == round(math.log(10.0), 12)
        True
        """
        low, high = positive_interval(lower, upper, "LogNormal")
        from scipy.special import ndtri

        reach = float(ndtri(0.5 * (1 + mass_of(mass))))
        return cls(0.5 * (math.log(low) + math.log(high)), 0.5 * math.log(high / low) / reach)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"Σ (log w − {shown(self.loc)})² / (2·{shown(self.scale)}²) + log w + const, w > 0"


@dataclass(frozen=True, repr=False)
class LogUniform(AbstractElementwisePrior):
    """Log-uniform for a positive quantity: p(s) = 1/(s log(upper/lower)) on [lower, upper]; without ends, p(s) = 1/s.

    As a regulariser: log s. All orders of magnitude are equally probable. Without ends it is Jeffreys' prior of a scale:
    improper, with a pole at zero; it suits a noise scale, which the data keep away from zero.

    Args:
        lower: Lower end, > 0; None for 0.
        upper: Upper end; None for ∞. Both ends or none.

    Raises:
        ValueError: If only one end is given, or they are not 0 < lower < upper.

    References:
        Jeffreys (1946), An invariant form for the prior probability in estimation problems.

    >>> import torch, math
    >>> math.isclose(LogUniform(0.1, 10.0).log_prob(torch.tensor(2.0)).exp(), 1 / (2 * math.log(100)), rel_tol=1e-6)
    True
    """

    lower: float | None = None
    upper: float | None = None

    regulariser: ClassVar[str] = "logarithm"
    safe_in_single: ClassVar[bool] = True

    def check(self) -> None:
        """Refuse one end alone, and ends that are not 0 < lower < upper.

        Raises:
            ValueError: If so.
        """
        if self.lower is None and self.upper is None:
            return
        if self.lower is None or self.upper is None:
            raise ValueError(f"LogUniform must have both ends or none, but {self} came; give the other end too.")
        low, _ = interval(self.lower, self.upper)
        _check.positive("lower", low)

    @property
    def proper(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """True with ends."""
        return self.lower is not None

    @property
    def bounded(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """True with ends: without them the density has a pole at zero."""
        return self.lower is not None

    @cached_property
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The interval, or the positive half line."""
        return constraints.positive if self.lower is None else constraints.interval(self.lower, self.upper)

    @property
    def mode(self) -> Any:
        """The lower end; 1, from which the penalty counts, where there is none."""
        return 1.0 if self.lower is None else self.lower

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """log(s/lower) for each entry (log s without ends), ∞ outside."""
        low, high = (0.0, math.inf) if self.lower is None else (self.lower, self.upper)
        inside = (value >= low) & (value <= high) & (value > 0)  # pyright: ignore[reportOperatorIssue]
        return torch.where(inside, (torch.where(inside, value, 1.0) / self.mode).log(), math.inf)

    @property
    def log_constant(self) -> Any:
        """−log(lower log(upper/lower)); zero without ends."""
        return 0.0 if self.lower is None else -log(self.lower) - log(log(self.upper / self.lower))  # pyright: ignore

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """Lower · (upper/lower)^u, u uniform."""
        u = torch.rand((num_samples, *shape), dtype=torch.float64).to(**options)
        return (self.lower * (self.upper / self.lower) ** u).clamp(self.lower, self.upper)  # pyright: ignore

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor | None:
        """loc_q without ends, since log s ~ N(loc_q, scale_q²); with ends it is sampled."""
        return loc if self.lower is None else None

    @classmethod
    def from_interval(cls, lower: float, upper: float, mass: float = 0.9) -> LogUniform:
        """The prior that holds `mass` of each entry in [lower, upper], with equal tails.

        Args:
            lower: Lower end, > 0, in the units of the quantity.
            upper: Upper end.
            mass: Probability between them.

        Returns:
            The prior.

        Raises:
            ValueError: If the ends are not 0 < lower < upper or mass not between 0 and 1.
        """
        inner = LogNormal.from_interval(lower, upper, mass)  # checks
        half = 0.5 * math.log(upper / lower) / mass_of(mass)
        return cls(math.exp(inner.loc - half), math.exp(inner.loc + half))

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        where = "w > 0" if self.lower is None else f"{shown(self.lower)} ≤ w ≤ {shown(self.upper)}"
        return f"Σ log w + const, {where}"


@dataclass(frozen=True, repr=False)
class Uniform(AbstractElementwisePrior):
    """Uniform: log p(w) = −P log(upper − lower) on [lower, upper].

    As a regulariser: a box constraint, free inside.

    Args:
        lower: Lower end.
        upper: Upper end.

    Raises:
        ValueError: If the ends are not finite or upper is not above lower.

    References:
        Laplace (1812), Théorie analytique des probabilités.

    >>> float(Uniform(-1.0, 3.0).log_prob(torch.tensor([0.0, 2.0])).exp())
    0.0625
    """

    lower: float = 0.0
    upper: float = 1.0

    regulariser: ClassVar[str] = "box constraint"
    safe_in_single: ClassVar[bool] = True

    def check(self) -> None:
        """Refuse ends that are not lower < upper."""
        interval(self.lower, self.upper)

    @cached_property
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The interval."""
        return constraints.interval(self.lower, self.upper)

    @property
    def mode(self) -> Any:
        """The middle; every point is one."""
        return 0.5 * (self.lower + self.upper)

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """Zero for each entry inside, ∞ outside."""
        return torch.where((value >= self.lower) & (value <= self.upper), 0.0 * value, math.inf)

    @property
    def log_constant(self) -> Any:
        """−log(upper − lower)."""
        return -log(self.upper - self.lower)

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """Lower + (upper − lower) u."""
        u = torch.rand((num_samples, *shape), dtype=torch.float64).to(**options)
        return (self.lower + (self.upper - self.lower) * u).clamp(self.lower, self.upper)

    def prox(self, value: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
        """The nearest point of the box."""
        return value.clamp(self.lower, self.upper)

    @classmethod
    def from_interval(cls, lower: float, upper: float, mass: float = 0.9) -> Uniform:
        """The prior that holds `mass` of each entry in [lower, upper], with equal tails.

        Args:
            lower: Lower end, in the units of the tensor.
            upper: Upper end.
            mass: Probability between them.

        Returns:
            The prior.

        Raises:
            ValueError: If upper is not above lower or mass not between 0 and 1.

        >>> Uniform.from_interval(-1, 1, mass=0.5)
        Uniform(lower=-2.0, upper=2.0)
        """
        low, high = interval(lower, upper)
        spare = 0.5 * (high - low) * (1 / mass_of(mass) - 1)
        return cls(low - spare, high + spare)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"0, {shown(self.lower)} ≤ w ≤ {shown(self.upper)}"
