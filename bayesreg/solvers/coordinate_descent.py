"""The lasso and the elastic net, solved to the last digit by scikit-learn's coordinate descent and exact solves on its support.

½‖t − A w‖² + Σ aⱼ|wⱼ| + ½ Σ cⱼ wⱼ²
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from bayesreg._threads import importing, settings
from bayesreg.solvers.columns import GRAM_COLUMNS, Array, Columns
from bayesreg.solvers.groupwise import Groups, by_turns, group_lasso

FIRST_PASSES, DOUBLINGS = 10, 10  # over the columns before the first exact solve on the support, and how often they double


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
    groups = Groups(np.arange(len(l1)), l1)
    if len(l1) > GRAM_COLUMNS and _is_uneven(columns, l1, l2):  # scikit-learn knows one c, and a Gram matrix would be too large
        return group_lasso(columns, groups, l2, start)
    # a neighbour's solution needs no search, most of the time
    efforts = [*([] if start is None else [0]), *(FIRST_PASSES * 2**k for k in range(DOUBLINGS))]
    search = lambda v, passes: _descend(columns, l1, l2, v, passes) if passes else v  # noqa: E731
    return *by_turns(columns, groups, l2, w if start is None else start, search, efforts), "coordinate descent (scikit-learn)"


def _is_uneven(columns: Columns, l1: Array, l2: Array) -> bool:
    """Whether c differs between columns once they are rescaled so that a does not."""
    _, ratio, _ = columns.scaled(l1)
    shrink = l2 * ratio**2
    return bool((shrink > float(shrink.min()) * (1 + 1e-14)).any())


def _descend(columns: Columns, l1: Array, l2: Array, start: Array, passes: int) -> Array:
    """Passes of scikit-learn's coordinate descent over the columns."""
    with importing():
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import enet_path

    design, ratio, level = columns.scaled(l1)
    shrink = l2 * ratio**2
    common = float(shrink.min())
    uneven = bool((shrink > common * (1 + 1e-14)).any())
    rows, count = design.shape
    if passes > FIRST_PASSES and 25 * passes > count:  # AᵀA costs as much as about a pass for every 25 columns
        columns.form()
    formed = uneven or columns.formed
    options: dict[str, Any] = {"precompute": False, "alphas": np.array([(level + common) / rows])}
    if formed:
        gram = columns.gram
        if uneven or bool((ratio != 1).any()):
            gram = gram * np.outer(ratio, ratio)
            gram[np.diag_indices(count)] += shrink - common
        options |= {"precompute": gram, "Xy": columns.moment * ratio}
    with settings(), warnings.catch_warnings():  # the gap is judged by ourselves
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
            random_state=np.random.RandomState(0),  # columns are taken in turn, yet NumPy's global state would move on
            **options,
        )
    return found[:, 0] * ratio
