"""Writes recorded logs: partitions arrive one by one, files hold them merged in the order a replay sees.

Rows are ordered by append time, then topic, partition and offset. Producers may set append times that go back; a
partition's order comes first, so each record counts with the newest append time its partition has had.
"""

from __future__ import annotations

import errno
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stream.errors import SinkError, SinkFullError
from stream.sources.recorded_files import META_KEY, RECORDED_SCHEMA, LogMeta

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from stream.events import Headers, Partition

ROWS_PER_FILE = 1_000_000
_GROUP_ROWS = 20_000
_RANK = "rank"
_SPOOLED = RECORDED_SCHEMA.append(pa.field(_RANK, pa.int64(), nullable=False))
_FIRST = -1  # rank of records before the first known append time
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was written.

    Attributes:
        files: in reading order.
        records: rows in them.
    """

    files: tuple[Path, ...]
    records: int


class LogRecorder:
    """Takes records of partitions, each in offset order, and writes them merged when all are there.

    Until then they wait in a folder beside the result; a recorder left without `finish` leaves nothing.

    Args:
        out: a file ending in .parquet, or a folder for files of a million rows each; nothing is overwritten.
        items_topic: the topic of items, noted for the replay.

    Raises:
        SinkError: `out` exists with files in it, or can not be written.
    """

    def __init__(self, out: Path, *, items_topic: str = "") -> None:
        self._single = out.suffix == ".parquet"
        self._out = out
        self._items_topic = items_topic
        self._writers: dict[Partition, pq.ParquetWriter] = {}
        self._ranks: dict[Partition, int] = {}
        self.records = 0
        folder = out.parent if self._single else out
        taken = out.exists() if self._single else any(out.glob("*.parquet"))
        if taken:
            raise SinkError(f"{out}: holds a recorded log already; choose another place")
        with _told(out):
            folder.mkdir(parents=True, exist_ok=True)
            self._spool = tempfile.TemporaryDirectory(prefix=".recording-", dir=folder)

    def __enter__(self) -> LogRecorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_writers()
        self._spool.cleanup()

    def add(
        self,
        partition: Partition,
        offsets: Sequence[int],
        append_ts_ms: Sequence[int | None],
        headers: Sequence[Headers],
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
    ) -> None:
        """Take the next records of a partition; every argument has one entry per record.

        Raises:
            SinkError: they can not be written.
        """
        known = np.array([_FIRST if ms is None else ms for ms in append_ts_ms], dtype=np.int64)
        ranks = np.maximum.accumulate(np.maximum(known, self._ranks.get(partition, _FIRST)))
        count = len(offsets)
        columns = {
            "topic": pa.repeat(pa.scalar(partition.topic, pa.string()), count),
            "partition": pa.repeat(pa.scalar(partition.part, pa.int32()), count),
            "offset": pa.array(offsets, pa.int64()),
            "append_ts": pa.array(append_ts_ms, pa.int64()),
            "headers": _headers_array(headers),
            "key": pa.array(keys, pa.binary()),
            "raw": pa.array(values, pa.binary()),
            _RANK: pa.array(ranks),
        }
        with _told(self._out):
            if partition not in self._writers:
                place = Path(self._spool.name) / f"{len(self._writers)}.spool"
                self._writers[partition] = pq.ParquetWriter(place, _SPOOLED, compression="zstd")
            table = pa.Table.from_pydict(columns, schema=_SPOOLED)
            self._writers[partition].write_table(table, row_group_size=_GROUP_ROWS)
        self._ranks[partition] = int(ranks[-1]) if count else self._ranks.get(partition, _FIRST)
        self.records += count

    def finish(self, ranges: Mapping[Partition, tuple[int, int]]) -> Recorded:
        """Merge what was taken into the files and return them.

        Args:
            ranges: partition -> (first, end) of what was read, holes at both ends included.

        Raises:
            SinkError: they can not be written.
        """
        self._close_writers()
        spans = tuple(
            (*partition, first, end) for partition, (first, end) in sorted(ranges.items())
        )
        meta = msgspec.json.encode(LogMeta(self._items_topic, spans))
        schema = RECORDED_SCHEMA.with_metadata({META_KEY: meta})
        rows = None if self._single else ROWS_PER_FILE
        with _told(self._out):
            ready = list(_write(self._merged(), schema, Path(self._spool.name), rows))
            files = [self._place(number) for number in range(len(ready))]
            for part, file in zip(ready, files, strict=True):
                part.rename(file)
        return Recorded(tuple(files), self.records)

    def _place(self, number: int) -> Path:
        return self._out if self._single else self._out / f"log-{number:05}.parquet"

    def _merged(self) -> Iterator[pa.Table]:
        with ExitStack() as stack:
            spools = [
                stack.enter_context(pq.ParquetFile(Path(self._spool.name) / f"{at}.spool"))
                for at in range(len(self._writers))
            ]
            yield from merged([_groups(spool) for spool in spools])

    def _close_writers(self) -> None:
        for writer in self._writers.values():
            if writer.is_open:
                writer.close()


def merged(inputs: Sequence[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Yield the rows of ordered inputs in one order; holds about two tables of each at a time.

    Args:
        inputs: tables of one partition each, by rank and offset; none is empty.
    """
    queues = [_Queue(tables) for tables in inputs]
    while any(queue.rows.num_rows for queue in queues):
        # Rows before the least last rank can be told apart from all that are still to come.
        bound = min((queue.last for queue in queues if not queue.ended), default=None)
        ready = pa.concat_tables([queue.take_before(bound) for queue in queues])
        for queue in queues:
            if queue.last == bound or not queue.rows.num_rows:
                queue.read()
        if ready.num_rows:
            keys = [(name, "ascending") for name in (_RANK, "topic", "partition", "offset")]
            yield ready.sort_by(keys).drop_columns([_RANK])


