"""Dropout by units and by weights, with a fixed or a learned rate: z = 0 with probability `rate`, else 1/(1 − rate)."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, ClassVar

import torch
from torch import nn

from bayesreg import _check
from bayesreg.layers.base import (
    AbstractUnitMask,
    AbstractWeightMask,
    bernoulli_entropy,
    checked_rate,
    independent,
    normal_energy,
    one_a_channel,
    two_points,
)
from bayesreg.priors import AbstractPrior

_SELU_FLOOR = -1.7580993408473766  # what SELU tends to at −∞


class _AbstractStep:
    """The common part of layers with z ∈ {0, 1/(1 − rate)}, for units and for weights alike."""

    rate: float
    quantile: float

    def _set(self, rate: Any) -> None:
        self.rate = checked_rate(rate)
        self.quantile = NormalDist().inv_cdf(self.rate) if self.rate else -math.inf

    def multiplier(self, noise: torch.Tensor) -> torch.Tensor:
        """1[ε > Φ⁻¹(rate)]/(1 − rate)."""
        return (noise > self.quantile).to(noise.dtype) / (1 - self.rate)

    def spread(self, weight: torch.Tensor) -> torch.Tensor:
        """|M| √(rate/(1 − rate))."""
        return weight.abs() * math.sqrt(self.rate / (1 - self.rate))

    def expected_energy(self, prior: AbstractPrior, weight: torch.Tensor) -> torch.Tensor:
        """See `two_points`."""
        return two_points(prior, weight, self.rate)

    def entropy(self, num_units: int) -> float:
        """H of Bernoulli(rate), a constant."""
        return bernoulli_entropy(self.rate, num_units)

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate:g}"


class AbstractDropout(_AbstractStep, AbstractUnitMask):
    """Dropout of a layer's outputs, z ∈ {0, 1/(1 − rate)}.

    Args:
        rate: Share that is dropped.

    Raises:
        ValueError: If the rate is not in [0, 1).
    """

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self._set(rate)

    @property
    def text(self) -> str:
        """The rate."""
        return f"units dropped at rate {self.rate:.3g}"


class Dropout(AbstractDropout):
    """Variant 2: whole units are dropped, z ∈ {0, 1/(1 − rate)}, as torch's `Dropout` does.

    As a posterior: W = M diag(z). Its KL to a prior is E_z[−log p(W)] − H(z) up to a constant (Gal and Ghahramani 2016).

    Args:
        rate: Share that is dropped.

    Raises:
        ValueError: If the rate is not in [0, 1).

    >>> layer = Dropout(0.25)
    >>> layer.multiplier(torch.tensor([-1.0, 0.0])).tolist()  # Φ⁻¹(0.25) = −0.67
    [0.0, 1.3333333730697632]
    """


class ChannelDropout(AbstractDropout):
    """Whole channels are dropped, as torch's `Dropout1d`, `Dropout2d` and `Dropout3d` do; arguments as for `Dropout`."""

    def draw_shape(self, row: torch.Size, out: torch.Size) -> torch.Size:
        """One z a channel: (C, 1, …)."""
        return one_a_channel(row)


