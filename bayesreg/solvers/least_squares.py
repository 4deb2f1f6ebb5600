"""Least squares with Gaussian unknowns: their closed form, and their exact elimination from a problem with other unknowns.

    ½‖t − B v − A w‖² + ½ (v − m)ᵀQ(v − m) + penalty(w)

What is left after the best v is taken for each w is the same problem in w alone, on a projected A and t. All arrays are
NumPy's, float64, and matrices stand in Fortran order, where a column is one stretch of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
RANK = 1e-13  # a column whose part outside the span of the others is this small is one of them up to rounding
_SUSPICIOUS = 1e-4  # a pivot of a matrix of squares, of columns of length one, that has lost half of its digits


class Undetermined(Exception):
    """The data and the Gaussian priors leave a direction of v free.

    Attributes:
        direction: That direction, in units of the columns' own lengths, (k,).
    """

    def __init__(self, direction: Array) -> None:
        super().__init__("undetermined")
        self.direction = direction


class Elimination:
    """v as the exact minimiser for any w: v = m + R⁻¹Q₁ᵀ(t − B m − A w), with QR the factors of B on top of Q's root.

    Args:
        design: B, (n, k).
        mean: m, (k,).
        root: L with LᵀL = Q, (q, k); no rows where every prior is flat.

    Raises:
        Undetermined: If a direction of v is free.
    """

    def __init__(self, design: Array, mean: Array, root: Array) -> None:
        from scipy import linalg

        self.design, self.mean, self.extra = design, mean, len(root)
        stacked = np.asfortranarray(np.concatenate([design, root]) if len(root) else design)
        norms = np.sqrt(np.einsum("ij,ij->j", stacked, stacked))
        self._norms = np.where(norms > 0, norms, 1.0)
        if stacked.shape[1] == 1 and norms[0] > 0:  # a bias: no need to factorise
            self._basis, self._factor, self._order = stacked / norms, np.ones((1, 1)), np.zeros(1, dtype=int)
            return
        factors: Any = linalg.qr(stacked / self._norms, mode="economic", pivoting=True, check_finite=False)
        self._basis, self._factor, self._order = factors
        count = len(self._order)
        found = np.abs(self._factor.diagonal())
        rank = int((found > RANK * max(1.0, np.sqrt(len(stacked)))).sum())
        if rank < count:
            direction = np.zeros(count)
            lead = linalg.solve_triangular(self._factor[:rank, :rank], -self._factor[:rank, rank]) if rank else []
            direction[self._order[:rank]], direction[self._order[rank]] = lead, 1.0
            raise Undetermined(direction)

    @property
    def _rows(self) -> int:
        return len(self.design)

    def project(self, matrix: Array) -> tuple[Array, Array]:
        """What of a matrix's columns no v can reach, (n + q, p): the reduced problem's.

        Args:
            matrix: (n, p).

        Returns:
            A new array in Fortran order, a column that some v reaches but for rounding exactly zero; and what is reached, in
            the basis of the factors, (k, p).
        """
        from scipy.linalg import get_blas_funcs

        dgemm: Any = get_blas_funcs("gemm", dtype=np.float64)
        made = np.empty((self._rows + self.extra, matrix.shape[1]), order="F")
        made[: self._rows], made[self._rows :] = matrix, 0.0
        if made.size == 0:
            return made, np.zeros((len(self._order), 0))
        reached = dgemm(1.0, self._basis[: self._rows], matrix, trans_a=1)
        made = dgemm(-1.0, self._basis, reached, beta=1.0, c=made, overwrite_c=1)
        # what is left of a reached column (a constant one beside an intercept) is rounding: a random product finds it
        size = np.sqrt(np.square(reached).sum(0))
        probe = np.random.default_rng(0).standard_normal(len(made)) @ made
        for j in np.flatnonzero(np.abs(probe) <= 1e-9 * size):
            if np.linalg.norm(made[:, j]) <= RANK * size[j]:
                made[:, j] = 0.0
        return made, reached

    def target(self, t: Array) -> Array:
        """The target t − B m, projected, (n + q,)."""
        return self.project((t - self.design @ self.mean)[:, None])[0][:, 0]

    def values(self, t: Array, reached: Any = 0.0) -> Array:
        """The minimiser v for a target t, (n,), of which a matrix's columns reach `reached` already, (k,): v is (k,)."""
        return self.mean + self._solve(self._basis[: self._rows].T @ (t - self.design @ self.mean) - reached)

    def _solve(self, reached: Array) -> Array:
        from scipy.linalg import solve_triangular

        found = np.empty(len(self._order))
        found[self._order] = solve_triangular(self._factor, reached, check_finite=False)
        return found / self._norms

    def excess(self, gradient: Array) -> float:
        """½ gᵀH⁻¹g, what the objective still loses when v moves to its minimiser, from its gradient there, (k,)."""
        from scipy.linalg import solve_triangular

        scaled = (gradient / self._norms)[self._order]
        return 0.5 * float(np.square(solve_triangular(self._factor, scaled, lower=False, trans=1, check_finite=False)).sum())


