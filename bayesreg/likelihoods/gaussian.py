"""Normal noise on numbers: squared error, under its Bayesian name."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, final

import pyro.distributions as dist
import torch
from torch.nn import functional as F

from bayesreg.likelihoods.base import AbstractLikelihood
from bayesreg.likelihoods.gaussian_per_output import GaussianPerOutput
from bayesreg.likelihoods.heteroscedastic import HALF_LOG_2PI, HeteroscedasticGaussian, normal_cdf
from bayesreg.likelihoods.special import number_or_prior
from bayesreg.priors import AbstractPrior, HalfNormal

_BY_ROW = "heteroscedastic"


@final
class Gaussian(AbstractLikelihood):
    """y = f(x) + ε, ε ~ N(0, noise_scale²):  log p = −Σ (y − f)²/(2σ²) − N·K log(σ √2π).

    As a loss: the squared error, weighed against the penalty by 1/(2σ²). With K outputs all share one noise scale
    (in standardised units when the model standardises).

    Args:
        noise_scale: The noise's sd, in the units that the model works in: a number > 0 when known, a prior of a positive
            quantity when it is to be learned. "heteroscedastic" makes a `HeteroscedasticGaussian`, where the network predicts
            it, K of them in a tuple a `GaussianPerOutput` for K targets.

    Raises:
        ValueError: If noise_scale is neither a number > 0, nor a prior on positive values, nor "heteroscedastic".

    >>> import torch
    >>> row = Gaussian(2.0).log_prob(torch.zeros(1), torch.ones(1), noise_scale=torch.tensor(2.0))
    >>> torch.allclose(row, torch.distributions.Normal(0.0, 2.0).log_prob(torch.ones(1)))
    True
    >>> Gaussian("heteroscedastic")
    HeteroscedasticGaussian()
    """

    location_scale: ClassVar[bool] = True
    log_concave: ClassVar[bool] = True
    squared_error_scale: ClassVar[str | None] = "noise_scale"
    is_default: ClassVar[bool] = True

    def __new__(cls, noise_scale: Any = None) -> Any:
        """A `HeteroscedasticGaussian` where the network predicts the noise, a `GaussianPerOutput` where scales are many."""
        if isinstance(noise_scale, (tuple, list)):
            return GaussianPerOutput(noise_scale)
        return HeteroscedasticGaussian() if isinstance(noise_scale, str) and noise_scale == _BY_ROW else super().__new__(cls)

    def __init__(self, noise_scale: float | Literal["heteroscedastic"] | AbstractPrior = HalfNormal(1.0)) -> None:  # noqa: B008 (frozen)
        if isinstance(noise_scale, str):
            raise ValueError(
                f"noise_scale must be a number > 0, a prior on positive values or {_BY_ROW!r}, but {noise_scale!r} came; "
                f"write {_BY_ROW!r} where the network has further outputs that say the noise."
            )
        self.noise_scale = number_or_prior("noise_scale", noise_scale, "priors.HalfNormal(1.0)")

    @property
    def parameters(self) -> dict[str, float | AbstractPrior]:
        """The noise scale."""
        return {"noise_scale": self.noise_scale}

    @property
    def discrete(self) -> bool:
        """False."""
        return False

    def _needed(self, noise_scale: Any) -> Any:
        """The noise scale.

        Raises:
            ValueError: If none came.
        """
        if noise_scale is None:
            raise ValueError(f"{self} needs the noise's sd, but none came; pass noise_scale.")
        return noise_scale

    def distribution(self, output: torch.Tensor, *, noise_scale: torch.Tensor | None = None) -> Any:
        """Normal(output, noise_scale); a row with K outputs is one event."""
        normal = dist.Normal(output, self._needed(noise_scale))
        return normal.to_event(1) if output.dim() > 1 else normal

    def log_prob(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: torch.Tensor | None = None) -> torch.Tensor:
        """−(y − f)²/(2σ²) − log(σ √2π), summed over a row's K outputs when y has them."""
        scale = self._needed(noise_scale)
        rows = -0.5 * ((y - output) / scale).square() - torch.log(scale) - HALF_LOG_2PI
        return rows.sum(-1) if y.dim() > 1 else rows

    def log_prob_sum(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: Any = None) -> torch.Tensor:
        """The same, summed over rows; a known noise_scale may be a number."""
        count, scale = y.numel(), self._needed(noise_scale)
        squares = F.mse_loss(output, y, reduction="sum")
        if isinstance(scale, float):  # known: two operations less a step
            return squares * (-0.5 / scale**2) - count * (math.log(scale) + HALF_LOG_2PI)
        logs = scale.log() * -count - count * HALF_LOG_2PI
        return torch.addcdiv(logs, squares, scale.square(), value=-0.5)

    def output_curvature(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: Any = None) -> torch.Tensor:
        """I/σ²."""
        width = output.shape[-1] if output.dim() > 1 else 1
        eye = torch.eye(width, dtype=output.dtype, device=output.device)
        return (eye / noise_scale.square()).expand(len(output), width, width)

    def start(self, output: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """The root mean square of the residuals."""
        rms = (y - output).square().mean().sqrt()
        return {"noise_scale": rms.clamp_min(1e-3)}

    def mean(self, output: torch.Tensor, *, noise_scale: torch.Tensor | None = None) -> torch.Tensor:
        """The output itself."""
        self._needed(noise_scale)
        return output

    def variance(self, output: torch.Tensor, *, noise_scale: torch.Tensor | None = None) -> torch.Tensor:
        """σ² for each entry."""
        return self._needed(noise_scale).square().expand_as(output)

    def cdf(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: torch.Tensor | None = None) -> torch.Tensor:
        """Φ((y − f)/σ)."""
        return normal_cdf(y, output, self._needed(noise_scale))

    def quantile(self, output: torch.Tensor, q: float, *, noise_scale: torch.Tensor | None = None) -> torch.Tensor:
        """The output plus σ Φ⁻¹(q)."""
        return output + self._needed(noise_scale) * torch.special.ndtri(output.new_tensor(q))

    def check_target(self, y: torch.Tensor) -> None:
        """Any number will do."""

    def _other_advice(self, output: torch.Tensor, width: int) -> str:
        twice = output.dim() == 2 and output.shape[1] == 2 * width
        return f", or say noise_scale={_BY_ROW!r} where the last {width} of them are log noise scales" if twice else ""

    def __repr__(self) -> str:
        return f"Gaussian(noise_scale={self.noise_scale!r})"
