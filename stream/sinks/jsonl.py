"""Slates as JSON lines in a file, durable batch by batch."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

import msgspec

from storage.faults import reach
from stream.errors import SinkError, SinkFullError
from stream.slates import decode_slate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stream.slates import Slate, SlateLines

_BLOCK_BYTES = 1 << 16
_FULL_DISK_RETRY_S = 30.0
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LINE_START = b'{"id":'  # how every slate's line begins


class JsonlSink:
    """Appends one line per slate and syncs the file once per batch.

    A file left by a crash may end in half a line: that part is cut on opening. A write that fails
    half-way is cut back, so the file always ends with a whole line.

    Args:
        path: the file; its directory is created.

    Raises:
        SinkError: the file holds something else than slates, is in use, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as err:
            raise SinkError(f"{path}: cannot be opened ({err.strerror}); check the path") from err
        try:
            self._lock()
            self._size = self._repair()
            _sync_directory(path.parent)
        except BaseException:
            os.close(self._fd)
            raise
        self._closed = False

    def write(self, slates: SlateLines) -> None:
        """Append `slates` in order; they are on disk when this returns.

        Raises:
            SinkError: nothing of this batch is in the file.
        """
        if self._closed:
            raise SinkError(f"{self._path}: the sink is closed; open another")
        if not slates:
            return
        reach("sink.line", lambda: os.write(self._fd, _torn(b"".join(slates.parts))))
        try:
            for part in slates.parts:
                view = memoryview(part)
                while view:
                    view = view[os.write(self._fd, view) :]
            os.fsync(self._fd)
        except OSError as err:
            os.ftruncate(self._fd, self._size)
            kind = SinkFullError if err.errno in _NO_ROOM else SinkError
            raise kind(
                f"{self._path}: not written ({err.strerror}); free space and run again",
                retry_after_s=_FULL_DISK_RETRY_S,
            ) from err
        self._size += sum(map(len, slates.parts))

    def close(self) -> None:
        """Close the file."""
        if not self._closed:
            self._closed = True
            os.close(self._fd)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise SinkError(
                f"{self._path}: another process writes it; choose another file"
            ) from err

    def _repair(self) -> int:
        """Cut a torn last line; return the size of what is left, in bytes."""
        size = os.fstat(self._fd).st_size
        end = _end_of_last_line(self._fd, size)
        if size:
            self._check_first_line(end)
        if end < size:
            os.ftruncate(self._fd, end)
            os.fsync(self._fd)
        return end

    def _check_first_line(self, end: int) -> None:
        """Refuse to append to, or cut, a file that is not ours."""
        with self._path.open("rb") as file:
            line = file.readline()
        try:
            ours = bool(decode_slate(line)) if end else _LINE_START.startswith(line[:6])
        except msgspec.DecodeError:
            ours = False
        if not ours:
            raise SinkError(f"{self._path}: holds something else than slates; choose another file")


def _torn(data: bytes) -> bytes:
    """Return what a crash in the middle of the last line leaves of some lines."""
    begin = data.rfind(b"\n", 0, -1) + 1
    return data[: (begin + len(data)) // 2]


def _end_of_last_line(fd: int, size: int) -> int:
    """Return the offset just after the last newline, 0 if there is none."""
    end = size
    while end > 0:
        begin = max(0, end - _BLOCK_BYTES)
        found = os.pread(fd, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _sync_directory(path: Path) -> None:
    """Make a new file's name durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_slates(path: Path) -> Iterator[Slate]:
    """Yield the slates of a file in order; half a last line is left out.

    Raises:
        SinkError: a line is no slate; the message names it.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield decode_slate(line)
            except msgspec.DecodeError as err:
                raise SinkError(f"{path}:{number}: not a slate ({err}); write it again") from err
