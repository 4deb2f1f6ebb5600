"""From what scikit-learn's users pass to a network's inputs: arrays as they are, data frames through an encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from bayesreg.data import Columns, Encoder, columns_of
from bayesreg.data.features import Missing


@dataclasses.dataclass(frozen=True)
class Inputs:
    """How X becomes inputs, as it was learned from the training rows.

    Attributes:
        columns: Names of the columns of X.
        encoder: What encodes data frames, and arrays that had missing values at the fit; None for other arrays.
        of_frame: Whether the training rows were a data frame.
    """

    columns: tuple[str, ...]
    encoder: Encoder | None = None
    of_frame: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the network's inputs, D."""
        return list(self.columns) if self.encoder is None else self.encoder.feature_names

    @property
    def groups(self) -> list[list[int]]:
        """For each column of X the numbers of the inputs that it became, none where it was left out."""
        if self.encoder is None:
            return [[number] for number in range(len(self.columns))]
        found, at = dict[str, list[int]](), 0
        for feature in self.encoder.features:
            found[feature.name] = list(range(at, at + len(feature.inputs)))
            at += len(feature.inputs)
        return [found.get(name, []) for name in self.columns]

    def of(self, estimator: Any, X: Any) -> np.ndarray:
        """The inputs of new rows, (N, D).

        Raises:
            ValueError: If X has other columns than the training rows, or values that it cannot have.
        """
        if self.encoder is None:
            return checked(estimator, X, "refuse")
        if not self.of_frame:
            return self.encoder.transform(_columns(checked(estimator, X, self.encoder.missing), self.columns))
        if is_frame(X):
            validate_data(estimator, X, reset=False, skip_check_array=True)
            return self.encoder.transform(X)
        values: Any = validate_data(estimator, X, reset=False, dtype=None, ensure_all_finite=False)
        return self.encoder.transform(_columns(values, self.columns))


def learned(
    estimator: Any, X: Any, missing: Missing, categorical: Collection[str], numeric: Collection[str], used: np.ndarray | None
) -> tuple[Inputs, np.ndarray, np.ndarray]:
    """How training rows become inputs; these inputs, (N', D); and which rows they are of, (N,) of Booleans.

    Raises:
        ValueError: If X is no table that can be used as it is.
    """
    of_frame = is_frame(X)
    if of_frame:
        columns = columns_of(X)  # first: it says what to do about names
        validate_data(estimator, X, reset=True, skip_check_array=True)
        keep = np.ones(columns.num_rows, dtype=bool) if used is None else used
    else:
        values = checked(estimator, X, missing, least=2, fitting=True)
        names = tuple(f"x{number}" for number in range(values.shape[1]))
        keep = np.ones(len(values), dtype=bool) if used is None else used
        if not categorical and not np.isnan(values).any():
            return Inputs(names), values[keep], keep
        columns, numeric = _columns(values, names), [name for name in names if name not in categorical]
    encoder = Encoder.fit(columns.take(keep), missing=missing, categorical=categorical, numeric=numeric)
    keep = keep & encoder.complete(columns) if missing == "drop" else keep
    return Inputs(tuple(columns), encoder, of_frame), encoder.transform(columns.take(keep)), keep


def is_frame(X: Any) -> bool:
    """Whether X is a data frame: pandas, Polars, Arrow."""
    import narwhals as nw

    try:
        return isinstance(nw.from_native(X, pass_through=True, eager_only=True), nw.DataFrame)
    except nw.exceptions.DuplicateError:  # a data frame, whose names are told where its columns are read
        return True


def checked(estimator: Any, X: Any, missing: Missing, least: int = 1, fitting: bool = False) -> np.ndarray:
    """An array of numbers, its width and names held against those of the fit."""
    finite: Any = True if missing == "refuse" else "allow-nan"
    options: dict[str, Any] = {"dtype": np.float64, "ensure_all_finite": finite, "ensure_min_samples": least}
    found: Any = validate_data(estimator, X, reset=fitting, **options)
    return found


def _columns(values: np.ndarray, names: tuple[str, ...]) -> Columns:
    """An array as a table, each column of its own type."""
    import pandas as pd

    return columns_of(pd.DataFrame(values, columns=pd.Index(names)).infer_objects())
