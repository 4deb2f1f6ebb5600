"""Counts that scatter more than a Poisson's."""

from __future__ import annotations

from typing import Any, final

import pyro.distributions as dist
import torch

from bayesreg.likelihoods.counts import AbstractCounts
from bayesreg.likelihoods.special import by_scipy, log1p_exp, log_rising, number_or_prior
from bayesreg.priors import AbstractPrior, Gamma


@final
class NegativeBinomial(AbstractCounts):
    """Counts with mean μ = eᶠ and variance μ + αμ², α the dispersion.

    With r = 1/α

        log p = Σ log Γ(y + r) − log Γ(r) − log y! + y log(αμ) − (y + r) log(1 + αμ)

    A Poisson variable whose mean is drawn from a Gamma distribution with mean μ and variance αμ²; α → 0 is `Poisson`. Known as
    NB2.

    As a loss: half the negative binomial's deviance, up to a constant.

    Args:
        dispersion: α > 0, a number when known, a prior of a positive quantity when it is to be learned. The default has its
            mode at 1 and no density at 0.

    Raises:
        ValueError: If dispersion is neither a number > 0 nor a prior on positive values.

    References:
        Hilbe (2011), Negative binomial regression. Lawless (1987), Negative binomial and mixed Poisson regression.

    >>> import torch
    >>> one, y = torch.ones(1), torch.tensor([3.0])
    >>> row = NegativeBinomial().log_prob(one, y, dispersion=0.5 * one)  # r = 2
    >>> torch.allclose(row, torch.distributions.NegativeBinomial(2 * one, logits=one + torch.log(0.5 * one)).log_prob(y))
    True
    """

    def __init__(self, dispersion: float | AbstractPrior = Gamma(2.0, 1.0)) -> None:  # noqa: B008 (frozen)
        self.dispersion = number_or_prior("dispersion", dispersion, "priors.Gamma(2.0, 1.0)")

    @property
    def parameters(self) -> dict[str, float | AbstractPrior]:
        """The dispersion."""
        return {"dispersion": self.dispersion}

    def distribution(self, output: torch.Tensor, *, dispersion: torch.Tensor) -> Any:
        """NegativeBinomial(1/α failures, log-odds f + log α); a row with K outputs is one event."""
        count, logits = torch.broadcast_tensors(1 / dispersion, output + dispersion.log())
        rows = dist.NegativeBinomial(count, logits=logits, validate_args=False)
        return rows.to_event(1) if output.dim() > 1 else rows

    def log_prob(self, output: torch.Tensor, y: torch.Tensor, *, dispersion: torch.Tensor) -> torch.Tensor:
        """Σ_{j<y} log(1 + αj) + y f − (y + 1/α) log(1 + αeᶠ) − log y!, summed over a row's K outputs when y has them."""
        r = 1 / dispersion
        logs = y * output - (y + r) * log1p_exp(output + dispersion.log())
        rows = logs + log_rising(r, y) - torch.lgamma(y + 1)
        return rows.sum(-1) if y.dim() > 1 else rows

    def output_curvature(self, output: torch.Tensor, y: torch.Tensor, *, dispersion: torch.Tensor) -> torch.Tensor:
        """(y + 1/α) p (1 − p), p = sigmoid(f + log α)."""
        logits = output + dispersion.log()
        rows = (y + 1 / dispersion) * logits.sigmoid() * (-logits).sigmoid()
        return torch.diag_embed(rows.reshape(len(output), -1))

    def start(self, output: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the counts' variance has beyond their mean, (Var − mean)/mean²."""
        mean = y.mean().clamp_min(0.1)
        return {"dispersion": ((y.var(correction=0) - mean) / mean.square()).clamp(0.05, 10.0)}

    def variance(self, output: torch.Tensor, *, dispersion: torch.Tensor) -> torch.Tensor:
        """μ + αμ²."""
        mean = output.exp()
        return mean + dispersion * mean.square()

    def cdf(self, output: torch.Tensor, y: torch.Tensor, *, dispersion: torch.Tensor) -> torch.Tensor:
        """I_q(1/α, y + 1), the regularised incomplete Β function at q = 1/(1 + αeᶠ)."""
        q = (-output - dispersion.log()).sigmoid()
        return torch.where(y < 0, 0.0, by_scipy("betainc", 1 / dispersion, y.floor().clamp_min(0) + 1, q))

    def __repr__(self) -> str:
        return f"NegativeBinomial(dispersion={self.dispersion!r})"
