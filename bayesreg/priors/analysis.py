"""L1 penalties of a linear map, Σ s |D (w − m)|, and least squares with them, by a primal–dual method with a duality gap.

    min_x ½‖A x − t‖² + Σ s |D x|    =    max_{y, p} −½‖y‖² − yᵀt   over  Aᵀy + Dᵀp = 0,  |p| ≤ s

D is the identity (lasso) or all differences of neighbours (total variation). In both cases DᵀD is a diagonal in cosines, and so
nearly is AᵀA for a filter: steps are taken in that metric.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch

from bayesreg.priors.spectrum import Map, units_at_zero

_RHO = (10, 30, 60, 100, 200, 400, 800)  # steps after which the step's ratio is set anew
_EVERY = 20
_EXACT = 1e-6  # part of a small enough gap at which the pieces are the right ones
_INNER, _INEXACT = 10, 1e-2  # steps at most of an inner solution, and what may be left of its squared residual
_FEW, _PIECES = 200, 3000  # pieces whose values are solved for on the way, and at the end


@dataclasses.dataclass(frozen=True, eq=False)
class Analysis:
    """The penalty Σ s |D (w − m)|.

    Attributes:
        loc: m.
        strength: s, a number or one for each row of D.
        times: D w, (*shape) to (q,).
        adjoint: Dᵀ p, (q,) to (*shape).
        levels: Eigenvalues of DᵀD in cosines, (*shape).
        pieces: From which rows of D are zero, (q,) bool, to the pieces on which w is then of one value, (n,) numbers from 0; −1
            where it is zero.
    """

    loc: Any
    strength: Any
    times: Map
    adjoint: Map
    levels: torch.Tensor
    pieces: Map


class Found(NamedTuple):
    """A solution, its dual point and what is left to gain.

    Attributes:
        x: (*shape).
        p: Of each row of D, (q,).
        gap: Primal minus dual value.
        steps: Steps that were taken.
    """

    x: torch.Tensor
    p: torch.Tensor
    gap: float
    steps: int


def cosines(x: torch.Tensor, *, back: bool = False, axes: tuple[int, ...] | None = None) -> torch.Tensor:
    """The orthonormal discrete cosine transform over these axes, all when None, or its inverse."""
    from scipy import fft

    return torch.from_numpy((fft.idctn if back else fft.dctn)(x.numpy(), axes=axes, norm="ortho"))


def identity(prior: Any, shape: torch.Size) -> Analysis:
    """Σ s |w − m|, the lasso's, of an elementwise prior whose energy is an absolute value."""
    strength = prior.energy(torch.full(shape, prior.mode + 1.0, dtype=torch.float64)).reshape(-1)

    def pieces(zero: torch.Tensor) -> torch.Tensor:
        return torch.where(zero, -1, (~zero).long().cumsum(0) - 1)

    ones = torch.ones(shape, dtype=torch.float64)
    return Analysis(prior.mode, strength, lambda w: w.reshape(-1), lambda p: p.reshape(shape), ones, pieces)


