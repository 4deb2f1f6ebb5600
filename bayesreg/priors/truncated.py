"""Any prior truncated to positive values: the same penalty with a sign constraint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch.distributions import constraints

from bayesreg.priors.base import AbstractElementwisePrior, Shape
from bayesreg.priors.densities import Normal


@dataclass(frozen=True, repr=False)
class Positive(AbstractElementwisePrior):
    """Another prior truncated to positive values: log p(w) = log p₀(w) − log P₀(w > 0), w > 0.

    As a regulariser: the same penalty with a sign constraint; `Positive(Flat())` is non-negative least squares.

    Args:
        base: An elementwise prior on the real line, whose scale is a number.

    Raises:
        ValueError: If it is no such prior, or has less than a thousandth of its mass above zero.

    References:
        Lawson and Hanson (1974), Solving Least Squares Problems (non-negative least squares).

    >>> from bayesreg.priors import HalfNormal, Normal
    >>> w = torch.tensor([0.3, 2.0], dtype=torch.float64)
    >>> bool(torch.isclose(Positive(Normal(0.5)).log_prob(w), HalfNormal(0.5).log_prob(w)))
    True
    """

    base: Any = None

    support: ClassVar[Any] = constraints.positive

    def __post_init__(self) -> None:
        if self.base is None:
            object.__setattr__(self, "base", Normal(1.0))
        super().__post_init__()

    def check(self) -> None:
        """Refuse a base that is no elementwise prior on the real line, or lies below zero.

        Raises:
            ValueError: If so.
        """
        base = self.base
        if not isinstance(base, AbstractElementwisePrior) or base.support is not constraints.real or not base.bounded:
            raise ValueError(
                f"Positive must wrap a bounded elementwise prior on the real line, but {base!r} came; write for example "
                "Positive(Normal(1.0)), and HalfCauchy, Gamma or LogNormal as they are."
            )
        base.at(())  # the scale is a number
        if base.proper and self._mass < 1e-3:
            raise ValueError(f"Positive must keep a part of the prior, but {base} lies below zero; raise its loc.")

    @property
    def proper(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the prior inside."""
        return self.base.proper

    @property
    def smooth(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """True where the prior inside is smooth above zero: a kink at zero is cut off."""
        return self.base.smooth or self.base.mode <= 0

    @property
    def regulariser(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the prior inside, with a sign constraint."""
        return f"{self.base.regulariser}, w > 0"

    @property
    def mode(self) -> Any:
        """The prior's own mode, or zero."""
        return max(0.0, self.base.mode)

    @cached_property
    def _below(self) -> float:
        """The energy of the prior inside at this prior's mode."""
        return float(self.base.energy(torch.tensor(self.mode, dtype=torch.float64)))

    @cached_property
    def _mass(self) -> float:
        """P₀(w > 0)."""
        if self.base.mode == 0:
            return 0.5
        from scipy.integrate import quad

        def density(w: float) -> float:
            return math.exp(self.base.log_constant - float(self.base.energy(torch.tensor(w, dtype=torch.float64))))

        return quad(density, 0, self.mode, epsabs=1e-14, limit=400)[0] + quad(density, self.mode, math.inf, epsabs=1e-14)[0]

    def energy(self, value: torch.Tensor) -> torch.Tensor:
        """The prior's energy above that at the mode for each entry, ∞ below zero."""
        return torch.where(value >= 0, self.base.energy(value) - self._below, math.inf)

    @property
    def log_constant(self) -> Any:
        """The prior's, minus the energy at the mode and log P₀(w > 0)."""
        constant = self.base.log_constant - self._below
        return constant - math.log(self._mass) if self.proper else constant

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """Draws of the prior inside, kept when they are positive."""
        size = math.prod((num_samples, *shape))
        kept = torch.empty(0, **options)
        while len(kept) < size:
            more = self.base.draw((), int(1.1 * (size - len(kept)) / self._mass) + 16, options)
            kept = torch.cat([kept, more[more > 0]])
        return kept[:size].reshape(num_samples, *shape)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"{self.base.penalty_text}, w ≥ 0"