class _Queue:
    """Rows of one partition that were read and not yet written."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self.rows: pa.Table = _SPOOLED.empty_table()
        self.last = _FIRST
        self.ended = False
        self.read()

    def read(self) -> None:
        """Take the next table behind the rows at hand."""
        more = next(self._tables, None)
        self.ended = more is None
        if more is not None:
            self.rows = pa.concat_tables([self.rows, more])
            self.last = int(more[_RANK][-1].as_py())

    def take_before(self, bound: int | None) -> pa.Table:
        """Return and forget the rows of a lower rank; all without a bound."""
        rank = self.rows[_RANK].to_numpy()
        count = len(rank) if bound is None else int(np.searchsorted(rank, bound))
        taken, self.rows = self.rows.slice(0, count), self.rows.slice(count)
        return taken


def _groups(spool: pq.ParquetFile) -> Iterator[pa.Table]:
    for number in range(spool.num_row_groups):
        yield spool.read_row_group(number, use_threads=False)


def _write(
    tables: Iterator[pa.Table], schema: pa.Schema, folder: Path, rows_per_file: int | None
) -> Iterator[Path]:
    """Write tables into files of so many rows, one at least, and yield the files."""
    number, room = 0, 0
    writer: pq.ParquetWriter | None = None
    try:
        for table in tables:
            rest = table.cast(RECORDED_SCHEMA).replace_schema_metadata(schema.metadata)
            while rest.num_rows:
                if writer is None:
                    room = rows_per_file or 0
                    writer = pq.ParquetWriter(folder / f"{number}.part", schema, compression="zstd")
                part = rest.slice(0, room) if rows_per_file else rest
                writer.write_table(part, row_group_size=_GROUP_ROWS)
                rest, room = rest.slice(part.num_rows), room - part.num_rows
                if rows_per_file and not room:
                    writer.close()
                    yield folder / f"{number}.part"
                    writer, number = None, number + 1
        if writer is None and not number:
            writer = pq.ParquetWriter(folder / "0.part", schema, compression="zstd")
    finally:
        if writer is not None:
            writer.close()
    if writer is not None:
        yield folder / f"{number}.part"


def _headers_array(headers: Sequence[Headers]) -> pa.Array:
    rows = [
        [{"name": name, "value": value} for name, value in found] if found else []
        for found in headers
    ]
    return pa.array(rows, RECORDED_SCHEMA.field("headers").type)


@contextmanager
def _told(out: Path) -> Iterator[None]:
    """Turn what the system says about writing into an error that names the place."""
    try:
        yield
    except OSError as err:
        if err.errno in _NO_ROOM:
            raise SinkFullError(
                f"{out}: no room for the recorded log; free some, run again"
            ) from err
        raise SinkError(
            f"{out}: can not be written ({err.strerror or err}); check path and rights"
        ) from err
