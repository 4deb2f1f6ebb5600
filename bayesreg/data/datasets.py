"""A user's file, or a bundled data set, as arrays for a network.

`Table.encoding` says what was done to the columns, for the report; what could only be guessed is refused.
"""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from bayesreg import _check
from bayesreg._text import counted, some
from bayesreg.data.encoding import encode_feature, encode_target

if TYPE_CHECKING:
    import pandas as pd

_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")


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
        num_rows = len(self.y)
        num_test = round(test_fraction * num_rows) if 0.0 < test_fraction < 1.0 else 0
        if min(num_test, num_rows - num_test) < 2:
            came = f"test_fraction={test_fraction} of {counted(num_rows, 'row')} came"
            raise ValueError(f"each part must have at least 2 rows, but {came}; pass another fraction or more rows.")
        order = np.random.default_rng(_check.seed(seed)).permutation(num_rows)
        chosen = order[:num_test]
        if self.classes is not None:
            counts = np.bincount(self.y, minlength=len(self.classes))
            share = counts * num_test / num_rows
            number = np.floor(share).astype(np.int64)
            number[np.argsort(number - share, kind="stable")[: num_test - number.sum()]] += 1  # largest remainders
            number = np.clip(number, counts >= 2, np.maximum(counts - 1, 0))
            chosen = np.concatenate([order[self.y[order] == k][:n] for k, n in enumerate(number)])
        test = np.zeros(num_rows, dtype=bool)
        test[chosen] = True
        if min(test.sum(), (~test).sum()) < 2:  # a class with a single row is trained on
            single = counted(int((np.bincount(self.y) == 1).sum()), "class", "classes")
            came = f"{single} of one row each came among {counted(num_rows, 'row')}, which leaves {test.sum()} to hold out"
            raise ValueError(f"each part must have at least 2 rows, but {came}; join rare classes, or leave them out.")
        return Split(self.X[~test], self.y[~test], self.X[test], self.y[test])


def read_table(
    path: str | os.PathLike[str],
    target: str,
    *,
    drop_missing: bool = False,
    max_levels: int = 50,
    kind: Literal["regression", "classification"] | None = None,
    drop_columns: Sequence[str] = (),
) -> Table:
    r"""Read a CSV or Parquet file into arrays.

    Numbers are taken as they are, booleans become 0/1. A text or categorical column with L levels becomes L columns of
    zeros and ones, in sorted order. No level is dropped: a prior makes the redundant parametrisation identifiable, and
    without a reference level every level is treated alike.

    A numeric target, integers too, means regression; a boolean, text or categorical one means classification, with
    class indices in sorted order (numbers by size): two classes are binary, 0 and 1, more are multiclass.
    A text target of which more than half of the rows hold numbers is refused, unless `kind` says "classification": a mark for
    a missing value among numbers makes no classes.

    CSV is UTF-8 with the names in its first line; the delimiter is whichever of comma, semicolon and tab splits that
    line into most fields. Missing are empty cells and marks such as NA, NaN, null and None, in Parquet nulls and NaN.
    Messages count the rows of data from 1.

    Args:
        path: A file that ends in .csv, .tsv, .txt or .parquet.
        target: Name of the column to predict.
        drop_missing: Leave out rows with a missing value; otherwise such a file is refused.
        max_levels: Largest number of levels that a text column or a classification target may have.
        kind: `"regression"`, `"classification"` (takes whole numbers too), or `None`: decided by the target's type.
        drop_columns: Names of columns to leave out, such as identifiers.

    Returns:
        The table, (N, D) inputs and (N,) target.

    Raises:
        ValueError: If the file cannot be read, names are missing, repeated or unknown, nothing is left to fit on,
            values are missing or infinite, a column holds dates, identifiers or no usable type, or the target does not
            vary or does not fit `kind`.
        ImportError: If the file is Parquet and pyarrow is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "houses.csv")
    ...     _ = file.write_text("size,color,price\n80,red,1.5\n60,blue,1.0\n")
    ...     table = read_table(file, "price")
    >>> table.feature_names, table.X.tolist()
    (['size', 'color=blue', 'color=red'], [[80.0, 0.0, 1.0], [60.0, 1.0, 0.0]])
    """
    if kind is not None:
        _check.one_of("kind", kind, ("regression", "classification"))
    _check.count("max_levels", max_levels)
    file = Path(path)
    if file.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"path must end in {', '.join(_SUFFIXES)}, but {file.name!r} came; save it as one of these.")
    if not file.is_file():
        raise ValueError(f"path must be a file that is there, but {str(file)!r} came; check its name and folder.")
    frame = _read_parquet(file) if file.suffix.lower() == ".parquet" else _read_csv(file)
    frame = _select(frame, target, drop_columns)
    num_rows, (frame, missing) = len(frame), _without_missing(frame, _check.flag("drop_missing", drop_missing))
    y, classes, sentence = encode_target(frame.pop(target), kind, max_levels)
    parts, names, sentences = zip(*(encode_feature(column, max_levels) for _, column in frame.items()), strict=True)
    unchanged = sentences.count("")
    encoding = [sentence, *([f"{counted(unchanged, 'numeric column')}, unchanged"] if unchanged else [])]
    encoding += [*filter(None, sentences), *missing]
    names = _check.distinct("feature names after one-hot encoding", [*itertools.chain(*names)])
    found = "regression" if classes is None else "binary" if len(classes) == 2 else "multiclass"
    dropped, source = num_rows - len(frame), file.name.encode("utf-8", "replace").decode()  # a name may be no UTF-8
    return Table(
        np.concatenate(parts, axis=1), y, names, target, found, classes, encoding, source, dropped, frame.index.to_numpy() + 1
    )


