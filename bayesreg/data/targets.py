"""The column to predict: its numbers or its classes, and why it can be neither."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from bayesreg import _check
from bayesreg._text import counted, some
from bayesreg.data.cells import as_text, is_number
from bayesreg.data.columns import Column, Columns, TableError

MAX_CLASSES = 50


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A target, ready for a likelihood.

    Attributes:
        name: Its name.
        y: (N,) float64 for numbers, int64 index into `classes` otherwise, for the rows that have one.
        classes: The classes' names in the order of the index; None for numbers.
        said: What it is, in a sentence.
    """

    name: str
    y: np.ndarray
    classes: list[str] | None
    said: str


def target_in(columns: Columns, name: str, drop: tuple[str, ...] = ()) -> Column:
    """The target's column.

    Raises:
        ValueError: If there is none of that name, or none besides it is left.
    """
    left = [column for column in columns if column not in drop]
    if name not in left:
        near = _check.closest(name, left)
        alone = "" if len(columns) > 1 else ", one only: say separator= if its fields are apart by something else"
        came = f"{name!r} came{near}; its columns are {some(map(_check.said, left))}{alone}"
        raise ValueError(f"target must name a column of the file, but {came}.")
    if len(left) < 2:
        raise ValueError(f"a feature besides the target must remain, but {name!r} is the only column; add some.")
    return columns[name]


def values_of(column: Column) -> Any:
    """What a likelihood is chosen by: floats, Booleans, texts, or an ordered pandas category; missing ones are left out."""
    kept = column.take(~column.missing)
    if kept.order is not None:
        import pandas as pd

        present = set(kept.values)
        return pd.Series(pd.Categorical(kept.values, [level for level in kept.order if level in present], ordered=True))
    return kept.values.astype(bool) if kept.kind == "booleans" else kept.values


def problems_of(columns: Columns, column: Column, classes: bool | None) -> list[str]:
    """What keeps a column from being a target, a sentence each; `classes` is what it must be, None where that is open."""
    must = f"target {column.name!r} must"
    if column.kind == "nothing":
        return [f"{must} have values, but every one is missing; choose another target."]
    if column.kind == "dates":
        came = str(column.values[~column.missing][0])[:10]
        return [f"{must} hold numbers or classes, but dates came ({came}); choose another, or make it a number of days."]
    trouble = column.problem or column.doubt
    if trouble is not None and (classes is not True or column.kind == "unusable"):
        advice = (
            "" if classes is False or column.kind == "unusable" else ", or kind='classification' to take every value as a class"
        )
        return [f"{must} hold numbers only, or classes: {columns.at(column.name, trouble[0])}: {trouble[1]}{advice}."]
    if column.kind == "text" and classes is False:
        place = int(np.argmax(~column.missing))
        came = f"text came ({column.values[place]!r} in row {columns.rows[place]:,})"
        return [f"{must} hold numbers for regression, but {came}; leave kind=None."]
    values = column.values[~column.missing]
    if column.kind in ("numbers", "booleans") and (bad := np.isinf(column.values)).any():
        place = int(np.argmax(bad))
        return [f"{columns.at(column.name, place)}: {column.values[place]} came, where the target must be finite; correct it."]
    if len(set(values.tolist())) < 2:
        only = column.as_texts()[~column.missing][0]
        return [f"{must} vary, but {only} came in every row that has one; choose another target."]
    return []


def encode_target(column: Column, classes: bool, max_classes: int = MAX_CLASSES) -> Target:
    """The target of the rows that have one, as numbers or as classes in sorted order (numbers by size).

    Raises:
        ValueError: If it has too many classes, or fractions for classes.
    """
    kept = column.take(~column.missing)
    if not classes:
        what = "boolean as 0/1" if kept.kind == "booleans" else "integer" if _whole(kept.values) else "numeric"
        how = f" ({column.said})" if column.said else ""
        return Target(column.name, kept.values.astype(np.float64), None, f"{column.name}: target, {what}{how}")
    must = f"target {column.name!r} must"
    if kept.kind == "numbers" and not _whole(kept.values):
        raise ValueError(f"{must} hold text or whole numbers for classes, but fractions came; leave kind=None.")
    if kept.kind in ("numbers", "booleans"):
        found, y = np.unique(kept.values, return_inverse=True)
        words = list(kept.words or ("False", "True"))
        names = [words[int(value)] for value in found] if kept.kind == "booleans" else [as_text(value) for value in found]
    else:
        names = [level for level in kept.order or sorted(set(kept.values), key=_by_size) if level in set(kept.values)]
        index = {name: i for i, name in enumerate(names)}
        y = np.array([index[value] for value in kept.values])
    if len(names) > max_classes:
        raise ValueError(f"{must} have at most {max_classes} classes, but {len(names):,} came; raise max_levels.")
    kind = "binary" if len(names) == 2 else counted(len(names), "class", "classes")
    shown = (name if name == str(k) else f"{name} = {k}" for k, name in enumerate(names))
    return Target(column.name, y.astype(np.int64), names, f"{column.name}: target, {kind}, {some(shown)}")


def _whole(values: np.ndarray) -> bool:
    return bool(np.array_equal(values, np.rint(values)))


def _by_size(level: str) -> tuple[float, str]:
    return (float(level), level) if is_number(level) else (math.inf, level)


def match_target(target: Target, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """The same target in another table: where it has a value, (N,) of Booleans, and these values as in `target.y`.

    Raises:
        TableError: If a value is no number, or a class that was not there.
    """
    column = columns[target.name]
    there = ~column.missing
    if target.classes is None:
        if column.kind not in ("numbers", "booleans", "nothing"):
            place = int(np.argmax(there))
            why = (
                f"{_check.said(column.as_texts()[place])} came, where a number must stand; correct it, or leave the cell empty"
            )
            raise TableError(columns.name, [columns.trouble(target.name) or f"{columns.at(target.name, place)}: {why}."])
        return there, column.values[there].astype(np.float64)
    index = {name.casefold(): i for i, name in enumerate(target.classes)} | {n: i for i, n in enumerate(target.classes)}
    texts = column.as_texts()
    y = np.full(len(texts), -1)
    for place in map(int, np.flatnonzero(there)):
        text = texts[place]
        y[place] = index.get(text, index.get(text.casefold(), -1))
        if y[place] < 0:
            known = some(map(repr, target.classes), 8)
            why = f"{_check.said(text)} came, a class that was not in training; the classes are {known}"
            raise TableError(columns.name, [f"{columns.at(target.name, place)}: {why}."])
    return there, y[there]
