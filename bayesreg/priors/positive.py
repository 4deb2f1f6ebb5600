"""Densities of a positive quantity, such as a noise scale: half-normal, half-Cauchy, half-t, exponential, gamma."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch.distributions import constraints

from bayesreg import _check
from bayesreg.priors.base import AbstractElementwisePrior, Shape, shown
from bayesreg.priors.heavy_tailed import log_student
from bayesreg.priors.scaled import AbstractScaledElementwisePrior, interval, positive_interval
from bayesreg.priors.values import HALF_LOG_2PI, log, mass_of, tensors, wide


def _above_zero(value: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
    return torch.where(value < 0, math.inf, energy)  # NaN stays NaN


@dataclass(frozen=True, repr=False)
class HalfNormal(AbstractScaledElementwisePrior):
    """Gaussian folded at zero, for a positive quantity: log p(s) = −Σ s²/(2 scale²) + P log(2/(scale √2π)), s ≥ 0.

    As a regulariser: L2 on a scale; it lets the quantity go to zero and keeps it from growing far beyond `scale`.

    Args:
        scale: Standard deviation before folding, > 0, or a prior of it; 1 when None.

    Raises:
        ValueError: If scale is not > 0.

    References:
        Gelman (2006), Prior distributions for variance parameters in hierarchical models.

    >>> import torch
    >>> round(float(HalfNormal(2.0).log_prob(torch.tensor(1.0, dtype=torch.float64)).exp()), 12)
    0.352065326764
    """

    scale: Any = None

    regulariser: ClassVar[str] = "L2 on a positive quantity"
    safe_in_single: ClassVar[bool] = True
    support: ClassVar[Any] = constraints.positive

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """s²/(2 scale²) for each entry, ∞ below zero."""
        return _above_zero(value, 0.5 * (value / self.scale).square())

    def energy_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """s/scale²."""
        return value / self.scale / self.scale

    @property
    def log_constant(self) -> Any:
        """Log 2 − log(scale √2π)."""
        return math.log(2) - log(self.scale) - HALF_LOG_2PI

    def _element(self, options: dict[str, Any]) -> Any:
        return dist.HalfNormal(tensors(options, self.scale)[0])

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """E[s²]/(2 scale²) with log s ~ N(loc_q, scale_q²): exp(2 loc_q + 2 scale_q²)/(2 scale²)."""
        return (2 * loc + 2 * scale.square()).exp() * (0.5 / (self.scale * self.scale))

    def expected_slopes(self, loc: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """2 and 4 scale_q times the expected energy."""
        energy = self.expected_energy(loc, scale)
        return 2 * energy, 4 * scale * energy

    def prox(self, value: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
        """Shrinkage of the positive part: max(s, 0)/(1 + step/scale²)."""
        prior = self.at(value.shape)
        return value.clamp_min(0) / (1 + step / prior.scale**2)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"Σ w² / (2·{shown(self.scale)}²), w ≥ 0"


@dataclass(frozen=True, repr=False)
class HalfCauchy(AbstractScaledElementwisePrior):
    """Cauchy folded at zero: log p(s) = −Σ log(1 + s²/scale²) + P log(2/(π scale)), s ≥ 0.

    As a regulariser: a penalty that grows only logarithmically, so that large values stay large.

    Args:
        scale: The median, > 0, or a prior of it; 1 when None.

    Raises:
        ValueError: If scale is not > 0.

    References:
        Gelman (2006), Prior distributions for variance parameters in hierarchical models.

    >>> import torch, math
    >>> p = HalfCauchy(2.0).log_prob(torch.tensor(2.0, dtype=torch.float64)).exp()
    >>> math.isclose(p, 1 / (math.pi * 2))
    True
    """

    scale: Any = None

    regulariser: ClassVar[str] = "logarithmic, on a positive quantity"
    support: ClassVar[Any] = constraints.positive

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """log(1 + s²/scale²) for each entry, ∞ below zero."""
        return _above_zero(value, torch.log1p((value / self.scale).square()))

    def energy_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """2 s/(s² + scale²)."""
        z = value / self.scale
        return 2 * z / (1 + z.square()) / self.scale

    @property
    def log_constant(self) -> Any:
        """log(2/(π scale))."""
        return math.log(2 / math.pi) - log(self.scale)

    def _element(self, options: dict[str, Any]) -> Any:
        return dist.HalfCauchy(tensors(options, self.scale)[0])

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"Σ log(1 + w²/{shown(self.scale)}²), w ≥ 0"


@dataclass(frozen=True, repr=False)
class HalfStudentT(AbstractScaledElementwisePrior):
    """Student's t folded at zero: log p(s) = −Σ (df+1)/2 · log(1 + s²/(df scale²)) + const, s ≥ 0.

    As a regulariser: half-normal for large df, half-Cauchy for df = 1.

    Args:
        df: Degrees of freedom, > 0.
        scale: Scale before folding, > 0, or a prior of it; 1 when None.

    Raises:
        ValueError: If df or scale is not > 0.

    References:
        Gelman (2006), Prior distributions for variance parameters in hierarchical models.

    >>> import torch
    >>> s = torch.tensor([0.5, 3.0], dtype=torch.float64)
    >>> bool(torch.isclose(HalfStudentT(1.0, 2.0).log_prob(s), HalfCauchy(2.0).log_prob(s)))
    True
    """

    df: float = 4.0
    scale: Any = None

    regulariser: ClassVar[str] = "L2 near zero, logarithmic far out, on a positive quantity"
    support: ClassVar[Any] = constraints.positive

    def check(self) -> None:
        """Refuse df or a scale that is not > 0."""
        _check.positive("df", self.df)
        super().check()

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """(df+1)/2 · log(1 + s²/(df scale²)) for each entry, ∞ below zero."""
        return _above_zero(value, torch.log1p((value / self.scale).square() / self.df) * (0.5 * (self.df + 1)))

    def energy_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """(df+1) s/(df scale² + s²)."""
        z = value / self.scale
        return (self.df + 1) * z / (self.df + z.square()) / self.scale

    @property
    def log_constant(self) -> Any:
        """Twice the normaliser of Student's t."""
        return math.log(2) + log_student(self.df) - log(self.scale)

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """|t|."""
        df = torch.as_tensor(self.df, dtype=torch.float64)
        return torch.distributions.StudentT(df).sample((num_samples, *shape)).abs().to(**options) * self.scale

    @classmethod
    def from_interval(cls, lower: float, upper: float, mass: float = 0.9, df: float = 4.0) -> HalfStudentT:
        """The prior that holds `mass` of each entry in [0, upper].

        Args:
            lower: 0.
            upper: Upper end, in the units of the quantity.
            mass: Probability between them.
            df: Degrees of freedom.

        Returns:
            The prior.

        Raises:
            ValueError: If lower is not 0, upper not above it or mass not between 0 and 1.
        """
        return cls(df).through(lower, upper, mass)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"{0.5 * (self.df + 1):.4g} Σ log(1 + w² / ({self.df:.4g}·{shown(self.scale)}²)), w ≥ 0"


