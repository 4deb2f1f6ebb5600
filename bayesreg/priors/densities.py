"""Densities on the line: flat, normal (L2), Laplace (L1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch.distributions import constraints

from bayesreg import _check
from bayesreg.priors.base import HALF_LOG_2PI, AbstractElementwisePrior, improper, log, tensors
from bayesreg.priors.dictionary import NormalTools
from bayesreg.priors.dictionary_sparse import LaplaceTools


def _centred(value: torch.Tensor, loc: Any) -> torch.Tensor:
    return value if isinstance(loc, float) and loc == 0.0 else value - loc


def _minus(loc: float) -> str:
    return "w" if loc == 0 else f"(w {'−' if loc > 0 else '+'} {abs(loc):g})"


@dataclass(frozen=True, repr=False)
class Flat(AbstractElementwisePrior):
    """No prior at all: log p(w) = 0, up to a constant that does not exist.

    As a regulariser: none. The mode is maximum likelihood. Improper: there are no draws and no evidence.

    >>> import torch
    >>> Flat().penalty(torch.tensor([3.0, -1e6]))
    tensor(0.)
    """

    regulariser: ClassVar[str] = "none"
    proper: ClassVar[bool] = False

    def check(self) -> None:
        """Nothing to refuse."""

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """Zero for each entry."""
        return 0.0 * value  # not zeros: the answer must have a gradient, if a zero one

    def energy_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """Zero for each entry."""
        return torch.zeros_like(value)

    @property
    def log_constant(self) -> float:
        """Zero, by convention."""
        return 0.0

    def _element(self, options: dict[str, Any]) -> Any:
        return improper(constraints.real, options)

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Zero for each entry."""
        return torch.zeros_like(loc)

    def prox(self, value: torch.Tensor, step: float) -> torch.Tensor:
        """The identity."""
        return value.clone()

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return "0"


@dataclass(frozen=True, repr=False)
class Normal(NormalTools, AbstractElementwisePrior):
    """Gaussian prior: log p(w) = −Σ (w − loc)²/(2 scale²) − P log(scale √2π).

    As a regulariser: L2, ridge, weight decay, Tikhonov. With noise sd σ, ridge's alpha is σ²/scale².

    Args:
        scale: Standard deviation of each entry, > 0, in the units of the tensor (standardised data's when the model
            standardises).
        loc: Mean of each entry.
        fan_in: Divide `scale` by √(inputs of a unit), so that a layer's output has about unit variance.

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

    scale: float = 1.0
    loc: float = 0.0
    fan_in: bool = False

    regulariser: ClassVar[str] = "L2, ridge, weight decay, Tikhonov"

    def check(self) -> None:
        """Refuse a scale that is not > 0 or a loc that is not finite."""
        _check.positive("scale", self.scale)
        _check.finite("loc", self.loc)

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """(w − loc)²/(2 scale²) for each entry."""
        return _centred(value, self.loc).square() * self._half_precision

    def energy_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """(w − loc)/scale²."""
        return _centred(value, self.loc) * self._precision

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

    def prox(self, value: torch.Tensor, step: float) -> torch.Tensor:
        """Shrinkage towards loc: loc + (w − loc)/(1 + step/scale²)."""
        prior = self.resolve(value.shape)
        return prior.loc + (value - prior.loc) / (1 + step / prior.scale**2)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"Σ {_minus(self.loc)}² / (2·{self.scale:.4g}²)"


@dataclass(frozen=True, repr=False)
class Laplace(LaplaceTools, AbstractElementwisePrior):
    """Double-exponential prior: log p(w) = −Σ |w − loc|/scale − P log(2 scale).

    As a regulariser: L1, lasso. The mode sets entries to exactly zero; the posterior does not.

    Args:
        scale: Mean absolute deviation of each entry, > 0; the sd is √2 scale.
        loc: Median of each entry.
        fan_in: Divide `scale` by √(inputs of a unit).

    Raises:
        ValueError: If scale is not > 0 or loc not finite.

    References:
        Tibshirani (1996), Regression shrinkage and selection via the lasso. Park and Casella (2008), The Bayesian lasso.

    >>> import torch, math
    >>> w = torch.tensor([1.0, -2.0], dtype=torch.float64)
    >>> float(Laplace(0.5).penalty(w)), float(Laplace(0.5).log_prob(w)) == -6.0 - 2 * math.log(1.0)
    (6.0, True)
    """

    scale: float = 1.0
    loc: float = 0.0
    fan_in: bool = False

    regulariser: ClassVar[str] = "L1, lasso"
    smooth: ClassVar[bool] = False

    def check(self) -> None:
        """Refuse a scale that is not > 0 or a loc that is not finite."""
        _check.positive("scale", self.scale)
        _check.finite("loc", self.loc)

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
        centred = _centred(loc, self.loc)
        ratio = centred / (scale * math.sqrt(2))
        folded = scale * math.sqrt(2 / math.pi) * (-ratio.square()).exp() + centred * ratio.erf()
        return folded / self.scale

    def prox(self, value: torch.Tensor, step: float) -> torch.Tensor:
        """Soft thresholding: the distance to loc shrinks by step/scale and stops at zero."""
        prior = self.resolve(value.shape)
        shift = value - prior.loc
        return prior.loc + shift.sign() * (shift.abs() - step / prior.scale).clamp_min(0)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"Σ |{_minus(self.loc).strip('()')}| / {self.scale:.4g}"