def load_diabetes() -> Table:
    """Disease progression of 442 diabetes patients by 10 measurements in their original units: regression.

    Returns:
        The table that scikit-learn carries, not standardised.

    References:
        Efron, B., Hastie, T., Johnstone, I. and Tibshirani, R. (2004). Least angle regression.

    >>> load_diabetes()
    Table(scikit-learn diabetes: 442 rows, 10 features, regression on 'progression')
    """
    return _bundled("diabetes", "progression", None)


def load_breast_cancer() -> Table:
    """Diagnosis of 569 tumours by 30 measurements of cell nuclei: binary, 0 malignant and 1 benign.

    Returns:
        The table that scikit-learn carries, with its own order of the classes.

    References:
        Street, W., Wolberg, W. and Mangasarian, O. (1993). Nuclear feature extraction for breast tumor diagnosis.

    >>> load_breast_cancer()
    Table(scikit-learn breast cancer: 569 rows, 30 features, binary on 'diagnosis')
    """
    return _bundled("breast cancer", "diagnosis", ["malignant", "benign"])


def load_uci(folder: str | os.PathLike[str], split: int) -> Split:
    r"""Read one train/test split of a regression set that papers on Bayesian neural networks report on.

    The folder holds `data.txt` (a row a line, white space between), and row or column numbers from 0 in
    `index_features.txt`, `index_target.txt`, `index_train_<i>.txt` and `index_test_<i>.txt`.

    Args:
        folder: The data set's folder.
        split: Number i of the split, from 0.

    Returns:
        X_train (N_train, D), y_train (N_train,), X_test (N_test, D), y_test (N_test,), in the data's own units.

    Raises:
        ValueError: If a file is not there or holds no numbers, an index is repeated or out of range, the target is not
            one column or is a feature, or a row is in both parts.

    References:
        Hernández-Lobato, J. M. and Adams, R. P. (2015). Probabilistic backpropagation for scalable learning of
        Bayesian neural networks.

    >>> import tempfile
    >>> files = dict(data="1 10\n2 20", index_features="0", index_target="1", index_train_0="1", index_test_0="0")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sizes = [Path(folder, f"{name}.txt").write_text(text) for name, text in files.items()]
    ...     load_uci(folder, 0).y_train
    array([20.])
    """
    root = Path(folder)
    data = _read_numbers(root / "data.txt")
    features, target = (_read_numbers(root / f"index_{n}.txt", data.shape[1]) for n in ("features", "target"))
    train, test = (_read_numbers(root / f"index_{n}_{split}.txt", len(data)) for n in ("train", "test"))
    shared = np.intersect1d(train, test).size
    if len(target) != 1 or target[0] in features or shared:
        must = "the target must be one column and no feature, and no row may be in both parts"
        raise ValueError(f"{must}, but columns {target.tolist()} and {shared:,} such rows came; correct the files.")
    x, y = data[:, features], data[:, target[0]]
    return Split(x[train], y[train], x[test], y[test])


def _read_csv(file: Path) -> pd.DataFrame:
    import pandas as pd

    def records(delimiter: str) -> list[list[str]]:
        stream.seek(0)
        rows = csv.reader(stream, delimiter=delimiter, skipinitialspace=True)
        return list(itertools.islice((row for row in rows if len(row) > 1 or "".join(row).strip()), 2))

    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            delimiter = max(",;\t", key=lambda candidate: sum(map(len, records(candidate)[:1])))
            first = records(delimiter)
        if not first:
            raise csv.Error("no line with text")
        if any("\0" in name for name in first[0]):
            raise csv.Error("NUL bytes in its first line")
        names = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(first[0])]
        if len(first[-1]) > len(names):  # pandas would take the first column for row labels, and shift the names
            raise csv.Error(f"{len(first[-1])} fields in row 1, {len(names)} in the header")
        # low_memory=False: a type is decided on the whole column, not on chunks of it
        frame = pd.read_csv(file, sep=delimiter, skipinitialspace=True, low_memory=False, encoding="utf-8-sig")
    except (OSError, UnicodeError, csv.Error, pd.errors.ParserError) as error:
        must = f"{file.name} must be UTF-8 text with names in its first line and as many fields in each row"
        raise ValueError(f"{must}, but this came: {str(error).strip()}; mend the file.") from error
    return frame.set_axis(names, axis=1)


