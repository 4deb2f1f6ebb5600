"""A prior says what is assumed about one tensor; `penalty` is the regulariser it is, `log_prob` the density.

    log p(w) = Σᵢ log_constant − Σᵢ energy(wᵢ),      penalty(w) = log p(mode) − log p(w)

A new elementwise prior is one frozen dataclass with `energy`, `log_constant`, `_element` and a text;
checks, shapes, batching over tensors, text form and the registry come from here.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pyro.distributions as dist
import torch
from torch.distributions import constraints

Shape = Sequence[int]
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def fan_in(shape: Shape) -> int:
    """Number of inputs that feed one unit of a weight of this shape: all axes but the first.

    Args:
        shape: The weight's shape, (K, D) for a linear layer, (K, C, H, W) for a convolution.

    Returns:
        The product of all axes but the first.

    Raises:
        ValueError: If the tensor has fewer than two axes.

    >>> fan_in((50, 10)), fan_in((8, 3, 5, 5))
    (10, 75)
    """
    if len(shape) < 2:
        raise ValueError(
            f"fan_in=True must meet a tensor of two or more axes (out, in, ...), but shape {tuple(shape)} came; "
            "give this tensor a prior with a plain scale, for example '*.bias': Normal(1.0)."
        )
    return math.prod(shape[1:])


class AbstractPrior(abc.ABC):
    """What is assumed about one tensor, before any data.

    Attributes:
        regulariser: What practitioners call the penalty ("L2, ridge, weight decay").
        support: The set on which the density lives, a torch constraint of scalars.
        proper: False where the density does not integrate to one; such a prior has no draws.
        smooth: True where the log-density is twice differentiable inside the support.
    """

    regulariser: ClassVar[str]
    support: ClassVar[Any] = constraints.real
    proper: ClassVar[bool] = True
    smooth: ClassVar[bool] = True

    @abc.abstractmethod
    def resolve(self, shape: Shape) -> AbstractPrior:
        """The same prior with every scale worked out for a tensor of this shape."""

    @abc.abstractmethod
    def distribution(
        self, shape: Shape = (), *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Any:
        """The Pyro distribution with event shape `shape`."""

    @abc.abstractmethod
    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """The normalised log-density of the whole tensor, a scalar in nats; −∞ outside the support."""

    @abc.abstractmethod
    def penalty(self, value: torch.Tensor) -> torch.Tensor:
        """Log p(mode) − log p(value), a scalar in nats: the regulariser, zero at the mode."""

    @abc.abstractmethod
    def prox(self, value: torch.Tensor, step: float) -> torch.Tensor:
        """argmin_z step·penalty(z) + ½‖z − value‖², in the tensor's shape."""

    @property
    @abc.abstractmethod
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""


