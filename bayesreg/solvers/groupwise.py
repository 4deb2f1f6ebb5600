"""The group lasso: FISTA, ended by exact or Newton steps.

½‖t − A w‖² + Σ_g a_g ‖w_g‖ + ½ Σ cⱼ wⱼ²      (each entry a group of its own: lasso, elastic net)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bayesreg.solvers.accelerated import fista, top_of
from bayesreg.solvers.columns import GRAM_COLUMNS, Array, Columns, on_support, placed
from bayesreg.solvers.least_squares import cholesky_solve

STAGES = (1e-4, 1e-7, 1e-9, 1e-11, 1e-13)  # FISTA's tolerances, each followed by an exact solve on the support
SOLVED, SEARCHED = 1e-13, 1e-15  # a gap over ‖t‖² that ends it: rounding after an exact solve, less where a search came near


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
        norms = groups.norms(placed(v, active, len(w)))[ids]
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
    return placed(v, active, len(w))
