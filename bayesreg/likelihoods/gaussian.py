"""Normal noise on numbers: squared error, under its Bayesian name."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch.nn import functional as F

from bayesreg import _check
from bayesreg.likelihoods.base import AbstractLikelihood, Kind
from bayesreg.priors import AbstractPrior, AbstractScaledPrior, HalfNormal
from bayesreg.priors.numeric import above_zero

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Gaussian(AbstractLikelihood):
    """y = f(x) + ε, ε ~ N(0, noise_scale²):  log p = −Σ (y − f)²/(2σ²) − N·K log(σ √2π).

    As a loss: the squared error, weighed against the penalty by 1/(2σ²). With K outputs all share one noise scale
    (in standardised units when the model standardises).

    Args:
        noise_scale: The noise's sd, in the units that the model works in: a number > 0 when known, or a prior of a
            positive quantity when it is to be learned.

    Raises:
        ValueError: If noise_scale is neither a number > 0 nor a prior on positive values.

    >>> import torch
    >>> row = Gaussian(2.0).log_prob(torch.zeros(1), torch.ones(1), noise_scale=torch.tensor(2.0))
    >>> torch.allclose(row, torch.distributions.Normal(0.0, 2.0).log_prob(torch.ones(1)))
    True
    """

    kind: ClassVar[Kind] = "regression"
    location_scale: ClassVar[bool] = True

    def __init__(self, noise_scale: float | AbstractPrior = HalfNormal(1.0)) -> None:  # noqa: B008 (frozen)
        if isinstance(noise_scale, AbstractPrior):
            if isinstance(noise_scale, AbstractScaledPrior) and (
                noise_scale.fan_in or noise_scale.autoscale or noise_scale.relative_to_noise
            ):
                raise ValueError(
                    f"the noise's prior must have a scale of its own, but {noise_scale} came; give a number: HalfNormal(1.0) "
                    "with standardize=True, where the target has sd one."
                )
            if not above_zero(noise_scale.support):
                raise ValueError(
                    f"noise_scale must have a prior on positive values, but {noise_scale} came; pass for example "
                    "priors.HalfNormal(1.0), or a number > 0 when the noise is known."
                )
        else:
            noise_scale = _check.positive("noise_scale", noise_scale)
        self.noise_scale = noise_scale

    @property
    def latents(self) -> dict[str, AbstractPrior]:
        """The noise scale with its prior, unless it is known."""
        return {"noise_scale": self.noise_scale} if isinstance(self.noise_scale, AbstractPrior) else {}

    @property
    def fixed(self) -> dict[str, float]:
        """The noise scale, when it is known."""
        return {} if isinstance(self.noise_scale, AbstractPrior) else {"noise_scale": self.noise_scale}

    def distribution(self, output: torch.Tensor, *, noise_scale: torch.Tensor) -> Any:
        """Normal(output, noise_scale); a row with K outputs is one event."""
        normal = dist.Normal(output, noise_scale)
        return normal.to_event(1) if output.dim() > 1 else normal

    def log_prob(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """−(y − f)²/(2σ²) − log(σ √2π), summed over a row's K outputs when y has them."""
        rows = -0.5 * ((y - output) / noise_scale).square() - torch.log(noise_scale) - _HALF_LOG_2PI
        return rows.sum(-1) if y.dim() > 1 else rows

    def log_prob_sum(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: Any) -> torch.Tensor:
        """The same, summed over rows; a known noise_scale may be a number."""
        count = y.numel()
        squares = F.mse_loss(output, y, reduction="sum")
        if isinstance(noise_scale, float):  # known: two operations less a step
            return squares * (-0.5 / noise_scale**2) - count * (math.log(noise_scale) + _HALF_LOG_2PI)
        logs = noise_scale.log() * -count - count * _HALF_LOG_2PI
        return torch.addcdiv(logs, squares, noise_scale.square(), value=-0.5)

    def output_curvature(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """I/σ²."""
        width = output.shape[-1] if output.dim() > 1 else 1
        eye = torch.eye(width, dtype=output.dtype, device=output.device)
        return (eye / noise_scale.square()).expand(len(output), width, width)

    def start(self, output: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """The root mean square of the residuals."""
        rms = (y - output).square().mean().sqrt()
        return {"noise_scale": rms.clamp_min(1e-3)}

    def mean(self, output: torch.Tensor, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """The output itself."""
        return output

    def variance(self, output: torch.Tensor, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """σ² for each entry."""
        return noise_scale.square().expand_as(output)

    def cdf(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """Φ((y − f)/σ)."""
        return 0.5 * torch.erfc((output - y) / (math.sqrt(2) * noise_scale))  # keeps its digits in the lower tail

    def target(self, y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Real numbers, (N,) or (N, K); integers and booleans are converted."""
        return y.to(dtype)

    def check_output(self, output: torch.Tensor, y: torch.Tensor) -> None:
        """Output and target must have one shape.

        Raises:
            ValueError: If not.
        """
        if output.shape[1:] != y.shape[1:] or output.dim() > 2:
            raise ValueError(
                f"Gaussian needs one network output for each target, but a row's output has shape "
                f"{tuple(output.shape[1:])} and its target {tuple(y.shape[1:])}; give the last layer {_width(y)} output(s)."
            )

    def __repr__(self) -> str:
        return f"Gaussian(noise_scale={self.noise_scale!r})"


def _width(y: torch.Tensor) -> int:
    return y.shape[1] if y.dim() > 1 else 1
