"""What the cells of a column of text say: numbers, yes and no, dates, or words; and which of them mark a missing value.

A decision is made on a whole column, over its distinct cells. What could be read in two ways is not guessed: the finding then
carries a problem, in a sentence, for whoever needs the column.
"""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from bayesreg import _check
from bayesreg._text import some
from bayesreg.data.dates import Dated, dates_in

MISSING = {
    *("", "NA", "N/A", "n/a", "na", "N.A.", "n.a.", "#N/A", "#NA", "<NA>", "#N/A N/A", "NaN", "nan", "-NaN", "-nan", "NAN"),
    *("NULL", "null", "Null", "None", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "NaT"),
}
_AMONG_NUMBERS = {"?", ".", "..", "-", "--", "–", "—", "*", "…"}  # which mark a missing value where the others are numbers
_NUMBER = re.compile(r"(?a)[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"(?a)[+-]?(\d{1,3}(\.\d{3})+|\d+)?(,\d*)?([eE][+-]?\d+)?")  # 1.234,5
_THOUSANDS = re.compile(r"(?a)[+-]?\d{1,3}(,\d{3})+(\.\d*)?")  # 1,234.5
_EITHER = re.compile(r"(?a)[+-]?\d{1,3},\d{3}")  # 1,234
_GROUPED = re.compile(r"(?a)[+-]?\d{1,3}([ \u00a0\u202f\u2009'’]\d{3})+([.,]\d*)?")
_INFINITE = re.compile(r"[+-]?(inf|infinity)", re.IGNORECASE)
_CURRENCY = re.compile(r"([+-]?)\s*[$€£¥]\s*|\s*[$€£¥]$")
_YES_NO = [("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"), ("off", "on")]
_FEW = 12  # levels of a column of words and numbers that are taken as they are
_DIGITS = 300  # no number that can be read has more

Kind = Literal["numbers", "booleans", "dates", "text", "nothing", "unusable"]


@dataclasses.dataclass(frozen=True)
class Writing:
    """How the cells of a file are written.

    Attributes:
        na: Texts that mark a missing value, besides the usual ones.
        decimal: The decimal mark, "." or ","; None to find it out column by column.
        dates: Order of day and month in dates like 3/4/2020, "dmy" or "mdy"; None where the cells must tell.
    """

    na: tuple[str, ...] = ()
    decimal: str | None = None
    dates: str | None = None

    def __post_init__(self) -> None:
        if self.decimal is not None:
            _check.one_of("decimal", self.decimal, (".", ","))
        if self.dates is not None:
            _check.one_of("dates", self.dates, ("dmy", "mdy"))


@dataclasses.dataclass(frozen=True)
class Found:
    """What a column of text holds.

    Attributes:
        kind: "numbers", "booleans", "dates", "text", or "nothing" where all cells are missing.
        values: (N,): floats with NaN where missing (also for booleans), datetime64 with NaT, or texts with None.
        said: How it was read, where that is worth saying; else empty.
        problem: Number of a cell and a sentence on it where the column cannot be read in one way; else None.
        doubt: The same where words stand among numbers, also if all values are so few that they may be categories.
        words: The words for 0 and 1.
        mark: The decimal mark, where a comma among the digits showed it.
        order: Order of day and month, "dmy" or "mdy", where the dates showed it.
    """

    kind: Kind
    values: np.ndarray
    said: str = ""
    problem: tuple[int, str] | None = None
    doubt: tuple[int, str] | None = None
    words: tuple[str, str] | None = None
    mark: str | None = None
    order: str | None = None


def factorized(cells: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Numbers of the distinct cells, (N,), −1 where a cell is None, and these cells without blanks around them."""
    import pandas as pd

    codes, levels = pd.factorize(cells)
    return codes, [str(level).strip() for level in levels]


def read_cells(cells: np.ndarray, writing: Writing) -> Found:
    """What the cells of a column say; `cells` is (N,) texts, None where there is none.

    >>> read_cells(np.array(["1,5", "NA", "3"], dtype=object), Writing()).values
    array([1.5, nan, 3. ])
    """
    codes, levels = factorized(cells)
    marks = MISSING | set(writing.na)
    there = [level for level in levels if level not in marks]
    if not there:
        return Found("nothing", np.full(len(cells), np.nan))

    def values(of: Callable[[str], Any], missing: Any, dtype: Any) -> np.ndarray:
        table = np.empty(len(levels) + 1, dtype=dtype)  # one more: code −1
        table[-1] = missing
        for i, level in enumerate(levels):
            table[i] = missing if level in marks else of(level)
        return table[codes]

    def row_of(wanted: Callable[[str], bool]) -> int:
        odd = [i for i, level in enumerate(levels) if level not in marks and wanted(level)]
        return int(np.flatnonzero(np.isin(codes, odd))[0])

    numbers, said, problem, mark = _numbers(there, writing.decimal)
    if problem is not None:
        odd, sentence = problem
        return Found("text", values(str, None, object), "", (row_of(odd.__eq__), sentence))
    rest = [level for level in there if level not in numbers]
    if numbers and rest and set(rest) <= _AMONG_NUMBERS:
        marks, rest = marks | set(rest), []
        said = f"{said}; " * bool(said) + f"{some(map(repr, sorted(set(there) & _AMONG_NUMBERS)))} taken as missing"
    if numbers and not rest:
        sentinels = {float(mark) for mark in writing.na if _NUMBER.fullmatch(mark)}
        found = values(numbers.__getitem__, np.nan, np.float64)
        if sentinels:
            found[np.isin(found, list(sentinels))] = np.nan
        return Found("numbers" if not np.isnan(found).all() else "nothing", found, said, mark=mark)
    dated = dates_in([level for level in there if level not in _AMONG_NUMBERS], writing.dates)
    if isinstance(dated, Dated):
        marks |= _AMONG_NUMBERS
        when = dated.when
        if dated.clock:
            return Found("numbers", values(lambda level: when[level], np.nan, np.float64), dated.said)
        found = values(lambda level: when[level], np.datetime64("NaT"), "datetime64[us]")
        return Found("dates", found, dated.said, order=dated.order)
    if dated is not None:
        odd, sentence = dated
        return Found("text", values(str, None, object), "", (row_of(odd.__eq__), sentence))
    low = {level.casefold() for level in there}
    for pair in _YES_NO:
        if low <= set(pair) and (len(low) == 2 or len(pair[0]) > 1):
            words = {level.casefold(): level for level in there}
            no, yes = (words.get(word, word) for word in pair)
            is_yes = {level: float(level.casefold() == pair[1]) for level in there}
            return Found("booleans", values(is_yes.__getitem__, np.nan, np.float64), words=(no, yes))
    texts = values(str, None, object)
    return _words(codes, levels, texts, numbers, rest)


def _words(codes: np.ndarray, levels: list[str], texts: np.ndarray, numbers: dict[str, float], rest: list[str]) -> Found:
    """Words, or a problem where most cells are numbers."""
    if not numbers:
        return Found("text", texts)
    is_a_number = np.array([*(level in numbers for level in levels), False])[codes]
    is_word = np.array([*(level in set(rest) for level in levels), False])[codes]
    number, total = int(is_a_number.sum()), int(is_a_number.sum() + is_word.sum())
    if 2 * number <= total:
        return Found("text", texts)
    trouble = int(np.flatnonzero(is_word)[0]), _mixed(texts, is_word, number, total)
    if len(numbers) + len(rest) <= _FEW:
        return Found("text", texts, f"all are numbers but {some(map(repr, rest), 3)}", doubt=trouble)
    return Found("text", texts, problem=trouble, doubt=trouble)


def _mixed(texts: np.ndarray, is_word: np.ndarray, number: int, total: int) -> str:
    others = list(dict.fromkeys(texts[is_word]))
    marks = some((_check.said(other) for other in others[:5]), 3)
    return (
        f"{marks} came where {number:,} of {total:,} cells are numbers; correct it, or pass na={others[:1]!r} if it marks a "
        "missing value"
    )


def _numbers(levels: list[str], decimal: str | None) -> tuple[dict[str, float], str, tuple[str, str] | None, str | None]:
    """The cells that are numbers, how they were read, a problem (cell, sentence), and the decimal mark if commas show it."""
    if 2 * sum(level[0].isalpha() for level in levels) > len(levels) and not all(map(_INFINITE.fullmatch, levels)):
        return {}, "", None, None  # words, most of them
    texts = {level: level.replace("−", "-") for level in levels}
    said = ["with '−' as minus"] if any("−" in level and _NUMBER.fullmatch(text) for level, text in texts.items()) else []
    if decimal != "," and all(map(_NUMBER.fullmatch, texts.values())):
        return {level: _float(text) for level, text in texts.items()}, "; ".join(said), None, None
    money = {level: _CURRENCY.sub(r"\1", text) for level, text in texts.items()}
    if money != texts and all(re.match(r"[+-]?[\d.,]", text) for text in money.values()):
        said.append("without the currency's sign")
        texts = money
    if all(text.endswith("%") for text in texts.values()):
        texts = {level: text[:-1].rstrip() for level, text in texts.items()}
        said.append("in per cent")
    grouped = [level for level, text in texts.items() if _GROUPED.fullmatch(text)]
    if grouped:
        texts |= {level: re.sub(r"[^\d.,eE+-]", "", texts[level]) for level in grouped}
        said.append("digits grouped by thousands")
    comma, problem = _is_comma(list(texts.values()), decimal)
    if problem is not None:
        odd = next(level for level, text in texts.items() if "," in text)
        return {}, "", (odd, problem.format(odd)), None
    found: dict[str, float] = {}
    for level, text in texts.items():
        if comma and re.search(r"\d", text) and _COMMA.fullmatch(text):
            found[level] = _float(text.replace(".", "").replace(",", "."))
        elif not comma and _THOUSANDS.fullmatch(text):
            found[level] = _float(text.replace(",", ""))
        elif not comma and _NUMBER.fullmatch(text):
            found[level] = _float(text)
        elif _INFINITE.fullmatch(text):
            found[level] = -math.inf if text[0] == "-" else math.inf
    mark = ("," if comma else ".") if any("," in texts[level] for level in found) else None
    if mark is not None:
        said.append("with a decimal comma" if comma else "with commas between thousands")
    return found, "; ".join(said), None, mark


def _is_comma(texts: list[str], decimal: str | None) -> tuple[bool, str | None]:
    """Whether commas are decimal marks, and a sentence where one cannot know; {!r} stands for the cell."""
    if decimal is not None:
        return decimal == ",", None
    with_comma = [text for text in texts if "," in text]
    if not with_comma or not all(map(re.compile(r"(?a)[+-]?[\d.,]*\d[\d.,]*([eE][+-]?\d+)?").fullmatch, with_comma)):
        return False, None
    if all(map(_THOUSANDS.fullmatch, with_comma)):
        surely = any("." in text or text.count(",") > 1 for text in with_comma)
        surely |= any(_NUMBER.fullmatch(text) and "." in text for text in texts)
        if surely:
            return False, None
        if all(map(_EITHER.fullmatch, with_comma)):
            return False, (
                "{!r} came, which may be thousands or a decimal comma; pass decimal='.' for thousands, or decimal=','"
            )
    return True, None


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # thousands of digits
        return math.inf


def is_number(text: str) -> bool:
    """Whether a text is a plain number."""
    return _NUMBER.fullmatch(text) is not None


def as_text(value: float) -> str:
    """A number as a level's name: whole ones without a decimal point.

    >>> as_text(3.0), as_text(2.5)
    ('3', '2.5')
    """
    return f"{value:.0f}" if value == math.floor(value) and abs(value) < sys.maxsize else repr(float(value))
