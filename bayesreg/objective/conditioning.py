"""What double precision can say of a Gaussian: its precision matrix as a triangular root, and how far that root can be trusted.

    A = BᵀB = (R S)ᵀ(R S),   B a stack of rows (or A itself),  S the lengths of B's columns,  R upper triangular
    A⁻¹ = (S⁻¹R⁻¹)(S⁻¹R⁻¹)ᵀ,   ½ log|A| = Σ log|rᵢᵢ sᵢ|,   κ = ‖R‖ ‖R⁻¹‖

Units drop out of κ. A root made from rows (QR) costs κ · 2⁻⁵² of each number, one made from A (Cholesky) the square of that:
in A the small singular values of B are lost before anybody looks.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property

import torch

from bayesreg.objective.flat import FlatLayout

EPS = torch.finfo(torch.float64).eps
WORST = 0.1  # a relative error from which on a number says nothing
TRUSTED = 1e-4  # up to which it is certified


@dataclasses.dataclass(frozen=True)
class Root:
    """A triangular root of a precision matrix, in columns of length one.

    Attributes:
        factor: R, (P, P) upper triangular, float64.
        lengths: S, (P,).
        power: 1 where R came from rows, 2 where from the matrix itself.
    """

    factor: torch.Tensor
    lengths: torch.Tensor
    power: int = 1

    @cached_property
    def _inverse(self) -> torch.Tensor:
        return torch.linalg.solve_triangular(self.factor, torch.eye(len(self.factor)).to(self.factor), upper=True)

    @cached_property
    def _extremes(self) -> tuple[float, float, torch.Tensor]:
        """‖R‖, ‖R⁻¹‖ and the right singular vector of the smallest singular value."""
        if len(self.factor) <= 200:
            _, values, vectors = torch.linalg.svd(self.factor)
            return float(values[0]), 1 / float(values[-1]) if values[-1] > 0 else math.inf, vectors[-1]
        largest, _ = _top(self.factor)
        free = torch.nonzero(self.factor.diagonal().abs() < EPS)
        if not len(free):
            return largest, *_top(self._inverse.mT)
        k, direction = int(free[0]), torch.zeros_like(self.lengths)
        direction[k] = 1.0
        direction[:k] = -torch.linalg.solve_triangular(self.factor[:k, :k], self.factor[:k, k : k + 1], upper=True)[:, 0]
        return largest, math.inf, direction

    @property
    def condition(self) -> float:
        """κ, the ratio of the largest singular value to the smallest."""
        return self._extremes[0] * self._extremes[1]

    @property
    def weakest(self) -> torch.Tensor:
        """The direction that is determined worst, (P,), in units of the columns' own lengths."""
        return self._extremes[2]

    @property
    def error(self) -> float:
        """About what part of a standard deviation is rounding."""
        return EPS * self.condition**self.power

    @property
    def digits(self) -> int:
        """Decimal digits that hold."""
        return max(0, math.floor(-math.log10(self.error))) if math.isfinite(self.error) else 0

    @property
    def inverse(self) -> torch.Tensor:
        """A (P, P) matrix whose product with its transpose is the covariance."""
        return self._inverse / self.lengths[:, None]

    @property
    def half_log_det(self) -> float:
        """½ log|A|."""
        return float(self.factor.diagonal().abs().log().sum() + self.lengths.log().sum())

    def cast_error(self, loc: torch.Tensor, dtype: torch.dtype) -> float:
        """What rounding to a type costs the Gaussian N(loc, A⁻¹), in posterior sds: of the mean, and of draws about it."""
        rounded, factor = loc.to(dtype).double(), self.inverse.to(dtype).double()
        noise = torch.randn(len(loc), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(loc.device)
        moved = self._whiten((rounded - loc)[:, None]).norm()
        spread = (self._whiten(factor @ noise) - noise).norm(dim=0).max() / math.sqrt(len(loc))
        return float(torch.maximum(moved, spread))

    def _whiten(self, columns: torch.Tensor) -> torch.Tensor:
        return self.factor @ (self.lengths[:, None] * columns)


Solution = tuple[Root, torch.Tensor, float]
"""The root of BᵀB + LᵀL, the minimiser v of ½‖B v − t‖² + ½‖L v‖², (P,), and twice the minimum."""


class Rows:
    """Rows of a least-squares problem ½‖B v − t‖² + ½‖L v‖², taken in block by block and kept as a triangle.

    Args:
        root: L, (q, P) or (P,) a diagonal; zeros where the prior is flat.

    References:
        Golub and Van Loan (2013), Matrix Computations, section 5.3; Demmel et al. (2012), Communication-optimal parallel and
        sequential QR and LU factorizations.

    >>> rows = Rows(torch.ones(1, dtype=torch.float64))  # a unit prior, and 2 v = 3 once
    >>> rows.add(torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64))
    >>> root, v, rest = rows.solve()
    >>> round(float(v[0]), 9), round(root.half_log_det, 9), round(rest, 9)  # 6/5, ½ log 5, 3² − 6²/5
    (1.2, 0.804718956, 1.8)
    """

    def __init__(self, root: torch.Tensor) -> None:
        self._state = _start(root)
        self._held: list[torch.Tensor] = []
        self._count = 0

    def add(self, rows: torch.Tensor, target: torch.Tensor | None = None) -> None:
        """Take in rows of B.

        Args:
            rows: (n, P).
            target: Their t, (n,); zeros when None.
        """
        target = rows.new_zeros(len(rows)) if target is None else target
        self._held.append(torch.cat([rows, target[:, None]], 1))
        self._count += len(rows)
        if self._count >= len(self._state):
            self._fold()

    def _fold(self) -> None:
        self._state = torch.linalg.qr(torch.cat([self._state, *self._held]), mode="r").R
        self._held, self._count = [], 0

    def solve(self) -> Solution:
        """The least-squares problem's answer; v is not finite where a direction is free."""
        self._fold()
        return _solution(self._state, power=1)


class Products:
    """The same from the sums of products [B t]ᵀ[B t], in a quarter of the time, where they hold ten digits.

    Args:
        root: L, as for `Rows`.
    """

    def __init__(self, root: torch.Tensor) -> None:
        start = _start(root)
        self._state = start.mT @ start

    def add(self, rows: torch.Tensor, target: torch.Tensor) -> None:
        """Take in rows of B, (n, P), and their targets, (n,)."""
        both = torch.cat([rows, target[:, None]], 1)
        self._state.addmm_(both.mT, both)

    def solve(self) -> Solution | None:
        """The answer; None where it takes `Rows`."""
        both = root_of_matrix(self._state)
        if both is None or both.factor[-1, -1] < 0.01:  # what v leaves of t is a difference of large numbers
            return None
        found = _solution(both.factor * both.lengths, power=2)
        return found if found[0].error <= 1e-11 else None


def _start(root: torch.Tensor) -> torch.Tensor:
    size = root.shape[-1]
    top = torch.diag(root) if root.dim() == 1 else root
    if len(top) > size:
        top = torch.linalg.qr(top, mode="r").R
    state = torch.zeros(size + 1, size + 1, dtype=torch.float64, device=root.device)
    state[: len(top), :size] = top
    return state


def _solution(state: torch.Tensor, power: int) -> Solution:
    """What a triangle of [B t] on top of L says."""
    size = len(state) - 1
    factor, moment = state[:size, :size], state[:size, size]
    lengths = factor.norm(dim=0)
    lengths = torch.where(lengths > 0, lengths, 1.0)
    root = Root(factor / lengths, lengths, power)
    v = torch.linalg.solve_triangular(root.factor, moment[:, None], upper=True)[:, 0] / lengths
    return root, v, float(state[size, size] ** 2)


def root_of_matrix(matrix: torch.Tensor) -> Root | None:
    """The root of a precision matrix by Cholesky in columns of length one; None where it is not positive definite.

    Args:
        matrix: A, (P, P) float64, symmetric.

    >>> round(root_of_matrix(torch.diag(torch.tensor([1e-20, 1e20], dtype=torch.float64))).condition, 9)  # units drop out
    1.0
    """
    lengths = matrix.diagonal().clamp_min(0).sqrt()
    if not bool((lengths > 0).all()):
        return None
    factor, info = torch.linalg.cholesky_ex(matrix / lengths[:, None] / lengths)
    return Root(factor.mT, lengths, power=2) if int(info) == 0 else None


def _top(matrix: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The largest singular value of a matrix and its right singular vector, by power iteration."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(matrix.shape[1], generator=generator, dtype=matrix.dtype).to(matrix.device)
    vector, value = vector / vector.norm(), 0.0
    for _ in range(50):
        step = matrix.mT @ (matrix @ vector)
        found = float(step.norm())
        vector = step / found
        if abs(found - value) <= 1e-3 * found:
            break
        value = found
    return math.sqrt(found), vector


def entries(layout: FlatLayout, direction: torch.Tensor, most: int = 4) -> str:
    """The unknowns with the largest share of a direction, in words.

    Args:
        layout: What lies where in the vector.
        direction: (P,), in units of the columns' own lengths.
        most: How many to name.

    Returns:
        For example "weight[0, 3] and bias[0]".
    """
    share = direction.abs() / direction.abs().max()
    found = [int(i) for i in share.argsort(descending=True, stable=True) if share[i] >= 0.05]
    names = []
    for i in sorted(found[:most]):
        segment = next(s for s in layout.in_order if s.start <= i < s.stop)
        place, index = i - segment.start, []
        for length in reversed(segment.latent.shape):
            index.insert(0, str(place % length))
            place //= length
        names.append(f"{segment.latent.name}[{', '.join(index)}]" if index else segment.latent.name)
    if len(found) > most:
        return f"{', '.join(names)} and {len(found) - most:,} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