def diagonal_in_cosines(product: Map, shape: torch.Size, num_probes: int = 8) -> torch.Tensor:
    """The diagonal of a positive semidefinite operator in cosines, from random signs: exact where it is a filter.

    Args:
        product: (*shape) to (*shape).
        shape: Of a field.
        num_probes: How many fields of signs.

    Returns:
        (*shape), none below zero.

    References:
        Bekas, Kokiopoulou and Saad (2007), An estimator for the diagonal of a matrix.
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(shape, dtype=torch.float64)
    for _ in range(num_probes):
        signs = torch.randint(0, 2, shape, generator=generator).double() * 2 - 1
        total += signs * cosines(product(cosines(signs, back=True)))
    return (total / num_probes).clamp_min(0)


@dataclasses.dataclass(frozen=True, eq=False)
class LeastSquares:
    """min_x ½‖A x − t‖² + Σ s |D x|.

    Attributes:
        forward: A x, (*shape) to (m,).
        adjoint: Aᵀ y.
        target: t, (m,).
        penalty: s and D; its `loc` is of no account.
        bends: About the diagonal of AᵀA in cosines, (*shape), > 0.
    """

    forward: Map
    adjoint: Map
    target: torch.Tensor
    penalty: Analysis
    bends: torch.Tensor

    def value(self, x: torch.Tensor) -> float:
        """The objective."""
        fit = 0.5 * float((self.forward(x) - self.target).square().sum())
        return fit + float((self.penalty.times(x).abs() * self.penalty.strength).sum())

    def dual(self, x: torch.Tensor, p: torch.Tensor) -> float:
        """A lower bound of every value: the dual's value at a feasible point that is made of x and p."""
        levels, D = self.penalty.levels, self.penalty
        y = self.forward(x) - self.target
        if bool((levels == 0).any()):  # nothing pulls on what D does not see
            unseen = cosines(torch.where(levels == 0, cosines(self.adjoint(y)), 0.0), back=True)
            if float(unseen.abs().max()) > 0:
                free = self.unseen
                y = y - free @ torch.linalg.lstsq(free, y[:, None]).solution[:, 0]
        missing = -self.adjoint(y) - D.adjoint(p)
        inverse = torch.where(levels > 0, 1 / levels.clamp_min(1e-300), 0.0)
        p = p + D.times(cosines(cosines(missing) * inverse, back=True))
        most = float((p.abs() / D.strength).max())
        along, size = -float(y @ self.target), float(y @ y)
        t = min(max(along / size if size > 0 else 0.0, 0.0), 1 / most if most > 0 else math.inf)
        return t * along - 0.5 * t**2 * size

    @cached_property
    def unseen(self) -> torch.Tensor:
        """A times what D does not see, (m, k)."""
        units = units_at_zero(self.penalty.levels)
        return torch.stack([self.forward(cosines(unit, back=True)) for unit in units], 1)


def primal_dual(
    problem: LeastSquares,
    enough: float,
    *,
    num_steps: int = 5000,
    start: tuple[torch.Tensor, torch.Tensor] | None = None,
    told: Callable[[int, float], None] | None = None,
    beyond: int = 1,
) -> Found:
    """Solve it, until the duality gap is small enough.

    x ← x − M⁻¹(Aᵀ(A x − t) + Dᵀp),  p ← clip(p + ρ D(2x⁺ − x)),  M = AᵀA + ρ DᵀD, by a few conjugate gradients in cosines

    ρ is set to ‖p‖/‖D x‖ a few times, which is the ratio at which the bound of the error is least. Every so often the pieces on
    which x is constant are read off the dual, and their values solved for, so that the answer is exact once these are right.

    Args:
        problem: The problem.
        enough: The gap.
        num_steps: Steps at most.
        start: x and p to begin with.
        told: Called now and then with the step and the gap.
        beyond: How many times the steps of a small enough gap it may take to find the pieces themselves, and so all digits.

    Returns:
        The best point.

    References:
        Chambolle and Pock (2011), A first-order primal-dual algorithm for convex problems with applications to imaging;
        (2016), On the ergodic convergence rates of a first-order primal-dual algorithm.
    """
    D, shape = problem.penalty, problem.bends.shape
    x = torch.zeros(shape, dtype=torch.float64) if start is None else start[0]
    p = torch.zeros_like(D.times(x)) if start is None else start[1]
    bound = torch.as_tensor(D.strength, dtype=torch.float64)
    if start is None:  # least squares with a little of everything
        x = cosines(cosines(problem.adjoint(problem.target)) / (problem.bends + problem.bends.mean() * 1e-2), back=True)
    rho = _ratio(bound.expand(p.shape), D.times(x))
    best, value, below, last = (x, p), math.inf, -math.inf, num_steps
    for step in range(1, num_steps + 1):
        metric = problem.bends + rho * D.levels
        metric = metric.clamp_min(1e-12 * float(metric.max()))
        slope = problem.adjoint(problem.forward(x) - problem.target) + D.adjoint(p)
        moved = x - _solved(problem, slope, rho, metric)
        p = torch.clamp(p + rho * D.times(2 * moved - x), -bound, bound)
        x = moved
        if step in _RHO and start is None:
            rho = _ratio(p, D.times(x))
        if step % _EVERY == 0 or step == num_steps:
            below = max(below, problem.dual(x, p))
            tried = polished(problem, x, p, _FEW) if step % (5 * _EVERY) == 0 else x
            if tried is not x:
                below = max(below, problem.dual(tried, p))
            if (here := problem.value(tried)) < value:
                best, value = (tried, p), here
            if told is not None:
                told(step, value - below)
            if value - below <= enough:
                last = min(last, beyond * step)
                if step >= last or value - below <= _EXACT * enough:
                    break
    exact = polished(problem, *best)
    below = max(below, problem.dual(exact, best[1]), problem.dual(exact, p))
    return Found(exact, p, max(0.0, problem.value(exact) - below), step)