@dataclasses.dataclass(frozen=True, repr=False)
class AbstractElementwisePrior(AbstractPrior):
    """A prior under which the entries of the tensor are independent.

    A subclass is a frozen dataclass whose fields are numbers (or `fan_in`), and writes only mathematics.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (np.number, np.ndarray, torch.Tensor)) and np.ndim(value) == 0:
                object.__setattr__(self, field.name, float(value))  # so that the text can be read back
        self.check()

    @abc.abstractmethod
    def check(self) -> None:
        """Refuse fields that do not define a density.

        Raises:
            ValueError: If a field is out of its range.
        """

    @abc.abstractmethod
    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """−log density of each entry up to a constant, zero at the mode; same shape as `value`."""

    def energy_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """The derivative of `energy` at each entry; a class may say it in one operation, for the training loop."""
        with torch.enable_grad():
            value = value.detach().requires_grad_()
            return torch.autograd.grad(self.energy(value).sum(), value)[0]

    @property
    @abc.abstractmethod
    def log_constant(self) -> Any:
        """The number such that log density = log_constant − energy, a float (a tensor when scales are tensors)."""

    @abc.abstractmethod
    def _element(self, options: dict[str, Any]) -> Any:
        """The Pyro distribution of one entry; `options` are dtype and device for `torch.tensor`."""

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor | None:
        """E[energy] of each entry when its unconstrained value is N(loc, scale²); None where there is no closed form.

        The unconstrained value is the entry itself on the real line and its logarithm on the positive half line.
        """
        return None

    def resolve(self, shape: Shape) -> Self:
        """The same prior with `fan_in` worked out: scale / √fan_in.

        Args:
            shape: The tensor's shape.

        Returns:
            A prior whose numbers hold for this tensor.

        >>> from bayesreg.priors import Normal
        >>> Normal(1.0, fan_in=True).resolve((50, 16))
        Normal(scale=0.25)
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if not values.get("fan_in"):
            return self
        values["scale"] /= math.sqrt(fan_in(shape))
        values["fan_in"] = False
        return type(self)(**values)

    def distribution(
        self, shape: Shape = (), *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Any:
        """The Pyro distribution of the whole tensor.

        Args:
            shape: The tensor's shape; it becomes the event shape.
            dtype: Floating type of the draws; torch's default type when None.
            device: Where the draws live.

        Returns:
            A distribution with event shape `shape` and empty batch shape.
        """
        shape = torch.Size(shape)
        options = {"dtype": dtype or torch.get_default_dtype(), "device": device}
        return self.resolve(shape)._element(options).expand(shape).to_event(len(shape))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-density of the whole tensor.

        Args:
            value: Tensor of the parameter's whole shape.

        Returns:
            Scalar, in nats, summed over entries.
        """
        prior = self.resolve(value.shape)
        return value.numel() * prior.log_constant - prior.energy(value).sum()

    def penalty(self, value: torch.Tensor) -> torch.Tensor:
        """The regulariser, log p(mode) − log p(value).

        Args:
            value: Tensor of the parameter's whole shape.

        Returns:
            Scalar, in nats, summed over entries; zero at the mode.
        """
        return self.resolve(value.shape).energy(value).sum()

    @property
    def text(self) -> str:
        """The prior as `priors.parse` reads it; defaults are left out, the first number never."""
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for i, f in enumerate(dataclasses.fields(self))
            if i == 0 or getattr(self, f.name) != f.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __repr__(self) -> str:
        return self.text


def stack(priors: Sequence[AbstractElementwisePrior], sizes: Sequence[int], like: torch.Tensor) -> Any:
    """One prior over many tensors laid end to end: each number becomes a vector with one entry an element.

    This is what makes the flat log-prior one expression for each class instead of one for each tensor.

    Args:
        priors: Resolved priors of one class.
        sizes: Number of entries of each tensor.
        like: A tensor with the dtype and device wanted.

    Returns:
        An instance of the same class whose `energy` takes a vector of length sum(sizes).
    """
    stacked = object.__new__(type(priors[0]))
    for field in dataclasses.fields(priors[0]):
        values = [getattr(prior, field.name) for prior in priors]
        if len(set(values)) > 1:  # a common number stays a number: it costs less, and zero is skipped by the leaf
            values = torch.cat([like.new_full((n,), v) for n, v in zip(sizes, values, strict=True)])
        else:
            values = values[0]
        object.__setattr__(stacked, field.name, values)
    return stacked


def log(value: Any) -> Any:
    """The logarithm of a number, or of a tensor where scales are stacked."""
    return value.log() if isinstance(value, torch.Tensor) else math.log(value)


def tensors(options: dict[str, Any], *numbers: float) -> list[torch.Tensor]:
    """Numbers as scalar tensors of the wanted type: Pyro would make float32 of a Python float.

    Args:
        options: Keywords for `torch.as_tensor`, dtype and device.
        *numbers: What to convert.

    Returns:
        One scalar tensor a number.
    """
    return [torch.as_tensor(number, **options) for number in numbers]


def improper(support: Any, options: dict[str, Any]) -> Any:
    """A density of one on the support, which Pyro can score but not sample."""
    return _Improper(support, torch.Size(), torch.Size(), options)


class _Improper(dist.ImproperUniform):
    """`ImproperUniform` with a dtype, and a refusal that says what to do."""

    def __init__(self, support: Any, batch_shape: torch.Size, event_shape: torch.Size, options: dict[str, Any]) -> None:
        self.options = options
        super().__init__(support, batch_shape, event_shape)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> _Improper:
        return _Improper(self.support, torch.Size(batch_shape), self.event_shape, self.options)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        batch = value.shape[: value.dim() - len(self.event_shape)]
        return torch.zeros(batch, **self.options)

    def rsample(self, sample_shape: Shape = ()) -> torch.Tensor:
        raise ValueError(
            "a draw must come from a proper prior, but Flat() has no draws; start from a value "
            "(init_loc_fn=init_to_value(...)) or give this tensor a proper prior, for example Normal(10.0)."
        )

    sample = rsample
