"""The lasso and its relatives on a design matrix, solved to the last digit and judged by a duality gap.

    ½‖t − A w‖² + Σ_g a_g ‖w_g‖ + ½ Σ cⱼ wⱼ²      (each entry a group of its own: lasso, elastic net)

All arrays are NumPy's, float64, and matrices stand in Fortran order, where a column is one stretch of memory.
"""

from __future__ import annotations

import dataclasses
import warnings
from functools import cached_property
from typing import Any

import numpy as np

from bayesreg.inference.least_squares import cholesky_solve
from bayesreg.inference.proximal import fista, top_of

Array = np.ndarray
GRAM_COLUMNS = 3000  # up to here a Gram matrix is formed where it pays
CHANGES = 60  # of a support, before coordinate descent goes on
FIRST_PASSES, MOST_PASSES = 10, 10_000  # over the columns, before the first and the last exact solve on the support
STAGES = (1e-4, 1e-7, 1e-9, 1e-11, 1e-13)  # FISTA's tolerances, each followed by an exact solve on the support
SOLVED, SEARCHED = 1e-13, 1e-15  # a gap over ‖t‖² that ends it: rounding after an exact solve, less where a search came near


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

    def gap(self, w: Array, l1: Array, l2: Array) -> float:
        """The duality gap at w, in nats: a bound on what is left to gain.

        The dual point is the residual, shrunk by κ until no column's product with it exceeds a:
        gap = Σ (aⱼ|wⱼ| − κ wⱼgⱼ) + ½ (1 − κ)² (‖r‖² + Σ cⱼwⱼ²),  g = Aᵀr − c w. No term is negative, nothing cancels.

        Args:
            w: (p,).
            l1: a, (p,), > 0.
            l2: c, (p,).

        Returns:
            Nats, ≥ 0 up to rounding.

        References:
            Kim, Koh, Lustig, Boyd and Gorinevsky (2007), An interior-point method for large-scale l1-regularized least squares.
        """
        slope, squares = self.slope(w, l2)
        return l1_gap(w, slope, l1, squares)

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


def l1_gap(w: Array, slope: Array, l1: Array, squares: float) -> float:
    """The duality gap in nats from the slope g and ‖r‖² + Σ cⱼwⱼ²; see `Columns.gap`."""
    shrink = min(1.0, 1.0 / max(float((np.abs(slope) / l1).max(initial=0.0)), 1e-300))
    return float((l1 * np.abs(w) - shrink * w * slope).sum()) + 0.5 * (1 - shrink) ** 2 * squares


def lasso(columns: Columns, l1: Array, l2: Array, start: Array | None = None) -> tuple[Array, float, str]:
    """The argmin of ½‖t − A w‖² + Σ aⱼ|wⱼ| + ½ Σ cⱼwⱼ², by scikit-learn's coordinate descent and an exact solve on its support.

    Args:
        columns: The design and the target.
        l1: a, (p,), > 0.
        l2: c, (p,), ≥ 0.
        start: A point to begin from, (p,).

    Returns:
        w with exact zeros, the duality gap in nats, and the engine's name.

    References:
        Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via coordinate descent.

    >>> columns = Columns(np.eye(2, order="F"), np.array([3.0, 0.5]))
    >>> lasso(columns, np.ones(2), np.zeros(2))[0].tolist()  # soft thresholding
    [2.0, 0.0]
    """
    w = np.zeros_like(l1)
    if bool((np.abs(columns.moment) <= l1).all()):
        return w, 0.0, "every entry is zero"
    engine = _coordinate_descent()
    name = "coordinate descent (scikit-learn)" if engine else "FISTA on working sets"
    best, gap = w, np.inf
    passes = FIRST_PASSES if start is None else 0  # a neighbour's solution needs no search, most of the time
    if start is not None:
        best, gap = start, columns.gap(start, l1, l2)
    while passes <= MOST_PASSES:
        w = best
        if passes:
            w = engine(columns, l1, l2, best, passes) if engine else working_sets(columns, l1, l2, best, 10.0 ** -(passes / 10))
        for candidate, enough in ((on_support(columns, l1, l2, w), SOLVED), (w, SEARCHED)):
            if candidate is not None:
                found = columns.gap(candidate, l1, l2)
                if found <= gap:
                    best, gap = candidate, found
                if found <= enough * columns.squares:
                    return candidate, found, name
        passes = 2 * passes or FIRST_PASSES
    return best, gap, name


