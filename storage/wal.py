"""Repair of a damaged write-ahead log: cut it before the damaged entry and keep a copy."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from storage.connection import connect, release
from storage.errors import CorruptFileError, CorruptWalError

_MEMORY = "1GB"


@dataclass(frozen=True, slots=True, kw_only=True)
class WalRepair:
    """What a repair did.

    Attributes:
        kept_bytes: Length of the log now.
        cut_bytes: What was cut off.
        copy: The log as it was.
    """

    kept_bytes: int
    cut_bytes: int
    copy: Path


def wal_of(path: Path) -> Path:
    """Return where DuckDB keeps the write-ahead log of a file."""
    return path.with_name(f"{path.name}.wal")


def wal_bytes(path: Path) -> int:
    """Return the size of a file's write-ahead log, 0 without one."""
    try:
        return wal_of(path).stat().st_size
    except FileNotFoundError:
        return 0


def repair_wal(path: Path) -> WalRepair | None:
    """Cut a damaged write-ahead log before the damage; None if the file opens as it is.

    What is cut are whole transactions, rows and positions together, so a replay stores them again.

    Raises:
        LockedError: Another process has the file open.
        CorruptFileError: The damage is not in the write-ahead log, or its place is not known.
    """
    wal = wal_of(path)
    repaired: WalRepair | None = None
    while (at := _damage(path)) is not None:
        size = wal.stat().st_size
        if at >= size:
            raise CorruptFileError(f"{wal}: damaged at its end; move it away, or restore a copy")
        copy = repaired.copy if repaired else Path(shutil.copy2(wal, free_name(wal, "damaged")))
        with wal.open("rb+") as file:
            file.truncate(at)
            os.fsync(file.fileno())
        cut = size - at + (repaired.cut_bytes if repaired else 0)
        repaired = WalRepair(kept_bytes=at, cut_bytes=cut, copy=copy)
    return repaired


def _damage(path: Path) -> int | None:
    """Open the file and close it again; return where its write-ahead log is damaged."""
    try:
        connection = connect(path, memory_limit=_MEMORY, threads=1)
    except CorruptWalError as error:
        return error.at
    connection.close()
    release(path)
    return None


def free_name(path: Path, ending: str) -> Path:
    """Return a name beside a file that is free, for what was damaged in it: `path.ending1`, and so on."""
    number = 1
    while (free := path.with_name(f"{path.name}.{ending}{number}")).exists():
        number += 1
    return free
