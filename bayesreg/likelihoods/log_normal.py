"""Positive numbers whose logarithm is normal: normal errors in per cent."""

from __future__ import annotations

from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch
from torch.distributions import constraints

from bayesreg.likelihoods.base import AbstractLikelihood
from bayesreg.likelihoods.heteroscedastic import HALF_LOG_2PI, normal_cdf
from bayesreg.likelihoods.special import number_or_prior
from bayesreg.priors import AbstractPrior, HalfNormal


@final
class LogNormal(AbstractLikelihood):
    """log y = f(x) + ε, ε ~ N(0, noise_scale²):  log p = Σ −(log y − f)²/(2σ²) − log y − log(σ √2π),  y > 0.

    eᶠ is the median, e^(f + σ²/2) the mean; σ ≈ 0.1 says errors of about 10 %. A density of y and not of log y, so that it
    compares with those of other likelihoods of numbers.

    As a loss: the squared error of log y.

    Args:
        noise_scale: The sd of log y, which has no unit: a number > 0 when known, a prior of a positive quantity when it is to
            be learned.

    Raises:
        ValueError: If noise_scale is neither a number > 0 nor a prior on positive values.

    References:
        Crow and Shimizu (1988), Lognormal distributions: theory and applications.

    >>> import torch
    >>> half, y = torch.tensor([0.5]), torch.tensor([3.0])
    >>> row = LogNormal().log_prob(half, y, noise_scale=2 * half)
    >>> torch.allclose(row, torch.distributions.LogNormal(half, 2 * half).log_prob(y))
    True
    """

    log_concave: ClassVar[bool] = True
    log_link: ClassVar[bool] = True

    def __init__(self, noise_scale: float | AbstractPrior = HalfNormal(1.0)) -> None:  # noqa: B008 (frozen)
        self.noise_scale = number_or_prior("noise_scale", noise_scale, "priors.HalfNormal(1.0)")

    @property
    def parameters(self) -> dict[str, float | AbstractPrior]:
        """The sd of log y."""
        return {"noise_scale": self.noise_scale}

    @property
    def support(self) -> Any:
        """Positive numbers."""
        return constraints.positive

    def distribution(self, output: torch.Tensor, *, noise_scale: torch.Tensor) -> Any:
        """LogNormal(f, σ); a row with K outputs is one event."""
        rows = dist.LogNormal(output, noise_scale, validate_args=False)
        return rows.to_event(1) if output.dim() > 1 else rows

    def log_prob(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """−(log y − f)²/(2σ²) − log y − log(σ √2π), summed over a row's K outputs when y has them."""
        log_y = y.log()
        rows = -0.5 * ((log_y - output) / noise_scale).square() - log_y - noise_scale.log() - HALF_LOG_2PI
        return rows.sum(-1) if y.dim() > 1 else rows

    def output_curvature(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """I/σ²."""
        width = output.shape[-1] if output.dim() > 1 else 1
        eye = torch.eye(width, dtype=output.dtype, device=output.device)
        return (eye / noise_scale.square()).expand(len(output), width, width)

    def start(self, output: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """The sd of log y."""
        return {"noise_scale": y.log().std(correction=0).clamp_min(1e-3)}

    def mean(self, output: torch.Tensor, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """The mean e^(f + σ²/2)."""
        return (output + 0.5 * noise_scale.square()).exp()

    def variance(self, output: torch.Tensor, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """(e^σ² − 1) times the mean's square."""
        square = noise_scale.square()
        return torch.expm1(square) * (2 * output + square).exp()

    def cdf(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """Φ((log y − f)/σ)."""
        return normal_cdf(y.clamp_min(0).log(), output, noise_scale)

    def quantile(self, output: torch.Tensor, q: float, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """The quantile e^(f + σ Φ⁻¹(q))."""
        return (output + noise_scale * torch.special.ndtri(output.new_tensor(q))).exp()

    def __repr__(self) -> str:
        return f"LogNormal(noise_scale={self.noise_scale!r})"
