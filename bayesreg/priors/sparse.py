"""Priors of sparse weights: mixtures of a narrow and a wide density, and horseshoes, normals with a half-Cauchy scale.

ScaleMixture     two normals                       SpikeSlab               two Laplace densities: exact zeros at the mode
Horseshoe        normal(scale · λ), λ half-Cauchy  RegularizedHorseshoe    the same, with a normal's tails far out
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.priors import numeric
from bayesreg.priors.base import AbstractElementwisePrior, Shape, shown
from bayesreg.priors.densities import Normal
from bayesreg.priors.numeric import NEAR, STEP, beside_the_pole, nodes_for
from bayesreg.priors.positive import HalfCauchy
from bayesreg.priors.scaled import AbstractScaledElementwisePrior, interval
from bayesreg.priors.values import HALF_LOG_2PI, log, mass_of, wide


@dataclass(frozen=True, repr=False)
class AbstractMixture(AbstractElementwisePrior):
    """A mixture of a wide density and a narrow one about zero: slab and spike."""

    @abc.abstractmethod
    def _parts(self, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logarithms of the two weighted densities, slab first, without a common constant."""

    @property
    @abc.abstractmethod
    def _peak(self) -> Any:
        """The logarithm of their sum at zero, without the same constant."""

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """−log density of each entry relative to that at zero."""
        return self._peak - torch.logaddexp(*self._parts(value))

    def inclusion(self, value: torch.Tensor) -> torch.Tensor:
        """P(slab | w) of each entry: the probability that it comes from the slab.

        Args:
            value: Any shape.

        Returns:
            Same shape, between 0 and 1.
        """
        slab, spike = self._parts(value)
        return torch.sigmoid(slab - spike)


