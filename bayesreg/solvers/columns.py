"""A design whose columns are searched by coordinates: its slopes, and exact solutions on a support.

    ½‖t − A w‖² + Σ aⱼ|wⱼ| + ½ Σ cⱼ wⱼ²

All arrays are NumPy's, float64, and matrices stand in Fortran order, where a column is one stretch of memory.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from bayesreg.solvers.least_squares import definite

Array = np.ndarray
GRAM_COLUMNS = 3000  # up to here a Gram matrix is formed where it pays
CHANGES = 60  # of a support, before a search goes on


@dataclasses.dataclass
class Columns:
    """A design whose columns are searched by coordinates, and what is worth keeping between several penalties.

    Attributes:
        design: A, (n, p), Fortran order.
        target: t, (n,).
    """

    design: Array
    target: Array

    def __post_init__(self) -> None:
        self._scaled: tuple[Array, Array] | None = None
        self.formed = False

    def form(self) -> None:
        """Work with AᵀA from now on, where that is the smaller matrix."""
        self.formed = self.design.shape[0] > self.design.shape[1] and self.design.shape[1] <= GRAM_COLUMNS

    def block(self, rows: Array, columns: Array) -> Array:
        """Entries of AᵀA."""
        if self.formed:
            return self.gram[np.ix_(rows, columns)]
        left = self.design[:, rows]
        return left.T @ (left if columns is rows else self.design[:, columns])

    @cached_property
    def gram(self) -> Array:
        """AᵀA, (p, p)."""
        return self.design.T @ self.design

    @cached_property
    def moment(self) -> Array:
        """Aᵀt, (p,)."""
        return self.design.T @ self.target

    @cached_property
    def squares(self) -> float:
        """‖t‖²."""
        return float(self.target @ self.target)

    def slope(self, w: Array, l2: Array) -> tuple[Array, float]:
        """The slope g = Aᵀr − c w, (p,), minus the smooth part's gradient; and ‖r‖² + Σ cⱼwⱼ²."""
        active = np.flatnonzero(w)
        if not len(active):
            return self.moment, self.squares
        if self.formed:
            product = self.gram[:, active] @ w[active] if 4 * len(active) < len(w) else self.gram @ w
            squares = max(self.squares - float(w @ (2 * self.moment - product)), 0.0)
            return self.moment - product - l2 * w, squares + float(l2 @ np.square(w))
        few = len(active) < len(w) // 4
        residual = self.target - (self.design[:, active] @ w[active] if few else self.design @ w)
        return self.design.T @ residual - l2 * w, float(residual @ residual) + float(l2 @ np.square(w))

    def scaled(self, l1: Array) -> tuple[Array, Array, float]:
        """The design with columns rescaled so that one number stands for all of a, the scales, and that number."""
        level = float(l1.min())
        ratio = level / l1
        if bool((ratio == 1.0).all()):
            return self.design, ratio, level
        if self._scaled is None or not np.allclose(self._scaled[0], ratio, rtol=1e-14, atol=0):
            self._scaled = ratio, np.asfortranarray(self.design * ratio)
        return self._scaled[1], ratio, level


def on_support(columns: Columns, l1: Array, l2: Array, w: Array) -> Array | None:
    """Exact solutions on a support that changes by what they say: an entry that reaches zero leaves, one that is pulled comes.

    Between two changes the signs are fixed and the problem is a linear system, so that the end is exact, and is reached in a
    few steps from near it.

    Args:
        columns: The design and the target.
        l1: a, (p,).
        l2: c, (p,).
        w: Near a solution, (p,).

    Returns:
        (p,), or None where no support determines it (columns that repeat each other). The gap says whether it is the solution.

    References:
        Osborne, Presnell and Turlach (2000), A new approach to variable selection in least squares problems.
    """
    pool = np.flatnonzero(w)
    if not 0 < len(pool) <= GRAM_COLUMNS:
        return None
    signs = np.sign(w)
    gram = columns.block(pool, pool)
    kept, now, made = np.arange(len(pool)), w[pool], None
    for _ in range(CHANGES):
        which = pool[kept]
        found = _solved(gram[np.ix_(kept, kept)], l2[which], columns.moment[which] - l1[which] * signs[which])
        if found is None:
            return made
        flipped = found * signs[which] <= 0
        if bool(flipped.any()):
            if flipped.sum() <= 10:  # go as far as the first one's zero
                reach = np.where(flipped, now / np.where(flipped, now - found, 1.0), np.inf)
                first = int(np.argmin(reach))
                now, flipped = now + float(reach[first]) * (found - now), np.arange(len(kept)) == first
            else:  # far from the solution: that many would take too long one by one
                now = np.where(flipped, 0.0, found)
            kept, now = kept[~flipped], now[~flipped]
            if not len(kept):
                return made
            continue
        now, made = found, placed(found, which, len(w))
        slope, _ = columns.slope(made, l2)
        pull = np.abs(slope) / l1
        pull[which] = 0.0
        coming = np.flatnonzero(pull > 1 + 1e-12)
        if not len(coming):
            return made
        coming = coming[np.argsort(-pull[coming])[: 1 + len(kept) // 20]]
        signs[coming] = np.sign(slope[coming])
        fresh = np.setdiff1d(coming, pool)
        if len(pool) + len(fresh) > GRAM_COLUMNS:
            return made
        cross = columns.block(pool, fresh)
        gram = np.block([[gram, cross], [cross.T, columns.block(fresh, fresh)]])
        pool = np.concatenate([pool, fresh])
        kept = np.concatenate([kept, np.flatnonzero(np.isin(pool, coming))])
        now = np.concatenate([now, np.zeros(len(coming))])
    return made


def _solved(gram: Array, l2: Array, right: Array) -> Array | None:
    """(G + diag c)⁻¹ of a right-hand side, mended once; None where columns repeat each other."""
    gram = gram + np.diag(l2) if l2.any() else gram
    inverse = definite(gram, 1e-6)
    if inverse is None:
        return None
    found = inverse(right)
    return found + inverse(right - gram @ found)


def placed(v: Array, where: Array, size: int) -> Array:
    """A vector of this size with v at these places and zeros elsewhere."""
    made = np.zeros(size)
    made[where] = v
    return made