class AlphaDropout(AbstractDropout):
    """Dropout that keeps mean 0 and variance 1 of SELU units: a dropped unit is set to SELU's floor, and all are rescaled.

    It adds as well as multiplies, so that no weight's posterior is W = M diag(z).

    Args:
        rate: Share that is dropped.
        channels: One z a channel, as torch's `FeatureAlphaDropout`.

    References:
        Klambauer et al. (2017), Self-normalizing neural networks.
    """

    multiplies: ClassVar[bool] = False

    def __init__(self, rate: float = 0.5, channels: bool = False) -> None:
        super().__init__(rate)
        self.channels = _check.flag("channels", channels)

    def draw_shape(self, row: torch.Size, out: torch.Size) -> torch.Size:
        """One z an entry, or a channel."""
        return one_a_channel(row) if self.channels else row

    def perturbed(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """A (x m + floor (1 − m)) + b, with m ∈ {0, 1}."""
        kept = (noise > self.quantile).to(x.dtype)
        share = 1 - self.rate
        a = (share * (1 + self.rate * _SELU_FLOOR**2)) ** -0.5
        return a * (x * kept + _SELU_FLOOR * (1 - kept)) - a * _SELU_FLOOR * self.rate


class GaussianDropout(AbstractUnitMask):
    """Units times z ~ N(1, α), α = rate/(1 − rate): the mean and variance of dropout at this rate.

    As a posterior: each column of a weight is M_column z, a normal on one line. Its KL to a prior along that line is E_z[−log
    p(W)] − ½ log 2πeα − log‖M_column‖ a column; `inference.MCDropout` uses the first term only, the penalty of Gaussian dropout
    as it is trained. The terms left out depend on M, so this is the KL up to a constant only for weights of fixed length.

    Args:
        rate: In [0, 1).

    Raises:
        ValueError: If the rate is not in [0, 1).

    References:
        Srivastava et al. (2014), Dropout: a simple way to prevent neural networks from overfitting.

    >>> GaussianDropout(0.5).multiplier(torch.tensor([-1.0, 0.0, 1.0])).tolist()
    [0.0, 1.0, 2.0]
    """

    signed: ClassVar[bool] = True
    left_out: ClassVar[str] = "under Gaussian dropout −log‖M_column‖ is left out of the KL too, which is no constant: no bound."

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = checked_rate(rate)
        self.alpha = self.rate / (1 - self.rate)

    def multiplier(self, noise: torch.Tensor) -> torch.Tensor:
        """1 + √α ε."""
        return 1 + math.sqrt(self.alpha) * noise

    def spread(self, weight: torch.Tensor) -> torch.Tensor:
        """|M| √α."""
        return weight.abs() * math.sqrt(self.alpha)

    def expected_energy(self, prior: AbstractPrior, weight: torch.Tensor) -> torch.Tensor:
        """Under N(M, α M²), entry by entry."""
        if not self.alpha:
            return -independent(prior, weight).log_prob(weight)
        return normal_energy(prior, weight, self.spread(weight))

    @property
    def text(self) -> str:
        """The variance."""
        return f"units times N(1, {self.alpha:.3g})"

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate:g}"


class ConcreteDropout(AbstractUnitMask):
    """Dropout whose rate p is learned with the weights, the step relaxed: z = sigmoid((logit Φ(ε) − logit p)/t)/(1 − p).

    The ELBO determines the rate: the data against −E log p(W) − H(z), both with the unrelaxed step. The relaxed z is taken in
    training and in draws alike, and a posterior's mean and sd are those of its draws: `relaxed_moments`.

    Args:
        rate: Where the rate starts, in (0, 1).
        temperature: t; near 0 the step, but noisier gradients.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Gal, Hron and Kendall (2017), Concrete dropout.
    """

    learned: ClassVar[tuple[str, ...]] = ("logit_rate",)
    logit_rate: torch.Tensor

    def __init__(self, rate: float = 0.1, temperature: float = 0.1) -> None:
        super().__init__()
        number = checked_rate(rate)
        if number == 0:
            raise ValueError(
                "rate must be above 0 where it is learned, but 0 came: it could not leave it; pass for example 0.1."
            )
        self.temperature = _check.positive("temperature", temperature)
        self.register_buffer("logit_rate", torch.tensor(math.log(number / (1 - number))))

    @property
    def rate(self) -> torch.Tensor:
        """P, a scalar."""
        return self.logit_rate.sigmoid()

    def multiplier(self, noise: torch.Tensor) -> torch.Tensor:
        """The relaxed step over 1 − p."""
        x = noise / math.sqrt(2)
        logit = torch.erfc(-x).log() - torch.erfc(x).log()  # of Φ(ε), to the last digit in both tails
        return torch.sigmoid((logit - self.logit_rate) / self.temperature) * (1 + self.logit_rate.exp())

    def average(self, weight: torch.Tensor) -> torch.Tensor:
        """M E[z]; a relaxed z has mean 1 at temperature 0 only."""
        return weight * relaxed_moments(float(self.logit_rate), self.temperature)[0]

    def spread(self, weight: torch.Tensor) -> torch.Tensor:
        """|M| sd(z), of the relaxed z."""
        return weight.abs() * relaxed_moments(float(self.logit_rate), self.temperature)[1]

    def expected_energy(self, prior: AbstractPrior, weight: torch.Tensor) -> torch.Tensor:
        """That of the step, as the authors take it."""
        return two_points(prior, weight, self.rate)

    def entropy(self, num_units: int) -> torch.Tensor:
        """H of Bernoulli(p)."""
        return bernoulli_entropy(self.rate, num_units)

    @property
    def text(self) -> str:
        """The learned rate."""
        return f"units dropped at learned rate {float(self.rate):.3g}"

    @property
    def setting(self) -> str:
        """The temperature."""
        return f"temperature={self.temperature:g}"

    def extra_repr(self) -> str:
        """The rate as it is."""
        return f"rate={float(self.rate):.3g}, temperature={self.temperature:g}"


