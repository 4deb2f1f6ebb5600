"""Files that are written completely or not at all, under random names first, and locked against a second writer.

A file is written next to its place under a random name (`.name.host-pid-random.part`), flushed to the disk, and moved. Such
files of a process that died are removed when the same place is written or checked again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import stat
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not on Windows, where two writers are not distinguished
    fcntl = None

PathLike = str | os.PathLike[str]
_LONGEST = 160  # bytes of the name that its temporary file's name repeats, to keep that short enough
_own: set[str] = set()  # temporary files and locks of this process, of whatever thread
_guard = threading.Lock()


def check_place(path: PathLike, *, force: bool) -> Path:
    """Return a path where a file can be put, or refuse it. A link counts as a file, whatever it points to, and is not followed.

    `force` allows an existing file, which will be replaced.

    Raises:
        ValueError: If its folder is not there, something other than a plain file stands there, or a file does and `force` is
            not given.
    """
    target, said = Path(path), repr(os.fspath(path))
    try:
        is_there, kind, has_folder = _kind(target, False) is not None, _kind(target, True), target.parent.is_dir()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"a file must have a valid name, but {said} has none ({why}); choose another.") from None
    if not has_folder:
        raise ValueError(f"the folder of {said} must exist; make it first, or choose another place.")
    if not target.name or not (kind is None or stat.S_ISREG(kind)):
        raise ValueError(f"{said} must be the place of a file, but a folder or device is there; choose another name.")
    if is_there and not force:
        raise ValueError(f"{said} must not exist yet; pass force=True (--force) to replace it, or another name.")
    return target


def probe(path: PathLike, *, force: bool, room: int = 0) -> None:
    """Check now, rather than after hours, that a file of `room` bytes can be written; nothing is left behind.

    Raises:
        ValueError: If `check_place` refuses it, the folder takes no file, or the disk has not so much room.
    """
    target = check_place(path, force=force)
    sweep(target)
    reserve = getattr(os, "posix_fallocate", lambda *arguments: None)  # not on every system
    handle, name = _create(target)
    try:
        with handle:
            if room:
                reserve(handle.fileno(), 0, room)
    except OSError as error:
        raise ValueError(
            f"there must be room for {room:,} bytes next to {os.fspath(path)!r}, but there is not ({error.strerror}); make "
            "room, or choose another place."
        ) from None
    finally:
        _remove(name)


@contextlib.contextmanager
def replacing(paths: Sequence[PathLike], *, force: bool) -> Iterator[list[BinaryIO]]:
    """Open one file for each path, to write and read bytes; all take their places when the block succeeds, none when it fails.

    All are written and on the disk before the first is moved; if a move fails, those before it are undone. Modes follow the
    process's umask from 0o666. A link is replaced, not followed. `force` allows existing files.

    Raises:
        ValueError: If `check_place` refuses a path, or its folder takes no file.
    """
    targets = [check_place(path, force=force) for path in paths]
    made: list[tuple[BinaryIO, str]] = []
    try:
        for target in targets:
            sweep(target)
            made.append(_create(target))
        yield [handle for handle, _ in made]
        for handle, _ in made:
            handle.flush()
            os.fsync(handle.fileno())
            handle.close()
        for target in targets:  # another file may have appeared meanwhile
            check_place(target, force=force)
        _move([(name, target) for (_, name), target in zip(made, targets, strict=True)])
    finally:
        for handle, name in made:
            handle.close()
            _remove(name)


def sweep(target: Path) -> None:
    """Remove the temporary files of dead processes of this machine for this target."""
    start = f".{_short(target.name)}.{_host()}-"
    with contextlib.suppress(OSError):  # an unreadable folder: nothing can be removed
        for found in os.listdir(target.parent):
            pid = found.removeprefix(start).split("-")[0]
            if found.startswith(start) and found.endswith(".part") and pid.isdecimal():
                name = os.path.join(target.parent, found)
                if (int(pid) == os.getpid() and name not in _own) or not _is_alive(int(pid)):
                    with contextlib.suppress(OSError):
                        os.unlink(name)


@contextlib.contextmanager
def locked(path: PathLike, refusal: str) -> Iterator[None]:
    """Hold a path against every other process and thread that uses this lock, which ends with its process.

    The lock is an empty file `.name.lock` next to it, removed afterwards; where the file system has no locks, nothing is held.
    `refusal` is the error for the second caller.

    Raises:
        ValueError: With `refusal`, if it is held; or if its folder takes no file.
    """
    target = Path(path).absolute()
    name = os.path.join(os.path.realpath(target.parent), f".{_short(target.name)}.lock")
    with _guard:  # a process's own locks do not exclude each other
        if name in _own:
            raise ValueError(refusal)
        _own.add(name)
    try:
        handle = _lock(name, refusal)
        try:
            yield
        finally:
            _remove(name)
            os.close(handle)
    finally:
        _own.discard(name)


def _lock(name: str, refusal: str) -> int:
    while True:
        try:
            handle = os.open(name, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise _no_file(name, error) from None
        try:
            if fcntl is not None:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                os.close(handle)
                raise ValueError(refusal) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.lstat(name)):
                return handle
        os.close(handle)  # its last holder has just removed it


def _kind(path: Path, follow: bool) -> int | None:
    try:
        return os.stat(path, follow_symlinks=follow).st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # nothing, or a link to nothing
            return None
        raise


def _move(moves: list[tuple[str, Path]]) -> None:
    """Move all files to their places, or none."""
    before: dict[Path, str] = {}
    try:
        if len(moves) > 1:
            for _, target in moves:
                if os.path.lexists(target):
                    backup = _fresh(target)
                    with contextlib.suppress(OSError):  # a file system without hard links
                        os.link(target, backup, follow_symlinks=False)
                        before[target] = backup
        try:
            for name, target in moves:
                os.replace(name, target)
        except BaseException:
            for name, target in moves:
                if not os.path.lexists(name):
                    _restore(target, before)
            raise
        for folder in {target.parent for _, target in moves}:
            with contextlib.suppress(OSError):  # a folder that cannot be flushed
                handle = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
    finally:
        for backup in before.values():
            _remove(backup)


def _restore(target: Path, before: dict[Path, str]) -> None:
    if target in before:
        os.replace(before[target], target)
    else:
        os.unlink(target)


def _create(target: Path) -> tuple[BinaryIO, str]:
    name = _fresh(target)
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        return os.fdopen(os.open(name, flags, 0o666), "w+b"), name
    except OSError as error:
        _own.discard(name)
        raise _no_file(os.fspath(target), error) from None


def _no_file(path: str, error: OSError) -> ValueError:
    return ValueError(
        f"the folder of {path!r} must be writable, but no file can be made there ({error.strerror}); choose another place, "
        "or make the folder writable."
    )


def _fresh(target: Path) -> str:
    name = f".{_short(target.name)}.{_host()}-{os.getpid()}-{secrets.token_hex(8)}.part"
    full = os.path.join(target.parent, name)
    _own.add(full)
    return full


def _remove(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)
    _own.discard(name)


def _short(name: str) -> str:
    while len(os.fsencode(name)) > _LONGEST:
        name = name[:-1]
    return name


def _host() -> str:
    """This machine's name, so that another machine's processes on a shared disk are not taken for dead."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        return True
    return True
