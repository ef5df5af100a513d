"""Opening the DuckDB file: settings, the lock of another process, DuckDB's errors as ours."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from storage.errors import (
    CorruptFileError,
    CorruptWalError,
    DiskFullError,
    FatalStorageError,
    LockedError,
    QueryError,
    StorageError,
)

STORAGE_VERSION = "v1.0.0"
"""File format of new files: DuckDB 1.5.6 and 2.0 both open it."""

_MAGIC, _MAGIC_AT = b"DUCK", 8
_NO_ROOM = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT))
_NO_RIGHT = tuple(
    os.strerror(code) for code in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS)
)
_PID = re.compile(r"\(PID (\d+)\)")
_WAL_DAMAGE = re.compile(r"Corrupt WAL file: entry at byte position (\d+)")
_OPEN_PATHS: set[Path] = set()
_OPEN_PATHS_LOCK = threading.Lock()


def connect(
    path: Path,
    *,
    memory_limit: str,
    threads: int,
    prepare: Callable[[Path], object] = lambda _path: None,
) -> duckdb.DuckDBPyConnection:
    """Return a writing connection to the file, creating it when absent.

    Args:
        path: The file.
        memory_limit: DuckDB's limit, such as `1GB`.
        threads: DuckDB's threads.
        prepare: Called before DuckDB opens the file, once nobody else in this process can.

    Raises:
        LockedError: Another process, or another database object here, has the file open.
        CorruptFileError: The file is damaged or not a DuckDB file.
        StorageError: The folder is missing, or a newer DuckDB wrote the file.
    """
    if not path.parent.is_dir():
        raise StorageError(f"{path}: folder {path.parent} does not exist; create it first")
    _reserve(path)
    try:
        _check_magic(path)  # only now: a second handle closed in the owning process drops its lock
        prepare(path)
        return _connect(path, memory_limit, threads)
    except BaseException:
        release(path)
        raise


def release(path: Path) -> None:
    """Forget that this process has the file open."""
    with _OPEN_PATHS_LOCK:
        _OPEN_PATHS.discard(path.resolve())


def holder_pid(path: Path) -> int | None:
    """Return the pid of the process that holds the file, None when it is free or absent.

    Never opens the file when this very process holds it: closing a second handle would drop the lock.

    Raises:
        CorruptFileError: The file is damaged or not a DuckDB file.
    """
    with _OPEN_PATHS_LOCK:
        if path.resolve() in _OPEN_PATHS:
            return os.getpid()
    if not path.exists():
        return None
    try:
        duckdb.connect(str(path), read_only=True).close()
    except duckdb.Error as error:
        opening = opening_error(path, error)
        if isinstance(opening, LockedError):
            return opening.pid
        raise opening from error
    return None


def opening_error(path: Path, error: duckdb.Error) -> StorageError:
    """Return our error for one that DuckDB raised while opening the file."""
    text = one_line(error)
    if "Could not set lock" in text:
        found = _PID.search(text)
        return LockedError(path, int(found.group(1)) if found else None)
    if "we can only read version" in text:
        return StorageError(f"{path}: written by a newer DuckDB ({text}); update freshet's DuckDB")
    full = no_room(path, error)
    if full is not None:
        return full
    if any(reason in text for reason in _NO_RIGHT):
        return StorageError(f"{path}: can not be opened ({text}); check the path and its rights")
    damaged = _WAL_DAMAGE.search(text)
    if damaged:
        return CorruptWalError(path, int(damaged.group(1)))
    return CorruptFileError(
        f"{path}: damaged or not a freshet database ({text}); restore a copy or replay the log"
    )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn DuckDB's errors inside the block into one-line errors of the store."""
    try:
        yield
    except duckdb.Error as error:
        raise _running_error(path, error) from error


def _running_error(path: Path, error: duckdb.Error) -> StorageError:
    """Return our error for one that DuckDB raised while the file was open."""
    full = no_room(path, error)
    if full is not None:
        return full
    text = one_line(error)
    if isinstance(error, duckdb.FatalException | duckdb.InternalException):
        return _fatal(path, text)
    return QueryError(f"{path}: {text}")


def streaming_error(path: Path, error: OSError) -> StorageError:
    """Return our error for one of DuckDB that Arrow raised while a result was read."""
    full = no_room(path, error)
    if full is not None:
        return full
    text = one_line(error)
    if text.startswith(("FATAL", "INTERNAL")):
        return _fatal(path, text)
    return QueryError(f"{path}: {text}")


def _fatal(path: Path, text: str) -> FatalStorageError:
    return FatalStorageError(
        f"{path}: the database stopped ({text}); leave the process and start it again"
    )


def no_room(path: Path, error: BaseException) -> DiskFullError | None:
    """Return our error for one that says there is no room to write, None for any other."""
    text = one_line(error)
    if not any(reason in text for reason in _NO_ROOM):
        return None
    return DiskFullError(
        f"{path}: no room to write ({text}); what was committed is kept: free space and run again"
    )


def one_line(error: BaseException) -> str:
    """Return an error's text without line breaks and without DuckDB's pointer to the statement."""
    text = str(error).split("\n\nLINE ")[0]
    return " ".join(text.split())


def _check_magic(path: Path) -> None:
    """Refuse other files: DuckDB would open a CSV or JSON file as a database in memory."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(len(_MAGIC) + _MAGIC_AT)
    if head[_MAGIC_AT:] != _MAGIC:
        raise CorruptFileError(f"{path}: not a DuckDB file; check the path, or name a new file")


def _reserve(path: Path) -> None:
    resolved = path.resolve()
    with _OPEN_PATHS_LOCK:
        if resolved in _OPEN_PATHS:
            raise LockedError(path, os.getpid())
        _OPEN_PATHS.add(resolved)


def _connect(path: Path, memory_limit: str, threads: int) -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "storage_compatibility_version": STORAGE_VERSION,
        "python_enable_replacements": "false",
        "memory_limit": memory_limit,
        "threads": str(threads),
        "checkpoint_threshold": "64MB",
        "max_temp_directory_size": "5GB",
        "preserve_insertion_order": "true",
    }
    try:
        return duckdb.connect(str(path), config=config)
    except duckdb.Error as error:
        raise opening_error(path, error) from error
