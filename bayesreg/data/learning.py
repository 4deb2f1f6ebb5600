"""What an encoder learns from training rows: which columns are of use, what each becomes, and all that is wrong with them."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayesreg import _check
from bayesreg._memory import MAX_MEMORY
from bayesreg._text import counted, some
from bayesreg.data import features
from bayesreg.data.cells import is_number
from bayesreg.data.columns import Column, Columns, TableError
from bayesreg.data.features import AbstractFeature, Dates, Levels, Missing, NoValue, Number

ID_NAME = re.compile(
    r"(?i:ids?|index|idx|key|uuid|guid|nr|no|obs|rows?([ _.-]?(nr|no|num|number|names?|id))?|unnamed.*|__index_level_.*"
    r"|.*[ _.-](id|uuid|guid|key)|id[ _.-].*)|.*[a-z]I[dD]"
)
_SOME = 10  # rows, from which on values that are all different are an identifier
_PAIRS = 3000  # columns of numbers that are compared with each other
_SENTINELS = {-9.0, -99.0, -999.0, -9999.0, -99999.0, 999.0, 9999.0, 99999.0}
_ROWS_A_CYCLE = 20  # fewer rows do not show a cycle
_FEW, _ROWS_A_CODE = (3, 10), 5  # so many whole numbers, with so many rows for each, may be codes
_GROUPS = 20  # more whole numbers than these under an identifier's name are no measurement


@dataclasses.dataclass(frozen=True)
class Learned:
    """What the training rows tell; see `Encoder`."""

    features: tuple[AbstractFeature, ...]
    left_out: dict[str, str]
    said: dict[str, str]
    num_rows: int


def gaps_said(columns: Columns, gone: Mapping[str, np.ndarray], missing: Missing) -> list[str]:
    """A sentence on missing values, where there are any: how many, the first, and what to do."""
    holes = np.any(list(gone.values()), axis=0)
    number = int(holes.sum())
    if not number:
        return []
    order = sorted(gone.items(), key=lambda item: -item[1].sum())
    detail = some((f"{name} {int(mask.sum()):,}" for name, mask in order if mask.any()), 12)
    place = int(np.argmax(holes))
    name = next(name for name, mask in gone.items() if mask[place])
    told = (
        f"{number:,} of {counted(len(holes), 'row')} came with missing ones ({detail}), the first in {columns.at(name, place)}"
    )
    impute = "missing='impute' to fill in medians and mark them, a level of their own for categories"
    if missing == "drop":
        if number == len(holes):
            return [f"a row without missing values must be left, but {told}; leave out the emptiest columns, or pass {impute}."]
        return [f"every cell must have a value, but {told}; keep the rows of encoder.complete(frame), or fit with {impute}."]
    return [f"every cell must have a value, but {told}; pass {impute}, or missing='drop' to leave these rows out."]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What was asked of an encoder."""

    missing: Missing
    categorical: tuple[str, ...]
    numeric: tuple[str, ...]
    drop: tuple[str, ...]
    transform: dict[str, str]
    max_levels: int

    def learn(self, columns: Columns, rows: np.ndarray) -> Learned:
        """What the training rows, by number or mask, tell; problems are those of all rows.

        Raises:
            TableError: With all problems.
        """
        problems = self._wrong_names(columns)
        left_out = {name: "as asked" for name in columns if name in self.drop}
        used = columns.without(left_out)
        asked = (*self.categorical, *self.numeric)
        odd = {name: said for name in used if name not in asked and (said := columns.trouble(name))}
        problems += odd.values()
        problems += self._infinite(used.without(odd))
        used = used.without(odd)
        training = used.take(rows)
        useless = {name: why for name, column in training.items() if (why := self._useless(name, column))}
        if len(useless) == len(used):  # a count of the rows is a trend, where there is nothing else
            useless = {name: why for name, why in useless.items() if used[name].kind != "numbers" or ID_NAME.fullmatch(name)}
        left_out |= useless
        used, training = used.without(left_out), training.without(left_out)
        if self.missing != "impute" and len(used):
            gone = {name: self._gone(name, column) for name, column in used.items()}
            holes = np.any([mask[rows] for mask in gone.values()], axis=0)
            if self.missing == "refuse" or holes.all():
                problems += gaps_said(used, gone, self.missing)
            training = training.take(~holes)
        if problems:
            raise TableError(columns.name, problems)
        used = training
        made = {name: self._feature(name, column, used.num_rows) for name, column in used.items()}
        left_out |= {name: "it is the same in every row" for name, feature in made.items() if feature is None}
        found = {name: feature for name, feature in made.items() if feature is not None}
        left_out |= _copies(found, used)
        kept = tuple(_marked_once([feature for name, feature in found.items() if name not in left_out], used))
        if not kept:
            told = some((f"{name} ({why})" for name, why in left_out.items()), 6) or "no column"
            must = "a column to predict from must remain"
            raise TableError(columns.name, [f"{must}, but all are left out: {told}; keep one by categorical= or numeric=."])
        _check.distinct("names of inputs", [name for feature in kept for name in feature.inputs])
        _check_memory(columns.num_rows, kept)
        said = {
            name: "; ".join(filter(None, (column.said, _sentinel(column), self._codes(name, column))))
            for name, column in used.items()
        }
        return Learned(kept, left_out, {name: words for name, words in said.items() if words}, used.num_rows)

    def _wrong_names(self, columns: Columns) -> list[str]:
        found = []
        asked = {
            "categorical": self.categorical,
            "numeric": self.numeric,
            "drop": self.drop,
            "transform": tuple(self.transform),
        }
        for option, names in asked.items():
            for name in names:
                if name not in columns:
                    came = f"{name!r} came{_check.closest(name, columns)}"
                    found.append(f"{option}= must name a column, but {came}; there are {some(map(repr, columns))}.")
        for name in {*self.categorical} & {*self.numeric, *self.transform}:
            found.append(f"column {name!r} must be either categorical or a number, but both came; leave one out.")
        for name, function in self.transform.items():
            if function not in features.TRANSFORMS:
                near = _check.closest(function, features.TRANSFORMS)
                known = ", ".join(features.TRANSFORMS)
                found.append(f"transform of {name!r} must be one of {known}, but {function!r} came{near}; take one of them.")
            elif name in columns and columns[name].kind not in ("numbers", "nothing") and name not in self.numeric:
                found.append(f"transform of {name!r} needs numbers, but the column holds {columns[name].kind}; leave it out.")
        return found

    def _infinite(self, columns: Columns) -> list[str]:
        found = []
        for name, column in columns.items():
            known = self.transform.get(name, "log") in features.TRANSFORMS
            if name in self.categorical or column.kind != "numbers" or not known:
                continue
            try:
                Number(name, transform=self.transform.get(name, "")).values(column)
            except NoValue as error:
                found.append(f"{columns.at(name, error.place)}: {error.why}, or pass drop=[{name!r}].")
        return found

    def _column(self, name: str, column: Column) -> Column:
        """The column as it is asked for."""
        if name in self.categorical:
            kind = "nothing" if column.missing.all() else "text"
            return dataclasses.replace(column, kind=kind, values=column.as_texts(), problem=None)
        if name in self.numeric and column.kind == "text":
            values = [float(text) if text is not None and is_number(text) else np.nan for text in column.values]
            return dataclasses.replace(column, kind="numbers", values=np.array(values, dtype=np.float64), problem=None)
        return column

    def _gone(self, name: str, column: Column) -> np.ndarray:
        return self._column(name, column).missing

    def _useless(self, name: str, column: Column) -> str:
        """Why a column is of no use by itself; empty where it is."""
        column = self._column(name, column)
        missing = column.missing
        if missing.all():
            return "every value is missing"
        if name in self.categorical or name in self.numeric:
            return ""
        rows = int((~missing).sum())
        if column.kind == "text":
            counts = Counter(column.values[~missing])
            number, rare = len(counts), max(counts.values()) < _least(len(missing))
            if (number == rows >= _SOME) or (number > 20 and (2 * number > rows or rare)):
                words = sum(text.count(" ") for text in counts) / number + 1
                what = "free text" if words > 4 else "an identifier or free text"
                advice = f"categorical=[{name!r}] keeps the most frequent"
                return f"{number:,} different texts in {counted(rows, 'row')}, {what} ({advice})"
        if column.kind == "numbers" and _are_row_numbers(name, column.values[~missing], bool(missing.any())):
            return f"row numbers or an identifier (numeric=[{name!r}] keeps it)"
        return ""

    def _feature(self, name: str, column: Column, num_rows: int) -> AbstractFeature | None:
        column = self._column(name, column)
        gone = int(column.missing.sum())
        if column.kind == "text":
            return self._levels(name, column, gone)
        if column.kind == "dates":
            return _dates(name, column, gone)
        transform = self.transform.get(name, "")
        words = (column.words or ("False", "True")) if column.kind == "booleans" else ()
        values = Number(name, transform=transform, words=words).values(column)
        gaps = int(np.isnan(values).sum())
        values = values[~np.isnan(values)]
        varies, marked = bool(values.max() > values.min()), gaps > min(4, num_rows // 50)
        if not varies and not marked:
            return None
        return Number(name, gaps, float(np.median(values)), marked, varies, transform, words, name in self.numeric)

    def _codes(self, name: str, column: Column) -> str:
        """That whole numbers of few values are taken as amounts; empty where it is no question."""
        if column.kind != "numbers" or name in (*self.numeric, *self.categorical, *self.transform):
            return ""
        values = np.unique(column.values[~column.missing])
        if not _FEW[0] <= len(values) <= _FEW[1] or len(column.values) < _ROWS_A_CODE * len(values) or np.any(values % 1):
            return ""
        return "few whole numbers, taken as amounts (categorical= takes codes of categories as these)"

    def _levels(self, name: str, column: Column, gone: int) -> Levels | None:
        import pandas as pd

        counts: Any = pd.Series(column.values[~column.missing], dtype=object).value_counts(sort=False)
        if len(counts) == 1 and not gone:
            return None
        kept = counts[counts >= _least(len(column.values))]
        kept = kept.sort_values(ascending=False, kind="stable")[: self.max_levels]
        levels = tuple(sorted(map(str, kept.index), key=_by_size))
        return Levels(name, gone, levels, len(counts) - len(kept))


def _sentinel(column: Column) -> str:
    """A question where a number far from all others is one that marks missing values; empty where there is none."""
    if column.kind != "numbers":
        return ""
    values, counts = np.unique(column.values[~column.missing], return_counts=True)
    if len(values) < 3:
        return ""
    for mark, count, apart in ((values[0], counts[0], values[1] >= 0), (values[-1], counts[-1], values[-1] > 5 * values[-2])):
        if mark in _SENTINELS and count > 1 and apart:
            return f"{mark:g} came {count:,} times, far from all others: a missing value? (na=['{mark:g}'])"
    return ""


def _least(rows: int) -> int:
    """Rows that a level must have to be no rare one."""
    return min(5, rows // 50)


def _by_size(level: str) -> tuple[int, float, str]:
    """Numbers by size, then texts by their letters."""
    return (0, float(level), level) if is_number(level) else (1, 0.0, level)


def _are_row_numbers(name: str, values: np.ndarray, gaps: bool) -> bool:
    """Whether whole numbers only count rows or things: all different and from about 1 on in order, or by the column's name."""
    if len(values) < _SOME or not np.array_equal(values, np.rint(values)):
        return False
    different = len(np.unique(values))
    if ID_NAME.fullmatch(name) and different > min(_GROUPS, len(values) - 1):
        return True
    if different < len(values) or gaps:
        return False
    dense = 0 <= values.min() <= 10 and values.max() <= 2 * len(values) + 10
    return bool(dense and (np.diff(values) > 0).all())


def _dates(name: str, column: Column, gone: int) -> Dates | None:
    when = column.values[~np.isnat(column.values)]
    day = np.timedelta64(1, "D")
    start = when.min()
    days = (when - start) / day
    if days.max() == 0 and not gone:
        return None
    parts = [part for part, length in (("year", 365), ("week", 7)) if days.max() >= 1.5 * length]
    clock = (when - when.astype("datetime64[D]")) / day
    if len(np.unique(clock)) > 1:
        parts.append("day")
    if len(when) < _ROWS_A_CYCLE:
        parts = []
    return Dates(name, gone, str(start), float(np.median(days)), tuple(parts))


def _copies(found: Mapping[str, AbstractFeature], columns: Columns) -> dict[str, str]:
    """Why a column is left out that says the same as an earlier one."""
    left: dict[str, str] = {}
    if columns.num_rows < _SOME:  # any two columns of two rows are on a line
        return left
    plain = [feature for feature in found.values() if isinstance(feature, Number) and feature.varies]
    if 1 < len(plain) <= _PAIRS:
        encoded = np.stack([feature.encode(columns[feature.name])[:, 0] for feature in plain], axis=1)
        scaled = encoded / np.abs(encoded).max(0)
        scaled = scaled - scaled.mean(0)
        scaled = scaled / np.sqrt((scaled**2).mean(0))
        products = scaled.T @ scaled / len(scaled)
        for i, j in np.argwhere(np.triu(np.abs(products) > 1 - 1e-8, 1)):
            one, other = plain[i], plain[j]
            apart = np.abs(scaled[:, i] - np.sign(products[i, j]) * scaled[:, j]).max()
            if one.name not in left and other.name not in left and one.gaps == other.gaps and apart < 1e-8:
                how = "the same as" if np.array_equal(encoded[:, i], encoded[:, j]) else "a straight line of"
                left[other.name] = f"{how} {one.name!r}"
    seen: dict[bytes, str] = {}
    for name, feature in found.items():
        if isinstance(feature, Levels):
            import pandas as pd

            key = pd.factorize(columns[name].as_texts())[0].tobytes()
            if key in seen:
                left[name] = f"its levels go with those of {seen[key]!r}, one by one"
            else:
                seen[key] = name
    return left


def _marked_once(found: list[AbstractFeature], columns: Columns) -> list[AbstractFeature]:
    """Columns that miss the same rows are marked once, by the first."""
    seen: set[bytes] = set()
    made = []
    for feature in found:
        if isinstance(feature, Number) and feature.indicator:
            key = feature.encode(columns[feature.name])[:, -1].tobytes()
            if key in seen and feature.varies:
                feature = dataclasses.replace(feature, indicator=False)
            seen.add(key)
        made.append(feature)
    return made


def _check_memory(rows: int, found: Sequence[AbstractFeature]) -> None:
    inputs = sum(len(feature.inputs) for feature in found)
    if 8 * rows * inputs > MAX_MEMORY:
        widest = max(found, key=lambda feature: len(feature.inputs))
        came = f"{inputs:,} inputs in {counted(rows, 'row')} came, {len(widest.inputs):,} of them of column {widest.name!r}"
        advice = f"lower max_levels, or pass drop=[{widest.name!r}]"
        raise TableError("the table", [f"the inputs must go into memory, but {came}; {advice}."])
