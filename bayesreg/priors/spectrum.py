"""A Gaussian prior as an operator: products with its precision and its root, without a matrix of unknowns by unknowns.

Λ = V diag(levels) Vᵀ,   V orthonormal:     Λ v,   Λ⁻¹ v,   V diag(√levels) z ~ N(0, Λ),   diag Λ⁻¹
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch

Map = Callable[[torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """The precision Λ of a Gaussian prior by eigenvalues and eigenvectors. Values have S draws as their first axis.

    Attributes:
        loc: The prior's mean, a number or (*shape).
        levels: Eigenvalues, (*shape) float64; exactly zero on what the prior leaves free.
        into: (S, *shape) to coordinates along the eigenvectors, (S, *shape).
        back: The inverse, which is the adjoint.
        times: Λ v, (S, *shape).
        cosines: About the diagonal of Λ in the basis of the discrete cosine transform, (*shape); it need not be exact.
        spread: The diagonal of V diag(f) Vᵀ for any f (*shape), in the same shape.

    >>> prior = diagonal(0.0, torch.tensor([4.0, 1.0]))
    >>> prior.times(torch.ones(1, 2)).tolist(), prior.inverse(torch.ones(1, 2)).tolist(), prior.variance.tolist()
    ([[4.0, 1.0]], [[0.25, 1.0]], [0.25, 1.0])
    """

    loc: Any
    levels: torch.Tensor
    into: Map
    back: Map
    times: Map
    cosines: torch.Tensor
    spread: Map

    @property
    def shape(self) -> torch.Size:
        """Of the unknown."""
        return self.levels.shape

    @property
    def num_free(self) -> int:
        """Dimensions that the prior leaves free."""
        return int((self.levels == 0).sum())

    @property
    def free(self) -> torch.Tensor:
        """An orthonormal basis of what the prior leaves free, (k, *shape)."""
        return self.back(units_at_zero(self.levels))

    @property
    def _inverses(self) -> torch.Tensor:
        return torch.where(self.levels > 0, 1 / self.levels.clamp_min(1e-300), 0.0)

    def inverse(self, values: torch.Tensor) -> torch.Tensor:
        """Λ⁻¹ v, by the pseudoinverse where something is free, (S, *shape)."""
        return self.back(self.into(values) * self._inverses)

    def root(self, noise: torch.Tensor) -> torch.Tensor:
        """L z with L Lᵀ = Λ, for standard normal z, (S, *shape)."""
        return self.back(noise * self.levels.sqrt())

    def inverse_root(self, noise: torch.Tensor) -> torch.Tensor:
        """C z with C Cᵀ = Λ⁻¹, (S, *shape): draws from a proper prior about zero."""
        return self.back(noise * self._inverses.sqrt())

    def inverse_root_adjoint(self, values: torch.Tensor) -> torch.Tensor:
        """Cᵀ v, (S, *shape)."""
        return self.into(values) * self._inverses.sqrt()

    @property
    def variance(self) -> torch.Tensor:
        """The prior's variance of each entry, (*shape); infinite where it is improper."""
        return self.spread(self._inverses) if self.num_free == 0 else torch.full_like(self.levels, math.inf)

    @property
    def half_log_det(self) -> float:
        """½ log|Λ|, over the eigenvalues that are not zero."""
        return 0.5 * float(self.levels[self.levels > 0].log().sum())


def units_at_zero(levels: torch.Tensor) -> torch.Tensor:
    """A unit field for each level, (*shape), that is exactly zero, (k, *shape).

    >>> units_at_zero(torch.tensor([[0.0, 2.0], [3.0, 0.0]])).tolist()
    [[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]
    """
    at = torch.nonzero(levels.reshape(-1) == 0)[:, 0]
    units = levels.new_zeros(len(at), levels.numel())
    units[torch.arange(len(at)), at] = 1.0
    return units.reshape(-1, *levels.shape)


def diagonal(loc: Any, precision: torch.Tensor) -> Spectrum:
    """Independent entries.

    Args:
        loc: Mean.
        precision: Of each entry, (*shape).
    """
    precision = precision.double()
    same = lambda values: values  # noqa: E731
    mean = precision.mean().expand(precision.shape)
    return Spectrum(loc, precision, same, same, lambda values: precision * values, mean, same)


def dense(loc: Any, precision: torch.Tensor, shape: torch.Size) -> Spectrum:
    """Any precision matrix.

    Args:
        loc: Mean.
        precision: Over the tensor laid flat, (n, n).
        shape: The tensor's.
    """
    values, vectors = torch.linalg.eigh(precision.double())
    top = float(values[-1])
    values = torch.where(values > 1e-14 * max(top, 0.0), values, 0.0)

    def through(matrix: torch.Tensor) -> Map:
        return lambda v: (v.reshape(-1, len(matrix)) @ matrix).reshape(-1, *shape)

    mean = values.mean().expand(shape)
    spread = lambda f: (vectors.square() @ f.reshape(-1)).reshape(shape)  # noqa: E731
    return Spectrum(
        loc, values.reshape(shape), through(vectors), through(vectors.mT), through(precision.double()), mean, spread
    )


def of_matrix(found: tuple[float, torch.Tensor] | None, shape: torch.Size) -> Spectrum | None:
    """From mean and precision as `AbstractPrior.gaussian` gives them; None where it gives none."""
    if found is None:
        return None
    loc, precision = found
    return diagonal(loc, precision.reshape(shape)) if precision.dim() == 1 else dense(loc, precision, shape)
