"""Dates as people write them: which of a few forms a cell has, and the moment it says."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

_TIME = r"(?:[T ]+(?P<time>\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?)(?P<zone>Z|[+-]\d{2}:?\d{2})?)?"
_MONTHS = {"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6}
_MONTHS |= {"jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12}
_NAME = r"(?P<m>[A-Za-z]{3,9})\.?"
_FORMS = [
    re.compile(rf"(?a)(?P<y>\d{{4}})([-/.])(?P<m>\d{{1,2}})\2(?P<d>\d{{1,2}}){_TIME}"),
    re.compile(r"(?a)(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})T(?P<time>\d{4}(?:\d{2})?)(?P<zone>Z)?"),
    re.compile(rf"(?a)(?P<d>\d{{1,2}})\.(?P<m>\d{{1,2}})\.(?P<y>\d{{4}}){_TIME}"),
    re.compile(rf"(?a)(?P<d>\d{{1,2}})[- ]{_NAME}[- ,]+(?P<y>\d{{4}}|\d{{2}}){_TIME}"),
    re.compile(rf"(?a){_NAME} (?P<d>\d{{1,2}}),? (?P<y>\d{{4}}){_TIME}"),
]
_OPEN = re.compile(rf"(?a)(?P<first>\d{{1,2}})([-/])(?P<second>\d{{1,2}})\2(?P<y>\d{{4}}|\d{{2}}){_TIME}")  # 3/4/2020
_CLOCK = re.compile(r"(?a)(?P<time>\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?)")


@dataclasses.dataclass(frozen=True)
class Dated:
    """Cells that are dates.

    Attributes:
        when: By cell: a moment, datetime64 in microseconds; hours since midnight where `clock`.
        said: How they were read, where that is worth saying; else empty.
        clock: Whether they are times of day.
        order: Order of day and month, "dmy" or "mdy", where the cells show it; else None.
    """

    when: dict[str, np.datetime64] | dict[str, float]
    said: str = ""
    clock: bool = False
    order: str | None = None


def dates_in(levels: list[str], order: str | None = None) -> Dated | tuple[str, str] | None:
    """The moments that distinct cells say; None where not all have a date's form.

    Where they could be read in two ways, or a day does not exist, a cell and a sentence on it.

    Args:
        levels: The cells.
        order: Order of day and month in cells like 3/4/2020, "dmy" or "mdy".

    >>> dates_in(["3.1.2020", "2020-02-01"]).when["3.1.2020"]
    np.datetime64('2020-01-03T00:00:00.000000')
    """
    if not levels or not any(character.isdigit() for character in levels[0]):
        return None
    if all(map(_CLOCK.fullmatch, levels)):
        return Dated({level: _hours(level) for level in levels}, "times of day, in hours", clock=True)
    open_ones, forms = {}, {}
    for level in levels:
        if match := _OPEN.fullmatch(level):
            open_ones[level] = match
        elif (match := _form_of(level)) and _month(match["m"]):
            forms[level] = match
        else:
            return None
    said, day_first = "", False
    if open_ones:
        first, second = (max(int(match[part]) for match in open_ones.values()) for part in ("first", "second"))
        if order is None and (first > 12) == (second > 12):
            cell = next(iter(open_ones))
            why = "in some the first number is above 12, in others the second" if first > 12 else "no day is above 12"
            return cell, f"{cell!r} came, whose day and month cannot be told apart ({why}); pass dates='dmy' or dates='mdy'"
        day_first = order == "dmy" if order else first > 12
        said = "day before month" if day_first else "month before day"
    when: dict[str, np.datetime64] = {}
    for level in levels:
        match = open_ones.get(level) or forms[level]
        if level in open_ones:
            day, month = match["first"], match["second"]
            day, month = (day, month) if day_first else (month, day)
        else:
            day, month = match["d"], match["m"]
        moment = _moment(match, int(match["y"]), _month(month), int(day))
        if moment is None:
            return level, f"{level!r} came, a day that there is not; correct it"
        when[level] = moment
    return Dated(when, said, order=("dmy" if day_first else "mdy") if open_ones else None)


def _form_of(level: str) -> re.Match[str] | None:
    return next((match for form in _FORMS if (match := form.fullmatch(level))), None)


def _month(text: str) -> int:
    return int(text) if text.isdigit() else _MONTHS.get(text[:3].lower(), 0)


def _hours(time: str) -> float:
    parts = time.split(":") if ":" in time else [time[i : i + 2] for i in range(0, len(time), 2)]
    return sum(float(part) / 60**i for i, part in enumerate(parts))


def _moment(match: re.Match[str], year: int, month: int, day: int) -> np.datetime64 | None:
    if year < 100:
        year += 2000 if year < 69 else 1900  # as in POSIX
    try:
        start = np.datetime64(f"{year:04d}-{month:02d}-{day:02d}", "us")
    except ValueError:
        return None
    hours = _hours(match["time"]) if match["time"] else 0.0
    zone = match.groupdict().get("zone")
    if zone and zone != "Z":
        digits = zone[1:].replace(":", "")
        hours -= (1 if zone[0] == "+" else -1) * (int(digits[:2]) + int(digits[2:]) / 60)
    return start + np.timedelta64(round(hours * 3_600_000_000), "us")
