"""Backups: a consistent copy of the file while it is in use, and the way back.

Writers wait while the file is copied (about a second per gigabyte, nothing where the file system can share
blocks); readers go on. A copy by SQL (`COPY FROM DATABASE`) would let writers go on too, but takes thirty to
fifty times as long, on the cores that score. The copy is made by another process: closing a second handle on the file in
the process that owns it would drop DuckDB's lock.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import perf_counter

from storage.connection import connect, holder_pid, no_room, release, translated
from storage.database import Database
from storage.doctor import run_checks
from storage.errors import CorruptFileError, ExistsError, LockedError, StorageError
from storage.faults import reach
from storage.session import Session
from storage.standing import Standing, standing
from storage.wal import wal_of

_MEMORY = "256MB"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """What was copied.

    Attributes:
        path: the new file.
        bytes: its size.
        positions: how far it goes, per partition.
        seconds: what the copy took.
        held_s: how long of it writers waited, their turn included.
    """

    path: str
    bytes: int
    positions: list[Standing]
    seconds: float
    held_s: float


def backup(db: Database, out: Path, *, force: bool = False) -> BackupReport:
    """Copy an open database to `out` as it stands between two transactions.

    Args:
        db: The database; it may be written to by other threads.
        out: The new file, under a temporary name until it is whole.
        force: Replace a backup that is there.

    Raises:
        ExistsError: There is a file at `out`, or it is the database itself.
        DiskFullError: There is no room for it.
        StorageError: It can not be written, or can not be opened again.
    """
    _check_target(out, force=force, but=db.path)
    started = perf_counter()
    with _temporary(out) as part:
        with db.at_rest():
            found = standing(db)
            _copy(db.path, part)
        held_s = perf_counter() - started
        if _opened_once(part) != found:
            raise StorageError(f"{part}: the copy differs from {db.path}; check the disk")
        _sync(part)
        reach("backup.copied")
        _put(part, out)
    return BackupReport(
        path=str(out),
        bytes=out.stat().st_size,
        positions=found,
        seconds=perf_counter() - started,
        held_s=held_s,
    )


def restore(source: Path, path: Path, *, now: datetime, force: bool = False) -> BackupReport:
    """Put a copy of a backup in the place of a database, after every check of it has passed.

    Args:
        source: The backup; it stays as it is.
        path: The database; nobody may have it open.
        now: Time recorded with schema steps the backup does not have yet.
        force: Replace the database that is there.

    Raises:
        ExistsError: There is a database at `path`.
        LockedError: A process has the database or the backup open.
        CorruptFileError: The backup is damaged, or no database.
        StorageError: A check failed; nothing was changed.
    """
    started = perf_counter()
    pid = holder_pid(source)
    if pid is not None:
        raise LockedError(source, pid)
    _check_target(path, force=force, but=source)
    with _temporary(path) as part:
        _copy(source, part)
        with Database.open(part, now=now) as db:
            broken = [found for found in run_checks(db) if not found.ok]
            found = standing(db)
            db.checkpoint()
        if broken:
            raise StorageError(
                f"{source}: {broken[0].check}: {broken[0].detail}; restore an older backup, or replay the log"
            )
        _sync(part)
        reach("restore.checked")
        _put(part, path)
    seconds = perf_counter() - started
    size = path.stat().st_size
    return BackupReport(path=str(path), bytes=size, positions=found, seconds=seconds, held_s=0.0)


def _check_target(path: Path, *, force: bool, but: Path) -> None:
    if not path.parent.is_dir():
        raise StorageError(f"{path}: folder {path.parent} does not exist; create it first")
    if not path.exists():
        return
    if path.resolve() == but.resolve():
        raise ExistsError(f"{path}: is the file to copy; name another place for the copy")
    if not force:
        raise ExistsError(f"{path}: exists already; name another file, or --force to replace it")
    try:
        pid = holder_pid(path)
    except CorruptFileError:
        return  # replacing a damaged file is what a backup is for
    if pid is not None:
        raise LockedError(path, pid)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a free name beside `path`; what is left under it is removed."""
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield part
    finally:
        for left in (part, wal_of(part)):
            left.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a file, and the write-ahead log that belongs to it."""
    _copy_file(source, target)
    if wal_of(source).exists():
        _copy_file(wal_of(source), wal_of(target))


def _copy_file(source: Path, target: Path) -> None:
    done = subprocess.run(  # noqa: S603 fixed program, paths after --
        ["cp", "--", str(source.resolve()), str(target.resolve())],  # noqa: S607 found on the PATH
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        error = OSError(done.stderr.strip())
        raise no_room(target, error) or StorageError(
            f"{target}: can not be written ({error}); check the path and its rights"
        )


def _opened_once(path: Path) -> list[Standing]:
    """Open a copy, move its write-ahead log into it, and return how far it goes."""
    connection = connect(path, memory_limit=_MEMORY, threads=1)
    try:
        with translated(path):
            connection.execute("CHECKPOINT").fetchall()
            return standing(Session(connection, path))
    finally:
        connection.close()
        release(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _put(part: Path, path: Path) -> None:
    """Give a whole file its name; the log of the file that had it must not be applied to this one."""
    wal_of(path).unlink(missing_ok=True)
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
