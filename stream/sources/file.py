"""Files as a log: Parquet, JSON lines and CSV, one partition per file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from stream.config import FileConfig
from stream.errors import GapError, SourceError, StreamError
from stream.events import EventBatch, Partition, empty_batch
from stream.sources.merge import FilePart, batch_of, merge
from stream.sources.parquet import ParquetReader
from stream.sources.readers import CsvReader, JsonlReader, Reader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}
_COMPRESSED = {".gz", ".zst", ".zstd"}
_HEAD_BYTES = 1 << 16
_MAX_OPEN = 32
_CHUNK_RECORDS = 1 << 13
_BUFFERED_RECORDS = 1 << 17


class FileSource:
    """Reads files as one log.

    Partition p of the log's topic is the p-th file in sorted path order; a record's offset is its
    0-based row (JSON lines: line) number. Within a file the order is the file's. Several files are
    merged by event time: whichever file's next record is oldest goes next, ties by file order, so
    daily files replay in time order wherever reading started. Records without a time follow the one
    before them.

    Add files only so that they sort after those already read: partition numbers are positions.

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
        found = sorted({path for pattern in given for path in _expand(Path(pattern))})
        if not found:
            raise SourceError(f"{given[0] if given else 'no path'}: no such file; check the path")
        topic = self._config.topic or Path(given[0]).name or Path(given[0]).resolve().name
        chunk = max(256, min(_CHUNK_RECORDS, _BUFFERED_RECORDS // len(found)))
        self._parts = [
            FilePart(path, Partition(topic, number), self._open, chunk)
            for number, path in enumerate(found)
        ]
        self._closed = False
        try:
            self._prime(self._parts)
        except StreamError:
            self.close()
            raise

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in the order of their partitions."""
        return tuple(part.path for part in self._parts)

    def partitions(self) -> tuple[Partition, ...]:
        """Return one partition per file, in path order."""
        return tuple(part.partition for part in self._parts)

    def poll(self, max_records: int, timeout_s: float = 0.0) -> EventBatch:  # noqa: ARG002
        """Return the next records, at most `max_records`; files have nothing to wait for.

        Raises:
            SourceError: a file is damaged; everything before the damage was returned.
            ValueError: `max_records` is below 1, or the source is closed.
        """
        if max_records < 1:
            raise ValueError(f"max_records must be at least 1, not {max_records}")
        if self._closed:
            raise ValueError("the source is closed")
        taken = merge(self._parts, max_records)
        if not taken:
            return empty_batch(exhausted=True)
        return batch_of(taken, exhausted=all(part.finished for part in self._parts))

    def seek(self, next_offsets: Mapping[Partition, int]) -> None:
        """Continue the named partitions at these offsets; the others stay where they are.

        Raises:
            GapError: a partition has no file here, or its file ends before the offset.
            ValueError: an offset is negative.
        """
        known = {part.partition: part for part in self._parts}
        for partition, offset in next_offsets.items():
            if offset < 0:
                raise ValueError(f"{partition}: offset {offset} is negative")
            if partition not in known:
                raise GapError(
                    f"{partition}: no such file in {', '.join(map(str, known))}; "
                    f"restore it, or use another database"
                )
        moved = [known[partition] for partition in next_offsets]
        for part in moved:
            part.seek(next_offsets[part.partition])
        self._prime(moved)

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """Do nothing: a file keeps no positions."""

    def close(self) -> None:
        """Close all files."""
        self._closed = True
        for part in self._parts:
            part.close()

    def fingerprints(self) -> dict[Partition, str]:
        """Return what identifies each file: name, size and a hash of its first bytes."""
        return {part.partition: _fingerprint(part.path) for part in self._parts}

    def check_fingerprints(self, earlier: Mapping[Partition, str]) -> None:
        """Compare with fingerprints taken before; a file may have grown at its end.

        Raises:
            GapError: a file was replaced, shortened, renamed, or is gone.
        """
        known = {part.partition: part.path for part in self._parts}
        for partition, text in earlier.items():
            path = known.get(partition)
            if path is None or not _continues(path, text):
                raise GapError(
                    f"{partition}: {path or 'the file'} is not the file read before "
                    f"({text.split(' ', 3)[-1]}); restore that one, or use another database"
                )

    def _open(self, path: Path, partition: Partition) -> Reader:
        match self._format(path):
            case "parquet":
                return ParquetReader(path, partition, self._config)
            case "csv":
                return CsvReader(path, partition, self._config)
            case _:
                return JsonlReader(path, partition, self._config)

    def _format(self, path: Path) -> str:
        if self._config.format != "auto":
            return self._config.format
        suffixes = [suffix for suffix in path.suffixes if suffix not in _COMPRESSED]
        if not suffixes or suffixes[-1] not in _FORMATS:
            raise SourceError(
                f"{path}: cannot tell the format from the name; set it to parquet, jsonl or csv"
            )
        return _FORMATS[suffixes[-1]]

    def _prime(self, parts: Sequence[FilePart]) -> None:
        """Read each part's first chunk, so that a wrong file is met now rather than on the way."""
        for part in parts:
            part.load()
            if len(self._parts) > _MAX_OPEN:
                part.unload()


def _expand(path: Path) -> list[Path]:
    """Return the files meant by a path, a directory or a glob pattern."""
    if path.is_dir():
        return [entry for entry in path.iterdir() if _known_name(entry)]
    if path.exists():
        return [path]
    if not set("*?[") & set(str(path)):
        raise SourceError(f"{path}: no such file; check the path")
    root = Path(path.anchor)
    return [entry for entry in root.glob(str(path.relative_to(root))) if entry.is_file()]


def _known_name(path: Path) -> bool:
    suffixes = [suffix for suffix in path.suffixes if suffix not in _COMPRESSED]
    return path.is_file() and bool(suffixes) and suffixes[-1] in _FORMATS


def _fingerprint(path: Path) -> str:
    size = path.stat().st_size
    head = min(size, _HEAD_BYTES)
    return f"{size} {head} {_head_hash(path, head)} {path.name}"


def _continues(path: Path, earlier: str) -> bool:
    size, head, digest, name = earlier.split(" ", 3)
    if not path.exists() or path.name != name or path.stat().st_size < int(size):
        return False
    return _head_hash(path, int(head)) == digest


def _head_hash(path: Path, count: int) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(count)).hexdigest()[:32]
