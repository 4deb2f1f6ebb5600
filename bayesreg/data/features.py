"""How a column becomes inputs of a network: numbers with an indicator of what was missing, levels, moments in time.

Each kind of feature learns its numbers (a median, levels, a first day) from the training rows and keeps them.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, Literal

import numpy as np

from bayesreg import _check
from bayesreg._catalog import concrete
from bayesreg._text import counted, number, some
from bayesreg.data.cells import is_number
from bayesreg.data.columns import Column

Missing = Literal["drop", "impute", "refuse"]
OTHER, GONE = "other", "missing"
_SECOND = np.timedelta64(1, "s")
_DAY = np.timedelta64(1, "D")
_YEAR = 365.2425
TRANSFORMS = {
    "log": ("log", np.log, lambda x: x > 0, "> 0"),
    "log1p": ("log(1 + x)", np.log1p, lambda x: x > -1, "> -1"),
    "sqrt": ("square root", np.sqrt, lambda x: x >= 0, ">= 0"),
    "square": ("square", np.square, lambda x: np.abs(x) < 1e150, "below 1e150 in size"),
    "asinh": ("asinh", np.arcsinh, np.isfinite, "finite"),
}


class NoValue(ValueError):
    """A value of a column that its feature cannot take.

    Attributes:
        place: Its number in the column.
        why: What came and what must stand there.
    """

    def __init__(self, place: int, why: str) -> None:
        super().__init__(why)
        self.place, self.why = place, why


@dataclasses.dataclass(frozen=True)
class AbstractFeature(abc.ABC):
    """What one column becomes.

    Attributes:
        name: The column's name.
        gaps: How many training rows had no value.
    """

    kind: ClassVar[str]
    name: str
    gaps: int = 0

    @property
    @abc.abstractmethod
    def inputs(self) -> list[str]:
        """Names of its inputs."""

    @abc.abstractmethod
    def encode(self, column: Column) -> np.ndarray:
        """The inputs, (N, number of inputs), float64.

        Raises:
            NoValue: If the column holds what cannot be encoded.
        """

    @property
    def said(self) -> str:
        """What was done, in words; empty where the numbers are as they were."""
        return ""


@dataclasses.dataclass(frozen=True)
class Number(AbstractFeature):
    """Numbers, or Booleans as 0 and 1.

    Attributes:
        median: Of the training rows' numbers; it fills in missing ones.
        indicator: Whether a second input says which values were missing.
        varies: Whether the numbers vary; else the indicator is all there is.
        transform: Name of a function, see `TRANSFORMS`; or empty.
        words: The words for 0 and 1, for Booleans; else empty.
        lenient: Whether texts that are no numbers are missing values.
    """

    kind = "number"
    median: float = 0.0
    indicator: bool = False
    varies: bool = True
    transform: str = ""
    words: tuple[str, ...] = ()
    lenient: bool = False

    @property
    def inputs(self) -> list[str]:
        """Its own name, or that of its transform; and one more for what was missing."""
        own = f"{self.transform} {self.name}" if self.transform else self.name
        return [own] * self.varies + [f"{self.name} {GONE}"] * self.indicator

    def values(self, column: Column) -> np.ndarray:
        """The column's numbers, transformed, (N,), NaN where missing.

        Raises:
            NoValue: If one is not finite, is none, or has no transform.
        """
        if column.kind == "nothing":
            return np.full(len(column.values), np.nan)
        values = self._numbers(column)
        bad = np.isinf(values)
        if bad.any():
            place = int(np.argmax(bad))
            came = str(column.values[place]) if column.texts is None else _check.said(column.texts[place])
            raise NoValue(place, f"{came} came, where a finite number must stand; correct it")
        if self.transform:
            _, function, allowed, must = TRANSFORMS[self.transform]
            bad = ~allowed(values) & ~np.isnan(values)
            if bad.any():
                advice = "take another transform" if self.transform == "square" else "take asinh, or no transform"
                why = f"{number(values[bad][0])} came, where {self.transform} needs a number {must}; correct it, or {advice}"
                raise NoValue(int(np.argmax(bad)), why)
            values = function(values)
        return values

    def _numbers(self, column: Column) -> np.ndarray:
        if column.kind == "numbers" and not self.words:
            return column.values
        if column.kind == "booleans":
            return column.values
        if column.kind == "numbers" and set(np.unique(column.values[~np.isnan(column.values)])) <= {0.0, 1.0}:
            return column.values
        texts = column.as_texts()
        wanted = f"{self.words[0]!r} or {self.words[1]!r}" if self.words else "a number"
        low = {word.casefold(): float(i) for i, word in enumerate(self.words)}
        found = np.full(len(texts), np.nan)
        for i, text in enumerate(texts):
            if text is None:
                continue
            if self.words and text.casefold() in low:
                found[i] = low[text.casefold()]
            elif not self.words and is_number(text):
                found[i] = float(text)
            elif not self.lenient:
                raise NoValue(i, f"{_check.said(text)} came, where {wanted} must stand; correct it, or leave the cell empty")
        return found

    def encode(self, column: Column) -> np.ndarray:
        """The numbers with the median for what is missing, and the indicator, (N, 1 or 2)."""
        values = self.values(column)
        gone = np.isnan(values)
        parts = [np.where(gone, self.median, values)] * self.varies + [gone.astype(np.float64)] * self.indicator
        return np.stack(parts, axis=1)

    @property
    def said(self) -> str:
        """The transform, the words, what fills in."""
        parts = []
        if self.words and set(self.words) != {"False", "True"}:
            parts.append(f"{self.words[0]} = 0, {self.words[1]} = 1")
        elif self.words:
            parts.append("boolean, 0/1")
        if self.transform:
            parts.append(TRANSFORMS[self.transform][0])
        if self.gaps and self.varies:
            marked = f", and marked by {self.inputs[-1]!r}" if self.indicator else ""
            parts.append(f"{counted(self.gaps, 'missing one')} set to {number(self.median)}, the median{marked}")
        elif self.indicator:
            parts.append("constant where it is known: whether it is missing is the input")
        return "; ".join(parts)


@dataclasses.dataclass(frozen=True)
class Levels(AbstractFeature):
    """Categories: an input of zeros and ones for each level, and one for every other level.

    No level is a reference: a prior makes the redundant parametrisation identifiable, and so every level is treated alike. The
    input for other levels holds those that are rare in the training rows, and at prediction those that were not in them. Where
    none was rare it is zero in training: its weight is what the prior says, and predictions for new levels are as unsure.

    Attributes:
        levels: The levels with an input each, in sorted order.
        pooled: How many rare ones go with the others.
    """

    kind = "levels"
    levels: tuple[str, ...] = ()
    pooled: int = 0

    @property
    def inputs(self) -> list[str]:
        """One for each level, for the others, and for missing values where there were some in training."""
        return [f"{self.name}={level}" for level in (*self.levels, *self._own)]

    @property
    def _own(self) -> list[str]:
        """Names of the further levels; a level of the data may have the same name."""
        names = [OTHER, GONE] if self.gaps else [OTHER]
        return [f"({name})" if name in self.levels else name for name in names]

    def encode(self, column: Column) -> np.ndarray:
        """Zeros and ones, (N, number of inputs), a single one in each row."""
        import pandas as pd

        texts = column.as_texts()
        codes = pd.Index([*self.levels], dtype=object).get_indexer(pd.Index(texts, dtype=object))
        codes = np.where(codes < 0, len(self.levels), codes)
        if self.gaps:
            codes = np.where([text is None for text in texts], len(self.levels) + 1, codes)
        return np.eye(len(self.inputs))[codes]

    @property
    def said(self) -> str:
        """The levels."""
        pooled = f", {counted(self.pooled, 'rare one')} joined in {self.inputs[len(self.levels)]!r}" if self.pooled else ""
        gone = f", {counted(self.gaps, 'missing one')} a level, {self.inputs[-1]!r}" if self.gaps else ""
        own = f"{some(self.inputs[: len(self.levels)], 8)}; new ones: {self.inputs[len(self.levels)]}"
        return f"categorical, {counted(len(self.levels), 'level')}{pooled}{gone}, one-hot ({own})"


@dataclasses.dataclass(frozen=True)
class Dates(AbstractFeature):
    """Dates: the time elapsed, and parts of the calendar that come back.

    A part of a cycle is two inputs, sin and cos of its angle, so that its end meets its beginning.

    Attributes:
        start: The first moment of the training rows, in ISO form.
        median: Median of the elapsed days, for missing dates.
        parts: Those of "year", "week", "day" that come back.
    """

    kind = "dates"
    start: str = "1970-01-01"
    median: float = 0.0
    parts: tuple[str, ...] = ()

    @property
    def inputs(self) -> list[str]:
        """The elapsed days, two for each cycle, and the indicator."""
        cycles = [f"{self.name} {wave} of {part}" for part in self.parts for wave in ("sin", "cos")]
        return [f"{self.name} days", *cycles, *[f"{self.name} {GONE}"] * bool(self.gaps)]

    def encode(self, column: Column) -> np.ndarray:
        """Days since the start, and sin and cos of the angles, (N, number of inputs).

        Raises:
            NoValue: If the column holds no dates.
        """
        if column.kind not in ("dates", "nothing"):
            place = int(np.argmax(~column.missing))
            came = column.as_texts()[place]
            raise NoValue(place, f"{_check.said(came)} came, where a date must stand; write it as {self.start[:10]}")
        nothing = column.kind == "nothing"
        when = np.full(len(column.values), np.datetime64("NaT"), dtype="datetime64[us]") if nothing else column.values
        gone = np.isnat(when)
        days = np.where(gone, self.median, (when - np.datetime64(self.start, "us")) / _DAY)
        filled = np.where(gone, np.datetime64(self.start, "us") + (self.median * 86400e6) * np.timedelta64(1, "us"), when)
        made = [days]
        for part in self.parts:
            angle = 2 * np.pi * cycle(filled, part)
            made += [np.sin(angle), np.cos(angle)]
        return np.stack([*made, *[gone.astype(np.float64)] * bool(self.gaps)], axis=1)

    @property
    def said(self) -> str:
        """The start and the cycles."""
        cycles = f", and sin and cos of the time of {' and of '.join(self.parts)}" if self.parts else ""
        gone = (
            f"; {counted(self.gaps, 'missing one')} set to the middle, and marked by {self.inputs[-1]!r}" if self.gaps else ""
        )
        return f"date, as days since {self.start[:10]}{cycles}{gone}"


def cycle(when: np.ndarray, part: str) -> np.ndarray:
    """How much of its year, week or day has passed at each moment, 0 to 1.

    >>> cycle(np.array(["2024-01-01T06:00"], dtype="datetime64[us]"), "day")
    array([0.25])
    """
    if part == "year":
        start = when.astype("datetime64[Y]").astype(when.dtype)
        return (when - start) / _DAY / _YEAR
    days = (when - np.datetime64("1970-01-05T00:00", "us")) / _DAY  # a Monday
    return days % 7 / 7 if part == "week" else days % 1


def to_dict(feature: AbstractFeature) -> dict[str, Any]:
    """A feature as plain values."""
    return {"kind": feature.kind, **dataclasses.asdict(feature)}


def from_dict(given: dict[str, Any]) -> AbstractFeature:
    """The feature that `to_dict` described.

    Raises:
        ValueError: If it is none of this version's.
    """
    kinds: dict[str, Any] = {cls.kind: cls for cls in concrete(AbstractFeature)}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    try:
        return kinds[given.pop("kind")](**given)
    except (KeyError, TypeError) as error:
        must = f"an encoder's feature must be one of {', '.join(kinds)}"
        raise ValueError(f"{must}, but this came: {error}; fit again.") from None
