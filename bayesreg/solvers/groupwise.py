"""The group lasso: FISTA, ended by exact or Newton steps.

½‖t − A w‖² + Σ_g a_g ‖w_g‖ + ½ Σ cⱼ wⱼ²      (each entry a group of its own: lasso, elastic net)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from bayesreg.solvers.accelerated import fista, top_of
from bayesreg.solvers.columns import GRAM_COLUMNS, Array, Columns, on_support, placed
from bayesreg.solvers.newton import newton_steps

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
        return np.sqrt(self.sums(v * v))

    def sums(self, v: Array) -> Array:
        """The sum of the entries of each group, (G,)."""
        return v if self.single else np.bincount(self.ids, v, len(self.strength))

    def spread(self, values: Array) -> Array:
        """One number a group as one an entry."""
        return values if self.single else values[self.ids]

    def gap(self, columns: Columns, l2: Array, w: Array) -> float:
        """The duality gap at w, in nats: a bound on what is left to gain.

        The dual point is the residual, shrunk by κ until no group's slope exceeds a:
        gap = Σ (a_g‖w_g‖ − κ w_gᵀs_g) + ½ (1 − κ)² (‖r‖² + Σ cⱼwⱼ²),  s = Aᵀr − c w. No term is negative, nothing cancels.

        Args:
            columns: The design and the target.
            l2: c, (p,).
            w: (p,).

        Returns:
            Nats, ≥ 0 up to rounding.

        References:
            Kim, Koh, Lustig, Boyd and Gorinevsky (2007), An interior-point method for large-scale l1-regularized least squares.
        """
        slope, squares = columns.slope(w, l2)
        shrink = 1.0 / max(1.0, float((self.norms(slope) / self.strength).max(initial=0.0)))
        held = self.strength * self.norms(w) - shrink * self.sums(w * slope)
        return float(held.sum()) + 0.5 * (1 - shrink) ** 2 * squares

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
    w = np.zeros(columns.design.shape[1])
    if bool((groups.norms(columns.moment) <= groups.strength).all()):
        return w, 0.0, "every entry is zero"
    w = w if start is None else start
    best, gap = by_turns(columns, groups, l2, w, _walk(columns, groups, l2), STAGES)
    return best, gap, "FISTA with Newton steps"


def by_turns(
    columns: Columns, groups: Groups, l2: Array, start: Array, search: Callable[[Array, Any], Array], efforts: Iterable[Any]
) -> tuple[Array, float]:
    """A search and exact solves on the support that it found take turns until the duality gap is rounding.

    Args:
        columns: The design and the target.
        groups: The groups.
        l2: c, (p,).
        start: Where to begin, (p,).
        search: From a point and an effort to a better point.
        efforts: One a turn.

    Returns:
        The best point and its gap in nats.
    """
    best, gap = start, groups.gap(columns, l2, start)
    for effort in efforts:
        w = search(best, effort)
        for candidate, enough in ((_exact(columns, groups, l2, w), SOLVED), (w, SEARCHED)):
            if candidate is not None:
                found = groups.gap(columns, l2, candidate)
                if found <= gap:
                    best, gap = candidate, found
                if found <= enough * columns.squares:
                    return candidate, found
    return best, gap


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
    step, reach = torch.from_numpy(unit * longest), groups.strength / widest * longest

    def slope(v: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(product(v.numpy()) - columns.moment)

    def prox(v: torch.Tensor, _: Any) -> torch.Tensor:
        return torch.from_numpy(groups.shrunk(v.numpy(), reach))

    def walk(v: Array, tolerance: float) -> Array:
        done = lambda z: groups.gap(columns, l2, z.numpy()) <= tolerance * columns.squares  # noqa: E731
        return fista(slope, prox, torch.from_numpy(v), step=step, num_steps=5000, done=done).numpy()

    return walk


def _exact(columns: Columns, groups: Groups, l2: Array, w: Array) -> Array | None:
    """Newton's steps where the penalty is smooth: on the groups of w that are not zero; None where there are too many."""
    if groups.single:
        return on_support(columns, groups.strength, l2, w)
    active = np.flatnonzero(groups.spread(groups.norms(w)))
    if not 0 < len(active) <= GRAM_COLUMNS:
        return None
    part, ids, moment = np.asfortranarray(columns.design[:, active]), groups.ids[active], columns.moment[active]
    gram = part.T @ part
    gram[np.diag_indices(len(gram))] += l2[active]
    strength, same = groups.strength[ids], ids[:, None] == ids

    def norms(v: Array) -> Array:
        return np.sqrt(np.bincount(ids, v * v))[ids]

    def objective(at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        v = at.numpy()
        pull, unit = gram @ v, v / norms(v)
        return torch.tensor(v @ (0.5 * pull - moment + strength * unit)), torch.from_numpy(pull - moment + strength * unit)

    def hessian(at: torch.Tensor) -> torch.Tensor:
        v = at.numpy()
        size, unit = norms(v), v / norms(v)
        return torch.from_numpy(gram + np.diag(strength / size) - same * np.outer(unit, unit) * (strength / size))

    def land(at: torch.Tensor, trial: torch.Tensor) -> torch.Tensor:
        v, move, length = at.numpy(), (trial - at).numpy(), 1.0
        while length > 1e-3 and bool((np.bincount(ids, v * (v + length * move)) < 0).any()):  # a group would turn round
            length *= 0.5
        return at + length * (trial - at)

    found, _ = newton_steps(torch.from_numpy(w[active]), objective, hessian, land=land, num_steps=30)
    return placed(found.numpy(), active, len(w))
