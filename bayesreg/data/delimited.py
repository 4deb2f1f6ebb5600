"""Tables as text: the encoding, the character between fields, names and rows, each found out where it is not said.

What was found out is said; all that is wrong with rows and names is collected, so that one message can name it.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import itertools
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from bayesreg import _check
from bayesreg._memory import MAX_MEMORY
from bayesreg._text import counted, some
from bayesreg.data.cells import MISSING, is_number
from bayesreg.data.containers import opened, text_lines

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks", ":": "colons"}
_BLOCK = 2**20  # bytes that are looked at together
_SAMPLE = 100  # rows by which the separator is chosen
_MARKS = [(codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")]
_MARKS += [(codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")]
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a file of text is laid out; None where that is to be found out.

    Attributes:
        encoding: Of its characters, such as "utf-8" or "cp1252".
        separator: The character between fields.
        header: Whether its first line has the names.
        skip_lines: Lines before the names.
        bad_rows: What becomes of rows with another number of fields: "refuse" or "drop".
    """

    encoding: str | None = None
    separator: str | None = None
    header: bool = True
    skip_lines: int = 0
    bad_rows: str = "refuse"

    def __post_init__(self) -> None:
        _check.one_of("bad_rows", self.bad_rows, ("refuse", "drop"))
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except (LookupError, ValueError):
                must = f"encoding must be one that Python knows, but {self.encoding!r} came"
                raise ValueError(f"{must}; pass for example 'utf-8', 'cp1252' or 'utf-16'.") from None
        if self.separator is not None and len(self.separator) != 1:
            raise ValueError(f"separator must be one character, but {self.separator!r} came; pass for example ';'.")


@dataclasses.dataclass(eq=False)
class Delimited:
    """A file of text with its layout found out.

    Attributes:
        file: Its path.
        layout: With nothing left to find out.
        names: Of the columns that are read, in order; an empty one is "column 3".
        places: Numbers of these columns among the fields of a row.
        width: Fields of a row.
        notes: What was found out, a sentence each.
        problems: What is wrong with names and rows, a sentence each.
        names_line: The line of the names; −1 where there is none.
        all_names: Of all columns, also those that are not read.
    """

    file: Path
    layout: Layout
    names: list[str]
    places: list[int]
    width: int
    notes: list[str]
    problems: list[str]
    names_line: int = -1
    all_names: tuple[str, ...] = ()

    def blocks(self, size: int | None = None) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """The rows, `size` at a time: cells by column, (n,) texts, and the rows' lines in the file.

        Yields:
            Cells and lines; a file without rows gives one empty block.

        Raises:
            ValueError: If a quote does not end, or a field is too long.
        """
        bad: list[tuple[int, int, int]] = []
        number = 0
        with opened(self.file) as stream, text_lines(stream, self.layout.encoding or "utf-8") as lines:
            rows = self._rows(lines, bad)
            while True:
                part = list(itertools.islice(rows, size))
                number += len(part)
                if part or not number:
                    fields = [list(column) for column in zip(*(row for _, row in part), strict=True)] or [[]] * self.width
                    cells = {
                        name: np.array(fields[place], dtype=object) for name, place in zip(self.names, self.places, strict=True)
                    }
                    yield cells, np.array([line for line, _ in part], dtype=np.int64)
                if size is None or len(part) < size:
                    break
        self._judge(bad)

    def _rows(self, lines: Iterator[str], bad: list[tuple[int, int, int]]) -> Iterator[tuple[int, list[str]]]:
        """Rows with their lines; those of another width go to `bad` as (row, line, fields)."""
        row, empty = 0, 0
        for line, fields in records(lines, self.layout, self.file.name):
            if self.layout.header and line == self.names_line:
                continue
            if not any(field.strip() for field in fields):
                empty += 1
                continue
            row += 1
            if len(fields) > self.width and not any(field.strip() for field in fields[self.width :]):
                fields = fields[: self.width]
            if len(fields) != self.width:
                bad.append((row, line, len(fields)))
                continue
            yield line, fields

    def _judge(self, bad: list[tuple[int, int, int]]) -> None:
        if not bad:
            return
        told = some((f"row {row:,} (line {line:,}) has {fields}" for row, line, fields in bad), 3)
        if self.layout.bad_rows == "drop":
            self.notes.append(f"{counted(len(bad), 'row')} left out with another number of fields than {self.width}: {told}")
            return
        self.problems.append(
            f"every row must have {counted(self.width, 'field')} as the names do, but {told}; correct them (a field with the "
            "separator in it needs quotes), or pass bad_rows='drop' to leave them out."
        )


