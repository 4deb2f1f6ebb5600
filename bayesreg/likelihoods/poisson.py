"""Counts whose variance is their mean."""

from __future__ import annotations

from typing import Any, final

import pyro.distributions as dist
import torch

from bayesreg.likelihoods.counts import AbstractCounts
from bayesreg.likelihoods.special import by_scipy


@final
class Poisson(AbstractCounts):
    """y ∈ {0, 1, 2, …} with mean eᶠ:  log p = Σ y f − eᶠ − log y!.

    As a loss: half the Poisson deviance, up to a constant. An exposure t (hours watched, people at risk) enters as log t added
    to f. Var[y] = E[y]: where counts scatter more, take `NegativeBinomial`.

    References:
        McCullagh and Nelder (1989), Generalized linear models, chapter 6.

    >>> import torch
    >>> row = Poisson().log_prob(torch.tensor([3.0]).log(), torch.tensor([2.0]))
    >>> torch.allclose(row.exp(), torch.tensor(3.0**2 / 2).mul(torch.tensor(-3.0).exp()))
    True
    """

    def distribution(self, output: torch.Tensor) -> Any:
        """Poisson(eᶠ); a row with K outputs is one event."""
        rows = dist.Poisson(output.exp(), validate_args=False)
        return rows.to_event(1) if output.dim() > 1 else rows

    def log_prob(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Rows of y f − eᶠ − log y!, summed over a row's K outputs when y has them."""
        rows = y * output - output.exp() - torch.lgamma(y + 1)
        return rows.sum(-1) if y.dim() > 1 else rows

    def output_curvature(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The mean eᶠ."""
        return torch.diag_embed(output.exp().reshape(len(output), -1))

    def curvature_root(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The root e^(f/2)."""
        return torch.diag_embed((0.5 * output).exp().reshape(len(output), -1))

    def variance(self, output: torch.Tensor) -> torch.Tensor:
        """The mean eᶠ."""
        return output.exp()

    def cdf(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Q(y + 1, eᶠ), the regularised incomplete Γ function."""
        return torch.where(y < 0, 0.0, by_scipy("gammaincc", y.floor().clamp_min(0) + 1, output.exp()))