def relaxed_moments(logit_rate: float, temperature: float) -> tuple[float, float]:
    """E[z] and sd(z) of z = sigmoid((logit U − logit p)/t)/(1 − p), U uniform: the step of rate p, relaxed at temperature t.

    By the trapezoidal rule in a logistic variable, to about fourteen digits: in logit U where the sigmoid is the wider of the
    two, and by parts, E g(Y) = ∫ g'(y) P(Y > y) dy, where it is nearly a step.

    >>> mean, sd = relaxed_moments(0.0, 1.0)  # p = ½, t = 1: z = 2U
    >>> round(mean, 12), round(sd, 12) == round(2 / 12**0.5, 12)
    (1.0, True)
    """
    h = 0.25
    y = torch.arange(-200, 201, dtype=torch.float64) * h
    bell = y.sigmoid() * (-y).sigmoid() * h
    if temperature > 1:
        step = ((y - logit_rate) / temperature).sigmoid()
        first, second = (bell * step).sum(), (bell * step.square()).sum()
    else:
        above = (-(logit_rate + temperature * y)).sigmoid()
        first, second = (bell * above).sum(), (2 * bell * y.sigmoid() * above).sum()
    kept = 1 / (1 + math.exp(logit_rate))
    return float(first) / kept, math.sqrt(max(0.0, float(second - first.square()))) / kept


class DropConnect(_AbstractStep, AbstractWeightMask):
    """Variant 1: single weights are dropped. In training the rows of a batch share one draw.

    Args:
        layer: A Linear or a convolution.
        rate: Share of its weight's entries that is dropped.

    Raises:
        ValueError: If the layer is another one, or the rate is not in [0, 1).

    References:
        Wan et al. (2013), Regularization of neural networks using DropConnect.

    >>> layer = DropConnect(nn.Linear(2, 1, bias=False), 0.5)
    >>> bool(layer.perturbed(torch.ones(1, 2), torch.tensor([[-1.0, 1.0]])) == 2 * layer.layer.weight[0, 1])
    True
    """

    def __init__(self, layer: nn.Module, rate: float = 0.5) -> None:
        super().__init__(layer)
        self._set(rate)

    def row_shape(self, row: torch.Size, out: torch.Size) -> None:
        """None: rows share a draw, since a weight for each row would be B times the work."""
        return

    def weight_of(self, noise: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """M ∘ z."""
        return weight * self.multiplier(noise).to(weight.dtype)

    def sampled(self, x: torch.Tensor) -> torch.Tensor:
        """One fresh weight for all rows."""
        return self.perturbed(x, torch.randn_like(self.layer.weight))  # pyright: ignore

    def perturbed_by_row(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """A weight for each row, where it is asked for."""
        return torch.vmap(lambda row, own: self.perturbed(row[None], own)[0])(x, noise)

    @property
    def text(self) -> str:
        """The rate."""
        return f"weights dropped at rate {self.rate:.3g}"


def of_torch(layer: nn.Module) -> Any:
    """Torch's own dropout layer as one of these, None where it is no dropout layer.

    Raises:
        ValueError: If it is a dropout of another kind.
    """
    kind, rate = type(layer), getattr(layer, "p", 0.0)
    if kind is nn.Dropout:
        return Dropout(rate)
    if kind in (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d):
        return ChannelDropout(rate)
    if kind in (nn.AlphaDropout, nn.FeatureAlphaDropout):
        return AlphaDropout(rate, channels=kind is nn.FeatureAlphaDropout)
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        raise ValueError(
            f"a dropout layer must be of a known kind, but {kind.__name__} came; take nn.Dropout or one of bayesreg.layers."
        )
    return None
