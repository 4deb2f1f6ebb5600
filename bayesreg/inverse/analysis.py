"""What a linear operator lets data say: whether A x = b has a solution, only one, and how much of it survives noise.

A = Σ sᵢ uᵢ vᵢᵀ,      x⁺ = Σ (uᵢᵀb/sᵢ) vᵢ over sᵢ > 0,      Picard: |uᵢᵀb| must fall faster than sᵢ
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from bayesreg import _check
from bayesreg._text import AbstractTextTable, counted, number, percent
from bayesreg.inverse.setting import MOST, linear, measured
from bayesreg.inverse.spectrum import Spectrum
from bayesreg.operators import AbstractLinearOperator
from bayesreg.priors import AbstractPrior

_EPS = torch.finfo(torch.float64).eps
_LEADING = 100  # singular values of an operator that is too large to be taken apart
_SHOWN = 12
_MEANT = "Hadamard (1902) calls a problem well-posed where a solution exists, is unique, and is stable"


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Analysis(AbstractTextTable):
    """Singular values of an operator and what they mean for b.

    Attributes:
        operator: A.
        singular_values: sᵢ > 0, (R,) decreasing: R is the numerical rank where all are known.
        left: uᵢ, (M, R).
        right: vᵢ, (N, R).
        complete: Whether these are all; else the largest, by a Krylov method, and what needs the others is refused.
        b: Measurements, (M,), or None.
        noise_scale: The noise's sd, or None.
    """

    operator: AbstractLinearOperator
    singular_values: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    complete: bool
    b: torch.Tensor | None
    noise_scale: float | None

    # what A alone says

    @property
    def rank(self) -> int:
        """R, the number of singular values above rounding.

        Raises:
            ValueError: If only the largest are known.
        """
        self._needs_all("the rank")
        return len(self.singular_values)

    @property
    def condition(self) -> float:
        """s₁/s_R of those that are known and not zero: how much relative noise can grow."""
        s = self.singular_values
        return float(s[0] / s[-1]) if len(s) else math.inf

    @cached_property
    def null_space(self) -> torch.Tensor:
        """Orthonormal basis of what A does not see, (N, N − R)."""
        self._needs_all("the null space")
        full = torch.linalg.qr(self.right, mode="complete").Q
        return full[:, self.right.shape[1] :]

    def in_null_space(self, x: Any) -> float:
        """Share of ‖x‖² that A does not see: no data tell it, only a prior.

        Args:
            x: An answer, in the unknown's shape.
        """
        flat = self._unknown(x)
        seen = self.right.mT @ flat
        self._needs_all("the null space")
        return float(1 - seen.square().sum() / flat.square().sum()) if float(flat.norm()) else 0.0

    def filter_factors(self, lam: float) -> torch.Tensor:
        """sᵢ²/(sᵢ² + λ) of min ‖A x − b‖² + λ ‖x‖², (R,)."""
        squares = self.singular_values**2
        return squares / (squares + _check.positive("lam", lam))

    def degrees_of_freedom(self, lam: float) -> float:
        """Σ of the filter factors: how many unknowns the data decide."""
        return float(self.filter_factors(lam).sum())

    def under(self, prior: AbstractPrior) -> Spectrum:
        """The same under another quadratic penalty: `filters(σ²)` are the filter factors of this prior with noise of sd σ.

        Args:
            prior: A Gaussian prior of x, with its scale.

        Raises:
            ValueError: If the prior is not Gaussian, only the largest singular values are known, or the posterior is improper.
        """
        self._needs_all("another penalty")
        root = prior.resolve(self.operator.shape).gaussian_root(torch.Size(self.operator.shape))
        if root is None:
            raise ValueError(f"filter factors need a quadratic penalty, but {prior} came; take Normal(1.0) or Smooth(order=2).")
        return Spectrum.of(self.operator.matrix(), root.double())

    def resolution(self, lam: float = 0.0) -> torch.Tensor:
        """R of E[x_λ] = R x, (N, N): column j is the answer to a spike at j; the projection on the measured part at λ = 0.

        Args:
            lam: The penalty weight λ ≥ 0 of min ‖A x − b‖² + λ ‖x‖².
        """
        self._needs_all("the resolution matrix")
        factors = self.filter_factors(lam) if lam else torch.ones_like(self.singular_values)
        return (self.right * factors) @ self.right.mT

    # what b says

    @cached_property
    def coefficients(self) -> torch.Tensor:
        """uᵢᵀb, (R,)."""
        return self.left.mT @ self._data()

    @cached_property
    def off_range(self) -> float:
        """‖b − A A⁺ b‖: the part of b that no x explains."""
        self._needs_all("the part off the range")
        return float((self._data() - self.left @ self.coefficients).norm())

    @cached_property
    def minimum_norm(self) -> torch.Tensor:
        """A⁺ b, the least-squares solution of least norm, in the unknown's shape."""
        self._needs_all("the minimum-norm solution")
        return (self.right @ (self.coefficients / self.singular_values)).reshape(self.operator.shape)

    @property
    def above_noise(self) -> int | None:
        """How many leading coefficients uᵢᵀb stand above noise: the first that three in a row, itself first, are within 2σ."""
        if self.b is None or self.noise_scale is None:
            return None
        within = self.coefficients.abs() < 2 * self.noise_scale
        runs = within.unfold(0, min(3, len(within)), 1).all(1).nonzero()
        return int(runs[0, 0]) if len(runs) else len(within)

    @property
    def exists(self) -> bool | None:
        """Whether A x = b has a solution, up to rounding; None without b."""
        if self.b is None or not self.complete:
            return None
        return self.off_range <= 1e3 * _EPS * max(self.operator.size, self.operator.num_data) * float(self.b.norm())

    @property
    def unique(self) -> bool | None:
        """Whether there is one least-squares solution: A has no null space."""
        return len(self.singular_values) == self.operator.size if self.complete else None

    @property
    def relative_noise(self) -> float:
        """σ√M/‖b‖ where σ and b are known, else a rounding error of double precision."""
        if self.b is None or self.noise_scale is None or not float(self.b.norm()):
            return _EPS
        return self.noise_scale * math.sqrt(len(self.b)) / float(self.b.norm())

    @property
    def stable(self) -> bool:
        """Whether this noise (rounding where it is unknown) can change the least-squares answer by less than a tenth of it."""
        limit = 1e-10 if self.noise_scale is None else self.relative_noise  # a problem that costs ten digits is not stable
        return self.condition * limit < (1.0 if self.noise_scale is None else 0.1)

    @property
    def verdict(self) -> tuple[str, ...]:
        """Existence, uniqueness and stability, a sentence or two each."""
        return tuple(text for text in (self._existence(), self._uniqueness(), self._stability(), self._picard()) if text)

    def _existence(self) -> str:
        if self.exists is None:
            return ""
        if self.exists:
            return "A solution exists: b is in the range of A."
        size = number(self.off_range, 3)
        said = f"No exact solution exists: a part of b of norm {size} is off the range of A; least squares leaves it."
        lost = self.operator.num_data - self.rank
        if self.noise_scale is not None:
            expected = self.noise_scale * math.sqrt(lost)
            spread = self.noise_scale / math.sqrt(2)
            more = self.off_range > expected + 4 * spread
            what = "more than" if more else "what"
            said += f" That is {what} noise of sd {number(self.noise_scale, 3)} leaves there (about {number(expected, 3)})"
            said += ": σ is larger, or A is not what made b." if more else "."
        return said

    def _uniqueness(self) -> str:
        name = "solution" if self.exists is None or self.exists else "least-squares solution"
        if self.unique is None:
            return ""
        if self.unique:
            return f"The {name} is unique: A has no null space."
        lost = self.operator.size - self.rank
        return (
            f"The {name} is not unique: {counted(lost, 'direction')} of x {'does' if lost == 1 else 'do'} not change A x; "
            "only a prior says anything there, and the posterior sd along them is the prior's."
        )

    def _stability(self) -> str:
        digits = math.log10(self.condition)
        known = "" if self.complete else f" of the {len(self.singular_values)} largest singular values alone"
        lost = "no digits" if digits < 0.05 else f"up to {number(digits, 2)} digits"
        said = f"condition number {number(self.condition, 3)}{known}: {lost} of b are lost in x"
        if self.noise_scale is not None and self.b is not None:
            grown = number(self.condition * self.relative_noise, 3)
            said += f"; noise of {percent(self.relative_noise)} of b can become {grown} times x"
        if self.stable and self.complete:
            return f"It is stable: {said}."
        return (
            f"It is not stable: {said}. A penalty, which is a prior, is needed." if not self.stable else f"Stability: {said}."
        )

    def _picard(self) -> str:
        count = self.above_noise
        if count is None:
            return ""
        if not self.complete and count == len(self.singular_values):
            return f"All {count} known coefficients of b stand above the noise: the data decide at least as many unknowns."
        return (
            f"{count} of {len(self.singular_values)} coefficients of b stand above the noise; the data decide about as many "
            "unknowns, a prior the rest."
        )

    def _needs_all(self, what: str) -> None:
        if not self.complete:
            raise ValueError(
                f"{what} needs all singular values, but the operator is too large ({self.operator.num_data:,} × "
                f"{self.operator.size:,}) and the {len(self.singular_values)} largest are known; take a coarser grid."
            )

    def _data(self) -> torch.Tensor:
        if self.b is None:
            raise ValueError("b must be known for this, but none came; call analyse(operator, b).")
        return self.b

    def _unknown(self, x: Any) -> torch.Tensor:
        flat = _check.all_finite("x", torch.tensor(x).double()).reshape(-1)
        if len(flat) != self.operator.size:
            raise ValueError(f"x must have {self.operator.size} entries, but {len(flat)} came; pass it in the unknown's shape.")
        return flat

    @property
    def caption(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The size, and what is known."""
        shown = f"A is {self.operator.num_data:,} × {self.operator.size:,}"
        if not self.complete:
            return f"{shown}; its {len(self.singular_values)} largest singular values, by a Krylov method"
        return f"{shown}, of rank {self.rank:,} to double precision. {_MEANT}."

    @property
    def heads(self) -> Sequence[str]:
        """Heads of the columns."""
        return ["i", "sᵢ"] if self.b is None else ["i", "sᵢ", "|uᵢᵀb|", "|uᵢᵀb|/sᵢ"]

    @property
    def cells(self) -> Sequence[Sequence[str]]:
        """The leading singular values, and every so-many-th of the others."""
        count = len(self.singular_values)
        at = range(count) if count <= _SHOWN else sorted({round(k) for k in torch.linspace(0, count - 1, _SHOWN).tolist()})
        rows = []
        for i in at:
            s = float(self.singular_values[i])
            c = [] if self.b is None else [abs(float(self.coefficients[i]))]
            rows.append([str(i + 1), *(number(v, 3) for v in (s, *c, *(v / s for v in c)))])
        return rows

    @property
    def notes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The verdict."""
        return self.verdict

    def __repr__(self) -> str:
        return f"Analysis({self.operator.num_data} × {self.operator.size}, condition number {self.condition:.3g})"


def analyse(operator: Any, b: Any = None, noise_scale: float | None = None) -> Analysis:
    """Say what data of this operator can tell of x: existence, uniqueness and stability, in numbers and in words.

    Args:
        operator: A linear operator, or its matrix (M, N); a model of one serves too.
        b: Measurements, of the operator's `output_shape`; None to look at A alone.
        noise_scale: Standard deviation of their noise, > 0, where it is known.

    Returns:
        The analysis; of operators with more than 2,500 unknowns or measurements, of the 100 largest singular values.

    Raises:
        ValueError: If the operator is not linear or is zero, or numbers are complex, not finite or of the wrong shape.

    References:
        Hadamard (1902), Sur les problèmes aux dérivées partielles et leur signification physique. Hansen (1990), The discrete
        Picard condition for discrete ill-posed problems.

    >>> over, under = analyse([[1.0], [1.0]], [1.0, 2.0]), analyse([[1.0, 1.0]], [2.0])
    >>> over.exists, over.unique, round(float(over.minimum_norm), 6)
    (False, True, 1.5)
    >>> under.exists, under.unique, under.minimum_norm.numpy().round(6).tolist(), round(under.in_null_space([3.0, -1.0]), 6)
    (True, False, [1.0, 1.0], 0.8)
    """
    operator = linear(operator, "an analysis")
    sigma = None if noise_scale is None else _check.positive("noise_scale", noise_scale)
    data = None if b is None else measured(operator, b)
    complete = max(operator.size, operator.num_data) <= MOST
    if complete:
        U, s, V = torch.linalg.svd(_check.all_finite("A", operator.matrix()), full_matrices=False)
        kept = s > max(operator.size, operator.num_data) * _EPS * s[0]
        U, s, V = U[:, kept], s[kept], V[kept].mT
    else:
        U, s, V = _largest(operator)
    if not len(s) or not float(s[0]):
        raise ValueError("A must not be zero: no measurement depends on x; look at what the operator does to a spike.")
    return Analysis(operator, s, U, V, complete, data, sigma)


def _largest(operator: AbstractLinearOperator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The largest singular values and their vectors, (M, R), (R,), (N, R), from products with A and Aᵀ alone."""
    import numpy as np
    from scipy.sparse.linalg import svds

    count = min(_LEADING, operator.size - 1, operator.num_data - 1)
    start = np.random.default_rng(0).normal(size=min(operator.size, operator.num_data))
    U, s, V = svds(operator.to_linear_operator(), k=count, v0=start)
    order = np.argsort(-s)
    return tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in (U[:, order], s[order], V[order].T))  # pyright: ignore
