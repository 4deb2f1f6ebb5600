"""Base classes of priors on one tensor: `penalty` is the regulariser, `log_prob` the density.

    log p(w) = log_normaliser(shape) − penalty(w),      penalty(w) = log p(mode) − log p(w)

Two kinds: under an elementwise prior the entries are independent, log p(w) = Σᵢ log_constant − energy(wᵢ); under a tensor
prior they depend on each other. A new prior is one frozen dataclass with this mathematics; checks, shapes, batching
over tensors, draws as a Pyro distribution, the text form and the registry come from here.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch.distributions import constraints

from bayesreg import _check
from bayesreg.priors import numeric
from bayesreg.priors.analysis import Analysis, identity
from bayesreg.priors.distribution import PriorDistribution
from bayesreg.priors.spectrum import Spectrum, of_matrix
from bayesreg.priors.values import wide

Shape = Sequence[int]


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class AbstractPrior(abc.ABC):
    """What is assumed about one tensor, before any data.

    Attributes:
        tag: A name that several priors may share, under which `model.log_prior_by_tag` sums them; None for the tensor's own
            name.
        regulariser: What practitioners call the penalty ("L2, ridge, weight decay").
        support: The support of the density, a torch constraint of scalars.
        proper: False where the density does not integrate to one; such a prior has no draws.
        smooth: True where the log-density is twice differentiable inside the support.
        bounded: False where the density has a pole; such a prior has no mode, and its penalty no minimum.
        convex: True where the penalty is a convex function, so that with a linear-Gaussian model a mode is the mode.
        separable_prox: True where `prox` takes a step length for each entry, a diagonal metric.
        flat: True where the penalty is zero everywhere.
        certain: True for a point mass: the tensor is no unknown; its value is `mode`.
        shrinks_groups: True where the penalty is Σ ‖group‖/scale over groups `per` axis, so that `prox` shrinks each group's
            norm.
        safe_in_single: True where the energy overflows float32 only if its value does, so that float32 is kept.
    """

    tag: str | None = None

    regulariser: ClassVar[str]
    support: ClassVar[Any] = constraints.real
    proper: ClassVar[bool] = True
    smooth: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    convex: ClassVar[bool] = False
    separable_prox: ClassVar[bool] = False
    flat: ClassVar[bool] = False
    certain: ClassVar[bool] = False
    shrinks_groups: ClassVar[bool] = False
    safe_in_single: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (np.generic, np.ndarray, torch.Tensor)) and np.ndim(value) == 0:
                value = value.item()  # so that the text can be read back
                object.__setattr__(self, field.name, value)
            if field.type == "bool":
                _check.flag(field.name, value)
        if self.tag is not None and not (isinstance(self.tag, str) and self.tag):
            raise ValueError(f"tag must be a text, but {self.tag!r} came; pass for example tag='inputs'.")
        self.check()

    @abc.abstractmethod
    def check(self) -> None:
        """Refuse fields that do not define a density.

        Raises:
            ValueError: If a field is out of its range.
        """

    def resolve(self, shape: Shape) -> AbstractPrior:
        """The same prior with every number computed for a tensor of this shape.

        Args:
            shape: The tensor's shape.

        Returns:
            A prior whose numbers hold for this tensor.

        Raises:
            ValueError: If the prior does not fit a tensor of this shape.
        """
        return self

    def at(self, shape: Shape) -> AbstractPrior:
        """The result of `resolve`, refused where a number still depends on data or on another unknown."""
        return self.resolve(shape)

    @property
    def mode(self) -> Any:
        """Where the density of one entry is highest."""
        return 0.0

    def simplified(self) -> AbstractPrior:
        """The same density as an object of its best-known class; this object where there is no other."""
        return self

    @property
    def hyperprior(self) -> AbstractPrior | None:
        """The prior of this prior's own scale; None where the scale is a number."""
        return None

    @property
    def path_scale(self) -> Any:
        """The scale that sets the strength of the penalty, as it was written; None where there is none."""
        return None

    def with_path_scale(self, scale: float) -> AbstractPrior:
        """The same prior with another `path_scale`, > 0; `fan_in` and the like still apply.

        Raises:
            ValueError: If it has none.
        """
        raise ValueError(f"a prior must have a scale that is a number, but {self} has none; take for example Normal(1.0).")

    def stretched(self, factor: float) -> AbstractPrior | None:
        """The prior of factor · (x − centre), all of a Gaussian's precision over factor²; None where that is not defined."""
        return None if self.path_scale is None else self.with_path_scale(self.path_scale * factor)

    @abc.abstractmethod
    def penalty(self, value: torch.Tensor) -> torch.Tensor:
        """Log p(mode) − log p(value), a scalar in nats: the regulariser, zero at the mode."""

    @abc.abstractmethod
    def log_normaliser(self, shape: Shape) -> Any:
        """The log-density at the mode of a tensor of this shape, a number in nats (a tensor where scales are tensors)."""

    @abc.abstractmethod
    def penalty_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """The derivative of `penalty`, in the tensor's shape and detached; zero at a kink that is the mode."""

    @abc.abstractmethod
    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """Draws from torch's global generator, (num_samples, *shape); `options` are dtype and device."""

    @abc.abstractmethod
    def prox(self, value: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
        """argmin_z penalty(z) + ½ Σᵢ (zᵢ − valueᵢ)²/stepᵢ, in the tensor's shape.

        The step is a number > 0, or one for each entry where `separable_prox` says so.
        """

    @property
    @abc.abstractmethod
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""

    def gaussian(self, shape: Shape) -> tuple[float, torch.Tensor] | None:
        """The prior's mean and precision where it is Gaussian, which a conjugate model needs.

        Args:
            shape: The tensor's shape.

        Returns:
            Mean of each entry, and the precision over the tensor laid flat: (n,) a diagonal or (n, n), float64. None where the
            prior is not Gaussian; zero precision where it is flat.
        """
        return None

    def spectrum(self, shape: Shape) -> Spectrum | None:
        """The same as an operator, for tensors whose precision is too large for a matrix; None where it is not Gaussian."""
        return of_matrix(self.gaussian(shape), torch.Size(shape))

    def analysis(self, shape: Shape) -> Analysis | None:
        """The penalty as Σ s |D (w − m)| with D known by products, where it is one; else None."""
        return None

    def gaussian_root(self, shape: Shape) -> torch.Tensor | None:
        """A root L of that precision, LᵀL = Λ, with the digits that Λ loses: (n,) a diagonal or (q, n), float64."""
        _, precision = self.gaussian(shape) or (0.0, None)
        if precision is None or precision.dim() == 1:
            return None if precision is None else precision.sqrt()
        values, vectors = torch.linalg.eigh(precision)
        return values.clamp_min(0).sqrt()[:, None] * vectors.mT

    def centred_at(self, value: torch.Tensor) -> AbstractPrior | None:
        """The same density about another mean, in the tensor's shape, where it is Gaussian or flat; None where it has none.

        Args:
            value: The mean of each entry.
        """
        return None

    @property
    def weight_decay(self) -> float | None:
        """λ ≥ 0 where the penalty is λ/2 Σ w², the term that an optimizer's weight decay stands for; None where it is not."""
        return None

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-density of the whole tensor.

        Args:
            value: Tensor of the parameter's whole shape.

        Returns:
            Scalar, in nats, summed over entries; −∞ outside the support.
        """
        prior = self.at(value.shape)
        return prior.log_normaliser(value.shape) - prior.penalty(value)

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
        return self.at(shape)._distribution(shape, {"dtype": dtype or torch.get_default_dtype(), "device": device})

    def _distribution(self, shape: torch.Size, options: dict[str, Any]) -> Any:
        return PriorDistribution(self, shape, options)

    @classmethod
    def from_interval(cls, lower: float, upper: float, mass: float = 0.9) -> Self:
        """The prior of this kind that holds `mass` of each entry between two numbers, with equal tails.

        Args:
            lower: Lower end, in the units of the tensor.
            upper: Upper end.
            mass: Probability between them.

        Returns:
            The prior.

        Raises:
            ValueError: If an interval does not determine this kind of prior, or the numbers do not fit it.
        """
        raise ValueError(
            f"{cls.__name__} must be given by its own numbers, but an interval came, which does not settle them; take one of "
            "the priors with one or two parameters, for example Normal.from_interval(-1, 1)."
        )

    @property
    def text(self) -> str:
        """The prior as `priors.parse` reads it; defaults are left out, the first number never."""
        fields = fields_of(self)
        shown = [
            f"{field.name}={_said(getattr(self, field.name))}"
            for i, field in enumerate(fields)
            if (i == 0 and not field.kw_only and getattr(self, field.name) is not None)
            or not _same(getattr(self, field.name), field.default)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __repr__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class AbstractElementwisePrior(AbstractPrior):
    """A prior under which the entries of the tensor are independent.

    A subclass is a frozen dataclass whose fields are numbers, and defines only mathematics: `energy`, `log_constant`, a text,
    and `_element` (a stock Pyro distribution of one entry) or `draw`.
    """

    separable_prox: ClassVar[bool] = True
    quick: ClassVar[bool] = True  # False where the density is itself found by quadrature
    absolute: ClassVar[bool] = False  # True where the energy is |w − mode| times a number

    @abc.abstractmethod
    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """−log density of each entry up to a constant, zero at the mode; same shape as `value`."""

    def analysis(self, shape: Shape) -> Analysis | None:
        """With D = I, where the energy is an absolute value."""
        return identity(self.at(shape), torch.Size(shape)) if self.absolute else None

    def energy_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """The derivative of `energy` at each entry; a class may define it in one operation, for the training loop."""
        with torch.enable_grad():
            value = value.detach().requires_grad_()
            return torch.autograd.grad(self.energy(value).sum(), value)[0]

    @property
    @abc.abstractmethod
    def log_constant(self) -> Any:
        """The number such that log density = log_constant − energy, a float (a tensor when scales are tensors)."""

    def _element(self, options: dict[str, Any]) -> Any:
        """The Pyro distribution of one entry, with dtype and device; None where Pyro has none and `draw` is overridden."""
        return None

    def _distribution(self, shape: torch.Size, options: dict[str, Any]) -> Any:
        element = self._element(options)
        return super()._distribution(shape, options) if element is None else element.expand(shape).to_event(len(shape))

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """Independent draws, (num_samples, *shape)."""
        return self._element(dict(options)).expand((num_samples, *shape)).sample()

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor | None:
        """E[energy] of each entry when its unconstrained value is N(loc, scale²); None where there is no closed form.

        The unconstrained value is the entry itself on the real line and its logarithm on the positive half line.
        """
        return None

    def expected_slopes(self, loc: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The derivatives of `expected_energy` in loc and scale, where a class has them for the training loop; else None."""
        return None

    def penalty(self, value: torch.Tensor) -> torch.Tensor:
        """The regulariser, log p(mode) − log p(value), a scalar in nats, summed over entries; zero at the mode."""
        prior: Any = self.at(value.shape)
        x = value if self.safe_in_single else wide(value)
        # NaN is neither inside a support nor outside
        return torch.where(x.isnan(), x, prior.energy(x)).sum().to(value.dtype)

    def log_normaliser(self, shape: Shape) -> Any:
        """Sum of `log_constant` over the entries."""
        constant = self.log_constant
        return constant.expand(torch.Size(shape)).sum() if isinstance(constant, torch.Tensor) else math.prod(shape) * constant

    def penalty_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """`energy_gradient`."""
        prior: Any = self.at(value.shape)
        return prior.energy_gradient(value if self.safe_in_single else wide(value)).to(value.dtype)

    def prox(self, value: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
        """argmin_z step·energy(z) + ½(z − value)² of each entry, found numerically between the mode and the value.

        Args:
            value: Any shape.
            step: The step, > 0, a number or one for each entry.

        Returns:
            Same shape.

        Raises:
            ValueError: If the density is unbounded, so that there is no minimum.
        """
        prior: Any = self.at(value.shape)
        if not prior.bounded:
            raise ValueError(
                f"a prox must have a minimum, but {self} has a pole, where step·penalty falls to −∞; take a bounded prior, or "
                "a posterior method in place of the mode."
            )
        return numeric.prox(prior.energy, prior.energy_gradient, prior.support, prior.mode, value, step)


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class AbstractTensorPrior(AbstractPrior):
    """A prior under which the entries of a tensor depend on each other: groups, fields, correlations.

    A subclass writes `penalty` (differentiable), `log_normaliser`, `draw` and, where the penalty has a kink, `prox`.
    """

    def penalty_gradient(self, value: torch.Tensor) -> torch.Tensor:
        """The derivative of `penalty`, in the tensor's shape."""
        with torch.enable_grad():
            value = value.detach().requires_grad_()
            return torch.autograd.grad(self.penalty(value), value)[0]


def fields_of(prior: AbstractPrior) -> list[dataclasses.Field[Any]]:
    """The prior's fields, those that may be given by position first."""
    return sorted(dataclasses.fields(prior), key=lambda field: bool(field.kw_only))


def stack(priors: Sequence[AbstractElementwisePrior], shapes: Sequence[Shape], like: torch.Tensor) -> Any:
    """One prior over many tensors laid end to end, from resolved priors of one class: each number becomes a vector.

    Its `energy` takes a vector with all entries. So the flat log-prior is one expression for each class instead of one for each
    tensor. `shapes` are those of the tensors; dtype and device are those of `like`.
    """
    made = {}
    for field in dataclasses.fields(priors[0]):
        values = [getattr(prior, field.name) for prior in priors]
        same = all(value is values[0] or _same(value, values[0]) for value in values)
        plain = not isinstance(values[0], torch.Tensor)
        if field.name == "tag" or (same and plain):  # a common number stays a number: it costs less, and zero is skipped
            made[field.name] = values[0]
        else:
            made[field.name] = torch.cat(
                [
                    torch.as_tensor(v, dtype=like.dtype, device=like.device).expand(torch.Size(s)).reshape(-1)
                    for v, s in zip(values, shapes, strict=True)
                ]
            )
    return replaced(priors[0], **made)


def stackable(prior: AbstractPrior) -> bool:
    """True where `stack` can join the prior with others of its class: its fields are numbers and texts."""
    return isinstance(prior, AbstractElementwisePrior) and not any(
        isinstance(getattr(prior, field.name), (AbstractPrior, tuple)) for field in dataclasses.fields(prior)
    )


def replaced(prior: AbstractPrior, **values: Any) -> Any:
    """A copy of the prior with other values in some fields, tensors among them; nothing is checked."""
    made = object.__new__(type(prior))
    for field in dataclasses.fields(prior):
        object.__setattr__(made, field.name, values.get(field.name, getattr(prior, field.name)))
    return made


def shown(number: Any) -> str:
    """A number of a prior as a person reads it: "0.25"; "0.1 … 3" for several; "s" for an unknown scale.

    >>> shown(0.25), shown(torch.tensor([0.1, 3.0]))
    ('0.25', '0.1 … 3')
    """
    if isinstance(number, AbstractPrior):
        return "s"
    if not isinstance(number, torch.Tensor):
        return f"{number:.4g}"
    low, high = float(number.detach().min()), float(number.detach().max())
    return f"{low:.4g}" if low == high else f"{low:.4g} … {high:.4g}"


def _said(value: Any) -> str:
    return shown(value) if isinstance(value, torch.Tensor) else repr(value)


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and not isinstance(value, torch.Tensor) and value == other
