"""Text files as lines: plain, gzip or zstd, read as a stream."""

from __future__ import annotations

import zlib
from collections import deque
from typing import TYPE_CHECKING, Protocol

import zstandard

from stream.errors import SourceError
from stream.events import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

_CHUNK_BYTES = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BOM = b"\xef\xbb\xbf"
_GZIP_WBITS = 31


class _Inflater(Protocol):
    """What zlib's and zstandard's decompression objects share."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class LineReader:
    """Reads a text file line by line; the compression is told from the file's first bytes.

    Lines longer than MAX_RECORD_BYTES are cut one byte after that, which tells them apart.

    Args:
        path: the file.

    Raises:
        SourceError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._chunks = _read(path)
        self._ready: deque[list[bytes]] = deque()
        self._lines = self._split()
        self._failure: SourceError | None = None
        self._ended = False

    def read(self, count: int) -> list[bytes]:
        """Return the next lines, at most `count`, without their ends; empty at the end of the file.

        Raises:
            SourceError: the file is damaged here; whole lines before the damage came first.
        """
        lines: list[bytes] = []
        while len(lines) < count and self._fill():
            block = self._ready.popleft()
            room = count - len(lines)
            lines += block[:room]
            if len(block) > room:
                self._ready.appendleft(block[room:])
        if not lines and self._failure is not None:
            raise self._failure
        return lines

    def close(self) -> None:
        """Close the file."""
        self._lines.close()
        self._chunks.close()

    def _fill(self) -> bool:
        while not self._ready and not self._ended:
            try:
                self._ready.append(next(self._lines))
            except StopIteration:
                self._ended = True
            except SourceError as err:
                self._failure = err
                self._ended = True
        return bool(self._ready)

    def _split(self) -> Generator[list[bytes]]:
        """Yield lists of complete lines; a last line without an end counts."""
        carry = b""
        first = True
        for chunk in self._chunks:
            too_long = len(carry) > MAX_RECORD_BYTES
            rest = chunk[max(chunk.find(b"\n"), 0) :] if too_long else chunk
            lines = (carry + rest).split(b"\n")
            carry = lines.pop()[: MAX_RECORD_BYTES + 1]
            if not lines:
                continue
            if first:
                lines[0] = lines[0].removeprefix(_BOM)
                first = False
            yield lines
        if carry:
            yield [carry.removeprefix(_BOM) if first else carry]


def _read(path: Path) -> Generator[bytes]:
    """Yield the file's bytes, decompressed."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(0)
            chunks = iter(lambda: file.read(_CHUNK_BYTES), b"")
            if head.startswith(_GZIP_MAGIC):
                yield from _inflate(path, chunks, lambda: zlib.decompressobj(_GZIP_WBITS))
            elif head == _ZSTD_MAGIC:
                yield from _inflate(path, chunks, zstandard.ZstdDecompressor().decompressobj)
            else:
                yield from chunks
    except OSError as err:
        raise SourceError(
            f"{path}: cannot be read ({err.strerror}); check path and rights"
        ) from err


def _inflate(
    path: Path, chunks: Iterator[bytes], start: Callable[[], _Inflater]
) -> Iterator[bytes]:
    """Yield decompressed bytes of one or more frames, refusing a last one that is cut short."""
    inflater: _Inflater | None = None
    try:
        for chunk in chunks:
            data = chunk
            while data:
                inflater = inflater or start()
                yield inflater.decompress(data)
                data = inflater.unused_data if inflater.eof else b""
                inflater = None if inflater.eof else inflater
    except (zlib.error, zstandard.ZstdError) as err:
        raise SourceError(
            f"{path}: damaged compressed data ({err}); restore the file and run again"
        ) from err
    if inflater is not None:
        raise SourceError(f"{path}: ends in the middle of compressed data; restore the whole file")
