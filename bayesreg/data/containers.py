"""What a file is, by its first bytes, and its bytes without compression; its name is not believed."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from bayesreg._text import some

Container = Literal["text", "parquet", "feather", "excel"]
_PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open, b"BZh": bz2.open}
_OTHER = {  # what opens with these bytes, and what to do
    b"\xd0\xcf\x11\xe0": ("an Excel file of before 2007 (.xls)", "save it as .xlsx or .csv"),
    b"SQLite format 3": ("an SQLite database", "export the table as CSV"),
    b"\x89HDF": ("an HDF5 file", "save the table as CSV or Parquet"),
    b"%PDF": ("a PDF", "save the table as CSV"),
    b"\x28\xb5\x2f\xfd": ("a file compressed by zstd", "compress it by gzip or xz, or not at all"),
    b"RDX": ("an R data file", "save the table by write.csv"),
    b"RDA": ("an R data file", "save the table by write.csv"),
    b"X\n\0\0": ("an R data file", "save the table by write.csv"),
    b"$FL2": ("an SPSS file", "save the table as CSV"),
    b"<stata_dta>": ("a Stata file", "save the table as CSV"),
    b"\x80\x04": ("a pickle", "save the table by to_csv or to_parquet"),
    b"\x80\x05": ("a pickle", "save the table by to_csv or to_parquet"),
    b"<!DOCTYPE": ("a web page", "download the table itself"),
    b"<html": ("a web page", "download the table itself"),
    b"<?xml": ("XML", "save the table as CSV"),
    b'{"': ("JSON", "save the table as CSV"),
    b'[{"': ("JSON", "save the table as CSV"),
}
_ENDS = ("a CSV file (also .gz, .zip, .xz), Parquet, Feather or Excel (.xlsx)", "save it as one of these")


def checked_path(path: str | os.PathLike[str]) -> Path:
    """The path of a file that is there.

    Raises:
        ValueError: If it is none, or a folder.
    """
    file = Path(path)
    try:
        there, folder = file.is_file(), file.is_dir()
    except (OSError, ValueError) as error:
        raise ValueError(f"path must be a file that is there, but {str(file)!r} came ({error}); check its name.") from None
    if not there:
        what = f"the folder {str(file)!r}" if folder else repr(str(file))
        raise ValueError(f"path must be a file that is there, but {what} came; check its name and folder.")
    return file


def container_of(file: Path) -> Container:
    """What a file is.

    Raises:
        ValueError: If it is of a kind that is not read, or empty.
    """
    with file.open("rb") as stream:
        start = stream.read(32)
    if start[:4] == b"PAR1":
        return "parquet"
    if start[:6] == b"ARROW1" or start[:4] == b"FEA1":
        return "feather"
    if start[:4] == b"PK\x03\x04" and _holds_a_workbook(file):
        return "excel"
    kinds = ((".parquet", "a Parquet"), (".feather", "a Feather"), (".arrow", "an Arrow"), (".xlsx", "an Excel"))
    for suffix, kind in kinds:
        if file.suffix.lower() == suffix:
            came = repr(start[:4])
            raise ValueError(f"{file.name} must be {kind} file, but it begins with {came}; write it again, or rename it.")
    with opened(file) as stream:
        start = stream.read(64)
    if not start:
        raise ValueError(f"{file.name} must hold a table, but it is empty (0 bytes); check that it was written to its end.")
    for magic, (what, advice) in _OTHER.items():
        if start.lstrip()[: len(magic)].lower() == magic.lower():
            raise ValueError(f"{file.name} must be {_ENDS[0]}, but {what} came; {advice}.")
    return "text"


def _holds_a_workbook(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.startswith("xl/") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


@contextlib.contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """The file's bytes, without its compression (gzip, xz, bz2, or a zip of one file).

    Raises:
        ValueError: If it cannot be read or unpacked, or the zip holds several files.
    """
    try:
        with file.open("rb") as plain:
            start = plain.read(6)
            plain.seek(0)
            if start[:4] == b"PK\x03\x04":
                with zipfile.ZipFile(plain) as archive, archive.open(_only(file, archive)) as stream:
                    yield stream  # pyright: ignore[reportReturnType]
                return
            packed = next((unpack for magic, unpack in _PACKED.items() if start.startswith(magic)), None)
            if packed is None:
                yield plain
                return
            with packed(plain) as stream:
                yield stream
    except (
        EOFError,
        zipfile.BadZipFile,
        lzma.LZMAError,
        gzip.BadGzipFile,
        OSError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(
            f"{file.name} must be a file that can be read to its end, but this came: {said}; copy it anew."
        ) from error


def _only(file: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    inside = [entry for entry in archive.infolist() if not entry.is_dir() and not entry.filename.startswith("__MACOSX/")]
    if len(inside) != 1:
        names = some((entry.filename for entry in inside), 5)
        raise ValueError(f"{file.name} must hold one file, but {len(inside)} came ({names}); unpack it, and pass one of them.")
    return inside[0]


def text_lines(stream: BinaryIO, encoding: str) -> io.TextIOWrapper:
    """The stream's text, its line ends as they are."""
    return io.TextIOWrapper(stream, encoding=encoding, newline="")
