"""A table, from what a file or a data frame holds to arrays for a network: one path, with what was done to it.

`prepare` is that path: the target is found and read, rows are divided, an `Encoder` learns from the training rows, and all that
is wrong is said at once. `Table` is the result without a test part.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from bayesreg import _check
from bayesreg._text import counted, some
from bayesreg.data.columns import Columns, TableError
from bayesreg.data.encoder import Encoder
from bayesreg.data.features import Missing
from bayesreg.data.files import File, Reading, read_file
from bayesreg.data.splits import random_rows
from bayesreg.data.targets import Target, encode_target, match_target, problems_of, target_in, values_of


class Split(NamedTuple):
    """A training part, (N_train, D) and (N_train,), and a test part, (N_test, D) and (N_test,), of one data set."""

    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """Arrays to fit on, with their names and sentences on where they came from.

    Attributes:
        X: Inputs, (N, D), float64, in the file's own units.
        y: Target, (N,): float64 in the file's own units for regression, int64 index into `classes` otherwise.
        feature_names: D names, after one-hot encoding: `"color=red"`.
        target: The target's name.
        kind: `"regression"`, `"binary"` or `"multiclass"`.
        classes: K class names in the order of the index in `y`; `None` for regression.
        encoding: Plain sentences that say what was done to the columns and the rows.
        source: The file's name, without its folder.
        num_dropped: Rows left out because a value was missing.
        rows: Row numbers in the file, from 1, (N,); `None` for 1 … N.
    """

    X: np.ndarray
    y: np.ndarray
    feature_names: list[str]
    target: str
    kind: Literal["regression", "binary", "multiclass"]
    classes: list[str] | None
    encoding: list[str]
    source: str
    num_dropped: int
    rows: np.ndarray | None = None

    def __repr__(self) -> str:
        rows, features = counted(len(self.y), "row"), counted(self.X.shape[1], "feature")
        return f"Table({self.source}: {rows}, {features}, {self.kind} on {self.target!r})"

    def train_test_split(self, test_fraction: float = 0.2, seed: int = 0) -> Split:
        """Hold out a random part of the rows, `round(test_fraction * N)` of them.

        For classification the draw is stratified: a class gets its share of the test part, at least one row in each
        part where it has two, and a class with a single row is trained on. Each part keeps the file's order.

        Args:
            test_fraction: Share of the N rows to hold out, between 0 and 1.
            seed: Seed of the draw; the global random state is not touched.

        Returns:
            X_train, y_train, X_test, y_test.

        Raises:
            ValueError: If `test_fraction` is not between 0 and 1, or a part would have fewer than two rows.

        >>> y = np.array([0] * 5 + [1] * 5)
        >>> table = Table(np.zeros((10, 1)), y, ["a"], "y", "binary", ["no", "yes"], [], "tiny.csv", 0)
        >>> table.train_test_split(0.4).y_test
        array([0, 0, 1, 1])
        """
        test = random_rows(len(self.y), test_fraction, seed, None if self.classes is None else self.y)
        return Split(self.X[~test], self.y[~test], self.X[test], self.y[test])


_ENOUGH = 20  # rows; in fewer an input may tell the target by chance


@dataclass(frozen=True)
class Wanted:
    """What is asked of a table.

    Attributes:
        target: Name of the column to predict.
        classes: Whether its values are classes; None where they decide.
        missing: What missing values of features do, see `Encoder.fit`; a row without a target is always left out.
        drop: Columns to leave out.
        categorical: Columns whose values are categories.
        numeric: Columns that are numbers.
        transform: Function by column.
        max_levels: Most levels of a category with an input each, and most classes.
    """

    target: str
    classes: bool | None = None
    missing: Missing = "refuse"
    drop: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    transform: Mapping[str, str] = field(default_factory=dict)
    max_levels: int = 50


@dataclass(frozen=True, eq=False)
class Prepared:
    """A table as arrays, with a test part.

    Attributes:
        split: The arrays.
        encoder: What made the inputs, learned from the training rows.
        target: The target of all rows that are used.
        notes: What was done to columns and rows, a sentence each.
        source: The table's name.
        rows: Numbers of the training and of the test rows in the table, from 1.
        num_dropped: Rows that are used in neither part.
    """

    split: Split
    encoder: Encoder
    target: Target
    notes: list[str]
    source: str
    rows: tuple[np.ndarray, np.ndarray]
    num_dropped: int


def prepare(
    file: File,
    wanted: Wanted,
    *,
    decide: Callable[[Any], bool],
    hold_out: Callable[[Columns, Target], np.ndarray] | None = None,
    test: File | None = None,
) -> Prepared:
    """Take a table the whole way to arrays.

    Args:
        file: The table.
        wanted: What is asked of it.
        decide: Whether a target is of classes, by its values, where that is not said.
        hold_out: Which rows to hold out, a mask, from the features' columns and the target; None for none of them.
        test: A table of test rows, in place of rows that are held out.

    Raises:
        TableError: With all problems.
        ValueError: If a part would have too few rows.
    """
    columns, problems, notes = file.columns, list(file.problems), list(file.notes)
    if not columns.num_rows:
        raise TableError(columns.name, problems or ["rows of data must follow the names, but none came; check the file."])
    features, target = _divided(columns, wanted, decide, problems, notes)
    having = features.num_rows
    if target is not None and not problems and wanted.missing == "drop":  # before rows are divided, so that shares are kept
        complete = _learned(features, None, wanted, file, problems).complete(features)
        features, target = features.take(complete), replace(target, y=target.y[complete])
    held = np.zeros(features.num_rows, dtype=bool)
    if target is not None and not problems and hold_out is not None:
        try:
            held = hold_out(features, target)
        except ValueError as error:
            problems.append(str(error))
    encoder = _learned(features, ~held, wanted, file, problems)
    if problems or target is None:
        raise TableError(columns.name, problems)
    keep = np.ones(features.num_rows, dtype=bool)
    if wanted.missing == "drop":
        keep = encoder.complete(features)
        if lost := having - int(keep.sum()):
            notes.append(f"{counted(lost, 'row')} of {having:,} with missing values left out")
    x = encoder.transform(features.take(keep))
    y, rows, late = target.y[keep], features.rows[keep], held[keep]
    x_test, y_test, rows_test = x[late], y[late], rows[late]
    if test is not None:
        x_test, y_test, rows_test = _of_test(test, encoder, target)
    split = Split(x[~late], y[~late], x_test, y_test)
    unused = [f"{some(file.dropped)}: left out: as asked"] if file.dropped else []
    notes = [target.said, *encoder.notes, *unused, *_giveaways(split, encoder, target), *notes]
    used = len(y) + (0 if test is None else len(y_test))
    total = columns.num_rows + (0 if test is None else test.columns.num_rows)
    return Prepared(split, encoder, target, notes, columns.name, (rows[~late], rows_test), total - used)


def _learned(features: Columns, rows: np.ndarray | None, wanted: Wanted, file: File, problems: list[str]) -> Encoder:
    """The encoder of these rows, a mask; all of them when None.

    Raises:
        TableError: With the problems so far and its own.
    """
    try:
        return Encoder.fit(
            features, rows=rows, missing=wanted.missing, categorical=wanted.categorical, numeric=wanted.numeric,
            drop=[name for name in wanted.drop if name not in file.dropped], transform=wanted.transform,
            max_levels=wanted.max_levels,
        )  # fmt: skip
    except TableError as error:
        raise TableError(features.name, [*problems, *error.problems]) from None


def _giveaways(split: Split, encoder: Encoder, target: Target) -> list[str]:
    """Inputs that tell the target by themselves, which are often known only after it."""
    x, y = split.X_train, split.y_train
    if len(y) < _ENOUGH:
        return []
    names = [feature.name for feature in encoder.features for _ in feature.inputs]
    found = {name for name, values in zip(names, x.T, strict=True) if _tells(values, y, target.classes is not None)}
    return [
        f"{name}: tells {target.name!r} by itself, without error; is it known only afterwards? (drop=[{name!r}])"
        for name in dict.fromkeys(names)
        if name in found
    ]


def _tells(values: np.ndarray, y: np.ndarray, classes: bool) -> bool:
    """Whether the target is a straight line of an input's values, or its classes are intervals of them."""
    if classes:
        ends = sorted((values[y == k].min(), values[y == k].max()) for k in np.unique(y))
        return all(one[1] < other[0] for one, other in pairwise(ends))
    size = np.abs(values).max()
    if values.max() == values.min():
        return False
    x, apart = values / size - (values / size).mean(), (y - y.mean()) / max(float(np.abs(y).max()), 1e-300)
    return bool(abs((x * apart).sum()) > (1 - 1e-12) * np.sqrt((x**2).sum() * (apart**2).sum()))