@dataclass(frozen=True, repr=False)
class Exponential(AbstractElementwisePrior):
    """Exponential prior for a positive quantity: log p(s) = P log rate − rate Σ s, s ≥ 0.

    As a regulariser: one-sided L1. On a scale it is the penalised-complexity prior.

    Args:
        rate: One over the mean, > 0.

    Raises:
        ValueError: If rate is not > 0.

    References:
        Simpson et al. (2017), Penalising model component complexity.

    >>> import torch
    >>> Exponential(3.0).penalty(torch.tensor([1.0, 0.5]))
    tensor(4.5000)
    """

    rate: float = 1.0

    regulariser: ClassVar[str] = "one-sided L1"
    safe_in_single: ClassVar[bool] = True
    support: ClassVar[Any] = constraints.positive

    def check(self) -> None:
        """Refuse a rate that is not > 0."""
        _check.positive("rate", self.rate)

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """rate·s for each entry, ∞ below zero."""
        return _above_zero(value, self.rate * value)

    @property
    def log_constant(self) -> Any:
        """Log rate."""
        return log(self.rate)

    def _element(self, options: dict[str, Any]) -> Any:
        return dist.Exponential(tensors(options, self.rate)[0])

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """rate·E[s] with log s ~ N(loc_q, scale_q²)."""
        return self.rate * (loc + 0.5 * scale.square()).exp()

    def prox(self, value: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
        """One-sided soft thresholding: max(s − step·rate, 0)."""
        return (value - step * self.rate).clamp_min(0)

    @classmethod
    def from_interval(cls, lower: float, upper: float, mass: float = 0.9) -> Exponential:
        """The prior that holds `mass` of each entry in [0, upper]: rate = −log(1 − mass)/upper.

        Args:
            lower: 0: there is one number to solve for.
            upper: Upper end, in the units of the quantity.
            mass: Probability between them.

        Returns:
            The prior.

        Raises:
            ValueError: If lower is not 0, upper not above it or mass not between 0 and 1.

        >>> Exponential.from_interval(0, 2, mass=0.5).rate == math.log(2) / 2
        True
        """
        low, high = interval(lower, upper)
        if low != 0:
            raise ValueError(
                f"the interval of Exponential must start at 0, since only its rate is solved for, but [{lower}, {upper}] came; "
                "take a prior with two parameters, for example LogNormal or Gamma."
            )
        return cls(-math.log(1 - mass_of(mass)) / high)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"{shown(self.rate)} Σ w, w ≥ 0"


@dataclass(frozen=True, repr=False)
class Gamma(AbstractElementwisePrior):
    """Gamma prior for a positive quantity: log p(s) = Σ (c−1) log s − rate s + c log rate − log Γ(c), s > 0.

    As a regulariser: a barrier at zero and L1 above the mode (c − 1)/rate. The barrier is only logarithmic: it keeps a prior
    scale off zero, but not the noise scale of a network that fits N > c rows exactly, whose likelihood grows like s⁻ᴺ.

    Args:
        concentration: Shape c, >= 1: below it the density is unbounded at zero and the penalty does not exist.
        rate: Inverse scale, > 0.

    Raises:
        ValueError: If concentration is not >= 1 or rate not > 0.

    References:
        Chung et al. (2013), A nondegenerate penalized likelihood estimator for variance parameters.

    >>> import torch
    >>> float(Gamma(3.0, 2.0).penalty(torch.tensor(1.0)))  # the mode is (3 − 1)/2
    0.0
    """

    concentration: float = 2.0
    rate: float = 1.0

    regulariser: ClassVar[str] = "barrier at zero, L1 above the mode"
    support: ClassVar[Any] = constraints.positive

    def check(self) -> None:
        """Refuse a concentration below 1 or a rate that is not > 0.

        Raises:
            ValueError: If so.
        """
        _check.positive("rate", self.rate)
        if _check.positive("concentration", self.concentration) < 1:
            raise ValueError(
                f"concentration must be >= 1, but {self.concentration!r} came: below 1 the density is unbounded at zero, "
                "so that it has no mode and no penalty; pass for example concentration=2.0."
            )

    @property
    def mode(self) -> Any:
        """(concentration − 1)/rate."""
        return (self.concentration - 1) / self.rate

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """Rate (s − mode) − (c−1) log(s/mode) for each entry, ∞ below zero."""
        shape = self.concentration - 1
        mode = torch.as_tensor(self.mode, dtype=value.dtype, device=value.device)
        positive = value.clamp_min(0)
        logs = torch.xlogy(torch.as_tensor(shape, dtype=value.dtype, device=value.device), positive)
        energy = self.rate * (positive - mode) - logs + torch.xlogy(mode * self.rate, mode)
        return _above_zero(value, torch.where(value == math.inf, math.inf, energy))

    @property
    def log_constant(self) -> Any:
        """The log-density at the mode."""
        shape, rate, mode = (torch.as_tensor(v, dtype=torch.float64) for v in (self.concentration, self.rate, self.mode))
        peak = torch.xlogy(shape, rate) - torch.lgamma(shape) + torch.xlogy(shape - 1, mode) - rate * mode
        return peak if peak.dim() else float(peak)

    def _element(self, options: dict[str, Any]) -> Any:
        concentration, rate = tensors(options, self.concentration, self.rate)
        return dist.Gamma(concentration, rate)

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Rate (E[s] − mode) − (c−1)(loc_q − log mode) with log s ~ N(loc_q, scale_q²)."""
        shape = self.concentration - 1
        mode = torch.as_tensor(self.mode, dtype=loc.dtype, device=loc.device)
        return self.rate * ((loc + 0.5 * scale.square()).exp() - mode) - shape * loc + torch.xlogy(mode * self.rate, mode)

    def prox(self, value: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
        """The positive root of z² + (step·rate − s) z − step (c−1) = 0."""
        half = 0.5 * (wide(value) - step * self.rate)
        product = torch.as_tensor(step * (self.concentration - 1), dtype=half.dtype, device=half.device)
        root = torch.hypot(half, product.sqrt())
        # the two forms are equal; each is used where it does not cancel
        found = torch.where(half >= 0, half + root, product / (root - half).clamp_min(torch.finfo(half.dtype).tiny))
        return found.to(value)

    @classmethod
    def from_interval(cls, lower: float, upper: float, mass: float = 0.9) -> Gamma:
        """The prior that holds `mass` of each entry in [lower, upper], with equal tails.

        Args:
            lower: Lower end, > 0, in the units of the quantity.
            upper: Upper end.
            mass: Probability between them.

        Returns:
            The prior.

        Raises:
            ValueError: If the ends are not 0 < lower < upper, mass not between 0 and 1, or the interval so wide that the
                concentration would fall below 1.

        >>> prior = Gamma.from_interval(0.5, 2.0, mass=0.8)
        >>> round(float(torch.special.gammainc(torch.tensor(prior.concentration), torch.tensor(0.5 * prior.rate))), 4)
        0.1
        """
        concentration, rate = gamma_through(lower, upper, mass, "Gamma")
        if concentration < 1:
            raise ValueError(
                f"the interval of Gamma must be narrow enough for a concentration >= 1, but [{lower}, {upper}] with mass "
                f"{mass} came, which needs {concentration:.2g}; take LogNormal.from_interval, or a narrower interval."
            )
        return cls(concentration, rate)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"Σ {shown(self.rate)}·w − {shown(self.concentration - 1)}·log w + const, w > 0"


def gamma_through(lower: float, upper: float, mass: float, name: str) -> tuple[float, float]:
    """Concentration and rate of the gamma distribution with this mass, and equal tails, in an interval; `name` is for errors.

    Raises:
        ValueError: If the ends are not 0 < lower < upper or mass not between 0 and 1.
    """
    from scipy.optimize import brentq
    from scipy.special import gammaincinv

    low, high = positive_interval(lower, upper, name)
    tail = 0.5 * (1 - mass_of(mass))

    def excess(log_concentration: float) -> float:
        shape = math.exp(log_concentration)
        return math.log(gammaincinv(shape, 1 - tail)) - math.log(gammaincinv(shape, tail)) - math.log(high / low)

    # from a density so wide that its lower quantile is 1e-300 to one whose relative width is 1e-5
    least = math.log(max(1e-3, math.log(1 / tail) / 600))
    shape = math.exp(brentq(excess, least, math.log(1e10)))  # pyright: ignore
    return shape, float(gammaincinv(shape, 1 - tail)) / high
