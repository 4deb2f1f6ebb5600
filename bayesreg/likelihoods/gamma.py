"""Positive numbers whose sd is proportional to their mean."""

from __future__ import annotations

from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch
from torch.distributions import constraints

from bayesreg.likelihoods.base import AbstractLikelihood
from bayesreg.likelihoods.special import by_scipy, log_gamma_excess, number_or_prior
from bayesreg.priors import AbstractPrior
from bayesreg.priors import Gamma as GammaPrior


@final
class Gamma(AbstractLikelihood):
    """Positive y with mean μ = eᶠ and variance φμ², φ the dispersion.

    With k = 1/φ and z = log y − f

        log p = Σ −k (eᶻ − 1 − z) − log y + k log k − k − log Γ(k)

    √φ is the coefficient of variation, the same for all rows. φ = 1 is the exponential distribution.

    As a loss: half the Gamma deviance, log(μ/y) + y/μ − 1, over φ.

    Args:
        dispersion: φ > 0, a number when known, a prior of a positive quantity when it is to be learned. The default has its
            mode at 1 and no density at 0.

    Raises:
        ValueError: If dispersion is neither a number > 0 nor a prior on positive values.

    References:
        McCullagh and Nelder (1989), Generalized linear models, chapter 8.

    >>> import torch
    >>> one, y = torch.ones(1), torch.tensor([3.0])
    >>> row = Gamma().log_prob(one, y, dispersion=0.5 * one)  # k = 2
    >>> torch.allclose(row, torch.distributions.Gamma(2 * one, 2 / one.exp()).log_prob(y))
    True
    """

    log_concave: ClassVar[bool] = True
    log_link: ClassVar[bool] = True

    def __init__(self, dispersion: float | AbstractPrior = GammaPrior(2.0, 1.0)) -> None:  # noqa: B008 (frozen)
        self.dispersion = number_or_prior("dispersion", dispersion, "priors.Gamma(2.0, 1.0)")

    @property
    def parameters(self) -> dict[str, float | AbstractPrior]:
        """The dispersion."""
        return {"dispersion": self.dispersion}

    @property
    def support(self) -> Any:
        """Positive numbers."""
        return constraints.positive

    def distribution(self, output: torch.Tensor, *, dispersion: torch.Tensor) -> Any:
        """Gamma(k, rate k e⁻ᶠ); a row with K outputs is one event."""
        k = 1 / dispersion
        rows = dist.Gamma(*torch.broadcast_tensors(k, k * (-output).exp()), validate_args=False)
        return rows.to_event(1) if output.dim() > 1 else rows

    def log_prob(self, output: torch.Tensor, y: torch.Tensor, *, dispersion: torch.Tensor) -> torch.Tensor:
        """−k (eᶻ − 1 − z) − log y + k log k − k − log Γ(k), summed over a row's K outputs when y has them."""
        k, log_y = 1 / dispersion, y.log()
        z = log_y - output
        rows = log_gamma_excess(k) - k * (torch.expm1(z) - z) - log_y
        return rows.sum(-1) if y.dim() > 1 else rows

    def output_curvature(self, output: torch.Tensor, y: torch.Tensor, *, dispersion: torch.Tensor) -> torch.Tensor:
        """The diagonal k y e⁻ᶠ."""
        rows = y * (-output).exp() / dispersion
        return torch.diag_embed(rows.reshape(len(output), -1))

    def start(self, output: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """Var[y]/mean²."""
        return {"dispersion": (y.var(correction=0) / y.mean().square()).clamp(1e-3, 10.0)}

    def mean(self, output: torch.Tensor, *, dispersion: torch.Tensor) -> torch.Tensor:
        """The mean eᶠ."""
        return output.exp()

    def variance(self, output: torch.Tensor, *, dispersion: torch.Tensor) -> torch.Tensor:
        """φ e²ᶠ."""
        return dispersion * (2 * output).exp()

    def cdf(self, output: torch.Tensor, y: torch.Tensor, *, dispersion: torch.Tensor) -> torch.Tensor:
        """P(k, k y e⁻ᶠ), the regularised incomplete Γ function."""
        return by_scipy("gammainc", 1 / dispersion, y.clamp_min(0) * (-output).exp() / dispersion)

    def quantile(self, output: torch.Tensor, q: float, *, dispersion: torch.Tensor) -> torch.Tensor:
        """Its inverse."""
        return by_scipy("gammaincinv", 1 / dispersion, q) * dispersion * output.exp()

    def __repr__(self) -> str:
        return f"Gamma(dispersion={self.dispersion!r})"