def records(lines: Iterator[str], layout: Layout, name: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of each record, with the number of its last line.

    Raises:
        ValueError: If a quote does not end, or a field is too long.
    """
    separator = layout.separator or ","
    stripped = (line.strip(" \r\n") + "\n" for line in lines) if separator == " " else lines
    for _ in range(layout.skip_lines):
        next(stripped, None)
    reader = csv.reader(stripped, delimiter=separator, skipinitialspace=True, strict=True)
    last = layout.skip_lines
    try:
        for fields in reader:
            last = reader.line_num + layout.skip_lines
            yield last, fields
    except csv.Error as error:
        said = str(error)
        if "unexpected end" in said:
            said = "a quote opens there and does not end"
        elif "expected after" in said:
            said = "a quote ends within a field there"
        must = f"{name} must be a table of text"
        raise ValueError(f"{must}, but line {last + 1:,} is none: {said}; correct it.") from None
    except UnicodeDecodeError as error:
        raise ValueError(_no_encoding(name, layout.encoding or "utf-8", error)) from None


def laid_out(file: Path, layout: Layout, drop: Collection[str] = ()) -> Delimited:
    """Find out how a file of text is laid out; columns to `drop` are not read, whatever is wrong with their names.

    Raises:
        ValueError: If it holds no text, or none of the encoding that was said.
    """
    notes: list[str] = []
    encoding = layout.encoding or _encoding_of(file, notes)
    layout = dataclasses.replace(layout, encoding=encoding)
    with opened(file) as stream, text_lines(stream, encoding) as lines:
        sample = list(itertools.islice(_decoded(lines, file.name, encoding), layout.skip_lines + 3 * _SAMPLE))
    if sample and (said := re.fullmatch(r"sep=(.)\s*", sample[0].lstrip("\ufeff"))):  # as Excel writes it
        layout = dataclasses.replace(layout, separator=layout.separator or said[1], skip_lines=layout.skip_lines + 1)
    if not any(line.strip() for line in sample[layout.skip_lines :]):
        raise ValueError(
            f"{file.name} must have a line with the columns' names, but there is no line with text; check the file."
        )
    if layout.separator is None:
        separator = _separator_of(sample, layout, file.name)
        layout = dataclasses.replace(layout, separator=separator)
    if layout.separator not in (",", None):
        notes.append(f"fields are apart by {SEPARATORS.get(layout.separator, repr(layout.separator))}")
    found = [(line, row) for line, row in _peek(sample, layout, file.name) if any(field.strip() for field in row)]
    line, head = found[0] if layout.header else (-1, [])
    rows = [row for _, row in found[1 if layout.header else 0 :]]
    return _named(file, layout, line, head, rows, notes, drop)


def _peek(sample: list[str], layout: Layout, name: str) -> list[tuple[int, list[str]]]:
    """The sample's records; a record that the sample cuts off is left out.

    Raises:
        ValueError: If the first records are none.
    """
    found = []
    try:
        for record in records(iter(sample), layout, name):
            found.append(record)
    except ValueError:
        if len(found) < 2 and len(sample) < _SAMPLE:
            raise
    return found[:_SAMPLE]


def _named(
    file: Path, layout: Layout, line: int, head: list[str], rows: list[list[str]], notes: list[str], drop: Collection[str]
) -> Delimited:
    problems: list[str] = []
    widths = {len(row) for row in rows}
    if not layout.header:
        width = max(widths)
        names = [f"c{i + 1}" for i in range(width)]
    else:
        width, names = len(head), [name.strip() for name in head]
        if rows and widths == {
            width + 1
        }:  # the names of R's write.table lack one for the rows; or each row ends in a separator
            width += 1
            trailing = not any(row[-1].strip() for row in rows)
            names = [*names, ""] if trailing else ["row names", *names]
        problems += _no_names(names, rows)
    unnamed = [i for i, name in enumerate(names) if not name]
    empty = {i for i in unnamed if not any(row[i].strip() for row in rows if len(row) > i)}
    names = [name or f"column {i + 1}" for i, name in enumerate(names)]
    if named := [repr(names[i]) for i in unnamed if i not in empty]:
        notes.append(f"{some(named)} came without a name")
    places = [i for i in range(width) if i not in empty and names[i] not in drop]
    doubles = {name: [i + 1 for i in places if names[i] == name] for name in dict.fromkeys(names[i] for i in places)}
    for name, at in doubles.items():
        if len(at) > 1:
            where = " and ".join(map(str, at))
            problems.append(
                f"column names must differ, but {name!r} came more than once, in columns {where}; rename one of each, or pass "
                f"drop=[{name!r}] to leave all of them out."
            )
    return Delimited(file, layout, [names[i] for i in places], places, width, notes, problems, line, tuple(names))


def _no_names(names: list[str], rows: list[list[str]]) -> list[str]:
    """A problem where the first line holds values."""
    numeric = [i for i in range(len(names)) if _is_numeric([row[i] for row in rows if len(row) == len(names)])]
    if not numeric or not all(is_number(names[i]) for i in numeric):
        return []
    values = [float(names[i]) for i in numeric]
    steps = set(np.diff(values))
    if len(values) > 1 and all(value == int(value) and 1000 < value < 3000 for value in values) and len(steps) == 1:
        return []  # years
    shown = some(map(repr, names), 4)
    example = f"target='c{len(names)}'"
    return [
        f"the first line must have the columns' names, but it holds values ({shown}); add a line of names, or pass "
        f"header=False, which names them c1, c2, …: {example} is then the last."
    ]


def _is_numeric(cells: list[str]) -> bool:
    there = [cell.strip() for cell in cells if cell.strip() not in MISSING]
    return bool(there) and all(map(is_number, there))


def _decoded(lines: Iterator[str], name: str, encoding: str) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeError as error:
        raise ValueError(_no_encoding(name, encoding, error)) from None


def _no_encoding(name: str, encoding: str, error: UnicodeError) -> str:
    return (
        f"{name} must be text in {encoding}, but this came: {error}; pass encoding= as it is, for example 'cp1252' or 'utf-16'."
    )


def _encoding_of(file: Path, notes: list[str]) -> str:
    """The encoding by the file's first bytes, or by which one reads it all.

    Raises:
        ValueError: If it holds no text.
    """
    decoder, size, valid, undefined = codecs.getincrementaldecoder("utf-8")(), 0, True, False
    with opened(file) as stream:
        start = stream.read(_BLOCK)
        for mark, encoding in _MARKS:
            if start.startswith(mark):
                return encoding
        zeros = [start[i::2].count(0) for i in (0, 1)]
        if max(zeros) > len(start) // 8 and min(zeros) * 4 < max(zeros):  # of text in Latin letters every second byte is zero
            encoding = "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
            notes.append(f"read as {encoding} (encoding= takes another)")
            return encoding
        if b"\0" in start or len(_CONTROL.findall(start)) > len(start) // 20:
            what = "NUL bytes" if b"\0" in start else "control characters"
            raise ValueError(
                f"{file.name} must be a CSV file, Parquet, Feather or Excel (.xlsx), but a binary file came ({what} in it); "
                "save the table as one of these."
            )
        block = start
        while block:
            size += len(block)
            if size > 4 * MAX_MEMORY:
                raise ValueError(f"{file.name} must fit into memory, but it is above {size:,} bytes; take a part of its rows.")
            undefined |= any(byte in block for byte in b"\x81\x8d\x8f\x90\x9d")
            if valid:
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    valid = False
            block = stream.read(_BLOCK)
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        valid = False
    if valid:
        return "utf-8"
    encoding = "latin-1" if undefined else "cp1252"
    notes.append(f"not UTF-8: read as {encoding}, which gives {_example(file, encoding)} (encoding= takes another)")
    return encoding


def _example(file: Path, encoding: str) -> str:
    """A word with a letter beyond ASCII, and its line."""
    with opened(file) as stream, text_lines(stream, encoding) as lines:
        for number, line in enumerate(lines, 1):
            if not line.isascii():
                word = next(word for word in re.split(r"[\s,;\t|\"]+", line) if not word.isascii())
                return f"{word[:40]!r} in line {number:,}"
    return "other letters"


def _separator_of(sample: list[str], layout: Layout, name: str) -> str:
    """The separator that cuts most rows into the same number of fields, at least two."""
    best, most = ",", (0.0, 0)
    for separator in SEPARATORS:
        try:
            found = _peek(sample, dataclasses.replace(layout, separator=separator), name)
        except ValueError:
            continue
        widths = [len(row) for _, row in found if any(field.strip() for field in row)]
        if not widths or max(widths) < 2:
            continue
        head = widths[0]
        rows = widths[1:] or widths
        alike = sum(width in (head, head + 1) for width in rows) / len(rows) if head > 1 else 0.0
        weak = separator in " :"  # which also stand within fields
        if alike >= 0.5 and (round(alike - 0.3 * weak, 1), head) > most:
            best, most = separator, (round(alike - 0.3 * weak, 1), head)
    if most[1] == 0:  # no two rows alike: the names decide
        first = next(line for line in sample[layout.skip_lines :] if line.strip())
        best = max(",;\t|", key=first.count)
    return best
