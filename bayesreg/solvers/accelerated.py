"""Accelerated proximal gradient steps, which reach exact zeros; for convex problems, and for the last stretch of others.

    u ← prox_{t·penalty}(v − t ∇smooth(v)),  v with Nesterov's momentum, t known or by backtracking

Adam oscillates about a kink and comes near zero; a proximal step lands on it, and stays where the subgradient condition
holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Vector = Any  # a NumPy array or a tensor: the engine needs + − × and @ only


def fista(
    smooth: Callable[[Vector], tuple[float, Vector]],
    prox: Callable[[Vector, float], Vector],
    penalty: Callable[[Vector], float] | None,
    start: Vector,
    *,
    step: Any,
    num_steps: int,
    search: bool = True,
    done: Callable[[Vector], bool] | None = None,
) -> tuple[Vector, Any]:
    """FISTA with restarts (Beck and Teboulle 2009; O'Donoghue and Candès 2015) on smooth + penalty.

    Args:
        smooth: From a point to the smooth part's value and gradient.
        prox: From a point and a step t to argmin_z t·penalty(z) + ½‖z − point‖².
        penalty: The penalty's value; needed with `search` only.
        start: (P,).
        step: The first step; without `search` the only one, at most one over the gradient's
            Lipschitz constant, and then one for each entry where the prox knows that metric.
        num_steps: Steps at most.
        search: Look for the step by backtracking, and begin anew where the objective rises; without it the momentum is
            dropped where it points against the step, which needs no values.
        done: Asked every 20 steps whether the point is good enough.

    Returns:
        (P,), with `search` never a worse point than `start`; and the last step.

    >>> target = np.array([3.0, 0.5])  # ½‖z − target‖² + ‖z‖₁: soft thresholding
    >>> smooth = lambda z: (0.5 * float((z - target) @ (z - target)), z - target)
    >>> prox = lambda z, t: np.sign(z) * np.maximum(abs(z) - t, 0)
    >>> fista(smooth, prox, None, np.zeros(2), step=1.0, num_steps=5, search=False)[0].tolist()
    [2.0, 0.0]
    """
    u, ahead, momentum = start, start, 1.0
    best = smooth(u)[0] + penalty(u) if search and penalty else math.inf
    for count in range(1, num_steps + 1):
        value, gradient = smooth(ahead)
        trial = prox(ahead - step * gradient, step)
        total = best
        if search and penalty:
            trial, step, at_trial = _backtrack(smooth, prox, ahead, value, gradient, trial, step)
            total = at_trial + penalty(trial)
            if not math.isfinite(total) or total > best:  # the momentum overshot: begin anew from the best point
                if ahead is u:
                    break
                ahead, momentum = u, 1.0
                continue
        moved = trial - u
        if not search and float(((ahead - trial) / step) @ moved) > 0:
            momentum = 1.0
        grown = 0.5 * (1 + math.sqrt(1 + 4 * momentum**2))
        ahead, u, best, momentum = trial + (momentum - 1) / grown * moved, trial, total, grown
        if search:
            step *= 1.1
        if count % 20 == 0 and ((done and done(u)) or not float(moved @ moved)):
            break
    return u, step


def _backtrack(
    smooth: Callable, prox: Callable, ahead: Vector, value: float, gradient: Vector, trial: Vector, step: float
) -> tuple[Vector, float, float]:
    """Halve the step until the quadratic bound of this curvature holds."""
    while True:
        change = trial - ahead
        at_trial = smooth(trial)[0]
        bound = value + float(gradient @ change) + float(change @ change) / (2 * step)
        if at_trial <= bound + 1e-12 * abs(bound) or step < 1e-16:
            return trial, step, at_trial
        step *= 0.5
        trial = prox(ahead - step * gradient, step)


def top_of(product: Callable[[np.ndarray], np.ndarray], size: int) -> float:
    """The largest eigenvalue of a symmetric positive semidefinite operator by Lanczos' method, a hair too large.

    Args:
        product: v → M v.
        size: Length of v.

    Returns:
        A number > 0.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    start = np.random.default_rng(0).standard_normal(size)
    if size < 3 or not np.any(product(start)):
        columns = np.stack([product(row) for row in np.eye(size)]) if size < 3 else np.zeros((1, 1))
        return float(np.linalg.eigvalsh(columns)[-1]) * (1 + 1e-10) + 1e-300
    operator: Any = LinearOperator((size, size), matvec=product, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    lanczos: Any = eigsh
    return float(lanczos(operator, k=1, which="LA", v0=start, tol=1e-3, return_eigenvectors=False)[0]) * (1 + 1e-2)