def _coordinate_descent() -> Any:
    """Scikit-learn's engine, or None where it is not installed."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import enet_path
    except ImportError:
        return None

    def run(columns: Columns, l1: Array, l2: Array, start: Array, passes: int) -> Array:
        design, ratio, level = columns.scaled(l1)
        shrink = l2 * ratio**2
        common = float(shrink.min())
        uneven = bool((shrink > common * (1 + 1e-14)).any())
        rows, count = design.shape
        if passes > FIRST_PASSES and 25 * passes > count:  # AᵀA costs as much as about a pass for every 25 columns
            columns.form()
        formed = uneven or columns.formed
        if uneven and count > GRAM_COLUMNS:
            return working_sets(columns, l1, l2, start, 10.0 ** -(passes / 10))
        options: dict[str, Any] = {"precompute": False, "alphas": np.array([(level + common) / rows])}
        if formed:
            gram = columns.gram
            if uneven or bool((ratio != 1).any()):
                gram = gram * np.outer(ratio, ratio)
                gram[np.diag_indices(count)] += shrink - common
            options |= {"precompute": gram, "Xy": columns.moment * ratio}
        with warnings.catch_warnings():  # the gap is judged by ourselves
            warnings.simplefilter("ignore", ConvergenceWarning)
            _, found, _ = enet_path(
                design,
                columns.target,
                l1_ratio=level / (level + common),
                coef_init=start / ratio,
                max_iter=10 * passes if formed else passes,
                tol=1e-14,
                check_input=False,
                copy_X=False,
                **options,
            )
        return found[:, 0] * ratio

    return run


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
        now, made = found, _placed(found, which, len(w))
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
    """(G + diag c)⁻¹ of a right-hand side in the columns' own units, mended once; None where they repeat each other."""
    gram = gram + np.diag(l2) if l2.any() else gram
    scale = np.sqrt(np.maximum(gram.diagonal(), 1e-300))
    try:
        factor = np.linalg.cholesky(gram / np.outer(scale, scale))
    except np.linalg.LinAlgError:
        return None
    if factor.diagonal().min() < 1e-6:
        return None
    found = cholesky_solve(factor, right / scale) / scale
    return found + cholesky_solve(factor, (right - gram @ found) / scale) / scale


def working_sets(columns: Columns, l1: Array, l2: Array, start: Array, tolerance: float) -> Array:
    """The lasso without scikit-learn: FISTA on the columns that matter, which grow until none outside wants in.

    Args:
        columns: The design and the target.
        l1: a, (p,).
        l2: c, (p,).
        start: (p,).
        tolerance: Of the gap, relative to ‖t‖².

    Returns:
        (p,).

    References:
        Massias, Gramfort and Salmon (2018), Celer: a fast solver for the lasso with dual extrapolation.
    """
    w, enough = start.copy(), tolerance * columns.squares
    for _ in range(50):
        slope, squares = columns.slope(w, l2)
        if l1_gap(w, slope, l1, squares) <= enough:
            break
        held = int((w != 0).sum())
        score = np.abs(slope) / l1
        wanted = int((score > 1).sum())
        score[w != 0] = np.inf
        size = min(len(w), max(64, 2 * held, held + min(wanted, 500)))
        chosen = np.sort(np.argpartition(-score, size - 1)[:size])
        part = Columns(np.asfortranarray(columns.design[:, chosen]), columns.target)
        w = np.zeros_like(w)
        w[chosen] = _inside(part, l1[chosen], l2[chosen], start[chosen], 0.3 * enough)
        start = w
    return w


def _inside(columns: Columns, l1: Array, l2: Array, v: Array, enough: float) -> Array:
    """The lasso on a working set, by FISTA in the columns' own units and exact solves on its support."""
    groups = Groups(np.arange(len(l1)), l1)
    walk = _walk(columns, groups, l2)
    for _ in range(50):
        v = walk(v, 60, None)
        better = on_support(columns, l1, l2, v)
        if better is not None and columns.gap(better, l1, l2) <= enough:
            return better
        if columns.gap(v, l1, l2) <= enough:
            return v
    return v


class Groups:
    """Entries that come and go together, and how strongly each group is held.

    Args:
        ids: The group of each entry, (p,), from 0.
        strength: a, (G,).
    """

    def __init__(self, ids: Array, strength: Array) -> None:
        self.ids, self.strength = ids, strength
        self.single = len(ids) == len(strength)

    def norms(self, v: Array) -> Array:
        """‖v_g‖, (G,)."""
        if self.single:
            return np.abs(v)
        return np.sqrt(np.bincount(self.ids, v * v, len(self.strength)))

    def spread(self, values: Array) -> Array:
        """One number a group as one an entry."""
        return values if self.single else values[self.ids]

    def gap(self, w: Array, slope: Array, squares: float) -> float:
        """The duality gap in nats; see `Columns.gap`, with norms for absolute values."""
        largest = float((self.norms(slope) / self.strength).max(initial=0.0))
        shrink = 1.0 / max(1.0, largest)
        held = float(self.strength @ self.norms(w)) - shrink * float(w @ slope)
        return held + 0.5 * (1 - shrink) ** 2 * squares

    def shrunk(self, v: Array, reach: Array) -> Array:
        """Block soft thresholding: each group's norm falls by `reach`, (G,), and stops at zero."""
        if self.single:
            return v - np.minimum(np.maximum(v, -reach), reach)
        factor = np.maximum(1 - reach / np.maximum(self.norms(v), 1e-300), 0.0)
        return v * factor[self.ids]