def _divided(
    columns: Columns, wanted: Wanted, decide: Callable[[Any], bool], problems: list[str], notes: list[str]
) -> tuple[Columns, Target | None]:
    """The features and the target of the rows that have one, with problems and notes; None where a problem leaves no target.

    Raises:
        TableError: If there is no such column.
    """
    try:
        column = target_in(columns, wanted.target, wanted.drop)
    except ValueError as error:
        raise TableError(columns.name, [*problems, str(error)]) from None
    problems += problems_of(columns, column, wanted.classes)
    features, target, has = columns.without([wanted.target]), None, ~column.missing
    if not problems:
        try:
            classes = decide(values_of(column)) if wanted.classes is None else wanted.classes
            target = encode_target(column, classes, wanted.max_levels)
        except ValueError as error:
            problems.append(str(error))
    if not has.all() and has.any():
        first = columns.rows[int(np.argmax(~has))]
        lost = counted(int((~has).sum()), "row")
        notes.append(f"{lost} without {wanted.target!r} left out, the first of them row {first:,}")
        features = features.take(has)
    return features, target


def _of_test(test: File, encoder: Encoder, target: Target) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, targets and row numbers of a table of test rows.

    Raises:
        TableError: If it is not like the training rows.
        ValueError: If it has too few rows.
    """
    columns = test.columns
    if test.problems:
        raise TableError(columns.name, test.problems)
    if target.name not in columns:
        near = _check.closest(target.name, columns)
        came = f"{target.name!r} is not among its columns {some(map(repr, columns), 12)}{near}"
        raise TableError(columns.name, [f"the test rows must have the target, but {came}."])
    has, y = match_target(target, columns)
    part = columns.take(has)
    if encoder.missing == "drop":
        keep = encoder.complete(part)
        part, y = part.take(keep), y[keep]
    if len(y) < 2:
        raise ValueError(f"{columns.name} must have at least 2 rows with a target, but {len(y)} came; take another test file.")
    return encoder.transform(part), y, part.rows


def read_table(
    path: str | os.PathLike[str],
    target: str,
    *,
    missing: Missing = "refuse",
    kind: Literal["regression", "classification"] | None = None,
    drop: Collection[str] = (),
    categorical: Collection[str] = (),
    numeric: Collection[str] = (),
    transform: Mapping[str, str] | None = None,
    max_levels: int = 50,
    reading: Reading | None = None,
) -> Table:
    r"""Read a file of any usual kind into arrays: CSV (also compressed), Parquet, Feather, Excel.

    What becomes of each column says `Encoder`; its medians and levels are here those of all rows. To judge by held-out rows,
    read the columns by `read_file` and let an encoder learn from the training rows.

    A target of numbers, integers too, means regression; one of text, or yes and no, means classification, with class indices in
    sorted order (numbers by size): two classes are binary, 0 and 1, more are multiclass. Rows without a target are left out.

    Args:
        path: The file; what it is, its first bytes say.
        target: Name of the column to predict.
        missing: "refuse" missing values, "drop" their rows, or "impute" them.
        kind: `"regression"`, `"classification"` (takes whole numbers too), or `None`: decided by the target's type.
        drop: Names of columns to leave out.
        categorical: Names of columns whose values are categories, whatever they look like.
        numeric: Names of columns that are numbers; what is none in them is missing.
        transform: Function by column, such as "log".
        max_levels: Most levels of a category with an input each, and most classes.
        reading: How the file is written, where that cannot be found out.

    Returns:
        The table, (N, D) inputs and (N,) target.

    Raises:
        ValueError: If the file cannot be read; with all problems (a `TableError`), each with what to do, if it cannot be used.
        ImportError: If a package that reads it is not installed.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "houses.csv")
    ...     _ = file.write_text("size,color,price\n80,red,1.5\n60,blue,1.0\n70,red,\n")
    ...     table = read_table(file, "price")
    >>> table.feature_names, table.X.tolist()
    (['size', 'color=blue', 'color=red', 'color=other'], [[80.0, 0.0, 1.0, 0.0], [60.0, 1.0, 0.0, 0.0]])
    """
    if kind is not None:
        _check.one_of("kind", kind, ("regression", "classification"))
    _check.count("max_levels", max_levels)
    unused, levels, numbers = ((given,) if isinstance(given, str) else tuple(given) for given in (drop, categorical, numeric))
    classes = None if kind is None else kind == "classification"
    wanted = Wanted(target, classes, missing, unused, levels, numbers, transform or {}, max_levels)
    file = read_file(path, reading, texts=levels, drop=unused)
    made = prepare(file, wanted, decide=lambda values: values.dtype.kind != "f")
    sort = "regression" if made.target.classes is None else "binary" if len(made.target.classes) == 2 else "multiclass"
    return Table(
        made.split.X_train, made.split.y_train, made.encoder.feature_names, target, sort, made.target.classes, made.notes,
        made.source, made.num_dropped, made.rows[0],
    )  # fmt: skip
