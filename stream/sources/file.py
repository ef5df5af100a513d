"""Files as a log: Parquet, JSON lines and CSV, one after another in one partition."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import pyarrow as pa

from stream.config import FileConfig
from stream.errors import GapError, SourceError
from stream.events import EventBatch, Partition, empty_batch
from stream.sources.fingerprints import Fingerprint, check_files, fingerprint, size_of
from stream.sources.parquet import ParquetReader
from stream.sources.readers import CsvReader, JsonlReader, Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stream.sources.records import Records

_FORMATS: dict[str, Literal["parquet", "jsonl", "csv"]] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}
_COMPRESSED = {".gz", ".zst", ".zstd"}
_MAGIC = set("*?[")
_CHUNK_RECORDS = 1 << 13


class FileSource:
    """Reads files as one log of one partition, part 0 of the log's topic.

    The files follow each other in sorted path order, so name them by time: nothing is merged, and
    an event older than those of an earlier file is a late one. A record's offset is the number of
    records in all earlier files plus its 0-based row (JSON lines: line) in its own.

    A file added at the end keeps all positions. `guard` refuses files that would move them.

    Args:
        paths: files, directories or glob patterns.
        config: how to read them.

    Raises:
        SourceError: nothing found, a file can not be opened, or a column is missing or unusable.
        ConfigError: the column map is wrong.
    """

    def __init__(
        self, paths: str | Path | Sequence[str | Path], config: FileConfig | None = None
    ) -> None:
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        self._config = config or FileConfig()
        found = {path: name for pattern in given for path, name in find_files(Path(pattern))}
        if not found:
            raise SourceError(f"{given[0] if given else 'no path'}: no such file; check the path")
        topic = self._config.topic or Path(given[0]).name or Path(given[0]).resolve().name
        self._partition = Partition(topic, 0)
        self._files = sorted(found.items())
        self._closed = False
        self._marks: list[Fingerprint] = []  # of the files whose first offset is known
        self._keep: Callable[[list[Fingerprint]], None] | None = None
        self._kept: list[Fingerprint] = []
        self._reader: Reader | None = None  # None: at the beginning of the file
        self._at = 0  # the file at hand
        self._offset = 0
        self._size = 0  # of the file at hand, before its last read
        self._ended = False
        self._failure: SourceError | None = None
        self._probe()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in reading order."""
        return tuple(path for path, _ in self._files)

    def partitions(self) -> tuple[Partition, ...]:
        """Return the one partition."""
        return (self._partition,)

    def poll(self, max_records: int, timeout_s: float = 0.0) -> EventBatch:  # noqa: ARG002
        """Return the next records, at most `max_records`; files have nothing to wait for.

        Raises:
            SourceError: a file is damaged; everything before the damage was returned.
            GapError: a file read before holds another number of records now.
            ValueError: `max_records` is below 1, or the source is closed.
        """
        if max_records < 1:
            raise ValueError(f"max_records must be at least 1, not {max_records}")
        if self._closed:
            raise ValueError("the source is closed")
        taken: list[Records] = []
        room = max_records
        try:
            while room and (records := self._read(min(room, _CHUNK_RECORDS))) is not None:
                taken.append(records)
                room -= records.after - records.first
        except SourceError:
            if not taken:
                raise
        if self._keep is not None and self._kept != self._marks:
            self._kept = list(self._marks)
            self._keep(self._kept)
        return self._batch(taken)

    def seek(self, next_offsets: Mapping[Partition, int]) -> None:
        """Continue at an offset; files whose first offset is known are not read to get there.

        Raises:
            GapError: the partition is of another log, or the files end before the offset.
            SourceError: a file is damaged on the way.
            ValueError: the offset is negative.
        """
        for partition, offset in next_offsets.items():
            if offset < 0:
                raise ValueError(f"{partition}: offset {offset} is negative")
            if partition != self._partition:
                raise GapError(
                    f"{partition}: this log is {self._partition}; read that one, or use another database"
                )
            self._go(offset)

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """Do nothing: a file keeps no positions."""

    def close(self) -> None:
        """Close the open file."""
        self._closed = True
        self._shut()

    def fingerprints(self) -> list[Fingerprint]:
        """Return the fingerprints of the files reached so far, in reading order."""
        return list(self._marks)

    def guard(
        self,
        earlier: Sequence[Fingerprint],
        next_offset: int,
        keep: Callable[[list[Fingerprint]], None] | None = None,
    ) -> None:
        """Refuse files that would move the positions of an earlier run; to be called before reading.

        Args:
            earlier: what that run kept.
            next_offset: where it stopped; files from there on count as not read.
            keep: takes the fingerprints whenever they changed, before the first record of a further
                file is handed out. Store them where the positions are.

        Raises:
            GapError: a file read before is gone, was replaced or shortened, grew although a later
                one was read, or has a new one before it.
        """
        read = [mark for mark in earlier if mark.first < next_offset]
        check_files(read, self._files)
        self._marks = read
        self._kept = list(earlier)
        self._keep = keep
        self._rewind()

    def _read(self, count: int) -> Records | None:
        """Return the next records of the first file that has any left; None at the end of the log."""
        if self._failure is not None:
            raise self._failure
        try:
            while not self._ended:
                reader = self._opened()
                size = size_of(self._files[self._at][0])
                records = reader.read(count)
                if records is not None:
                    self._size = size
                    self._offset = records.after
                    return records
                self._next_file()
        except SourceError as err:
            self._failure = err
            raise
        return None

    def _opened(self) -> Reader:
        """Return the reader of the file at hand, opened at its beginning."""
        if self._reader is None:
            path, name = self._files[self._at]
            if self._at >= len(self._marks) - 1:
                # Not for files before the last one reached: what they were like is settled.
                self._marks[self._at :] = [fingerprint(path, name, self._offset)]
            mark = self._marks[self._at]
            self._size = mark.size
            self._reader = self._reader_of(path, mark.first)
        return self._reader

    def _next_file(self) -> None:
        """Go to the beginning of the next file; where there is none the log has ended."""
        self._shut()
        following = self._at + 1
        if following == len(self._marks):
            # Sizes are taken before reading, so that growth meanwhile is noticed, not overlooked.
            self._marks[-1] = msgspec.structs.replace(self._marks[-1], size=self._size)
        elif self._marks[following].first != self._offset:
            raise GapError(
                f"{self._files[self._at][0]}: ends at offset {self._offset}, but at "
                f"{self._marks[following].first} before; restore the file, or use another database"
            )
        self._ended = following == len(self._files)
        if not self._ended:
            self._at = following

    def _rewind(self) -> None:
        self._shut()
        self._at = self._offset = 0
        self._ended = False
        self._failure = None

    def _go(self, offset: int) -> None:
        self._rewind()
        if self._marks:
            self._at = bisect_right(self._marks, offset, key=lambda mark: mark.first) - 1
            self._offset = self._marks[self._at].first
        while self._offset < offset and not self._ended:
            self._offset += self._opened().skip(offset - self._offset)
            if self._offset < offset:
                self._next_file()
        if self._offset < offset:
            raise GapError(
                f"{self._files[-1][0]}: ends after {self._offset} records, but {offset} were read "
                f"from {self._partition} before; restore the file, or use another database"
            )

    def _shut(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def _batch(self, taken: Sequence[Records]) -> EventBatch:
        if not taken:
            return empty_batch(exhausted=self._ended)
        return EventBatch(
            interactions=pa.concat_tables([records.interactions for records in taken]),
            items=pa.concat_tables([records.items for records in taken]),
            dead=[letter for records in taken for letter in records.dead],
            ranges={self._partition: (taken[0].first, taken[-1].after)},
            exhausted=self._ended,
            originals=[r.originals for r in taken if r.originals is not None],
        )

    def _probe(self) -> None:
        """Look into each file, so that a wrong one is met now rather than on the way."""
        for path, _ in self._files:
            reader = self._reader_of(path, 0)
            try:
                reader.skip(1)
            finally:
                reader.close()

    def _reader_of(self, path: Path, first: int) -> Reader:
        match self._format(path):
            case "parquet":
                return ParquetReader(path, self._partition, self._config, first)
            case "csv":
                return CsvReader(path, self._partition, self._config, first)
            case _:
                return JsonlReader(path, self._partition, self._config, first)

    def _format(self, path: Path) -> str:
        if self._config.format != "auto":
            return self._config.format
        by_name = format_by_name(path)
        if by_name is None:
            raise SourceError(
                f"{path}: cannot tell the format from the name; set it to parquet, jsonl or csv"
            )
        return by_name


def find_files(path: Path) -> list[tuple[Path, str]]:
    """Return the files meant by a path, a directory or a glob pattern, with their names below it.

    Raises:
        SourceError: there is no such path, and it is no pattern.
    """
    if path.is_dir():
        return [(entry, entry.name) for entry in path.iterdir() if _known_name(entry)]
    if path.exists():
        return [(path, path.name)]
    if not _MAGIC & set(str(path)):
        raise SourceError(f"{path}: no such file; check the path")
    root = path
    while _MAGIC & set(str(root)):
        root = root.parent
    found = root.glob(str(path.relative_to(root)))
    return [(entry, entry.relative_to(root).as_posix()) for entry in found if entry.is_file()]


def format_by_name(path: Path) -> Literal["parquet", "jsonl", "csv"] | None:
    """Return the format that a file's suffix names, the suffix of compression left out."""
    suffixes = [suffix for suffix in path.suffixes if suffix not in _COMPRESSED]
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def _known_name(path: Path) -> bool:
    return path.is_file() and format_by_name(path) is not None
