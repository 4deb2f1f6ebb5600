"""Normal noise on several targets, a scale for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch
from torch.distributions import constraints

from bayesreg.likelihoods.base import AbstractLikelihood
from bayesreg.likelihoods.heteroscedastic import HALF_LOG_2PI, normal_cdf
from bayesreg.likelihoods.special import number_or_prior
from bayesreg.priors import AbstractPrior, HalfNormal


@final
class GaussianPerOutput(AbstractLikelihood):
    """y_k = f_k(x) + ε_k, ε_k ~ N(0, σ_k²) for K targets:  log p = −Σ (y_k − f_k)²/(2σ_k²) − N Σ_k log(σ_k √2π).

    `Gaussian` has one σ for all K. The unknowns are "noise_scale_1", …, "noise_scale_K". `Gaussian((a, b))` is the same.

    As a loss: a squared error for each target, weighed by its own 1/(2σ_k²).

    Args:
        noise_scale: K entries, each the noise's sd in the units that the model works in: a number > 0 when known, a prior of a
            positive quantity when it is to be learned.

    Raises:
        ValueError: If there are fewer than two, or one is neither a number > 0 nor a prior on positive values.

    >>> import torch
    >>> y, known = torch.ones(1, 2), {"noise_scale_1": torch.tensor(1.0), "noise_scale_2": torch.tensor(3.0)}
    >>> row = GaussianPerOutput((1.0, 3.0)).log_prob(0 * y, y, **known)
    >>> torch.allclose(row, torch.distributions.Normal(0.0, torch.tensor([1.0, 3.0])).log_prob(y).sum(-1))
    True
    """

    location_scale: ClassVar[bool] = True
    log_concave: ClassVar[bool] = True

    def __init__(self, noise_scale: Sequence[float | AbstractPrior] = (HalfNormal(1.0), HalfNormal(1.0))) -> None:
        if not isinstance(noise_scale, (tuple, list)) or len(noise_scale) < 2:
            raise ValueError(
                f"noise_scale must have an entry for each of two targets or more, but {noise_scale!r} came; pass for example "
                "(HalfNormal(1.0), HalfNormal(1.0)), or take Gaussian."
            )
        self.noise_scale = tuple(
            number_or_prior(f"noise_scale_{k + 1}", value, "priors.HalfNormal(1.0)") for k, value in enumerate(noise_scale)
        )

    @property
    def parameters(self) -> dict[str, float | AbstractPrior]:
        """A noise scale for each target."""
        return {f"noise_scale_{k + 1}": value for k, value in enumerate(self.noise_scale)}

    @property
    def support(self) -> Any:
        """All numbers."""
        return constraints.real

    @property
    def output_axes(self) -> tuple[int, ...]:
        """K outputs a row."""
        return (2,)

    def num_outputs(self, num_classes: int | None) -> int:
        """K."""
        return len(self.noise_scale)

    def noise_in_units(self, name: str, value: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Times the sd of its own target."""
        return value * (scale[..., int(name.rpartition("_")[2]) - 1] if scale.dim() else scale)

    def _sigma(self, noise: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(K,), or with the axes of the outputs."""
        each = [noise[name] for name in self.parameters]
        return torch.cat([value[None] if value.dim() == 0 else value for value in each], -1)

    def distribution(self, output: torch.Tensor, **noise: torch.Tensor) -> Any:
        """Normal(f, σ), a row's K targets one event."""
        return dist.Normal(output, self._sigma(noise)).to_event(1)

    def log_prob(self, output: torch.Tensor, y: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """−Σ_k (y_k − f_k)²/(2σ_k²) + log(σ_k √2π)."""
        sigma = self._sigma(noise)
        return (-0.5 * ((y - output) / sigma).square() - sigma.log() - HALF_LOG_2PI).sum(-1)

    def output_curvature(self, output: torch.Tensor, y: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """The diagonal 1/σ_k²."""
        return torch.diag_embed(self._sigma(noise).pow(-2).expand_as(output))

    def start(self, output: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """The root mean squares of the residuals."""
        rms = (y - output).square().mean(0).sqrt().clamp_min(1e-3)
        found = dict(zip(self.parameters, rms, strict=True))
        return {name: found[name] for name in self.latents}

    def mean(self, output: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """The output itself."""
        return output

    def variance(self, output: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """σ_k² for each entry."""
        return self._sigma(noise).square().expand_as(output)

    def cdf(self, output: torch.Tensor, y: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """Φ((y − f)/σ)."""
        return normal_cdf(y, output, self._sigma(noise))

    def quantile(self, output: torch.Tensor, q: float, **noise: torch.Tensor) -> torch.Tensor:
        """The output plus σ Φ⁻¹(q)."""
        return output + self._sigma(noise) * torch.special.ndtri(output.new_tensor(q))

    def check_target(self, y: torch.Tensor) -> None:
        """K numbers a row.

        Raises:
            ValueError: If not.
        """
        if y.dim() != 2 or y.shape[1] != len(self.noise_scale):
            raise ValueError(
                f"GaussianPerOutput needs a target of shape (N, {len(self.noise_scale)}), a column for each noise scale, but "
                f"{tuple(y.shape)} came; give noise_scale an entry for each column."
            )

    def __repr__(self) -> str:
        return f"GaussianPerOutput(noise_scale={self.noise_scale!r})"
