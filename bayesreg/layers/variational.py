"""Sparse variational dropout: a Gaussian of its own for every weight, W = M + σ ∘ ε, α = σ²/M²."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from bayesreg import _check
from bayesreg.layers.base import AbstractWeightMask, normal_energy, normal_entropy
from bayesreg.priors import AbstractPrior

PRUNED = 3.0  # log α above which a weight is pruned: its mean is below a quarter of its sd
_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695  # Molchanov et al. (2017), equation 14
_TINY = 1e-8


class VariationalDropout(AbstractWeightMask):
    """A Linear or a convolution whose weight is N(M, σ²), σ learned; under a log-uniform prior most weights end as pure noise.

    Training takes the local reparameterisation: the output of each row is normal, and its own ε is drawn (Kingma et al. 2015).

    Args:
        layer: A Linear or a convolution.
        initial_scale: σ at the start.
        prior: "log-uniform", p(w) ∝ 1/|w|, which makes sparse and takes the place of the model's prior on this weight;
            "declared" for the model's own.

    Raises:
        ValueError: If an argument is of the wrong kind.

    References:
        Kingma, Salimans and Welling (2015), Variational dropout and the local reparameterization trick. Molchanov, Ashukha and
        Vetrov (2017), Variational dropout sparsifies deep neural networks.
    """

    learned: ClassVar[tuple[str, ...]] = ("log_variance",)
    log_variance: torch.Tensor

    def __init__(self, layer: nn.Module, initial_scale: float = 0.0067, prior: str = "log-uniform") -> None:
        super().__init__(layer)
        self.prior = _check.one_of("prior", prior, ("log-uniform", "declared"))
        start = 2 * math.log(_check.positive("initial_scale", initial_scale))
        self.register_buffer("log_variance", torch.full_like(self.layer.weight.detach(), start))

    @property
    def uses_prior(self) -> bool:
        """Whether the KL is to the declared prior."""
        return self.prior == "declared"

    @property
    def note(self) -> str:
        """Which prior its weight is under, or which noise."""
        return "under a learned normal noise" if self.uses_prior else "MCDropout takes the log-uniform prior 1/|w| in its place"

    @property
    def log_alpha(self) -> torch.Tensor:
        """Log σ²/M², in the weight's shape, at the layer's present numbers."""
        return self._log_alpha(self.layer.weight)

    def _log_alpha(self, weight: torch.Tensor) -> torch.Tensor:
        return self.log_variance - (weight.square() + _TINY).log()

    def row_shape(self, row: torch.Size, out: torch.Size) -> torch.Size:
        """One ε for each entry of the output."""
        return out

    def weight_of(self, noise: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """M + σ ε."""
        return weight + (0.5 * self.log_variance).exp() * noise

    def perturbed_by_row(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The mean plus √(x² σ²) ε: the same law for each row."""
        mean, scale = self._moments(x)
        return mean + scale * noise

    def sampled(self, x: torch.Tensor) -> torch.Tensor:
        """The same with a fresh ε."""
        mean, scale = self._moments(x)
        return mean + scale * torch.randn_like(mean)

    def _moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each entry of the output."""
        variance = self.with_weight(x.square(), self.log_variance.exp(), None)
        return self.layer(x), (variance + _TINY).sqrt()

    def spread(self, weight: torch.Tensor) -> torch.Tensor:
        """σ."""
        return (0.5 * self.log_variance).exp()

    def check(self, prior: AbstractPrior, weight: torch.Tensor) -> None:
        """Any prior with independent entries will do."""
        if self.uses_prior:
            normal_energy(prior, weight, self.spread(weight))

    def expected_energy(self, prior: AbstractPrior, weight: torch.Tensor) -> torch.Tensor:
        """E[−log p(W)], but for the log-uniform prior the whole KL, see `log_uniform_kl`."""
        if self.uses_prior:
            return normal_energy(prior, weight, self.spread(weight))
        return log_uniform_kl(self._log_alpha(weight))

    def entropy(self, num_units: int) -> Any:
        """That of the normals, where it is not in the KL already."""
        return normal_entropy(0.5 * self.log_variance) if self.uses_prior else 0.0

    def pruned(self, weight: torch.Tensor, log_alpha: float = PRUNED) -> torch.Tensor:
        """The weight with exact zeros where log α is large.

        Args:
            weight: M.
            log_alpha: Weights with log α above it are set to 0.

        Returns:
            A new tensor.
        """
        return torch.where(self._log_alpha(weight) > log_alpha, torch.zeros_like(weight), weight)

    @property
    def text(self) -> str:
        """The share of prunable weights."""
        share = float((self.log_alpha > PRUNED).double().mean())
        return f"normal weights, {share:.1%} of them pure noise, {self.prior} prior"

    def extra_repr(self) -> str:
        """The prior."""
        return f"prior={self.prior!r}"


def log_uniform_kl(log_alpha: torch.Tensor) -> torch.Tensor:
    """KL(N(m, α m²) ‖ p ∝ 1/|w|), a scalar: summed over entries, in nats, up to the constant that makes it 0 for α → ∞.

    KL ≈ Σ k₁ − k₁ sigmoid(k₂ + k₃ log α) + ½ log(1 + 1/α), within 0.01 of the integral for every α.

    References:
        Molchanov, Ashukha and Vetrov (2017), equation 14.

    >>> bool(log_uniform_kl(torch.tensor([50.0])) < 1e-6)
    True
    """
    softened = functional.softplus(-log_alpha)  # log(1 + 1/α)
    return (_K1 * torch.sigmoid(-(_K2 + _K3 * log_alpha)) + 0.5 * softened).sum()
