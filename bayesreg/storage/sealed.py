"""Tensors and plain values in a file with a checksum: reading gives what was written, or an error.

The file is what `torch.save` writes, a zip archive, and `torch.load(path, weights_only=True)` reads it anywhere. The archive's
comment is the seal: the kind of file, its format, and the SHA-256 of all bytes before it. Nothing of a file is parsed before
the seal is checked, so no parser meets damaged data. A seal is no signature, so the content is checked all the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import stat
import zipfile
from typing import Any, BinaryIO

import torch

_SEAL = re.compile(rb"bayesreg (posterior|checkpoint|model) format (\d{1,9}) sha256 ([0-9a-f]{64})")
_TOO_LONG = 200  # bytes; longer than any seal


def seal(handle: BinaryIO, kind: str, version: int, content: dict[str, Any]) -> None:
    """Write content, tensors and plain values, and its seal to an empty file that is open for reading and writing."""
    torch.save(content, handle)
    said = f"bayesreg {kind} format {version} sha256 ".encode()
    handle.seek(-2, os.SEEK_END)  # where the archive stores the length of its comment
    handle.write((len(said) + 64).to_bytes(2, "little") + said)
    handle.seek(0)
    digest = hashlib.file_digest(handle, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
    handle.seek(0, os.SEEK_END)
    handle.write(digest.encode())


def unseal(
    path: str | os.PathLike[str],
    kind: str,
    version: int,
    written_by: str,
    advice: str = "take another copy of it, or fit again",
    also: str = "",
) -> dict[str, Any]:
    """The content that `seal` wrote, on the CPU; `written_by` and `advice` are for errors, `also` is another kind to take.

    Raises:
        ValueError: If the file is not there, of another kind or format, or not as it was written.
    """
    said = f"{os.fspath(path)!r} must be a {kind} written by {written_by}"
    raw = _read(path, said)
    found = _SEAL.fullmatch(raw[_start(raw) :])
    if found is None:
        raise ValueError(f"{said}, but {_without_seal(raw, version, advice)}.")
    came, of, digest = found[1].decode(), int(found[2]), found[3].decode()
    if hashlib.sha256(memoryview(raw)[:-64]).hexdigest() != digest:
        raise ValueError(f"{said}, but it is damaged: its bytes are not those that were written; {advice}.")
    if came not in (kind, also):
        raise ValueError(f"{said}, but it is a {came}; pass another file.")
    if of != version:
        raise ValueError(
            f"{said} in format {version}, but it is in format {of}, of another version of bayesreg; load it with that version, "
            "or fit again."
        )
    try:
        content = _parsed(raw)
    except ValueError:
        raise
    except Exception as error:  # torch raises many kinds of error, with misleading advice
        raise ValueError(f"{said}, but its content cannot be read ({type(error).__name__}); fit again.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{said}, but it holds something else; fit again.")
    return content


def _read(path: str | os.PathLike[str], said: str) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{said}, but it is no plain file; pass the file's own path.")
        with open(path, "rb") as handle:
            return handle.read()
    except FileNotFoundError:
        raise ValueError(f"there must be a file to load, but {os.fspath(path)!r} does not exist; check the path.") from None
    except OSError as error:
        raise ValueError(f"{said}, but it cannot be read ({error.strerror}); check its place and permissions.") from None


def _start(raw: bytes) -> int:
    """Where the seal begins, or the file's end."""
    at = raw.rfind(b"bayesreg ", max(0, len(raw) - _TOO_LONG))
    return len(raw) if at < 0 else at


def _without_seal(raw: bytes, version: int, advice: str) -> str:
    """What a file without a seal is, in words."""
    if not raw.startswith(b"PK\x03\x04"):
        return "it is not one; check the path"
    if raw[-22:-18] != b"PK\x05\x06" or raw[-2:] != b"\0\0":
        return f"it is damaged: something was cut off from it or added to it; {advice}"
    content = None
    with contextlib.suppress(Exception):  # many kinds of error, for a file of another program
        content = _parsed(raw)
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, int) and found != version:
        return (
            f"it is in format {found} and this version of bayesreg reads format {version}; load it with the version that wrote "
            "it, or fit again"
        )
    if content is None:
        return "it is not one, and holds what only code could read; check the path"
    return f"it has no seal, so that another program or an older version of bayesreg wrote it; {advice}"


def _parsed(raw: bytes) -> Any:
    """An archive's content, where it is no larger than it looks.

    Raises:
        ValueError: If it would be.
    """
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        if any(entry.compress_type or entry.file_size > len(raw) for entry in archive.infolist()):
            raise ValueError("a file must hold what it declares, but it declares more than it has bytes; fit again.")
    content = torch.load(io.BytesIO(raw), weights_only=True, map_location="cpu")
    strided = [tensor for tensor in tensors_in(content) if tensor.layout == torch.strided]
    declared = sum(tensor.numel() * tensor.element_size() for tensor in strided)
    if declared > len(raw):
        raise ValueError("a file must hold what it declares, but its tensors declare more than it has bytes; fit again.")
    return content


def tensors_in(content: Any) -> list[torch.Tensor]:
    """Every tensor of nested dicts, lists and tuples."""
    if isinstance(content, torch.Tensor):
        return [content]
    if isinstance(content, dict):
        content = list(content.values())
    return [tensor for part in content for tensor in tensors_in(part)] if isinstance(content, (list, tuple)) else []
