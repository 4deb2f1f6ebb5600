"""Which rows are held out: at random by class, the latest, whole groups."""

from __future__ import annotations

import numpy as np

from bayesreg import _check
from bayesreg._text import counted
from bayesreg.data.columns import Columns
from bayesreg.data.learning import ID_NAME

_LEAST_GROUPS, _LEAST_ROWS, _MOST_ROWS = 8, 20, 5000
_SURE = 20.0  # nats by which chance would have to be kind, if groups had nothing to do with the column that they determine


def random_rows(num_rows: int, fraction: float, seed: int, classes: np.ndarray | None = None) -> np.ndarray:
    """A random part of the rows to hold out, `round(fraction * N)` of them, as a mask (N,).

    With class indices (N,) the draw is stratified: a class gets its share, at least one row in each part where it has two, and
    a class with a single row is trained on.

    Raises:
        ValueError: If `fraction` is not between 0 and 1, or a part would have fewer than two rows.

    >>> random_rows(10, 0.4, 0, np.array([0] * 5 + [1] * 5)).sum()
    np.int64(4)
    """
    num_test = _size(num_rows, fraction)
    order = np.random.default_rng(_check.seed(seed)).permutation(num_rows)
    chosen = order[:num_test]
    if classes is not None:
        counts = np.bincount(classes)
        share = counts * num_test / num_rows
        number = np.floor(share).astype(np.int64)
        number[np.argsort(number - share, kind="stable")[: num_test - number.sum()]] += 1  # largest remainders
        number = np.clip(number, counts >= 2, np.maximum(counts - 1, 0))
        chosen = np.concatenate([order[classes[order] == k][:n] for k, n in enumerate(number)])
    test = np.zeros(num_rows, dtype=bool)
    test[chosen] = True
    if classes is not None and min(test.sum(), (~test).sum()) < 2:  # a class with a single row is trained on
        single = counted(int((np.bincount(classes) == 1).sum()), "class", "classes")
        came = f"{single} of one row each came among {counted(num_rows, 'row')}, which leaves {test.sum()} to hold out"
        raise ValueError(f"each part must have at least 2 rows, but {came}; join rare classes, or leave them out.")
    return test


def latest_rows(when: np.ndarray, fraction: float) -> np.ndarray:
    """The latest rows, as a mask (N,): of moments or numbers (N,); rows of one moment are never divided.

    Raises:
        ValueError: If one is missing, or a part would have fewer than two rows.

    >>> latest_rows(np.array([3.0, 1.0, 2.0, 3.0, 0.0]), 0.4)
    array([ True, False, False,  True, False])
    """
    number = _size(len(when), fraction)
    from_here = np.sort(when)[-number]
    test = when >= from_here
    if min(test.sum(), (~test).sum()) < 2:
        came = f"{counted(int(test.sum()), 'row')} of {len(when):,} are from {from_here} on"
        raise ValueError(f"each part must have at least 2 rows, but {came}; pass another test_fraction.")
    return test


def group_rows(groups: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Whole groups at random until they have `fraction` of the rows, as a mask (N,); `groups` is (N,) texts.

    Raises:
        ValueError: If there are fewer than two groups, or a part would have fewer than two rows.
    """
    number = _size(len(groups), fraction)
    names, index = np.unique(groups.astype(str), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"there must be at least 2 groups to hold one out, but {len(names)} came; choose another column.")
    order = np.random.default_rng(_check.seed(seed)).permutation(len(names))
    sizes = np.bincount(index)[order]
    taken = max(1, min(len(names) - 1, int(np.searchsorted(np.cumsum(sizes), number, side="left")) + 1))
    test = np.isin(index, order[:taken])
    if min(test.sum(), (~test).sum()) < 2:
        came = f"{test.sum()} of {counted(len(groups), 'row')} came in {counted(taken, 'group')}"
        raise ValueError(f"each part must have at least 2 rows, but {came}; pass another test_fraction.")
    return test


def _size(num_rows: int, fraction: float) -> int:
    """Rows to hold out.

    Raises:
        ValueError: If a part would have fewer than two.
    """
    number = round(fraction * num_rows) if 0.0 < fraction < 1.0 else 0
    if min(number, num_rows - number) < 2:
        came = f"test_fraction={fraction} of {counted(num_rows, 'row')} came"
        raise ValueError(f"each part must have at least 2 rows, but {came}; pass another fraction or more rows.")
    return number


def repeated_in(columns: Columns) -> dict[str, int]:
    """Columns whose values look like those of groups with several rows each, and how many values they have, fewest first.

    Such a column is of texts or whole numbers, most rows share its value with others, and it has a name like an identifier's or
    determines another column, as a patient does the sex: rows of one value have one value there too, more often than chance
    explains, and not since that column is coarser steps of this one.

    >>> import pandas as pd
    >>> from bayesreg.data.columns import columns_of
    >>> rng = np.random.default_rng(0)
    >>> patient, age = np.repeat(np.arange(40), 3), rng.integers(20, 70, 120)
    >>> frame = pd.DataFrame({"patient": patient, "sex": rng.integers(0, 2, 40)[patient], "age": age, "old": age // 30})
    >>> repeated_in(columns_of(frame))
    {'patient': 40}
    """
    rows = min(columns.num_rows, _MOST_ROWS)
    if rows < _LEAST_ROWS:
        return {}
    part = columns.take(np.arange(rows))
    codes = {name: _codes(part, name) for name in part}
    known = {name: code for name, code in codes.items() if code is not None}
    found = {}
    for name, code in known.items():
        sizes = np.bincount(code)
        whole = part[name].kind == "text" or (part[name].kind == "numbers" and not np.any(part[name].values % 1))
        if not whole or len(sizes) < _LEAST_GROUPS or 2 * sizes[sizes > 1].sum() < rows or 2 * len(sizes) > rows:
            continue
        others = [other for key, other in known.items() if key != name]
        if ID_NAME.fullmatch(name) or any(_determines(code, other, part[name].kind == "numbers") for other in others):
            found[name] = len(sizes)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _codes(columns: Columns, name: str) -> np.ndarray | None:
    """Numbers 0, 1, … of a column's values in their order, (N,); None where values are missing or no more than one."""
    column = columns[name]
    if column.kind not in ("text", "numbers", "booleans", "dates") or column.missing.any():
        return None
    values = column.values.astype(str) if column.kind == "text" else column.values
    found, code = np.unique(values, return_inverse=True)
    return code if len(found) > 1 else None


def _determines(code: np.ndarray, other: np.ndarray, ordered: bool) -> bool:
    """Whether rows of one value have one value of another column too, which is neither chance nor steps of the first."""
    pairs = np.unique(np.stack([code, other]), axis=1)
    if pairs.shape[1] != code.max() + 1:
        return False
    if ordered and (pairs[1][1:] != pairs[1][:-1]).sum() <= other.max():  # each value of the other is an interval of this one
        return False
    agree = float(np.square(np.bincount(other) / len(other)).sum())
    return -(len(code) - pairs.shape[1]) * np.log(agree) > _SURE
