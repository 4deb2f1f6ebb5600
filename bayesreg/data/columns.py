"""The columns of a table, each with one kind of content, whatever it came as: a file's cells, pandas, Polars, Arrow."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bayesreg import _check
from bayesreg._text import some
from bayesreg.data.cells import MISSING, Found, Kind, Writing, as_text, read_cells


class TableError(ValueError):
    """A table that cannot be used as it is.

    Attributes:
        problems: What is wrong, a sentence each, with what to do.
    """

    def __init__(self, name: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        if len(problems) == 1:
            super().__init__(problems[0])
        else:
            listed = "\n".join(f"  {i}. {problem}" for i, problem in enumerate(problems, 1))
            super().__init__(f"{name} has {len(problems)} problems:\n{listed}")


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """One column.

    Attributes:
        name: Its name.
        kind: What it holds: "numbers", "booleans", "dates", "text", "nothing" where every value is missing, or "unusable".
        values: (N,): float64 with NaN where missing (booleans are 0 and 1), datetime64 with NaT, or texts with None.
        texts: (N,) the cells as they came, None where missing, for a column of text; else None.
        order: The levels of an ordered category, in their order; else None.
        said: How it was read, where that is worth saying; else empty.
        problem: Number of a value and a sentence on it where the column cannot be read in one way; else None.
        doubt: The same where words stand among numbers, also if all values are so few that they may be categories.
        words: The words for 0 and 1 of booleans that came as text.
    """

    name: str
    kind: Kind
    values: np.ndarray
    texts: np.ndarray | None = None
    order: tuple[str, ...] | None = None
    said: str = ""
    problem: tuple[int, str] | None = None
    doubt: tuple[int, str] | None = None
    words: tuple[str, str] | None = None

    @property
    def missing(self) -> np.ndarray:
        """Where a value is missing, (N,)."""
        return gaps(self.values)

    def as_texts(self) -> np.ndarray:
        """(N,) texts, None where missing, whatever the kind is: the names of levels."""
        if self.kind == "text":
            return self.values
        show: Any = {"booleans": lambda value: str(value == 1), "dates": str}.get(self.kind, as_text)
        values = self.values
        if self.texts is not None and (self.kind != "numbers" or _are_codes(self.texts)):
            show, values = str.strip, self.texts
        return np.array([None if gone else show(v) for v, gone in zip(values, self.missing, strict=True)], dtype=object)

    def take(self, rows: np.ndarray) -> Column:
        """The same column at some rows, by number or mask."""
        texts = None if self.texts is None else self.texts[rows]
        return dataclasses.replace(self, values=self.values[rows], texts=texts)


@dataclasses.dataclass(frozen=True, eq=False)
class Columns(Mapping[str, Column]):
    """The columns of a table by name.

    Attributes:
        columns: Them, in order.
        rows: (N,) the rows' numbers, which messages name; from 1 on in what it came from.
        name: What a message calls the table.
        lines: (N,) their lines in the file, where it has lines; else None.
        whole: The table that its rows were taken from; None where it is that itself.
    """

    columns: dict[str, Column]
    rows: np.ndarray
    name: str = "the table"
    lines: np.ndarray | None = None
    whole: Columns | None = None

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.rows)

    def take(self, rows: np.ndarray) -> Columns:
        """The same columns at some rows, by number or mask; these keep their numbers."""
        found = {name: column.take(rows) for name, column in self.columns.items()}
        lines = None if self.lines is None else self.lines[rows]
        return Columns(found, self.rows[rows], self.name, lines, self.whole or self)

    def without(self, names: Collection[str]) -> Columns:
        """The table without some columns."""
        return dataclasses.replace(self, columns={name: column for name, column in self.columns.items() if name not in names})

    def at(self, column: str, place: int) -> str:
        """How a message names a cell."""
        line = "" if self.lines is None else f" (line {self.lines[place]:,})"
        return f"column {column!r}, row {self.rows[place]:,}{line}"

    def trouble(self, name: str) -> str:
        """What keeps a column from being read in one way, with its place; empty where nothing does."""
        column = self.columns[name]
        if column.problem is None:
            return ""
        place, why = column.problem
        ways = f"numeric=[{name!r}] to take all that is no number as missing, " if column.doubt is not None else ""
        ways += f"categorical=[{name!r}] to take every value as a category, " if column.kind != "unusable" else ""
        return f"{(self.whole or self).at(name, place)}: {why}, {ways}or drop=[{name!r}] to leave it out."


def _are_codes(texts: np.ndarray) -> bool:
    """Whether whole numbers begin with a zero, as codes do: 01234 is then not 1234."""
    return any(text is not None and len(text) > 1 and text[0] == "0" and text.isdigit() for text in texts)


def columns_of(frame: Any, writing: Writing | None = None) -> Columns:
    """The columns of a data frame that narwhals knows (pandas, Polars, Arrow), or of `Columns` themselves.

    Text is read as the cells of a file are: as numbers, yes and no, or dates where all of it is such.

    Args:
        frame: The data frame, (N, D).
        writing: How texts are written.

    Raises:
        ValueError: If it is no data frame, or names come twice.

    >>> import pandas as pd
    >>> columns_of(pd.DataFrame({"a": ["1", "2"], "b": ["x", None]}))["a"].values
    array([1., 2.])
    """
    if isinstance(frame, Columns):
        return frame
    import narwhals as nw

    try:
        given: Any = nw.from_native(frame, eager_only=True)
    except TypeError:
        raise ValueError(
            f"a table must be a data frame (pandas, Polars, Arrow), but {type(frame).__name__} came; pass for example "
            "pandas.DataFrame(X)."
        ) from None
    except nw.exceptions.DuplicateError as error:
        _check.distinct("column names", [str(name) for name in getattr(frame, "column_names", frame.columns)])
        raise ValueError(f"column names must differ, but {error}; rename one of each.") from error
    found = {}
    names = _check.distinct("column names", [str(name) for name in given.columns])
    for name, series in zip(names, given.iter_columns(), strict=True):
        found[name] = _of_series(name, series, writing or Writing())
    return Columns(found, np.arange(1, given.shape[0] + 1))


def from_cells(name: str, cells: np.ndarray, writing: Writing, *, as_text: bool = False) -> Column:
    """A column of a file from its cells, (N,) texts; with `as_text` it stays text."""
    if as_text:
        marks = MISSING | set(writing.na)
        texts = np.array([None if cell is None or cell.strip() in marks else cell.strip() for cell in cells], dtype=object)
        return _column(name, cells, Found("nothing" if gaps(texts).all() else "text", texts))
    return _column(name, cells, read_cells(cells, writing))


def _column(name: str, cells: np.ndarray, found: Found) -> Column:
    return Column(name, found.kind, found.values, cells, None, found.said, found.problem, found.doubt, found.words)


def gaps(values: np.ndarray) -> np.ndarray:
    """Where values are missing, (N,): None among texts, NaN or NaT."""
    if values.dtype == object:
        return np.array([value is None for value in values], dtype=bool)
    return np.isnat(values) if values.dtype.kind == "M" else np.isnan(values)


def _of_series(name: str, series: Any, writing: Writing) -> Column:
    """A column of a data frame, by its narwhals type."""
    import narwhals as nw

    dtype = series.dtype
    if dtype == nw.Boolean:
        return Column(name, "booleans", _floats(series.to_list()))
    if dtype.is_numeric() and not isinstance(dtype, nw.Decimal):
        return _of_numbers(name, np.asarray(series.cast(nw.Float64).to_numpy(), dtype=np.float64))
    if dtype in (nw.Categorical, nw.Enum) or isinstance(dtype, (nw.Categorical, nw.Enum)):
        return _of_category(name, series)
    values = series.to_list()
    if isinstance(dtype, nw.Duration):
        days = [None if value is None else value / datetime.timedelta(days=1) for value in values]
        return dataclasses.replace(_of_numbers(name, _floats(days)), said="durations, in days")
    return of_objects(name, values, writing)


def _of_numbers(name: str, values: np.ndarray) -> Column:
    return Column(name, "nothing" if np.isnan(values).all() else "numbers", values)


def _floats(values: Sequence[Any]) -> np.ndarray:
    def one(value: Any) -> float:
        try:
            return np.nan if _is_gone(value) else float(value)
        except OverflowError:  # a whole number of hundreds of digits
            return np.inf if value > 0 else -np.inf

    return np.array([one(value) for value in values], dtype=np.float64)


def _is_gone(value: Any) -> bool:
    """Whether a value of a data frame marks a missing one: None, NaN, and what pandas has for them."""
    return value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")


def _of_category(name: str, series: Any) -> Column:
    import narwhals as nw

    pandas = sys.modules.get("pandas")
    native = nw.to_native(series)
    if pandas is not None and isinstance(native, pandas.Series):
        levels = [value if isinstance(value, str) else _shown(value) for value in native.cat.categories]
        values = np.array([*levels, None], dtype=object)[native.cat.codes.to_numpy()]
        ordered = bool(native.cat.ordered)
    else:
        levels, ordered = [], False
        values = np.array(series.cast(nw.String).to_list(), dtype=object)
    kind = "nothing" if all(value is None for value in values) else "text"
    return Column(name, kind, values, order=tuple(levels) if ordered else None)


def _shown(value: Any) -> str:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_))
    return as_text(float(value)) if number else str(value)


def of_objects(name: str, values: list[Any], writing: Writing) -> Column:
    """A column of Python's own objects, which may be of one kind."""
    gone = list(map(_is_gone, values))
    kinds = {type(value) for value, no in zip(values, gone, strict=True) if not no}
    plain = [None if no else value for value, no in zip(values, gone, strict=True)]
    if not kinds:
        return Column(name, "nothing", np.full(len(values), np.nan))
    if all(issubclass(kind, str) for kind in kinds):
        cells = np.array(plain, dtype=object)
        return _column(name, cells, read_cells(cells, writing))
    if all(issubclass(kind, (bool, np.bool_)) for kind in kinds):
        return Column(name, "booleans", _floats(plain))
    if all(issubclass(kind, (int, float, decimal.Decimal, np.number)) for kind in kinds):
        return _of_numbers(name, _floats(plain))
    if all(issubclass(kind, (datetime.date, np.datetime64)) for kind in kinds):
        return Column(name, "dates", np.array([_moment(value) for value in plain], dtype="datetime64[us]"))
    if all(issubclass(kind, datetime.time) for kind in kinds):
        hours = [None if t is None else t.hour + t.minute / 60 + t.second / 3600 for t in plain]
        return dataclasses.replace(_of_numbers(name, _floats(hours)), said="times of day, in hours")
    if all(issubclass(kind, (str, bool, int, float, np.number)) for kind in kinds):
        cells = np.array([value if value is None or isinstance(value, str) else _shown(value) for value in plain], dtype=object)
        return _column(name, cells, read_cells(cells, writing))
    came = some(sorted(kind.__name__ for kind in kinds))
    why = f"values of type {came} came, where numbers, texts, Booleans or dates must stand; convert it"
    first = next(i for i, no in enumerate(gone) if not no)
    return Column(name, "unusable", np.array([None if no else "" for no in gone], dtype=object), problem=(first, why))


def _moment(value: Any) -> np.datetime64:
    if value is None:
        return np.datetime64("NaT")
    if isinstance(value, datetime.datetime):
        value = value.replace(tzinfo=None)  # its own clock: hours and weekdays are those of the place
    to_python = getattr(value, "to_pydatetime", None)
    return np.datetime64(to_python(warn=False) if to_python is not None else value, "us")