def _solved(problem: LeastSquares, right: torch.Tensor, rho: float, metric: torch.Tensor) -> torch.Tensor:
    """(AᵀA + ρ DᵀD)⁻¹ r, nearly, by conjugate gradients in the metric: one step where A is a filter."""
    D = problem.penalty
    rest, x = right, torch.zeros_like(right)
    way = direction = cosines(cosines(rest) / metric, back=True)
    first = slope = float((rest * way).sum())
    for _ in range(_INNER):
        if not slope > _INEXACT * first:
            break
        product = problem.adjoint(problem.forward(direction)) + rho * D.adjoint(D.times(direction))
        length = slope / float((direction * product).sum())
        x, rest = x + length * direction, rest - length * product
        way = cosines(cosines(rest) / metric, back=True)
        before, slope = slope, float((rest * way).sum())
        direction = way + slope / before * direction
    return x


def _ratio(p: torch.Tensor, differences: torch.Tensor) -> float:
    size = float(differences.norm())
    return float(p.norm()) / size if size > 0 else 1.0


def polished(problem: LeastSquares, x: torch.Tensor, p: torch.Tensor, most: int = _PIECES) -> torch.Tensor:
    """The best point on the pieces that x, or its dual, shows: constant on each, with the jumps' signs kept; or x itself."""
    D, steps = problem.penalty, problem.penalty.times(x)
    small = steps.abs() <= 1e-3 * float(steps.abs().max())
    tried = [
        _on_pieces(problem, zero, steps.sign(), most) for zero in (p.abs() < (1 - 1e-6) * torch.as_tensor(D.strength), small)
    ]
    return min([x, *(made.reshape(x.shape) for made in tried if made is not None)], key=problem.value)


def _on_pieces(problem: LeastSquares, zero: torch.Tensor, signs: torch.Tensor, most: int) -> torch.Tensor | None:
    """The least squares in one value a piece, with D x zero here and of these signs elsewhere; None for too many pieces."""
    D = problem.penalty
    pieces = D.pieces(zero).reshape(-1)
    count, seen = int(pieces.max()) + 1, pieces >= 0
    if count == 0:
        return problem.bends.new_zeros(problem.bends.numel())
    if count > most or count * problem.target.numel() > 2 * 10**7:
        return None

    def spread(z: torch.Tensor) -> torch.Tensor:
        return torch.where(seen, z[pieces.clamp_min(0)], 0.0).reshape(problem.bends.shape)

    columns = torch.stack([problem.forward(spread(unit)) for unit in torch.eye(count, dtype=torch.float64)], 1)
    pulled = D.adjoint(torch.where(zero, 0.0, signs * D.strength)).reshape(-1)
    linear = columns.mT @ problem.target - pulled.new_zeros(count).index_add_(0, pieces[seen], pulled[seen])
    factor, info = torch.linalg.cholesky_ex(columns.mT @ columns)
    return None if int(info) else spread(torch.cholesky_solve(linear[:, None], factor)[:, 0])
