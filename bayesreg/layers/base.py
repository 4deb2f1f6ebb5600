"""A layer with multiplicative noise, as a pure function of standard normal numbers: dropout is a variational posterior.

    W = M ∘ z(ε),  ε ~ N(0, 1)        a draw of the weights is a draw of ε; the layer never decides how ε is drawn

With ε in its buffer `noise` a layer is deterministic: one draw serves all rows, draws can be vmapped, and the rest of the
network (batch normalisation) can be in evaluation mode. Without it, a layer behaves as torch's own: a fresh mask for each row
in training mode, none in evaluation mode.
"""

from __future__ import annotations

import abc
import math
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from bayesreg import _check
from bayesreg.priors import AbstractPrior
from bayesreg.priors.base import AbstractElementwisePrior
from bayesreg.priors.values import HALF_LOG_2PI

# normal expectations without a closed form: the trapezoidal rule over ±6 sds integrates a peak a tenth as wide as the normal
# to 10⁻³ nats, forty times better than Gauss–Hermite with as many nodes
_NODES = 64


class AbstractMask(nn.Module, abc.ABC):
    """A layer that multiplies its weights, or the units that they act on, by random factors z with mean 1.

    Attributes:
        noise: ε of one draw for all rows, in the shape of `draw_shape`; None outside of a draw. It is a buffer that is
            not saved, so that `torch.func.functional_call(net, {"1.noise": ε}, (x,))` sets it.
        row_noise: ε of a batch, one for each row, in the shape of `row_shape` after the batch axis.
        learned: Names of the buffers that `inference.MCDropout` learns with the weights.
        left_out: A sentence about terms that the KL leaves out, besides a constant; empty for none.
        rate: Share that is dropped; None where there is no rate.
    """

    learned: ClassVar[tuple[str, ...]] = ()
    left_out: ClassVar[str] = ""
    rate: Any = None
    noise: torch.Tensor | None
    row_noise: torch.Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("noise", None, persistent=False)
        self.register_buffer("row_noise", None, persistent=False)

    @abc.abstractmethod
    def draw_shape(self, row: torch.Size, out: torch.Size) -> torch.Size:
        """Shape of one draw's ε.

        Args:
            row: Shape of one row of the layer's input.
            out: Shape of one row of its output.
        """

    @abc.abstractmethod
    def row_shape(self, row: torch.Size, out: torch.Size) -> torch.Size | None:
        """Shape of one row's ε in training; None where all rows of a batch share one draw. Arguments as for `draw_shape`."""

    @abc.abstractmethod
    def perturbed(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The output for one draw's ε, in the shape of `draw_shape`."""

    @abc.abstractmethod
    def perturbed_by_row(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The output for an ε of each row, (B, *row_shape)."""

    @abc.abstractmethod
    def expected(self, x: torch.Tensor) -> torch.Tensor:
        """The output with z at its mean."""

    @abc.abstractmethod
    def sampled(self, x: torch.Tensor) -> torch.Tensor:
        """The output with fresh masks from torch's generator, as in training: one for each row, or one where rows share it."""

    @abc.abstractmethod
    def spread(self, weight: torch.Tensor) -> torch.Tensor:
        """Standard deviation of each entry of W, in the shape of M."""

    def average(self, weight: torch.Tensor) -> torch.Tensor:
        """Mean of each entry of W, in the shape of M: M itself, where z has mean 1."""
        return weight

    @abc.abstractmethod
    def expected_energy(self, prior: AbstractPrior, weight: torch.Tensor) -> torch.Tensor:
        """E_z[−log p(M ∘ z)], a scalar in nats, for the prior of a weight M under this layer's z.

        Args:
            prior: One with independent entries.
            weight: M.

        Raises:
            ValueError: If the expectation does not exist, or is infinite.
        """

    def check(self, prior: AbstractPrior, weight: torch.Tensor) -> None:
        """Refuse a prior for which the KL is not defined.

        Raises:
            ValueError: If its entries are not independent, or its density at 0, where dropped weights are, is not finite.
        """
        at = independent(prior, weight)
        if not at.bounded or not bool(torch.isfinite(at.energy(torch.zeros_like(weight))).all()):
            raise ValueError(
                f"the KL of dropout to the prior must be finite, but {prior} has no finite log-density at 0, where dropped "
                "weights are; take a prior on the whole real line."
            )

    def entropy(self, num_units: int) -> Any:
        """H(z) in nats of so many independent units, where it depends on learned numbers; else its constant value, or 0."""
        return 0.0

    @property
    @abc.abstractmethod
    def text(self) -> str:
        """The distribution of z in words."""

    @property
    def uses_prior(self) -> bool:
        """Whether the KL is to the prior that the model declares."""
        return True

    @property
    def setting(self) -> str:
        """The settings of the layer, which distinguish two networks; nothing that was learned."""
        return self.extra_repr()

    @abc.abstractmethod
    def without(self) -> nn.Module:
        """A plain module in its place, without masks."""

    def pruned(self, weight: torch.Tensor, log_alpha: float) -> torch.Tensor | None:
        """The weight with exact zeros where log var(z) is above `log_alpha`; None where entries have no z of their own."""
        return None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output (B, ...): for the ε that is set, with fresh masks in training mode, or without any."""
        if self.row_noise is not None:
            return self.perturbed_by_row(x, self.row_noise)
        if self.noise is not None:
            return self.perturbed(x, self.noise)
        return self.sampled(x) if self.training else self.expected(x)


class AbstractUnitMask(AbstractMask):
    """Variant 2: z multiplies the units that a layer passes on, so that a weight's whole column shares one z.

    Attributes:
        signed: Whether z can be negative, so that it does not pass through a ReLU.
        multiplies: Whether the output is X ∘ z and nothing else, so that z is a noise of the weights that follow.
    """

    signed: ClassVar[bool] = False
    multiplies: ClassVar[bool] = True

    def draw_shape(self, row: torch.Size, out: torch.Size) -> torch.Size:
        """One z for each entry of a row."""
        return row

    def row_shape(self, row: torch.Size, out: torch.Size) -> torch.Size | None:
        """The same."""
        return self.draw_shape(row, out)

    @abc.abstractmethod
    def multiplier(self, noise: torch.Tensor) -> torch.Tensor:
        """z(ε), entry by entry, with mean 1."""

    def perturbed(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """X ∘ z."""
        return x * self.multiplier(noise).to(x.dtype)

    def perturbed_by_row(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """X ∘ z."""
        return self.perturbed(x, noise)

    def expected(self, x: torch.Tensor) -> torch.Tensor:
        """The input itself."""
        return x

    def without(self) -> nn.Module:
        """Nothing."""
        return nn.Identity()

    def sampled(self, x: torch.Tensor) -> torch.Tensor:
        """X ∘ z, a z for each row."""
        shape = (len(x), *self.draw_shape(x.shape[1:], x.shape[1:]))
        return self.perturbed_by_row(x, torch.randn(shape, dtype=x.dtype, device=x.device))


class AbstractWeightMask(AbstractMask):
    """Variant 1: z multiplies each entry of a weight; the layer wraps the one that has the weight.

    Args:
        layer: A Linear or a convolution.

    Raises:
        ValueError: If it is another layer.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        if not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            raise ValueError(
                f"{type(self).__name__} needs a Linear or a convolution to wrap, but {type(layer).__name__} came; write for "
                f"example {type(self).__name__}(nn.Linear(10, 50))."
            )
        self.layer = layer

    @property
    def note(self) -> str:
        """What it has to say about its weight's prior."""
        return self.text

    def without(self) -> nn.Module:
        """The layer that it wraps."""
        return self.layer

    def draw_shape(self, row: torch.Size, out: torch.Size) -> torch.Size:
        """One z for each entry of the weight."""
        return self.layer.weight.shape

    def perturbed(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The output with the weight W; the bias is not multiplied."""
        return self.with_weight(x, self.weight_of(noise, self.layer.weight), self.layer.bias)

    @abc.abstractmethod
    def weight_of(self, noise: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """W for one draw's ε and M."""

    def expected(self, x: torch.Tensor) -> torch.Tensor:
        """The output of the wrapped layer."""
        return self.layer(x)

    def with_weight(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The layer's output with another weight and bias."""
        layer: Any = self.layer
        linear = isinstance(layer, nn.Linear)
        return functional.linear(x, weight, bias) if linear else layer._conv_forward(x, weight, bias)


def one_a_channel(row: torch.Size) -> torch.Size:
    """(C, 1, …) for a row (C, …)."""
    return torch.Size([row[0], *[1] * (len(row) - 1)])


def checked_rate(rate: Any) -> float:
    """A dropout rate.

    Raises:
        ValueError: If it is not in [0, 1).
    """
    number = _check.finite("rate", rate)
    if not 0 <= number < 1:
        raise ValueError(f"rate must be the share that is dropped, 0 <= rate < 1, but {rate!r} came; pass for example 0.1.")
    return number


def independent(prior: AbstractPrior, weight: torch.Tensor) -> AbstractElementwisePrior:
    """The prior, resolved for the weight, where its entries are independent.

    Raises:
        ValueError: If they are not.
    """
    at = prior.at(weight.shape)
    if not isinstance(at, AbstractElementwisePrior):
        raise ValueError(
            f"a weight under dropout needs a prior with independent entries, but {prior} came; take for example "
            "Normal or Laplace."
        )
    return at


def two_points(prior: AbstractPrior, weight: torch.Tensor, rate: Any) -> torch.Tensor:
    """E[−log p(w z)] for z = 0 with probability `rate`, else 1/(1 − rate): what an inverted Bernoulli dropout makes of a prior.

    For Normal(τ) and rate p it is Σ w²/(2τ²(1 − p)) plus the normaliser: dropout strengthens weight decay. A scalar in nats;
    the prior must have independent entries and be finite at 0, and the rate is a number or a scalar tensor.

    Raises:
        ValueError: If the entries are not independent.

    References:
        Gal and Ghahramani (2016), Dropout as a Bayesian approximation, appendix.

    >>> from bayesreg.priors import Normal
    >>> w = torch.tensor([2.0])
    >>> found = two_points(Normal(1.0), w, 0.5) - two_points(Normal(1.0), 0 * w, 0.5)
    >>> float(found)  # 2²/(2 · 0.5)
    4.0
    """
    at = independent(prior, weight)
    kept, dropped = at.energy(weight / (1 - rate)).sum(), at.energy(torch.zeros_like(weight)).sum()
    return kept * (1 - rate) + dropped * rate - at.log_normaliser(weight.shape)


def normal_energy(prior: AbstractPrior, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """E[−log p(w)] for independent w ~ N(loc, scale²), a scalar in nats, in closed form or by quadrature.

    Raises:
        ValueError: If the entries are not independent.

    >>> from bayesreg.priors import Normal
    >>> found = normal_energy(Normal(1.0), torch.tensor([1.0]), torch.tensor([2.0])).item()
    >>> round(found - HALF_LOG_2PI, 6)  # (1² + 2²)/2
    2.5
    """
    at = independent(prior, loc)
    found = at.expected_energy(loc, scale)
    if found is None:
        nodes = torch.linspace(-6, 6, _NODES, dtype=loc.dtype, device=loc.device)
        weights = (-0.5 * nodes.square()).exp()
        values = torch.stack([at.energy(loc + scale * node) for node in nodes])
        found = torch.tensordot(weights / weights.sum(), values, 1)
    return found.sum() - at.log_normaliser(loc.shape)


def normal_entropy(log_scale: torch.Tensor) -> torch.Tensor:
    """Σ log scale + ½ log 2πe, in nats."""
    return log_scale.sum() + (HALF_LOG_2PI + 0.5) * log_scale.numel()


def bernoulli_entropy(rate: Any, num_units: int) -> Any:
    """H of so many independent Bernoulli(rate), in nats; 0 at rate 0.

    >>> round(bernoulli_entropy(0.5, 3) / math.log(2), 6)
    3.0
    """
    if isinstance(rate, torch.Tensor):
        return num_units * -(torch.xlogy(rate, rate) + torch.xlogy(1 - rate, 1 - rate))
    return 0.0 if rate == 0 else -num_units * (rate * math.log(rate) + (1 - rate) * math.log1p(-rate))
