"""Normal noise whose sd the network predicts for each row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch

from bayesreg.likelihoods.base import AbstractLikelihood

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@final
class HeteroscedasticGaussian(AbstractLikelihood):
    """y = f(x) + ε, ε ~ N(0, e²ˢ⁽ˣ⁾):  log p = −Σ (y − f)²/(2 e²ˢ) + s + log √2π.

    For K targets the network has 2K outputs, (B, 2K), also for K = 1: the first K are the locations f, the last K the
    logarithms s of the noise scales, σ = exp(s) with no bound and nothing added. Nothing is assumed about the noise but the
    priors on the weights that make s; s is in the units that the model works in, so that s = 0 says σ = 1, in a standardised
    model the target's sd. `Gaussian("heteroscedastic")` is the same.

    As a loss: (y − f)²/(2 e²ˢ) + s.

    References:
        Nix and Weigend (1994), Estimating the mean and variance of the target probability distribution.

    >>> import torch
    >>> output = torch.tensor([[0.0, 2.0]]).log1p()  # f = 0, s = log 3
    >>> row = HeteroscedasticGaussian().log_prob(output, torch.ones(1))
    >>> torch.allclose(row, torch.distributions.Normal(0.0, 3.0).log_prob(torch.ones(1)))
    True
    """

    location_scale: ClassVar[bool] = True
    outputs_per_target: ClassVar[int] = 2
    normal_log_scale: ClassVar[bool] = True
    network_noise: ClassVar[Mapping[str, str]] = {
        "noise_scale": "exp of the last half of the outputs; what is assumed about it are the priors on their weights"
    }

    @property
    def discrete(self) -> bool:
        """False."""
        return False

    def in_units(self, output: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Mean + scale · f, and beside it s + log scale."""
        loc, log_scale = output.chunk(2, -1)
        return torch.cat([mean + scale * loc, log_scale + scale.log()], -1)

    def _halves(self, output: torch.Tensor, noise_scale: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Locations and log scales, each in the target's shape.

        Raises:
            ValueError: If a noise_scale came.
        """
        if noise_scale is not None:
            raise ValueError(f"{self} has its noise from the network's output, but noise_scale came too; leave it out.")
        width = output.shape[-1] // 2
        return (output[..., 0], output[..., 1]) if width == 1 else (output[..., :width], output[..., width:])

    def distribution(self, output: torch.Tensor, *, noise_scale: torch.Tensor | None = None) -> Any:
        """Normal(f, eˢ); a row with K targets is one event."""
        loc, log_scale = self._halves(output, noise_scale)
        normal = dist.Normal(loc, log_scale.exp())
        return normal.to_event(1) if output.shape[-1] > 2 else normal

    def log_prob(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: torch.Tensor | None = None) -> torch.Tensor:
        """−(y − f)²/(2 e²ˢ) − s − log √2π, summed over a row's K targets when y has them."""
        loc, log_scale = self._halves(output, noise_scale)
        rows = -0.5 * ((y - loc) * torch.exp(-log_scale)).square() - log_scale - HALF_LOG_2PI
        return rows.sum(-1) if y.dim() > 1 else rows

    def log_prob_sum(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: Any = None) -> torch.Tensor:
        """The same, summed over rows."""
        return self.log_prob(output, y, noise_scale=noise_scale).sum()

    def output_curvature(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: Any = None) -> torch.Tensor:
        """The Fisher information, 1/σ² for an f and 2 for an s, where the Hessian is indefinite.

        The Hessian has 2 (y − f)/σ² beside the diagonal and 2 (y − f)²/σ² for s, whose means over y are 0 and 2.
        """
        log_scale = self._halves(output, noise_scale)[1].reshape(len(output), -1)
        return torch.diag_embed(torch.cat([torch.exp(-2 * log_scale), torch.full_like(log_scale, 2.0)], -1))

    def mean(self, output: torch.Tensor, *, noise_scale: torch.Tensor | None = None) -> torch.Tensor:
        """The first half of the output."""
        return self._halves(output, noise_scale)[0]

    def variance(self, output: torch.Tensor, *, noise_scale: torch.Tensor | None = None) -> torch.Tensor:
        """e²ˢ."""
        return self._halves(output, noise_scale)[1].exp().square()

    def cdf(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: torch.Tensor | None = None) -> torch.Tensor:
        """Φ((y − f)/eˢ)."""
        loc, log_scale = self._halves(output, noise_scale)
        return normal_cdf(y, loc, log_scale.exp())

    def quantile(self, output: torch.Tensor, q: float, *, noise_scale: torch.Tensor | None = None) -> torch.Tensor:
        """The quantile f + eˢ Φ⁻¹(q)."""
        loc, log_scale = self._halves(output, noise_scale)
        return loc + log_scale.exp() * torch.special.ndtri(output.new_tensor(q))

    def check_target(self, y: torch.Tensor) -> None:
        """Any number will do."""

    def _other_advice(self, output: torch.Tensor, width: int) -> str:
        return ", the locations and then the log noise scales, or take Gaussian() for noise of one size"


def normal_cdf(y: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Φ((y − loc)/scale), which keeps its digits in the lower tail."""
    return 0.5 * torch.erfc((loc - y) / (math.sqrt(2) * scale))
