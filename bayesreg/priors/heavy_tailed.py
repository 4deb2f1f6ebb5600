"""Densities on the real line with other tails than normal: Student's t, Cauchy, and the generalised normal (the Lq bridge)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch

from bayesreg import _check
from bayesreg.priors.base import AbstractPrior, Shape, replaced, shown
from bayesreg.priors.densities import Laplace, Normal
from bayesreg.priors.scaled import AbstractScaledElementwisePrior
from bayesreg.priors.values import log, tensors


@dataclass(frozen=True, repr=False)
class AbstractLocationPrior(AbstractScaledElementwisePrior):
    """An elementwise prior with a location, which is its mode."""

    @property
    def _loc(self) -> Any:
        return self.loc  # pyright: ignore[reportAttributeAccessIssue]  (each class declares it in its own order)

    def check(self) -> None:
        """Refuse an invalid scale or a loc that is not finite."""
        super().check()
        _check.finite("loc", self._loc)

    @property
    def mode(self) -> Any:
        """The field `loc`."""
        return self._loc

    def _z(self, value: torch.Tensor) -> torch.Tensor:
        return (value - self._loc) / self.given_scale

    def _z_text(self) -> str:
        w = "w" if self._loc == 0 else f"(w {'−' if self._loc > 0 else '+'} {abs(self._loc):g})"
        return f"{w}/{shown(self.given_scale)}"


@dataclass(frozen=True, repr=False)
class StudentT(AbstractLocationPrior):
    """Student's t: log p(w) = −Σ (df+1)/2 · log(1 + z²/df) + P (log Γ((df+1)/2) − log Γ(df/2) − ½ log(df π) − log scale).

    z = (w − loc)/scale. It is a Normal whose variance has an inverse-gamma prior, integrated out.

    As a regulariser: L2 near zero, logarithmic far out: it shrinks small weights and hardly the large ones. Not convex.

    Args:
        df: Degrees of freedom, > 0; 1 is Cauchy, ∞ is Normal.
        scale: Scale of z, > 0, or a prior of it; 1 when None, see `priors.scaled`.
        loc: Location of the centre.

    Raises:
        ValueError: If df or scale is not > 0 or loc not finite.

    References:
        Tipping (2001), Sparse Bayesian learning and the relevance vector machine. Gelman et al. (2008), A weakly informative
        default prior distribution for logistic and other regression models.

    >>> import torch
    >>> w = torch.tensor([0.3, -2.0], dtype=torch.float64)
    >>> bool(torch.isclose(StudentT(5.0, 0.7).log_prob(w), torch.distributions.StudentT(5.0, 0.0, 0.7).log_prob(w).sum()))
    True
    """

    df: float = 4.0
    scale: Any = None
    loc: float = 0.0

    regulariser: ClassVar[str] = "L2 near zero, logarithmic far out"

    def check(self) -> None:
        """Refuse df that is not > 0, an invalid scale or a loc that is not finite."""
        _check.positive("df", self.df)
        super().check()

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """(df+1)/2 · log(1 + z²/df) for each entry."""
        return torch.log1p(self._z(value).square() / self.df) * (0.5 * (self.df + 1))

    def energy_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """(df+1) z/((df + z²) scale)."""
        z = self._z(value)
        return (self.df + 1) * z / ((self.df + z.square()) * self.scale)

    @property
    def log_constant(self) -> Any:
        """The normaliser, by a beta function, which keeps its digits for large df."""
        return log_student(self.df) - log(self.scale)

    def _element(self, options: dict[str, Any]) -> Any:
        return dist.StudentT(*tensors(options, self.df, self.loc, self.scale))

    @classmethod
    def from_interval(cls, lower: float, upper: float, mass: float = 0.9, df: float = 4.0) -> StudentT:
        """The prior that holds `mass` of each entry in [lower, upper], with equal tails.

        Args:
            lower: Lower end, in the units of the tensor.
            upper: Upper end.
            mass: Probability between them.
            df: Degrees of freedom.

        Returns:
            The prior.

        Raises:
            ValueError: If upper is not above lower or mass not between 0 and 1.
        """
        return cls(df).through(lower, upper, mass)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"{0.5 * (self.df + 1):.4g} Σ log(1 + ({self._z_text()})² / {self.df:.4g})"


@dataclass(frozen=True, repr=False)
class Cauchy(AbstractLocationPrior):
    """Cauchy: log p(w) = −Σ log(1 + z²) − P log(π scale), z = (w − loc)/scale; Student's t with one degree of freedom.

    As a regulariser: logarithmic. Small weights shrink, large ones stay large. Not convex.

    Args:
        scale: Half of the mass lies within loc ± scale, > 0, or a prior of it; 1 when None, see `priors.scaled`.
        loc: Median of each entry.

    Raises:
        ValueError: If scale is not > 0 or loc not finite.

    References:
        Gelman, Jakulin, Pittau and Su (2008), A weakly informative default prior distribution for logistic and other
        regression models.

    >>> import math
    >>> math.isclose(Cauchy(2.0).penalty(torch.tensor([2.0, -2.0])), 2 * math.log(2), rel_tol=1e-6)
    True
    """

    scale: Any = None
    loc: float = 0.0

    regulariser: ClassVar[str] = "logarithmic"

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """log(1 + z²) for each entry."""
        return torch.log1p(self._z(value).square())

    def energy_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """2 z/((1 + z²) scale)."""
        z = self._z(value)
        return 2 * z / ((1 + z.square()) * self.scale)

    @property
    def log_constant(self) -> Any:
        """−log(π scale)."""
        return -math.log(math.pi) - log(self.scale)

    def _element(self, options: dict[str, Any]) -> Any:
        return dist.Cauchy(*tensors(options, self.loc, self.scale))

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"Σ log(1 + ({self._z_text()})²)"


@dataclass(frozen=True, repr=False)
class GeneralizedNormal(AbstractLocationPrior):
    """Generalised normal: log p(w) = −Σ |z|^beta + P (log beta − log 2 scale − log Γ(1/beta)), z = (w − loc)/scale.

    beta = 1 is Laplace(scale), beta = 2 is Normal(scale/√2); SciPy's `gennorm`.

    As a regulariser: Lq, the bridge. For beta <= 1 the mode has exact zeros; below 1 it is not convex and shrinks large weights
    less than the lasso does.

    Args:
        beta: The exponent q, > 0.
        scale: Scale of z, > 0, or a prior of it; 1 when None, see `priors.scaled`.
        loc: Location of the centre.

    Raises:
        ValueError: If beta or scale is not > 0 or loc not finite.

    References:
        Frank and Friedman (1993), A statistical view of some chemometrics regression tools. Polson, Scott and Windle (2014),
        The Bayesian bridge.

    >>> from bayesreg.priors import Laplace, Normal
    >>> w = torch.tensor([0.3, -2.0], dtype=torch.float64)
    >>> bool(torch.isclose(GeneralizedNormal(1.0, 0.5).log_prob(w), Laplace(0.5).log_prob(w)))
    True
    >>> bool(torch.isclose(GeneralizedNormal(2.0, 0.5).log_prob(w), Normal(0.5 / 2**0.5).log_prob(w)))
    True
    """

    beta: float = 0.5
    scale: Any = None
    loc: float = 0.0

    regulariser: ClassVar[str] = "Lq, bridge"

    @property
    def smooth(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """True from beta = 2 on: below, the curvature at loc is infinite."""
        return self.beta >= 2

    def check(self) -> None:
        """Refuse beta that is not > 0, an invalid scale or a loc that is not finite."""
        _check.positive("beta", self.beta)
        super().check()

    def simplified(self) -> AbstractPrior:
        """`Laplace` for beta = 1 and `Normal` for beta = 2, where the scale is a number."""
        if self.beta not in (1, 2) or self.hyperprior is not None:
            return self
        exact = Laplace(self.scale, self.loc) if self.beta == 1 else Normal(self.scale / math.sqrt(2), self.loc)
        return replaced(exact, **{name: getattr(self, name) for name in ("fan_in", "autoscale", "relative_to_noise", "tag")})

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """|z|^beta for each entry."""
        z = self._z(value)
        if isinstance(self.beta, float) and self.beta == 2:
            return z.square()
        away = z != 0  # a power's derivatives at zero are infinite or undefined; the subgradient taken there is zero
        return torch.where(away, torch.where(away, z, 1.0).abs().pow(self.beta), 0.0 * z)

    @property
    def log_constant(self) -> Any:
        """Log beta − log 2 scale − log Γ(1/beta)."""
        beta = torch.as_tensor(self.beta, dtype=torch.float64)
        shape = beta.log() - math.log(2) - torch.lgamma(1 / beta)
        return (shape if shape.dim() else float(shape)) - log(self.scale)

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """|z|^beta is Gamma(1/beta, 1); the sign is a coin's."""
        size = (num_samples, *shape)
        beta = torch.as_tensor(self.beta, dtype=torch.float64)
        z = torch.distributions.Gamma(1 / beta, torch.ones_like(beta)).sample(size).pow(1 / beta)
        return (z * (2 * torch.randint(2, size) - 1)).to(**options) * self.scale + self.loc

    @classmethod
    def from_interval(cls, lower: float, upper: float, mass: float = 0.9, beta: float = 0.5) -> GeneralizedNormal:
        """The prior that holds `mass` of each entry in [lower, upper], with equal tails.

        Args:
            lower: Lower end, in the units of the tensor.
            upper: Upper end.
            mass: Probability between them.
            beta: The exponent.

        Returns:
            The prior.

        Raises:
            ValueError: If upper is not above lower or mass not between 0 and 1.
        """
        return cls(beta).through(lower, upper, mass)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"Σ |{self._z_text()}|^{self.beta:.4g}"


def log_student(df: float) -> float:
    """Log Γ((df+1)/2) − log Γ(df/2) − ½ log(df π)."""
    from scipy.special import betaln

    return float(-betaln(0.5 * df, 0.5) - 0.5 * math.log(df))
