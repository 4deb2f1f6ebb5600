"""Normal noise on numbers: squared error, under its Bayesian name."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from torch.nn import functional as F

from bayesreg import _check
from bayesreg.likelihoods.base import AbstractLikelihood, Kind
from bayesreg.priors import AbstractPrior, AbstractScaledPrior, HalfNormal
from bayesreg.priors.numeric import above_zero

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_BY_ROW = "heteroscedastic"


class Gaussian(AbstractLikelihood):
    """y = f(x) + ε, ε ~ N(0, noise_scale²):  log p = −Σ (y − f)²/(2σ²) − N·K log(σ √2π).

    As a loss: the squared error, weighed against the penalty by 1/(2σ²). With K outputs all share one noise scale
    (in standardised units when the model standardises).

    With noise_scale="heteroscedastic" the network says each row's noise too. For K targets it has 2K outputs, (B, 2K), also
    for K = 1: the first K are the locations f, the last K the logarithms s of the noise scales, σ = exp(s) with no bound
    and nothing added. Nothing is assumed about the noise but the priors on the weights that make s; s is in the units that
    the model works in, so that s = 0 says σ = 1, in a standardised model the target's sd. As a loss: (y − f)²/(2 e²ˢ) + s.

    Args:
        noise_scale: The noise's sd, in the units that the model works in: a number > 0 when known, a prior of a positive
            quantity when it is to be learned, or "heteroscedastic" when it differs from row to row.

    Raises:
        ValueError: If noise_scale is neither a number > 0, nor a prior on positive values, nor "heteroscedastic".

    References:
        Nix and Weigend (1994), Estimating the mean and variance of the target probability distribution.

    >>> import torch
    >>> row = Gaussian(2.0).log_prob(torch.zeros(1), torch.ones(1), noise_scale=torch.tensor(2.0))
    >>> torch.allclose(row, torch.distributions.Normal(0.0, 2.0).log_prob(torch.ones(1)))
    True
    >>> output = torch.tensor([[0.0, 2.0]]).log1p()  # f = 0, s = log 3
    >>> row = Gaussian("heteroscedastic").log_prob(output, torch.ones(1))
    >>> torch.allclose(row, torch.distributions.Normal(0.0, 3.0).log_prob(torch.ones(1)))
    True
    """

    kind: ClassVar[Kind] = "regression"
    location_scale: ClassVar[bool] = True

    def __init__(self, noise_scale: float | Literal["heteroscedastic"] | AbstractPrior = HalfNormal(1.0)) -> None:  # noqa: B008 (frozen)
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
        elif isinstance(noise_scale, str):
            if noise_scale != _BY_ROW:
                raise ValueError(
                    f"noise_scale must be a number > 0, a prior on positive values or {_BY_ROW!r}, but {noise_scale!r} came; "
                    f"write {_BY_ROW!r} where the network has further outputs that say the noise."
                )
        else:
            noise_scale = _check.squared("noise_scale", noise_scale)
        self.noise_scale = noise_scale

    @property
    def latents(self) -> dict[str, AbstractPrior]:
        """The noise scale with its prior, unless it is known or said by the network."""
        return {"noise_scale": self.noise_scale} if isinstance(self.noise_scale, AbstractPrior) else {}

    @property
    def fixed(self) -> dict[str, float]:
        """The noise scale, when it is known."""
        return {} if isinstance(self.noise_scale, (AbstractPrior, str)) else {"noise_scale": self.noise_scale}

    @property
    def heteroscedastic(self) -> bool:
        """True with noise_scale="heteroscedastic"."""
        return isinstance(self.noise_scale, str)

    @property
    def log_concave(self) -> bool:
        """True in f alone; −(y − f)²/(2 e²ˢ) − s is not concave in f and s together."""
        return not self.heteroscedastic

    def mean_shape(self, output_shape: torch.Size) -> torch.Size:
        """The output's, or (..., N) for (..., N, 2) and (..., N, K) for (..., N, 2K) where half of it is log scales."""
        if not self.heteroscedastic:
            return output_shape
        return output_shape[:-1] if output_shape[-1] == 2 else torch.Size((*output_shape[:-1], output_shape[-1] // 2))

    def in_units(self, output: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Mean + scale · f, and beside it s + log scale."""
        if not self.heteroscedastic:
            return mean + scale * output
        loc, log_scale = output.chunk(2, -1)
        return torch.cat([mean + scale * loc, log_scale + scale.log()], -1)

    def _loc_and_scale(self, output: torch.Tensor, noise_scale: Any) -> tuple[torch.Tensor, Any]:
        """The location in the target's shape, and the noise scale that belongs to it.

        Raises:
            ValueError: If a noise_scale is missing, or one came where the network says it.
        """
        if self.heteroscedastic:
            loc, log_scale = self._halves(output, noise_scale)
            return loc, log_scale.exp()
        if noise_scale is None:
            raise ValueError(f"{self} needs the noise's sd, but none came; pass noise_scale.")
        return output, noise_scale

    def _halves(self, output: torch.Tensor, noise_scale: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Locations and log scales, each in the target's shape.

        Raises:
            ValueError: If a noise_scale came.
        """
        if noise_scale is not None:
            raise ValueError(f"{self} has its noise from the network's output, but noise_scale came too; leave it out.")
        width = output.shape[-1] // 2
        return (output[..., 0], output[..., 1]) if width == 1 else (output[..., :width], output[..., width:])

    def distribution(self, output: torch.Tensor, *, noise_scale: torch.Tensor | None = None) -> Any:
        """Normal(output, noise_scale); a row with K outputs is one event."""
        loc, scale = self._loc_and_scale(output, noise_scale)
        several = output.shape[-1] > 2 if self.heteroscedastic else output.dim() > 1
        return dist.Normal(loc, scale).to_event(1) if several else dist.Normal(loc, scale)

    def log_prob(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: torch.Tensor | None = None) -> torch.Tensor:
        """−(y − f)²/(2σ²) − log(σ √2π), summed over a row's K outputs when y has them."""
        if self.heteroscedastic:
            loc, log_scale = self._halves(output, noise_scale)
            rows = -0.5 * ((y - loc) * torch.exp(-log_scale)).square() - log_scale - _HALF_LOG_2PI
        else:
            loc, scale = self._loc_and_scale(output, noise_scale)
            rows = -0.5 * ((y - loc) / scale).square() - torch.log(scale) - _HALF_LOG_2PI
        return rows.sum(-1) if y.dim() > 1 else rows

    def log_prob_sum(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: Any = None) -> torch.Tensor:
        """The same, summed over rows; a known noise_scale may be a number."""
        if self.heteroscedastic or noise_scale is None:
            return self.log_prob(output, y, noise_scale=noise_scale).sum()
        count = y.numel()
        squares = F.mse_loss(output, y, reduction="sum")
        if isinstance(noise_scale, float):  # known: two operations less a step
            return squares * (-0.5 / noise_scale**2) - count * (math.log(noise_scale) + _HALF_LOG_2PI)
        logs = noise_scale.log() * -count - count * _HALF_LOG_2PI
        return torch.addcdiv(logs, squares, noise_scale.square(), value=-0.5)

    def output_curvature(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: Any = None) -> torch.Tensor:
        """I/σ²; in f and s the Fisher information, 1/σ² for an f and 2 for an s, where the Hessian is indefinite.

        The Hessian has 2 (y − f)/σ² beside the diagonal and 2 (y − f)²/σ² for s, whose means over y are 0 and 2.
        """
        if self.heteroscedastic:
            log_scale = self._halves(output, noise_scale)[1].reshape(len(output), -1)
            return torch.diag_embed(torch.cat([torch.exp(-2 * log_scale), torch.full_like(log_scale, 2.0)], -1))
        width = output.shape[-1] if output.dim() > 1 else 1
        eye = torch.eye(width, dtype=output.dtype, device=output.device)
        return (eye / noise_scale.square()).expand(len(output), width, width)

    def start(self, output: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """The root mean square of the residuals; nothing where the network says the noise."""
        if self.heteroscedastic:
            return {}
        rms = (y - output).square().mean().sqrt()
        return {"noise_scale": rms.clamp_min(1e-3)}

    def mean(self, output: torch.Tensor, *, noise_scale: torch.Tensor | None = None) -> torch.Tensor:
        """The output itself, or its first half."""
        return self._loc_and_scale(output, noise_scale)[0]

    def variance(self, output: torch.Tensor, *, noise_scale: torch.Tensor | None = None) -> torch.Tensor:
        """σ² for each entry."""
        loc, scale = self._loc_and_scale(output, noise_scale)
        return scale.square().expand_as(loc)

    def cdf(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: torch.Tensor | None = None) -> torch.Tensor:
        """Φ((y − f)/σ)."""
        loc, scale = self._loc_and_scale(output, noise_scale)
        return 0.5 * torch.erfc((loc - y) / (math.sqrt(2) * scale))  # keeps its digits in the lower tail

    def target(self, y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Real numbers, (N,) or (N, K); integers and booleans are converted."""
        return y.to(dtype)

    def check_output(self, output: torch.Tensor, y: torch.Tensor) -> None:
        """Output and target must have one shape; where the network says the noise, a row has two outputs for each target.

        Raises:
            ValueError: If not.
        """
        width = _width(y)
        came = f"a row's output has shape {tuple(output.shape[1:])} and its target {tuple(y.shape[1:])}"
        if self.heteroscedastic:
            if output.dim() != 2 or output.shape[1] != 2 * width or y.dim() > 2:
                raise ValueError(
                    f"{self} needs two network outputs for each target, the locations and then the log noise scales, but "
                    f"{came}; give the last layer {2 * width} outputs, or take Gaussian() for noise of one size."
                )
        elif output.shape[1:] != y.shape[1:] or output.dim() > 2:
            twice = output.dim() == 2 and output.shape[1] == 2 * width
            other = f", or say noise_scale={_BY_ROW!r} where the last {width} of them are log noise scales" if twice else ""
            raise ValueError(
                f"Gaussian needs one network output for each target, but {came}; give the last layer {width} output(s){other}."
            )

    def __repr__(self) -> str:
        return f"Gaussian(noise_scale={self.noise_scale!r})"


def _width(y: torch.Tensor) -> int:
    return y.shape[1] if y.dim() > 1 else 1
