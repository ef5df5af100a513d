"""A metadata block that a killed process left half written, and its repair (decision 0013).

DuckDB keeps metadata in blocks of 64 parts. A checkpoint fills free parts of such a block and writes the whole block
into its old place; the parts that the file's header points to until the checkpoint ends keep their bytes. A process killed
inside that one write leaves the beginning of the new block, its checksum included, before the end of the old one. Every part in
use is whole, only the checksum is not that of these bytes, and DuckDB refuses the file.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import duckdb
import numpy as np

from storage.connection import one_line
from storage.doctor import run_checks
from storage.errors import StorageError
from storage.session import Session
from storage.wal import free_name, wal_bytes

_FIRST_BLOCK = 3 * 4096
_BLOCK = 256 * 1024
_SEED, _FACTOR = np.uint64(5381), np.uint64(0xBF58476D1CE4E5B9)
_REFUSED = re.compile(
    r"computed checksum \d+ does not match stored checksum \d+ in block at location (\d+)"
)
_CONFIG: dict[str, str | bool | int | float | list[str]] = {"memory_limit": "1GB", "threads": 1}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mended:
    """What a repair did.

    Attributes:
        at: first byte of the block in the file.
        copy: the block as it was.
    """

    at: int
    copy: Path


def mend(path: Path) -> Mended | None:
    """Give a torn metadata block the checksum of what it holds; return None where there is none.

    Looked for only beside a write-ahead log that holds something, which a process that ended well does not leave. The file is
    changed only when it is one block, it is one of metadata, and every check of the database passes afterwards; otherwise it stays
    as it is, and opening it says what is wrong. This process must not have the file open.
    """
    if not wal_bytes(path):
        return None
    at = _refused(path)
    if at is None:
        return None
    with _alone(path) as file:
        if file is None:
            return None
        block = _read(file, at)
        _write(file, at, struct.pack("<Q", checksum(block)))
    if not _whole(path, at):
        with path.open("rb+") as file:
            _write(file, at, block[:8])
        return None
    copy = free_name(path, "torn")
    copy.write_bytes(block)
    _log.warning(
        "%s: a process was killed while it wrote the metadata block at byte %d; nothing in use was lost, and the block's "
        "checksum is set right (a copy of the block is in %s)", path, at, copy,
    )  # fmt: skip
    return Mended(at, copy)


def checksum(block: bytes) -> int:
    """Return DuckDB's checksum of a block's words after the first, which holds it (`src/common/checksum.cpp`)."""
    words = np.frombuffer(block, dtype="<u8")[1:]
    return int(_SEED ^ np.bitwise_xor.reduce(words * _FACTOR))


def _refused(path: Path) -> int | None:
    """Return where the one block lies that DuckDB refuses, or would when it came to read it; None for any other state."""
    try:
        with _looking(path) as connection:
            blocks = _metadata(connection)
    except duckdb.Error as error:
        found = _REFUSED.search(one_line(error))
        return int(found.group(1)) if found else None
    with path.open("rb") as file:
        places = [_FIRST_BLOCK + number * _BLOCK for number in blocks]
        bad = [at for at in places if not _sound(_read(file, at))]
    return bad[0] if len(bad) == 1 else None


def _whole(path: Path, at: int) -> bool:
    """Return whether a file with a new checksum opens, the block is one of metadata, and all checks pass."""
    try:
        with _looking(path) as connection:
            is_metadata = (at - _FIRST_BLOCK) // _BLOCK in _metadata(connection)
            return is_metadata and all(f.ok for f in run_checks(Session(connection, path)))
    except (duckdb.Error, StorageError):
        return False


def _metadata(connection: duckdb.DuckDBPyConnection) -> list[int]:
    rows = connection.execute("SELECT DISTINCT block_id FROM pragma_metadata_info() ORDER BY 1")
    return [int(number) for (number,) in rows.fetchall()]


@contextmanager
def _looking(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection that changes nothing."""
    connection = duckdb.connect(str(path), read_only=True, config=_CONFIG)
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO | None]:
    """Yield the file under the lock that DuckDB takes; None when another process has it."""
    with path.open("rb+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        yield file


def _sound(block: bytes) -> bool:
    return len(block) == _BLOCK and struct.unpack_from("<Q", block)[0] == checksum(block)


def _read(file: BinaryIO, at: int) -> bytes:
    file.seek(at)
    return file.read(_BLOCK)


def _write(file: BinaryIO, at: int, data: bytes) -> None:
    file.seek(at)
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