def _read_parquet(file: Path) -> pd.DataFrame:
    try:
        import pyarrow.parquet as pq

        with pq.ParquetFile(file) as parquet:
            return parquet.read().to_pandas(ignore_metadata=True)  # a data frame's index is a column like any other
    except ImportError as error:
        raise ImportError("reading Parquet needs pyarrow: pip install bayesreg[parquet], or save as CSV.") from error
    except (OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{file.name} must be a Parquet file, but this came: {error}; write it again.") from error


def _select(frame: pd.DataFrame, target: str, drop_columns: Sequence[str]) -> pd.DataFrame:
    drop = [drop_columns] if isinstance(drop_columns, str) else list(drop_columns)
    columns = _check.distinct("column names", [str(name) for name in frame.columns])
    left = [name for name in columns if name not in drop]
    for what, name, choices in [*(("drop_columns", name, columns) for name in drop), ("target", target, left)]:
        if name not in choices:
            near = _check.closest(str(name), choices) if len(columns) > 1 else ""
            alone = "" if len(columns) > 1 else ", one only: fields must be apart by commas, semicolons or tabs"
            came = f"{name!r} came{near}; its columns are {some(map(_check.said, choices))}{alone}"
            raise ValueError(f"{what} must name a column of the file, but {came}.")
    if unnamed := [name for name in left if name.startswith(("Unnamed: ", "__index_level_"))]:
        came = f"{some(map(repr, unnamed))} came without one, as row numbers and trailing delimiters do"
        raise ValueError(f"every column must have a name, but {came}; name it, or pass drop_columns={unnamed}.")
    if len(left) < 2 or len(frame) == 0:
        came = f"{counted(len(frame), 'row')} of {some(map(repr, left))} came"
        raise ValueError(f"a feature besides the target, and rows of data, must remain, but {came}; add some.")
    return frame.drop(columns=drop)


def _without_missing(frame: pd.DataFrame, drop_missing: bool) -> tuple[pd.DataFrame, list[str]]:
    missing = frame.isna()
    number = int(missing.any(axis=1).sum())
    if number == 0:
        return frame, []
    per_column = missing.sum().sort_values(ascending=False, kind="stable")
    detail = some(f"{name} {count:,}" for name, count in per_column.items() if count)
    share = f"{number:,} of {counted(len(frame), 'row')}"
    if not drop_missing or number == len(frame):
        must = "a row without missing values must be left" if drop_missing else "every cell must have a value"
        advice = "leave out the emptiest columns" if drop_missing else "pass drop_missing=True or --drop-missing"
        raise ValueError(f"{must}, but {share} came with missing ones ({detail}); fill them in, or {advice}.")
    return frame.dropna(), [f"{share} dropped for missing values ({detail})"]


def _bundled(name: str, target: str, classes: list[str] | None) -> Table:
    from sklearn import datasets

    bunch: Any = datasets.load_diabetes(scaled=False) if classes is None else datasets.load_breast_cancer()
    y, kind, what = bunch.target.astype(np.float64), "regression", "numeric, regression"
    if classes is not None:
        y, kind, what = y.astype(np.int64), "binary", f"binary, {classes[0]} = 0, {classes[1]} = 1"
    encoding = [f"{target}: target, {what}", f"{bunch.data.shape[1]} numeric columns, unchanged"]
    names = [str(feature) for feature in bunch.feature_names]
    return Table(bunch.data, y, names, target, kind, classes, encoding, f"scikit-learn {name}", 0)


def _read_numbers(file: Path, size: int | None = None) -> np.ndarray:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
        values = np.loadtxt(lines if any(map(str.strip, lines)) else ["nothing"], ndmin=2)
        if size is None:  # otherwise the numbers are of rows or columns, of which there are so many
            return values
        if not np.isin(values, np.arange(size)).all() or len(np.unique(values)) < values.size:
            raise ValueError(f"other than different whole numbers from 0 to {size - 1}")
        return values.ravel().astype(np.int64)
    except (OSError, ValueError) as error:
        must = f"{file.name} must be in the folder and hold numbers"
        raise ValueError(f"{must}, but this came: {error}; check the folder, the split and the file.") from error
