"""How a column of a file is encoded: as numbers, as columns of zeros and ones, or as class indices; or why it cannot be."""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bayesreg import _check
from bayesreg._memory import MAX_MEMORY
from bayesreg._text import counted, some

if TYPE_CHECKING:
    import pandas as pd

_USABLE = {"integer", "floating", "mixed-integer-float", "decimal", "boolean", "string"}  # as pandas names contents
_NUMBER = re.compile(r"(?a)[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d[\d.]*(,[\d.,]+)?")
_DATE = re.compile(
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d{1,2}/\d{1,2}/\d{2})([T ]+\d{1,2}:.*)?"
    r"|\d{8}T\d{4,6}Z?|\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?"
)
_DIGITS = 300  # no number that can be read has more


def _content(column: pd.Series) -> Literal["numbers", "booleans", "text"]:
    import pandas as pd

    values = column.cat.categories if column.dtype == "category" else column
    word = pd.api.types.infer_dtype(values, skipna=True)
    if word not in _USABLE:
        raise _unusable(column.name, f"{word} values came")
    return "text" if word == "string" else "booleans" if word == "boolean" else "numbers"


def _unusable(name: Any, came: str) -> ValueError:
    advice = f"convert it (dates to days since a start, commas to points), or leave it out by drop_columns=[{name!r}]"
    return ValueError(f"column {name!r} must hold numbers, booleans or text, but {came}; {advice}.")


def _numbers(column: pd.Series) -> np.ndarray:
    try:
        values = column.to_numpy().astype(np.float64)
    except OverflowError:  # whole numbers of hundreds of digits, which pandas keeps as Python's
        held = [float(value) if abs(value) <= sys.float_info.max else math.inf for value in column]
        values = np.array(held, dtype=np.float64)
    rows = column.index.to_numpy()[~np.isfinite(values)] + 1
    if len(rows):
        came = f"{len(rows):,} of {counted(len(values), 'value')} came infinite, the first in row {rows[0]:,}"
        raise ValueError(f"column {column.name!r} must be finite, but {came}; correct them or leave these rows out.")
    return values


def _levels(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    if column.dtype == "category":
        column = column.astype(column.cat.categories.dtype)  # a category's own order may differ
    codes, found = column.factorize(sort=True)
    levels = [str(level) for level in found]
    if all(map(_DATE.fullmatch, levels)):
        raise _unusable(column.name, f"dates or times came ({levels[0]!r})")
    for mark, what in (("\0", "NUL bytes"), (",", "numbers with a comma"), ("−", "numbers with a typographic minus")):
        held = [level for level in levels if mark in level]
        plain = [level.replace("−", "-") for level in levels] if what.startswith("numbers") else []
        if held and all(map(_COMMA.fullmatch if mark == "," else _NUMBER.fullmatch, plain)):
            raise _unusable(column.name, f"{what} came ({_check.said(held[0])})")
    if max(map(len, levels)) > _DIGITS and all(map(_NUMBER.fullmatch, levels)):  # pandas leaves as text what Python cannot read
        raise _unusable(column.name, "numbers of thousands of digits came")
    return codes.astype(np.int64), levels


def encode_feature(column: pd.Series, max_levels: int) -> tuple[np.ndarray, list[str], str]:
    """An input's encoded columns, their names, and a sentence where it was changed.

    Raises:
        ValueError: If it has too many levels, or cannot be read.
    """
    name, content = str(column.name), _content(column)
    if content != "text":
        values = _numbers(column)
        what = "boolean, 0/1" if content == "booleans" else "numeric"
        constant = f", constant ({values[0]:g}), kept" if np.ptp(values) == 0 else ""
        return values[:, None], [name], f"{name}: {what}{constant}" if constant or content == "booleans" else ""
    codes, levels = _levels(column)
    words = [level for level in levels if not _NUMBER.fullmatch(level)]
    mixed = f"; all are numbers but {some(map(repr, words), 3)}" if 2 * len(words) < len(levels) and words else ""
    if len(levels) > max_levels:
        came = f"{len(levels):,} came in {counted(len(codes), 'row')} (an identifier column?{mixed})"
        advice = f"leave it out by drop_columns=[{name!r}], or raise max_levels"
        raise ValueError(f"column {name!r} must have at most {max_levels} levels, but {came}; {advice}.")
    if 8 * len(codes) * len(levels) > MAX_MEMORY:
        came = f"{len(levels):,} levels in {counted(len(codes), 'row')} came"
        raise ValueError(f"column {name!r} must go into memory one-hot, but {came}; leave it out by drop_columns=[{name!r}].")
    names = [f"{name}={level}" for level in levels]
    number = counted(len(levels), "level") + (", constant" if len(levels) == 1 else "")
    return np.eye(len(levels))[codes], names, f"{name}: categorical, {number}, one-hot ({some(names)}){mixed}"


def encode_target(column: pd.Series, kind: str | None, max_levels: int) -> tuple[np.ndarray, list[str] | None, str]:
    """The target, its classes or None, and a sentence.

    Raises:
        ValueError: If it does not vary, does not suit its kind, mixes numbers with marks, or has too many classes.
    """
    must, content = f"target {column.name!r} must", _content(column)
    if column.nunique() < 2:
        raise ValueError(f"{must} vary, but {column.iloc[0]} came in every row; choose another target.")
    if content == "text":
        y, classes = _levels(column)
        if kind != "classification":
            _check_mixed(column, y, classes, kind)
        if kind == "regression":
            raise ValueError(f"{must} hold numbers for regression, but text came ({classes[0]!r}); leave kind=None.")
    else:
        values = _numbers(column)
        found, y = np.unique(values, return_inverse=True)
        whole = np.array_equal(found, np.rint(found))
        if kind == "regression" or (kind is None and content == "numbers"):
            what = "boolean as 0/1" if content == "booleans" else "integer" if whole else "numeric"
            note = " (kind='classification' takes its values as classes)" if whole and kind is None else ""
            return values, None, f"{column.name}: target, {what}, regression{note}"
        if not whole:
            raise ValueError(f"{must} hold text or whole numbers for classes, but fractions came; leave kind=None.")
        classes = ["False", "True"] if content == "booleans" else [f"{value:.0f}" for value in found]
    if len(classes) > max_levels:
        raise ValueError(f"{must} have at most {max_levels} classes, but {len(classes):,} came; raise max_levels.")
    what = "binary" if len(classes) == 2 else f"{len(classes)} classes"
    sentence = f"{column.name}: target, {what}, {some(f'{name} = {k}' for k, name in enumerate(classes))}"
    return y.astype(np.int64), classes, sentence


def _check_mixed(column: pd.Series, codes: np.ndarray, levels: list[str], kind: str | None) -> None:
    """Refuse a numeric target with a few other entries: to read these as classes would be a guess.

    Raises:
        ValueError: If more than half of the rows hold a number.
    """
    is_number = np.array([_NUMBER.fullmatch(level) is not None for level in levels])[codes]
    others = np.flatnonzero(~is_number)
    if 2 * len(others) < len(codes) and len(others):
        rows = column.index.to_numpy()[others] + 1
        where = some((f"{_check.said(levels[codes[i]])} in row {row:,}" for i, row in zip(others, rows, strict=True)), 3)
        came = f"{len(codes) - len(others):,} of {counted(len(codes), 'row')} hold numbers and the others do not ({where})"
        advice = "" if kind else ", or pass kind='classification' to take every value as a class"
        must = f"target {column.name!r} must hold numbers only, or classes"
        raise ValueError(f"{must}, but {came}; correct these rows or leave them out{advice}.")
