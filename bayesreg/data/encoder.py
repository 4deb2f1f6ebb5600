"""A table's columns as the inputs of a network: one path, learned from training rows, from any data frame or file."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from bayesreg import _check
from bayesreg._text import counted, some
from bayesreg.data import features
from bayesreg.data.columns import Column, Columns, TableError, columns_of
from bayesreg.data.features import AbstractFeature, Levels, Missing, NoValue, Number
from bayesreg.data.learning import Asked, gaps_said


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """Turns a table's columns into inputs, with what `Encoder.fit` learned from the training rows.

    | a column of | becomes |
    |---|---|
    | numbers | itself; where values were missing, their median, and an input that marks them |
    | Booleans, yes and no | 0 and 1 |
    | texts, categories | an input for each level, and one for all others: rare ones, and at prediction new ones |
    | dates | days since the first, and sin and cos of the time of year, week and day where these come back |
    | row numbers, identifiers, free text, one value only, a copy of another column | nothing: it is left out, and said |

    Attributes:
        features: What each column becomes, in the order of the inputs.
        missing: What a missing value does: "refuse", "drop" its row, or "impute".
        left_out: Why a column is left out, by its name.
        said: Sentences on how columns were read, by their name.
        num_rows: N, rows that it was fitted on.
    """

    features: tuple[AbstractFeature, ...]
    missing: Missing
    left_out: Mapping[str, str]
    said: Mapping[str, str]
    num_rows: int

    @classmethod
    def fit(
        cls,
        frame: Any,
        *,
        rows: np.ndarray | None = None,
        missing: Missing = "refuse",
        categorical: Collection[str] = (),
        numeric: Collection[str] = (),
        drop: Collection[str] = (),
        transform: Mapping[str, str] | None = None,
        max_levels: int = 50,
    ) -> Encoder:
        """Learn medians, levels and first days from training rows, and which columns are of use.

        Args:
            frame: The features, (N, D): a data frame of pandas, Polars or Arrow, or `Columns`.
            rows: The training rows among them, a mask or numbers; None for all. Problems are found in all rows, so that those
                of a test part show now; numbers are learned from these.
            missing: "refuse" a table with missing values, "drop" their rows (see `complete`), or "impute": numbers get the
                median and an input that marks them, categories a level.
            categorical: Columns whose values are categories, whatever they look like.
            numeric: Columns that are numbers; what is none in them is missing, and they are never taken for row numbers.
            drop: Columns to leave out.
            transform: Function by column, "log", "log1p", "sqrt", "square" or "asinh".
            max_levels: Most levels of a category with an input each: the most frequent ones.

        Raises:
            TableError: With all problems, each with what to do.

        >>> import pandas as pd
        >>> frame = pd.DataFrame({"size": [80, 60, None, 75], "color": ["red", "blue", "red", "blue"]})
        >>> encoder = Encoder.fit(frame, missing="impute")
        >>> encoder.feature_names
        ['size', 'size missing', 'color=blue', 'color=red', 'color=other']
        >>> encoder.transform(pd.DataFrame({"color": ["green"], "size": [70]}))
        array([[70.,  0.,  0.,  0.,  1.]])
        """
        columns = columns_of(frame)
        _check.one_of("missing", missing, ("drop", "impute", "refuse"))
        levels, numbers, unused = (tuple(_names(given)) for given in (categorical, numeric, drop))
        asked = Asked(missing, levels, numbers, unused, dict(transform or {}), _check.count("max_levels", max_levels))
        found = asked.learn(columns, np.arange(columns.num_rows) if rows is None else np.asarray(rows))
        return cls(found.features, missing, found.left_out, found.said, found.num_rows)

    @property
    def feature_names(self) -> list[str]:
        """Names of the inputs, D."""
        return [name for feature in self.features for name in feature.inputs]

    @property
    def columns(self) -> list[str]:
        """Names of the columns that are used."""
        return [feature.name for feature in self.features]

    @property
    def categories(self) -> list[str]:
        """Names of the columns that are categories."""
        return [feature.name for feature in self.features if isinstance(feature, Levels)]

    def new_levels(self, frame: Any) -> dict[str, list[str]]:
        """Values of categories that have no input of their own, by column, one for each row that has one."""
        columns = self._mine(columns_of(frame))
        found = {}
        for feature in self.features:
            if isinstance(feature, Levels):
                own = {*feature.levels, None}
                found[feature.name] = [text for text in columns[feature.name].as_texts() if text not in own]
        return {name: texts for name, texts in found.items() if texts}

    @property
    def gaps(self) -> dict[str, int]:
        """How many training rows had no value, by column; those with none are not in it."""
        return {feature.name: feature.gaps for feature in self.features if feature.gaps}

    @property
    def notes(self) -> list[str]:
        """What became of the columns, a sentence each; those that are as they were are one sentence."""
        words_of = ((feature.name, (feature.said, self.said.get(feature.name, ""))) for feature in self.features)
        told = {name: "; ".join(filter(None, words)) for name, words in words_of}
        same = [name for name, words in told.items() if not words]
        groups: dict[str, list[str]] = {}
        for name, words in told.items():
            if words:
                groups.setdefault(words, []).append(name)
        for name, why in self.left_out.items():
            groups.setdefault(f"left out: {why}", []).append(name)
        unchanged = [f"{counted(len(same), 'numeric column')}, unchanged"] if same else []
        return unchanged + [f"{some(names, 12)}: {words}" for words, names in groups.items()]

    def complete(self, frame: Any) -> np.ndarray:
        """Where no column that is used has a missing value, (N,) of Booleans: the rows that missing="drop" keeps.

        Raises:
            TableError: If a column is not there.
        """
        columns = self._mine(columns_of(frame))
        gone = [self._missing_in(feature, columns[feature.name]) for feature in self.features]
        return ~np.any(gone, axis=0)

    def transform(self, frame: Any) -> np.ndarray:
        """The inputs of a table's rows, (N, D), float64; columns are found by name, and others may be there.

        Raises:
            TableError: If a column is not there or holds what it must not, or values are missing and are not imputed.
        """
        columns = self._mine(columns_of(frame))
        problems, parts = [], []
        for feature in self.features:
            try:
                parts.append(feature.encode(columns[feature.name]))
            except NoValue as error:
                problems.append(f"{columns.at(feature.name, error.place)}: {error.why}.")
        if self.missing != "impute" and not problems:
            problems += self._gaps(columns)
        if problems:
            raise TableError(columns.name, problems)
        return np.concatenate(parts, axis=1)

    def to_dict(self) -> dict[str, Any]:
        """It as plain values, which `from_dict` takes."""
        return {
            "features": [features.to_dict(feature) for feature in self.features],
            "missing": self.missing,
            "left_out": dict(self.left_out),
            "said": dict(self.said),
            "num_rows": self.num_rows,
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Encoder:
        """The encoder that `to_dict` described.

        Raises:
            ValueError: If it is none.
        """
        try:
            made = tuple(features.from_dict(dict(feature)) for feature in given["features"])
            return cls(made, given["missing"], dict(given["left_out"]), dict(given["said"]), given["num_rows"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"an encoder must be what to_dict gave, but this came: {error!r}; fit again.") from None

    def _mine(self, columns: Columns) -> Columns:
        lacking = [name for name in self.columns if name not in columns]
        if lacking:
            near = _check.closest(lacking[0], columns)
            raise TableError(
                columns.name,
                [
                    f"{columns.name} must have the columns of the fit, {some(map(repr, self.columns), 12)}, but "
                    f"{some(map(repr, lacking), 6)} did not come{near}; add or rename them."
                ],
            )
        return dataclasses.replace(columns, columns={name: columns[name] for name in self.columns})

    def _missing_in(self, feature: AbstractFeature, column: Column) -> np.ndarray:
        if isinstance(feature, Number):
            try:
                return np.isnan(feature.values(column))
            except NoValue:  # transform says what is wrong with it
                return column.missing
        return column.missing

    def _gaps(self, columns: Columns) -> list[str]:
        """A sentence where values are missing."""
        counts = {feature.name: self._missing_in(feature, columns[feature.name]) for feature in self.features}
        return gaps_said(columns, counts, self.missing)


def _names(given: Collection[str]) -> list[str]:
    return [given] if isinstance(given, str) else [str(name) for name in given]