def group_lasso(columns: Columns, groups: Groups, l2: Array, start: Array | None = None) -> tuple[Array, float, str]:
    """The argmin of ½‖t − A w‖² + Σ_g a_g ‖w_g‖ + ½ Σ cⱼwⱼ²: FISTA, ended by Newton's method on the groups that are left.

    Args:
        columns: The design and the target.
        groups: The groups.
        l2: c, (p,), ≥ 0.
        start: A point to begin from, (p,).

    Returns:
        w with exact zeros, the duality gap in nats, and the engine's name.

    References:
        Yuan and Lin (2006), Model selection and estimation in regression with grouped variables.
    """
    name = "FISTA with Newton steps"
    w = np.zeros(columns.design.shape[1])
    if bool((groups.norms(columns.moment) <= groups.strength).all()):
        return w, 0.0, "every entry is zero"
    w = w if start is None else start
    walk = _walk(columns, groups, l2)
    best, gap = w, groups.gap(w, *columns.slope(w, l2))
    for tolerance in STAGES:
        w = walk(w, 5000, lambda v, tolerance=tolerance: groups.gap(v, *columns.slope(v, l2)) <= tolerance * columns.squares)
        for candidate, enough in ((_newton(columns, groups, l2, w), SOLVED), (w, SEARCHED)):
            if candidate is not None:
                found = groups.gap(candidate, *columns.slope(candidate, l2))
                if found < gap:
                    best, gap = candidate, found
                if found <= enough * columns.squares:
                    return candidate, found, name
    return best, gap, name


def _walk(columns: Columns, groups: Groups, l2: Array) -> Any:
    """FISTA with the Lipschitz constant that the design has, in the columns' own units (one a group)."""
    design = columns.design
    formed = design.shape[1] <= min(GRAM_COLUMNS, 2 * design.shape[0])
    if formed:
        gram = columns.gram.copy()
        gram[np.diag_indices(len(gram))] += l2
        size = gram.diagonal()
    else:
        size = np.einsum("ij,ij->j", design, design) + l2
    widest = np.zeros(len(groups.strength))
    np.maximum.at(widest, groups.ids, size)
    widest[widest == 0] = 1.0
    unit = groups.spread(1 / widest)
    product = (lambda v: gram @ v) if formed else (lambda v: design.T @ (design @ v) + l2 * v)
    root = np.sqrt(unit)
    longest = 1 / top_of(lambda v: root * product(root * v), len(root))
    step, reach = unit * longest, groups.strength / widest * longest

    def smooth(v: Array) -> tuple[float, Array]:
        return 0.0, product(v) - columns.moment

    def walk(v: Array, num_steps: int, done: Any) -> Array:
        prox = lambda z, t: groups.shrunk(z, reach)  # noqa: E731
        return fista(smooth, prox, None, v, step=step, num_steps=num_steps, search=False, done=done)[0]

    return walk


def _newton(columns: Columns, groups: Groups, l2: Array, w: Array) -> Array | None:
    """Newton's method where the penalty is smooth: on the groups of w that are not zero; None where that fails."""
    if groups.single:
        return on_support(columns, groups.strength, l2, w)
    active = np.flatnonzero(groups.spread(groups.norms(w)))
    if not 0 < len(active) <= GRAM_COLUMNS:
        return None
    part = np.asfortranarray(columns.design[:, active])
    gram = part.T @ part
    gram[np.diag_indices(len(gram))] += l2[active]
    ids, v = groups.ids[active], w[active].copy()
    strength, same = groups.strength[ids], ids[:, None] == ids
    for _ in range(30):
        norms = groups.norms(_placed(v, active, len(w)))[ids]
        gradient = gram @ v - columns.moment[active] + strength * v / norms
        curved = gram - same * np.outer(v, v) * (strength / norms**3)
        curved[np.diag_indices(len(v))] += strength / norms
        scale = np.sqrt(np.maximum(curved.diagonal(), 1e-300))
        try:
            move = cholesky_solve(np.linalg.cholesky(curved / np.outer(scale, scale)), gradient / scale) / scale
        except np.linalg.LinAlgError:
            return None
        length = 1.0
        while length > 1e-3 and bool((np.bincount(ids, v * (v - length * move), len(groups.strength)) < 0).any()):
            length *= 0.5
        v = v - length * move
        if length == 1.0 and float(np.abs(move).max()) <= 1e-14 * float(np.abs(v).max()):
            break
    return _placed(v, active, len(w))


def _placed(v: Array, where: Array, size: int) -> Array:
    made = np.zeros(size)
    made[where] = v
    return made
