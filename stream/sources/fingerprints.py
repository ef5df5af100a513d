"""Fingerprints of the files of a log: positions count through them, so they must stay what they were."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from stream.errors import GapError, SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_HEAD_BYTES = 1 << 16


class Fingerprint(msgspec.Struct, frozen=True):
    """What one file of a log was like when it was read.

    Attributes:
        name: path below the folder the log was given as.
        first: offset of its first record.
        size: bytes, when it was read last.
        head: leading bytes that `digest` covers.
        digest: hash of them, hexadecimal.
    """

    name: str
    first: int
    size: int
    head: int
    digest: str


def fingerprint(path: Path, name: str, first: int) -> Fingerprint:
    """Return the fingerprint of a file as it is now.

    Raises:
        SourceError: the file can not be read.
    """
    size = size_of(path)
    head = min(size, _HEAD_BYTES)
    return Fingerprint(name, first, size, head, _head_hash(path, head))


def size_of(path: Path) -> int:
    """Return the size of a file, bytes.

    Raises:
        SourceError: there is no such file any more.
    """
    try:
        return path.stat().st_size
    except OSError as err:
        raise SourceError(
            f"{path}: cannot be read ({err.strerror}); check path and rights"
        ) from err


def check_files(earlier: Sequence[Fingerprint], files: Sequence[tuple[Path, str]]) -> None:
    """Compare the files that were read before, in their order, with those of the log now.

    Files may have been added after them, and the last of them may have grown at its end.

    Args:
        earlier: of the files read before.
        files: path and name of all files now, in reading order.

    Raises:
        GapError: a file is gone, was replaced or shortened, grew although a later one was read, or
            stands before one that was read already.
    """
    names = {name for _, name in files}
    for number, known in enumerate(earlier):
        if number >= len(files) or known.name not in names:
            raise GapError(
                f"{known.name}: read before, and not in the log any more; "
                "restore it, or use another database"
            )
        path, name = files[number]
        if name != known.name:
            raise GapError(
                f"{path}: comes before {known.name}, which was read already; "
                "give it a name that sorts last, or use another database"
            )
        _check_file(path, known, last=number == len(earlier) - 1)


def _check_file(path: Path, known: Fingerprint, *, last: bool) -> None:
    size = size_of(path)
    if size < known.size or _head_hash(path, known.head) != known.digest:
        raise GapError(
            f"{path}: not the file read before ({known.size} bytes then, {size} now); "
            "restore that one, or use another database"
        )
    if size > known.size and not last:
        raise GapError(
            f"{path}: grew after a later file was read, which moves the positions of all that follow; "
            "put new records into a file that sorts last, or use another database"
        )


def _head_hash(path: Path, count: int) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(count)).hexdigest()[:32]
    except OSError as err:
        raise SourceError(
            f"{path}: cannot be read ({err.strerror}); check path and rights"
        ) from err
