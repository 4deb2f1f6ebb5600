"""A prior's scale: a number, one adjusted to the tensor's shape or the data, or an unknown with a prior of its own.

    w = loc + scale · z,  z of a fixed density:   log p(w | scale) = log p₁((w − loc)/scale) − n log scale

`Normal(0.5)`, `Normal(1.0, fan_in=True)`, `Normal(2.5, autoscale=True)`, `Normal(HalfCauchy(1.0), per="column")` (ARD),
`Laplace(0.2, relative_to_noise=True)` (the Bayesian lasso of Park and Casella).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Self

import torch
from torch.distributions import constraints

from bayesreg import _check
from bayesreg.priors import numeric
from bayesreg.priors.base import AbstractElementwisePrior, AbstractPrior, Shape, replaced, shown
from bayesreg.priors.values import mass_of

_MOST_INPUTS = 1e300  # most inputs of a unit; a larger whole number overflows a float
AUTOSCALE = 2.5  # prior sd of the target's change, in sds, for one sd of an input (Gelman et al. 2008, rstanarm)
PER = ("tensor", "row", "column", "element")


def fan_in(shape: Shape) -> int:
    """Number of inputs of one unit for a weight of this shape, (K, D) or (K, C, H, W): the product of all axes but the first.

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


def shared_shape(shape: Shape, per: str) -> torch.Size:
    """Shape of numbers shared within a tensor, which broadcasts against it: for all of it, each row, column or element.

    Raises:
        ValueError: If the tensor lacks that axis; the choices that it has are named.

    >>> [tuple(shared_shape((50, 10), per)) for per in ("tensor", "row", "column", "element")]
    [(), (50, 1), (1, 10), (50, 10)]
    """
    axis = {"row": 0, "column": 1}.get(per)
    if axis is None:
        return torch.Size(shape) if per == "element" else torch.Size()
    if len(shape) <= axis:
        choices = [p for p, needed in zip(PER, (0, 1, 2, 0), strict=True) if len(shape) >= needed]
        raise ValueError(
            f"per={per!r} must meet a tensor that has a {per} axis (axis {axis}), but shape {tuple(shape)} came; for this "
            f"tensor take per= one of {', '.join(map(repr, choices))}."
        )
    return torch.Size(n if i == axis else 1 for i, n in enumerate(shape))


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class AbstractScaledPrior(AbstractPrior):
    """A prior with a field `scale` that may be more than a number. `None` stands for 1, or 2.5 with `autoscale`.

    Attributes:
        fan_in: Divide the scale by √(inputs of a unit), so that a layer's output has about unit variance. For torch's own
            layers the model counts the inputs (`layers.fan_in`); elsewhere it is the product of all axes but the first, or this
            number.
        autoscale: For a linear model: multiply the scale by sd(y)/sd(x) of each column when the model is bound to its data.
        centered: How an unknown scale is searched: True in the entries themselves, False in entries over scale, which decouples
            the two where the data say little. It is the same model either way.
        relative_to_noise: The scale is in units of the likelihood's `noise_scale`, also where that is unknown.
    """

    fan_in: bool | float = False
    autoscale: bool = False
    centered: bool = True
    relative_to_noise: bool = False

    def __post_init__(self) -> None:
        if self.given_scale is None:
            object.__setattr__(self, "scale", AUTOSCALE if self.autoscale else 1.0)
        super().__post_init__()
        if not isinstance(self.fan_in, bool) and not (
            isinstance(self.fan_in, (int, float)) and 0 < self.fan_in <= _MOST_INPUTS
        ):
            raise ValueError(
                f"fan_in must be True or False, but {self.fan_in!r} came; write it without quotes, or give the number of "
                "inputs that a unit sums over."
            )
        if self.autoscale and (self.fan_in or self.hyperprior is not None):
            raise ValueError(
                f"autoscale=True must stand alone, but {self} came; it already says what the scale is: leave out fan_in and "
                "give a number as scale."
            )

    @property
    def given_scale(self) -> Any:
        """The scale as it was given: a number, a tensor, or a prior where it is unknown."""
        return self.scale  # pyright: ignore[reportAttributeAccessIssue]  (each class declares it in its own order)

    @property
    def sharing(self) -> str:
        """The part of a tensor that shares an unknown scale: "tensor", "row", "column" or "element"."""
        return "tensor"

    @property
    def origin(self) -> Any:
        """The value that a change of the scale leaves fixed."""
        return 0.0

    @property
    def hyperprior(self) -> AbstractPrior | None:
        """The scale's own prior; None where it is a number."""
        return self.given_scale if isinstance(self.given_scale, AbstractPrior) else None

    @property
    def path_scale(self) -> Any:
        """The scale as it was written; None where it is unknown."""
        return None if self.hyperprior is not None else self.given_scale

    def with_path_scale(self, scale: float) -> Self:
        """The same prior with another scale, > 0."""
        return dataclasses.replace(self, scale=scale)  # pyright: ignore[reportCallIssue]

    def check(self) -> None:
        """Refuse a scale that is neither a number > 0 nor a proper prior of a positive quantity.

        Raises:
            ValueError: If so.
        """
        scale = self.given_scale
        if isinstance(scale, AbstractPrior):
            if not numeric.above_zero(scale.support) or not scale.proper:
                raise ValueError(
                    f"a scale must have a proper prior on positive values, but {scale} came; without one the posterior of the "
                    "scale is improper: take for example HalfCauchy(1.0)."
                )
            if isinstance(scale, AbstractScaledPrior) and (scale.fan_in or scale.autoscale):
                raise ValueError(
                    f"the prior of a scale must not follow a layer or the data itself, but {scale} came; give fan_in=True to "
                    f"{type(self).__name__}, or a plain number."
                )
            return
        _check.positive("scale", scale)

    def factor(self, shape: Shape) -> float:
        """The factor of the shape on the scale: 1/√fan_in, or 1."""
        return 1 / math.sqrt(self._inputs(shape)) if self.fan_in else 1.0

    def _inputs(self, shape: Shape) -> float:
        return fan_in(shape) if self.fan_in is True else self.fan_in

    def counted(self, inputs: float | None) -> Self:
        """The same prior with its `fan_in=True` as a number, where the layer determines it.

        >>> from bayesreg.priors import Normal
        >>> Normal(1.0, fan_in=True).counted(576).resolve((64, 1, 3, 3)).scale == 1 / 24
        True
        """
        if self.fan_in is not True or inputs is None:
            return self
        return dataclasses.replace(self, fan_in=inputs)

    def resolve(self, shape: Shape) -> Self:
        """The same prior with `fan_in` applied, scale / √fan_in; an unknown scale is adjusted later.

        >>> from bayesreg.priors import Normal
        >>> Normal(1.0, fan_in=True).resolve((50, 16))
        Normal(scale=0.25)
        """
        if self.hyperprior is not None:
            shared_shape(shape, self.sharing)
        factor = self.factor(shape)
        if not self.fan_in or self.hyperprior is not None:
            return self
        return dataclasses.replace(self, scale=self.given_scale * factor, fan_in=False)  # pyright: ignore[reportCallIssue]

    def at(self, shape: Shape) -> Self:
        """The result of `resolve`, whose scale must be a number.

        Raises:
            ValueError: If the scale depends on data or on another unknown.
        """
        if self.hyperprior is not None or self.relative_to_noise:
            raise ValueError(
                f"the scale must be a number here, but that of {self} is decided by another unknown; evaluate it inside a "
                "model (model.log_joint), or give the scale: prior.given(0.5)."
            )
        if self.autoscale:
            raise ValueError(
                f"the scale must be a number here, but that of {self} waits for sd(y)/sd(x); let the model meet its data "
                "first: model = model.bind(X, y)."
            )
        return self.resolve(shape)

    def given(self, scale: Any) -> Self:
        """The same prior with a given scale.

        Args:
            scale: A number, or a tensor that broadcasts against the tensor that the prior is on.

        Returns:
            A prior that has a log-density.

        >>> from bayesreg.priors import HalfCauchy, Normal
        >>> Normal(HalfCauchy(1.0), per="column").given(0.5)
        Normal(scale=0.5, per='column')
        """
        return replaced(self, scale=scale, fan_in=False, autoscale=False, relative_to_noise=False)

    def scale_text(self, shape: Shape, name: str) -> str:
        """The scale as the prior table shows it: "0.25", "w.scale / √10", "2.5 · sd(y)/sd(x)", "0.5 · noise_scale"."""
        if self.hyperprior is not None:
            parts = f"{name}.scale" + (f" / √{self._inputs(shape):g}" if self.fan_in else "")
        else:
            parts = shown(self.given_scale)
        return parts + (" · sd(y)/sd(x)" if self.autoscale else "") + (" · noise_scale" if self.relative_to_noise else "")


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class AbstractScaledElementwisePrior(AbstractScaledPrior, AbstractElementwisePrior):
    """An elementwise prior with a scale.

    Attributes:
        per: The part that shares an unknown scale: one for the "tensor", each "row" (output), each "column" (input; this is
            automatic relevance determination), or each "element".
    """

    per: str = "tensor"

    def __post_init__(self) -> None:
        _check.one_of("per", self.per, PER)
        super().__post_init__()

    @property
    def sharing(self) -> str:
        """The field `per`."""
        return self.per

    @property
    def origin(self) -> Any:
        """The mode."""
        return self.mode

    @classmethod
    def from_interval(cls, lower: float, upper: float, mass: float = 0.9) -> Self:
        """The prior that holds `mass` of each entry in [lower, upper]: its location and scale are solved for.

        On the real line the tails are equal. A positive quantity has one number to solve for: then lower must be 0.

        Args:
            lower: Lower end, in the units of the tensor.
            upper: Upper end.
            mass: Probability between them.

        Returns:
            The prior.

        Raises:
            ValueError: If upper is not above lower, mass not between 0 and 1, or the interval does not fit the prior.

        >>> from bayesreg.priors import Normal
        >>> Normal.from_interval(-1.96, 1.96, mass=0.95)
        Normal(scale=1.00001...)
        """
        return cls().through(lower, upper, mass)

    def through(self, lower: float, upper: float, mass: float) -> Self:
        """This prior with location and scale such that the interval holds the mass.

        Raises:
            ValueError: If the interval does not fit.
        """
        low, high = interval(lower, upper)
        positive = self.support is constraints.positive
        moves = any(field.name == "loc" for field in dataclasses.fields(self))
        if (positive and low != 0) or (not positive and not moves and low != -high):
            want = "start at 0" if positive else "be symmetric about 0"
            raise ValueError(
                f"the interval of {type(self).__name__} must {want}, since only its scale is solved for, but [{lower}, "
                f"{upper}] came; take a prior with two parameters, for example LogNormal (positive) or Normal."
            )
        unit = replaced(self, scale=1.0)
        level = mass_of(mass) if positive else 0.5 * (1 + mass_of(mass))

        (reach,) = numeric.quantiles(lambda w: unit.log_constant - unit.energy(w), unit.support, 0.0, [level])
        solved = {"scale": (high if positive else 0.5 * (high - low)) / reach}
        return dataclasses.replace(self, **solved, **({"loc": 0.5 * (low + high)} if moves else {}))


def positive_interval(lower: Any, upper: Any, name: str) -> tuple[float, float]:
    """Two finite numbers above zero, the second above the first; `name` is the prior's, for errors.

    Raises:
        ValueError: If they are not.
    """
    low, high = interval(lower, upper)
    if low <= 0:
        raise ValueError(f"the interval of {name} must lie above 0, but [{lower}, {upper}] came; raise the lower end.")
    return low, high


def interval(lower: Any, upper: Any) -> tuple[float, float]:
    """Two finite numbers, the second above the first.

    Raises:
        ValueError: If they are not.
    """
    low, high = _check.finite("lower", lower), _check.finite("upper", upper)
    if not low < high:
        raise ValueError(f"upper must be above lower, but [{lower!r}, {upper!r}] came; swap them.")
    return low, high