@dataclass(frozen=True, repr=False)
class ScaleMixture(AbstractMixture):
    """Two normals about zero: p(w) = weight · N(w; 0, wide²) + (1 − weight) · N(w; 0, narrow²), the product over entries.

    As a regulariser: strong L2 on small weights, weak L2 on large ones: the continuous spike and slab. Not convex.

    Args:
        wide: Standard deviation of the slab, > 0.
        narrow: Standard deviation of the spike, > 0, below `wide`.
        weight: Probability of the slab, between 0 and 1.

    Raises:
        ValueError: If the scales are not 0 < narrow < wide, or weight not between 0 and 1.

    References:
        George and McCulloch (1993), Variable selection via Gibbs sampling. Blundell et al. (2015), Weight uncertainty in
        neural networks.

    >>> w = torch.tensor(0.3, dtype=torch.float64)
    >>> parts = [Normal(2.0).log_prob(w).exp(), Normal(0.1).log_prob(w).exp()]
    >>> bool(torch.isclose(ScaleMixture(2.0, 0.1, 0.25).log_prob(w).exp(), 0.25 * parts[0] + 0.75 * parts[1]))
    True
    """

    wide: float = 1.0
    narrow: float = 0.1
    weight: float = 0.5

    regulariser: ClassVar[str] = "two-normal spike and slab"

    def check(self) -> None:
        """Refuse scales that are not narrow < wide, and a weight that is no probability."""
        _check_mixture("narrow", self.narrow, "wide", self.wide, "weight", self.weight)

    def _parts(self, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logarithms of the two weighted densities, without √2π."""
        slab = log(self.weight) - log(self.wide) - 0.5 * (value / self.wide).square()
        spike = log(1 - self.weight) - log(self.narrow) - 0.5 * (value / self.narrow).square()
        return slab, spike

    @property
    def _peak(self) -> Any:
        return log(self.weight / self.wide + (1 - self.weight) / self.narrow)

    @property
    def log_constant(self) -> Any:
        """The log-density at zero."""
        return self._peak - HALF_LOG_2PI

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """A normal of one sd or the other."""
        size = (num_samples, *shape)
        sd = torch.where(torch.rand(size) < self.weight, self.wide, self.narrow).to(**options)
        return sd * torch.randn(size, dtype=sd.dtype).to(sd.device)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"−Σ log({shown(self.weight)}·N(w; {shown(self.wide)}) + {shown(1 - self.weight)}·N(w; {shown(self.narrow)}))"


@dataclass(frozen=True, repr=False)
class SpikeSlab(AbstractMixture):
    """Spike-and-slab lasso: p(w) = inclusion · Laplace(w; slab) + (1 − inclusion) · Laplace(w; spike), the product.

    As a regulariser: L1 that is strong on small weights and weak on large ones. The mode has exact zeros and hardly shrinks
    what it keeps. Not convex.

    Args:
        inclusion_probability: Prior probability that an entry is one of the large ones, between 0 and 1.
        slab_scale: Scale of the large ones, > 0.
        spike_scale: Scale of the small ones, > 0, below `slab_scale`.

    Raises:
        ValueError: If the scales are not 0 < spike < slab, or the probability is not between 0 and 1.

    References:
        Mitchell and Beauchamp (1988), Bayesian variable selection in linear regression. Ročková and George (2018), The
        spike-and-slab lasso.

    >>> round(float(SpikeSlab(0.1, 1.0, 0.01).inclusion(torch.tensor(0.5))), 4), SpikeSlab(0.1).prox(torch.tensor([0.1]), 1.0)
    (1.0, tensor([0.]))
    """

    inclusion_probability: float = 0.5
    slab_scale: float = 1.0
    spike_scale: float = 0.05

    regulariser: ClassVar[str] = "spike-and-slab lasso"
    smooth: ClassVar[bool] = False

    def check(self) -> None:
        """Refuse scales that are not spike < slab, and an inclusion probability that is none."""
        _check_mixture(
            "spike_scale",
            self.spike_scale,
            "slab_scale",
            self.slab_scale,
            "inclusion_probability",
            self.inclusion_probability,
        )

    def _parts(self, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logarithms of the two weighted densities, without the factor 2."""
        size = value.abs()
        slab = log(self.inclusion_probability) - log(self.slab_scale) - size / self.slab_scale
        spike = log(1 - self.inclusion_probability) - log(self.spike_scale) - size / self.spike_scale
        return slab, spike

    @property
    def _peak(self) -> Any:
        return log(self.inclusion_probability / self.slab_scale + (1 - self.inclusion_probability) / self.spike_scale)

    @property
    def log_constant(self) -> Any:
        """The log-density at zero."""
        return self._peak - math.log(2)

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """A Laplace variable of one scale or the other."""
        size = (num_samples, *shape)
        scale = torch.where(torch.rand(size) < self.inclusion_probability, self.slab_scale, self.spike_scale).to(**options)
        unit = torch.distributions.Laplace(torch.zeros((), dtype=torch.float64), 1.0).sample(size)
        return scale * unit.to(**options)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        p, slab, spike = shown(self.inclusion_probability), shown(self.slab_scale), shown(self.spike_scale)
        return f"−Σ log({p}·Laplace(w; {slab}) + {shown(1 - self.inclusion_probability)}·Laplace(w; {spike}))"


@dataclass(frozen=True, repr=False)
class AbstractHorseshoe(AbstractScaledElementwisePrior):
    """Normals whose sd is scale · λ, λ half-Cauchy and one for each entry, with λ integrated out by quadrature.

    The density has a logarithmic pole at zero: there is no mode, and the penalty counts from |w| = scale.
    """

    smooth: ClassVar[bool] = False
    bounded: ClassVar[bool] = False
    quick: ClassVar[bool] = False

    @abc.abstractmethod
    def _nodes(self, v: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Log-weights of the rule at nodes v of log(1/λ), and the term added to 1/λ² for the precision of z = w/scale."""

    def _log_density(self, z: torch.Tensor) -> torch.Tensor:
        """Log-density of z, one number an entry."""
        size = z.abs().clamp_min(NEAR)
        v = nodes_for(size)
        weights, extra = self._nodes(v)
        square = size.square()
        found = torch.logsumexp(weights - square[..., None] * (2 * v).exp() * 0.5, -1) - square * extra * 0.5
        return beside_the_pole(z, found, NEAR)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-density of the whole tensor, a scalar in nats; not via the penalty, whose zero may be far in a slab's tail."""
        prior: Any = self.at(value.shape)
        scale = torch.as_tensor(prior.scale, dtype=wide(value).dtype, device=value.device)
        z = wide(value) / scale
        found = prior._log_density(torch.where(z.isinf(), 1.0, z)) - scale.log()
        return torch.where(z.isinf(), -math.inf, found).sum().to(value.dtype)

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """−log density of each entry relative to that at |w| = scale."""
        z = value / self.scale  # pyright: ignore[reportAttributeAccessIssue]
        one = torch.ones_like(z) if isinstance(self.given_scale, torch.Tensor) else z.new_ones(())
        return self._log_density(one) - self._log_density(z)

    @property
    def log_constant(self) -> Any:
        """The log-density at |w| = scale."""
        if isinstance(self.given_scale, torch.Tensor):
            return self._log_density(torch.ones_like(self.given_scale)) - log(self.given_scale)
        return float(self._log_density(torch.ones((), dtype=torch.float64))) - log(self.given_scale)


@dataclass(frozen=True, repr=False)
class Horseshoe(AbstractHorseshoe):
    """Horseshoe: w ~ N(0, (scale λ)²), λ ~ HalfCauchy(1), one λ an entry, integrated out.

    log p(w) = Σ log[(2/π) ∫₀^∞ N(w; 0, scale² λ²)/(1 + λ²) dλ] = Σ log[e^x E₁(x)] − P log(scale √(2π³)), x = w²/(2 scale²).

    As a regulariser: almost no shrinkage of large weights and almost full shrinkage of small ones; it has a pole at zero, so it
    suits posterior methods, not modes. `expanded` keeps the λ as unknowns, which suits NUTS and mean-field.

    Args:
        scale: The global scale, > 0, or a prior of it (a half-Cauchy is usual); 1 when None, see `priors.scaled`.

    Raises:
        ValueError: If scale is not > 0.

    References:
        Carvalho, Polson and Scott (2010), The horseshoe estimator for sparse signals.

    >>> from scipy.special import exp1
    >>> w = torch.tensor(0.7, dtype=torch.float64)
    >>> x = 0.7**2 / 2
    >>> exact = math.exp(x) * exp1(x) / math.sqrt(2 * math.pi**3)
    >>> math.isclose(Horseshoe(1.0).log_prob(w).exp(), exact, rel_tol=1e-12)
    True
    """

    scale: Any = None

    regulariser: ClassVar[str] = "horseshoe"

    def _nodes(self, v: torch.Tensor) -> tuple[torch.Tensor, float]:
        return math.log(2 * STEP / math.pi) - HALF_LOG_2PI + 2 * v - torch.log1p((2 * v).exp()), 0.0

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """A normal times a half-Cauchy, each of its own for each entry."""
        size = (num_samples, *shape)
        local = half_cauchy(size)
        return (torch.randn(size, dtype=torch.float64) * local).to(**options) * self.scale

    def expanded(self) -> Normal:
        """The same prior with its local scales as unknowns of the model, "<name>.scale", non-centred.

        Returns:
            Normal(HalfCauchy(scale), per="element", centered=False), with this prior's other settings.

        >>> Horseshoe(0.1).expanded()
        Normal(scale=HalfCauchy(scale=0.1), centered=False, per='element')
        """
        return Normal(
            HalfCauchy(self.scale, centered=self.hyperprior is None),
            per="element",
            centered=False,
            fan_in=self.fan_in,
            relative_to_noise=self.relative_to_noise,
            tag=self.tag,
        )

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"−Σ log e^x E₁(x), x = w² / (2·{shown(self.scale)}²)"


@dataclass(frozen=True, repr=False)
class RegularizedHorseshoe(AbstractHorseshoe):
    """Horseshoe with a slab: w ~ N(0, v), 1/v = 1/(scale λ)² + 1/slab_scale², λ ~ HalfCauchy(1), integrated out.

    As a regulariser: the horseshoe for small weights, L2 of sd `slab_scale` for large ones, which a horseshoe does not
    regularise.

    Args:
        scale: The global scale, > 0, or a prior of it; 1 when None. `from_relevant` sets it from an expected number of relevant
            inputs.
        slab_scale: Standard deviation of the large weights, > 0.

    Raises:
        ValueError: If a scale is not > 0.

    References:
        Piironen and Vehtari (2017), Sparsity information and regularization in the horseshoe and other shrinkage priors.

    >>> w = torch.tensor([0.3, -2.0], dtype=torch.float64)
    >>> bool(torch.isclose(RegularizedHorseshoe(0.5, slab_scale=1e8).log_prob(w), Horseshoe(0.5).log_prob(w)))
    True
    """

    scale: Any = None
    slab_scale: float = 2.0

    regulariser: ClassVar[str] = "horseshoe with an L2 slab"

    def check(self) -> None:
        """Refuse scales that are not > 0."""
        _check.positive("slab_scale", self.slab_scale)
        super().check()

    def _nodes(self, v: torch.Tensor) -> tuple[torch.Tensor, Any]:
        extra = torch.as_tensor((self.given_scale / self.slab_scale) ** 2, dtype=v.dtype, device=v.device)
        precision = (2 * v).exp() + extra[..., None]
        logs = 0.5 * precision.log() + v - torch.log1p((2 * v).exp())
        return math.log(2 * STEP / math.pi) - HALF_LOG_2PI + logs, extra

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """A normal whose variance is the harmonic sum of the horseshoe's and the slab's."""
        size = (num_samples, *shape)
        scale = torch.as_tensor(self.scale, dtype=torch.float64)
        precision = (scale * half_cauchy(size)).pow(-2) + torch.as_tensor(self.slab_scale, dtype=torch.float64).pow(-2)
        return (torch.randn(size, dtype=torch.float64) / precision.sqrt()).to(**options)

    @classmethod
    def from_interval(cls, lower: float, upper: float, mass: float = 0.9, slab_scale: float = 2.0) -> RegularizedHorseshoe:
        """The prior with this slab that holds `mass` of each entry in [−upper, upper].

        Args:
            lower: −upper: the prior has no location.
            upper: Upper end, in the units of the tensor.
            mass: Probability between them.
            slab_scale: Standard deviation of the large weights.

        Returns:
            The prior.

        Raises:
            ValueError: If lower is not −upper, mass not between 0 and 1, or the slab alone holds more than that.

        >>> RegularizedHorseshoe.from_interval(-1, 1, slab_scale=0.1)
        Traceback (most recent call last):
        ValueError: ...
        """
        from scipy.optimize import brentq
        from scipy.special import ndtr

        low, high = interval(lower, upper)
        level = mass_of(mass)
        if low != -high:
            raise ValueError(
                f"the interval of RegularizedHorseshoe must be symmetric about 0, but [{lower}, {upper}] came; take Normal or "
                "StudentT for a prior about another point."
            )
        most = 2 * float(ndtr(high / _check.positive("slab_scale", slab_scale))) - 1
        if most >= level:
            raise ValueError(
                f"the slab must reach beyond the interval, but a normal of sd {slab_scale:g} alone holds {most:.3g} of its "
                f"mass in [{lower}, {upper}], and {level:g} was wanted; raise slab_scale."
            )

        def excess(log_scale: float) -> float:
            prior = cls(math.exp(log_scale), slab_scale)
            points = torch.tensor([high], dtype=torch.float64)
            inside = numeric.cdf(lambda w: prior.log_constant - prior.energy(w), prior.support, 0.0, points)
            return 2 * float(inside) - 1 - level

        # from all mass near zero to a scale so large that only the slab is left
        least, largest = math.log(high) - 20, math.log(max(high, slab_scale)) + 12
        return cls(math.exp(brentq(excess, least, largest, xtol=1e-10)), slab_scale)  # pyright: ignore

    @classmethod
    def from_relevant(
        cls, num_relevant: float, num_inputs: int, num_data: int, noise_scale: float = 1.0, slab_scale: float = 2.0
    ) -> RegularizedHorseshoe:
        """The prior under which about `num_relevant` of the inputs escape shrinkage.

        scale = r/(D − r) · σ/√N for a linear model with standardised inputs.

        Args:
            num_relevant: Expected number r of relevant inputs, 0 < r < D.
            num_inputs: D.
            num_data: N.
            noise_scale: Noise sd σ; for standardised targets about 1, for logistic regression 2.
            slab_scale: Standard deviation of the large weights.

        Returns:
            The prior.

        Raises:
            ValueError: If num_relevant is not between 0 and num_inputs, or another number is out of its range.

        >>> RegularizedHorseshoe.from_relevant(8, 16, 64)
        RegularizedHorseshoe(scale=0.125)
        """
        inputs, relevant = _check.count("num_inputs", num_inputs), _check.positive("num_relevant", num_relevant)
        if relevant >= inputs:
            raise ValueError(
                f"num_relevant must be below num_inputs, but {num_relevant} of {num_inputs} came; if all are, take Normal."
            )
        noise = _check.squared("noise_scale", noise_scale) / math.sqrt(_check.count("num_data", num_data))
        return cls(relevant / (inputs - relevant) * noise, slab_scale)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"horseshoe of {shown(self.scale)} + Σ w² / (2·{shown(self.slab_scale)}²)"


def half_cauchy(size: Shape) -> torch.Tensor:
    """Half-Cauchy draws from torch's global generator, float64."""
    return torch.empty(tuple(size), dtype=torch.float64).cauchy_().abs()


def _check_mixture(low_name: str, low: Any, high_name: str, high: Any, weight_name: str, weight: Any) -> None:
    _check.positive(low_name, low)
    _check.positive(high_name, high)
    if not low < high:
        raise ValueError(f"{low_name} must be below {high_name}, but {low!r} and {high!r} came; swap them.")
    if not 0 < _check.finite(weight_name, weight) < 1:
        raise ValueError(f"{weight_name} must lie between 0 and 1, but {weight!r} came; pass for example {weight_name}=0.5.")
