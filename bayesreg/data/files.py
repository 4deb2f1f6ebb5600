"""A file as the columns of a table: CSV and its relatives, Parquet, Feather, Excel; whole, or block by block."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bayesreg._text import some
from bayesreg.data.cells import Writing, read_cells
from bayesreg.data.columns import Column, Columns, TableError, columns_of, from_cells, of_objects
from bayesreg.data.containers import checked_path, container_of
from bayesreg.data.delimited import Layout, laid_out


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a file is to be read.

    Attributes:
        layout: How text is laid out.
        writing: How cells are written.
        sheet: Name of an Excel file's sheet; None for its first.
    """

    layout: Layout = dataclasses.field(default_factory=Layout)
    writing: Writing = dataclasses.field(default_factory=Writing)
    sheet: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Rows of a file.

    Attributes:
        columns: What they hold.
        cells: By column, as they came: texts, or numbers, dates and None where the file has types.
    """

    columns: Columns
    cells: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class File:
    """A file that was read.

    Attributes:
        columns: Its columns.
        notes: How it was read, a sentence each.
        reading: The same with what was found out, by which other such files can be read.
        problems: What is wrong with its names and rows, a sentence each.
        dropped: Columns that were not read, as asked.
    """

    columns: Columns
    notes: list[str]
    reading: Reading
    problems: list[str]
    dropped: tuple[str, ...] = ()


def read_file(
    path: str | os.PathLike[str], reading: Reading | None = None, *, texts: Collection[str] = (), drop: Collection[str] = ()
) -> File:
    """Read a whole file.

    Args:
        path: The file.
        reading: How; what is not said is found out.
        texts: Columns that stay text: categories, whatever they look like.
        drop: Columns that are not read.

    Raises:
        ValueError: If it cannot be read at all.
        ImportError: If a package that reads it is not installed.
    """
    reading = reading or Reading()
    file = checked_path(path)
    kind = container_of(file)
    name = file.name.encode("utf-8", "replace").decode()  # a name may be no UTF-8
    if kind != "text":
        columns, notes = _typed(file, kind, reading)
        dropped = tuple(column for column in drop if column in columns)
        return File(dataclasses.replace(columns.without(dropped), name=name), notes, reading, [], dropped)
    source = laid_out(file, reading.layout, drop)
    dropped = tuple(column for column in drop if column not in source.names and column in source.all_names)
    (cells, lines), *_ = source.blocks()
    if not len(lines):
        names = some(map(repr, source.names))
        source.problems.append(f"rows of data must follow the names {names}, but none came; check the file.")
    reading = _settled(cells, dataclasses.replace(reading, layout=source.layout), texts)
    columns = _columns(name, cells, lines, 0, reading, texts)
    return File(columns, source.notes, reading, source.problems, dropped)


def stream_file(path: str | os.PathLike[str], reading: Reading, size: int, *, texts: Collection[str] = ()) -> Iterator[Block]:
    """Read a file, `size` rows at a time, as `reading` of another such file says.

    Yields:
        Blocks of rows; a file without rows gives one empty block.

    Raises:
        ValueError: If it cannot be read.
        TableError: If names or rows are not as they must be.
    """
    file = checked_path(path)
    kind = container_of(file)
    name = file.name.encode("utf-8", "replace").decode()
    if kind != "text":
        columns, cells = _typed(file, kind, reading)[0], None
        for start in range(0, max(1, columns.num_rows), size):
            part = columns.take(np.arange(start, min(start + size, columns.num_rows)))
            cells = {key: column.as_texts() for key, column in part.items()}
            yield Block(dataclasses.replace(part, name=name), cells)
        return
    found = laid_out(file, dataclasses.replace(reading.layout, encoding=None, separator=None))
    if found.problems:
        raise TableError(name, found.problems)
    number = 0
    for cells, lines in found.blocks(size):
        yield Block(_columns(name, cells, lines, number, reading, texts), cells)
        number += len(lines)
    if found.problems:
        raise TableError(name, found.problems)


def _settled(cells: dict[str, np.ndarray], reading: Reading, texts: Collection[str]) -> Reading:
    """Decimal mark and order of dates are one in a whole file: a column that leaves them open follows those that do not."""
    writing = reading.writing
    found = [read_cells(values, writing) for name, values in cells.items() if name not in texts]
    marks, orders = {one.mark for one in found} - {None}, {one.order for one in found} - {None}
    if reading.layout.separator == ";" and not marks and any(one.problem is not None for one in found):
        marks = {","}  # semicolons stand between fields where commas stand within numbers
    if writing.decimal is None and marks:
        writing = dataclasses.replace(writing, decimal="," if "," in marks else ".")
    if writing.dates is None and len(orders) == 1:
        writing = dataclasses.replace(writing, dates=orders.pop())
    return dataclasses.replace(reading, writing=writing)


def _columns(
    name: str, cells: dict[str, np.ndarray], lines: np.ndarray, start: int, reading: Reading, texts: Collection[str]
) -> Columns:
    found: dict[str, Column] = {}
    for key, values in cells.items():
        column = from_cells(key, values, reading.writing, as_text=key in texts)
        if reading.writing.decimal == "," and column.kind == "text" and key not in texts:  # 3.5 in a file of commas
            plain = from_cells(key, values, dataclasses.replace(reading.writing, decimal="."))
            column = plain if plain.kind == "numbers" else column
        found[key] = column
    return Columns(found, np.arange(start + 1, start + len(lines) + 1), name, lines)


def _typed(file: Path, kind: str, reading: Reading) -> tuple[Columns, list[str]]:
    """The columns of a file with types."""
    if kind == "excel":
        return _excel(file, reading)
    table = _arrow(file, kind)
    columns = columns_of(table, reading.writing)
    index = [name for name in columns if name.startswith("__index_level_")]
    notes = [f"{some(map(repr, index))}, the rows' numbers of a data frame, left out"] if index else []
    return columns.without(index), notes


def _arrow(file: Path, kind: str) -> Any:
    """The table of a Parquet or Feather file, by pyarrow or Polars.

    Raises:
        ImportError: If neither is installed.
        ValueError: If it cannot be read.
    """
    try:
        try:
            if kind == "parquet":
                import pyarrow.parquet as pq

                with pq.ParquetFile(file) as parquet:
                    return parquet.read()
            import pyarrow.feather as feather

            return feather.read_table(file)
        except ImportError:
            import polars

            return polars.read_parquet(file) if kind == "parquet" else polars.read_ipc(file)
    except ImportError as error:
        raise ImportError(f"reading {kind.title()} needs pyarrow: pip install bayesreg[parquet], or save as CSV.") from error
    except (OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{file.name} must be a {kind.title()} file, but this came: {error}; write it again.") from error


def _excel(file: Path, reading: Reading) -> tuple[Columns, list[str]]:
    """A sheet of an Excel file: names in its first row that is not empty.

    Raises:
        ImportError: If openpyxl is not installed.
        ValueError: If it cannot be read, or has no such sheet.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise ImportError("reading Excel needs openpyxl: pip install bayesreg[excel], or save as CSV.") from error
    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    except Exception as error:  # it has many
        raise ValueError(f"{file.name} must be an Excel file, but this came: {error}; write it again.") from error
    try:
        names = list(book.sheetnames)
        if reading.sheet is not None and reading.sheet not in names:
            raise ValueError(f"sheet must be one of {some(map(repr, names))}, but {reading.sheet!r} came; pass one of them.")
        sheet = book[reading.sheet or names[0]]
        sheet.reset_dimensions()
        rows = [(i, list(row)) for i, row in enumerate(sheet.iter_rows(values_only=True), 1)]
    finally:
        book.close()
    rows = [(i, row) for i, row in rows if any(cell not in (None, "") for cell in row)]
    notes = [f"sheet {sheet.title!r}, of {some(map(repr, names), 5)} (sheet= takes another)"] if len(names) > 1 else []
    if not rows:
        raise ValueError(f"{file.name} must hold a table, but sheet {sheet.title!r} is empty; pass sheet= for another.")
    skip = reading.layout.skip_lines
    rows = [(i, row) for i, row in rows if i > skip]
    head = rows[0][1] if reading.layout.header else [f"c{i + 1}" for i in range(max(len(row) for _, row in rows))]
    body = rows[1:] if reading.layout.header else rows
    width = max(len(row) for _, row in rows)
    head = [*head, *[None] * (width - len(head))]
    return _sheet_columns(file.name, head, body, reading.writing), notes


def _sheet_columns(name: str, head: Sequence[Any], body: list[tuple[int, list[Any]]], writing: Writing) -> Columns:
    found: dict[str, Column] = {}
    for i, cell in enumerate(head):
        values = [row[i] if i < len(row) else None for _, row in body]
        key = str(cell).strip() if cell not in (None, "") else f"column {i + 1}"
        if cell in (None, "") and all(value in (None, "") for value in values):
            continue
        if key in found:
            raise TableError(name, [f"column names must differ, but {key!r} came more than once; rename one of each."])
        found[key] = of_objects(key, values, writing)
    return Columns(found, np.arange(1, len(body) + 1), name, np.array([i for i, _ in body], dtype=np.int64))