def ridge(design: Array, t: Array, mean: Array, precision: Array) -> tuple[Array, Callable[[Array], float]]:
    """The argmin of ½‖t − B v‖² + ½ (v − m)ᵀQ(v − m), by Cholesky, and by QR where the normal equations would cost digits.

    Args:
        design: B, (n, k).
        t: (n,).
        mean: m, (k,).
        precision: Q, (k,) a diagonal or (k, k).

    Returns:
        v, (k,), and a function that says what the objective at any other point still has to lose, in its own units.

    Raises:
        Undetermined: If a direction of v is free.

    References:
        Hoerl and Kennard (1970), Ridge regression. Saunders, Gammerman and Vovk (1998), Ridge regression learning algorithm
        in dual variables (the n × n form where there are more unknowns than rows).

    >>> v, excess = ridge(np.array([[1.0], [2.0]]), np.array([1.0, 2.0]), np.zeros(1), np.ones(1))
    >>> float(v[0]), excess(v + 1.0)  # 5/(5 + 1); ½ (5 + 1) 1²
    (0.8333..., 3.0...)
    """
    rows, count = design.shape
    if precision.ndim == 1 and count > rows:
        free = precision == 0
        if free.sum() < rows and not free.all() and (found := _dual_ridge(design, t, mean, precision, free)) is not None:
            return found

    def slope(v: Array) -> Array:
        pulled = precision * (v - mean) if precision.ndim == 1 else precision @ (v - mean)
        return design.T @ (t - design @ v) - pulled

    gram = design.T @ design
    if precision.ndim == 1:
        gram[np.diag_indices(count)] += precision
    else:
        gram += precision
    inverse = definite(gram, _SUSPICIOUS)
    if inverse is None:
        elimination = Elimination(design, mean, root_of(precision))
        return elimination.values(t), lambda v: elimination.excess(slope(v))
    found = mean
    for _ in range(2):  # the second step mends the first one's rounding
        found = found + inverse(slope(found))
    return found, lambda v: 0.5 * float(slope(v) @ inverse(slope(v)))


def _dual_ridge(
    design: Array, t: Array, mean: Array, precision: Array, free: Array
) -> tuple[Array, Callable[[Array], float]] | None:
    """`ridge` in n × n, flat unknowns eliminated: w = m + Q⁻¹AᵀK⁻¹r, K = I + A Q⁻¹Aᵀ. The excess is a bound, by H ≥ Q.

    None where K is ill-conditioned: it is made of squares.
    """
    flat = _flat(design, mean, free)
    held, pull = design[:, ~free], precision[~free]
    A = held if flat is None else flat.project(held)[0]
    centred = t - held @ mean[~free]
    r = centred if flat is None else flat.target(centred)
    kernel = (A / pull) @ A.T
    kernel[np.diag_indices(len(kernel))] += 1.0
    inverse = definite(kernel, _SUSPICIOUS)
    if inverse is None:
        return None
    found = mean.copy()
    found[~free] += (A.T @ inverse(r)) / pull
    if flat is not None:
        found[free] = flat.values(t - held @ found[~free])

    def excess(v: Array) -> float:
        shift = v[~free] - mean[~free]
        slope = A.T @ (r - A @ shift) - pull * shift
        more = 0.0 if flat is None else flat.excess(flat.design.T @ (t - design @ v))
        return 0.5 * float((np.square(slope) / pull).sum()) + more

    return found, excess


def _flat(design: Array, mean: Array, free: Array) -> Elimination | None:
    """The elimination of the flat unknowns.

    Raises:
        Undetermined: If they leave a direction free; it is told over all unknowns.
    """
    if not free.any():
        return None
    try:
        return Elimination(design[:, free], mean[free], np.zeros((0, int(free.sum()))))
    except Undetermined as error:
        direction = np.zeros(len(free))
        direction[free] = error.direction
        raise Undetermined(direction) from None


def definite(matrix: Array, least: float) -> Callable[[Array], Array] | None:
    """The inverse of a symmetric matrix as a function of a right-hand side, by Cholesky in the columns' own units.

    Args:
        matrix: (k, k).
        least: A pivot of a column of length one below which the matrix counts as singular.

    Returns:
        The function; None where the matrix is not positive definite, or counts as singular.
    """
    from scipy.linalg import cho_solve

    scale = np.sqrt(np.where(matrix.diagonal() > 0, matrix.diagonal(), 1.0))
    try:
        factor = np.linalg.cholesky(matrix / np.outer(scale, scale))
    except np.linalg.LinAlgError:
        return None
    if factor.diagonal().min() < least:
        return None
    return lambda right: cho_solve((factor, True), right / scale, check_finite=False) / scale


def root_of(precision: Array) -> Array:
    """L with LᵀL = Q, without rows of zeros.

    Args:
        precision: Q, (k,) a diagonal or (k, k), positive semidefinite.

    Returns:
        (q, k), q the rank of Q.
    """
    if precision.ndim == 1:
        return np.diag(np.sqrt(precision))[precision > 0]
    values, vectors = np.linalg.eigh(precision)
    held = values > 1e-14 * max(float(values[-1]), 0.0)
    return np.sqrt(values[held])[:, None] * vectors[:, held].T
