"""Readers: one file each, decoded record by record from a position."""

from __future__ import annotations

import csv
from collections import deque
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

from stream.errors import SourceError
from stream.events import MAX_RECORD_BYTES
from stream.sources.columns import ColumnChecker, check_column_types
from stream.sources.fields import columns_of
from stream.sources.json_records import JsonDecoder
from stream.sources.records import Records, dead_letter
from stream.sources.text import LineReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stream.config import FileConfig
    from stream.events import DeadLetter, Partition


class Reader(Protocol):
    """Reads one file from its beginning."""

    def read(self, max_records: int) -> Records | None:
        """Return the next records, at most `max_records`; None at the end.

        Raises:
            SourceError: the file is damaged here.
        """
        ...

    def skip(self, count: int) -> int:
        """Pass over up to `count` records without decoding; return how many there were.

        Raises:
            SourceError: the file is damaged on the way.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class JsonlReader:
    """Reads JSON lines; a line holds an offset, blank ones included.

    Args:
        path: plain, gzip or zstd.
        partition: of the records.
        config: how to read them.
        first: offset of the file's first line.
    """

    def __init__(
        self, path: Path, partition: Partition, config: FileConfig, first: int = 0
    ) -> None:
        self._lines = LineReader(path)
        self._partition = partition
        self._decoder = JsonDecoder(config)
        self._next = first

    def read(self, max_records: int) -> Records | None:
        """Return the next lines decoded; None at the end."""
        lines = self._lines.read(max_records)
        if not lines:
            return None
        offs = np.arange(self._next, self._next + len(lines), dtype=np.int64)
        self._next += len(lines)
        return self._decoder.decode(self._partition, offs, lines)

    def skip(self, count: int) -> int:
        """Pass over up to `count` lines; return how many there were."""
        skipped = _drain(self._lines, count)
        self._next += skipped
        return skipped

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def _drain(lines: LineReader, count: int) -> int:
    done = 0
    while done < count:
        block = lines.read(min(count - done, 1 << 14))
        if not block:
            break
        done += len(block)
    return done


class _Feed:
    """Hands lines to the csv module and remembers them, so that a bad row's bytes are known."""

    def __init__(self, lines: LineReader) -> None:
        self._lines = lines
        self._ready: deque[bytes] = deque()
        self.taken: list[bytes] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self._ready:
            self._ready.extend(self._lines.read(1 << 12))
        if not self._ready:
            raise StopIteration
        line = self._ready.popleft()
        self.taken.append(line)
        return line.decode("utf-8", "surrogateescape") + "\n"


class CsvReader:
    """Reads CSV with a header row; a row after the header holds an offset.

    A quoted cell may span lines. Blank rows hold an offset. An empty cell is a missing value.

    Args:
        path: plain, gzip or zstd.
        partition: of the records.
        config: how to read them.
        first: offset of the file's first row.

    Raises:
        SourceError: no header, or a mapped column is missing.
    """

    def __init__(
        self, path: Path, partition: Partition, config: FileConfig, first: int = 0
    ) -> None:
        self._path = path
        self._partition = partition
        self._lines = LineReader(path)
        self._feed = _Feed(self._lines)
        tabs = ".tsv" in path.suffixes
        delimiter = config.delimiter or ("\t" if tabs else ",")
        self._rows = csv.reader(self._feed, delimiter=delimiter, strict=True)
        self._header = self._read_header()
        check_column_types(dict.fromkeys(self._header, pa.string()), config, str(path))
        self._checker = ColumnChecker(config, partition)
        wanted = {name for names in columns_of(config, config.kind).values() for name in names}
        self._wanted = {name: at for at, name in enumerate(self._header) if name in wanted}
        self._next = first

    def _read_header(self) -> list[str]:
        try:
            header = next(self._rows, [])
        except csv.Error as err:
            raise SourceError(f"{self._path}: unreadable header row ({err}); repair it") from err
        if not header:
            raise SourceError(f"{self._path}: no header row; the first line must name the columns")
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise SourceError(f"{self._path}: column {twice[0]!r} appears twice; rename one")
        return header

    def read(self, max_records: int) -> Records | None:
        """Return the next rows decoded; None at the end."""
        first = self._next
        rows, raws, dead = self._take(max_records)
        if not raws:
            return None
        self._next = first + len(raws)
        good = [i for i, row in enumerate(rows) if row]
        try:
            columns = self._to_columns([rows[i] for i in good])
        except UnicodeEncodeError:
            dead += self._not_utf8(rows, raws, good, first)
            columns = self._to_columns([rows[i] for i in good])
        offs = np.asarray(good, dtype=np.int64) + first
        records = self._checker.check(columns, offs, lambda row: raws[good[row]])
        records.first, records.after = first, self._next
        records.dead = sorted([*records.dead, *dead], key=lambda letter: letter.off)
        return records

    def skip(self, count: int) -> int:
        """Pass over up to `count` rows; return how many there were."""
        done = 0
        while done < count:
            self._feed.taken.clear()
            try:
                if next(self._rows, None) is None:
                    break
            except csv.Error:
                pass
            done += 1
        self._next += done
        return done

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def _take(self, count: int) -> tuple[list[list[str]], list[bytes], list[DeadLetter]]:
        """Return rows (empty ones for blank or bad rows), their bytes, and the bad ones."""
        rows: list[list[str]] = []
        raws: list[bytes] = []
        dead: list[DeadLetter] = []
        width = len(self._header)
        taken = self._feed.taken
        while len(raws) < count:
            taken.clear()
            try:
                row = next(self._rows, None)
                fault = ""
            except csv.Error as err:
                row, fault = [], str(err)
            except SourceError:
                if raws:
                    break  # the rows before the damage first; the next call meets it again
                raise
            if row is None:
                break
            raw = taken[0] if len(taken) == 1 else b"\n".join(taken)
            if row and len(row) != width:
                fault = f"expected {width} cells, got {len(row)}"
            if fault or len(raw) > MAX_RECORD_BYTES:
                dead.append(self._bad(self._next + len(raws), fault, raw))
                row = []
            rows.append(row)
            raws.append(raw)
        return rows, raws, dead

    def _bad(self, off: int, fault: str, raw: bytes) -> DeadLetter:
        if len(raw) > MAX_RECORD_BYTES or "field limit" in fault:
            detail = fault or f"longer than {MAX_RECORD_BYTES} bytes"
            return dead_letter(self._partition, off, "too_large", detail, raw)
        return dead_letter(self._partition, off, "malformed", fault, raw)

    def _not_utf8(
        self, rows: list[list[str]], raws: list[bytes], good: list[int], first: int
    ) -> list[DeadLetter]:
        """Take rows that are not UTF-8 out of `good`; return them as dead letters."""
        dead = []
        for i in list(good):
            try:
                "".join(rows[i]).encode()
            except UnicodeEncodeError:
                good.remove(i)
                dead.append(
                    dead_letter(self._partition, first + i, "malformed", "not UTF-8", raws[i])
                )
        return dead

    def _to_columns(self, rows: Sequence[list[str]]) -> dict[str, pa.Array]:
        return {
            name: pa.array([row[at] or None for row in rows], pa.string())
            for name, at in self._wanted.items()
        }
