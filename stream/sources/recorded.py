"""A recorded log: the records of topics with their positions, kept in Parquet, read with their real partitions.

What a broker held is replayed as it was: offsets keep their holes, every partition its own watermark, and the raw
bytes go through the same decoder, so that bad records are bad for the same reasons.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from stream.errors import GapError, SourceError
from stream.events import INTERACTION_SCHEMA, ITEM_SCHEMA, EventBatch, Partition, empty_batch
from stream.sources.file import find_files
from stream.sources.recorded_files import (
    RECORDED_SCHEMA,
    LogMeta,
    by_partition,
    log_meta,
    open_recorded,
    read_positions,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from stream.sources.records import Decode, Records

_BATCH_ROWS = 1 << 13


class _Group(NamedTuple):
    """A row group: where it is, and the last offset of each partition in it."""

    file: int
    number: int
    last: dict[Partition, int]


class RecordedSource:
    """Reads recorded files, in the order of their names and rows.

    Rows may mix partitions; within one, offsets must grow. The order of rows is the order in which a
    replay sees the log.

    Args:
        path: file, folder or glob.
        decode: turns records into columns.

    Raises:
        SourceError: a file is no recorded log, is damaged, or its offsets go back.
    """

    def __init__(self, path: str | Path, decode: Decode) -> None:
        self._paths = tuple(entry for entry, _ in sorted(find_files(Path(path))))
        if not self._paths:
            raise SourceError(f"{path}: no such file; check the path")
        self._decode = decode
        self._files = [open_recorded(entry) for entry in self._paths]
        self._groups: list[_Group] = []
        self._spans = self._scan(log_meta(path))
        self._next = {partition: first for partition, (first, _) in self._spans.items()}
        self._batches: Iterator[pa.RecordBatch] = self._iterate()
        self._pending: pa.RecordBatch | None = None
        self._failure: SourceError | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in reading order."""
        return self._paths

    def partitions(self) -> tuple[Partition, ...]:
        """Return the partitions of the log, sorted."""
        return tuple(self._spans)

    def poll(self, max_records: int, timeout_s: float = 0.0) -> EventBatch:  # noqa: ARG002
        """Return the next records, at most `max_records`, in the order of rows; nothing to wait for.

        Raises:
            SourceError: a file is damaged; everything before the damage was returned.
            ValueError: `max_records` is below 1.
        """
        if max_records < 1:
            raise ValueError(f"max_records must be at least 1, not {max_records}")
        taken: list[pa.RecordBatch] = []
        room = max_records
        while room and (batch := self._following(got=bool(taken))) is not None:
            taken.append(batch.slice(0, room))
            self._pending = batch.slice(room) if len(batch) > room else None
            room -= len(taken[-1])
        ended = bool(room) and self._failure is None
        found = self._batch(taken, exhausted=ended)
        if ended:
            self._cover_tails(found.ranges)
        return found

    def seek(self, next_offsets: Mapping[Partition, int]) -> None:
        """Continue the named partitions at these offsets; the others stay where they are.

        Raises:
            GapError: a partition is not in the log, or the log does not hold the offset.
        """
        for partition, offset in next_offsets.items():
            if partition not in self._spans:
                raise GapError(f"{partition}: not in this log; use another database")
            first, end = self._spans[partition]
            if not first <= offset <= end:
                raise GapError(
                    f"{partition}: stored up to {offset}, the recorded log holds {first}..{end};"
                    " record it anew, or use another database"
                )
        self._next.update(next_offsets)
        self._pending = self._failure = None
        self._batches = self._iterate()

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """Do nothing: files keep no positions."""

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def _scan(self, meta: LogMeta) -> dict[Partition, tuple[int, int]]:
        """Return (first, end) per partition, and note what each row group holds."""
        spans = {Partition(topic, part): (first, end) for topic, part, first, end in meta.ranges}
        last: dict[Partition, int] = {}
        for at, (path, file) in enumerate(zip(self._paths, self._files, strict=True)):
            for number in range(file.num_row_groups):
                held: dict[Partition, int] = {}
                rows = read_positions(path, file, number)
                for partition, where in by_partition(rows):
                    off = rows["offset"].to_numpy()[where]
                    if (np.diff(off, prepend=last.get(partition, -1)) <= 0).any():
                        raise SourceError(
                            f"{path}: offsets of {partition} do not grow; record the log anew"
                        )
                    first, end = spans.get(partition, (int(off[0]), 0))
                    spans[partition] = (min(first, int(off[0])), max(end, int(off[-1]) + 1))
                    last[partition] = held[partition] = int(off[-1])
                self._groups.append(_Group(at, number, held))
        return dict(sorted(spans.items()))

    def _iterate(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows at or past the positions at hand."""
        for group in self._groups:
            if all(off < self._next[partition] for partition, off in group.last.items()):
                continue
            batches = self._files[group.file].iter_batches(
                batch_size=_BATCH_ROWS,
                row_groups=[group.number],
                columns=RECORDED_SCHEMA.names,
                use_threads=False,
            )
            for batch in batches:
                off = batch["offset"].to_numpy()
                keep = np.zeros(len(batch), dtype=np.bool_)
                for partition, where in by_partition(batch):
                    keep[where] = off[where] >= self._next[partition]
                if keep.any():
                    yield batch if keep.all() else batch.filter(pa.array(keep))

    def _following(self, *, got: bool) -> pa.RecordBatch | None:
        """Return rows that were read or read more; a failure counts once nothing else is left to return."""
        if self._pending is not None:
            batch, self._pending = self._pending, None
            return batch
        try:
            if self._failure is None:
                return next(self._batches, None)
        except (pa.ArrowException, OSError) as err:
            line = str(err).splitlines()[0][:200] if str(err) else type(err).__name__
            self._failure = SourceError(
                f"{self._paths[0].parent}: damaged ({line}); restore the files"
            )
        if not got and self._failure is not None:
            raise self._failure
        return None

    def _batch(self, taken: list[pa.RecordBatch], *, exhausted: bool) -> EventBatch:
        if not taken:
            return empty_batch(exhausted=exhausted)
        rows = pa.Table.from_batches(taken).combine_chunks()
        parts: list[Records] = []
        places: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        ranges: dict[Partition, tuple[int, int]] = {}
        for partition, where in by_partition(rows):
            records = self._decoded(partition, rows.take(pa.array(where)))
            after = int(rows["offset"][int(where[-1])].as_py()) + 1
            ranges[partition] = (self._next[partition], after)
            self._next[partition] = after
            parts.append(records)
            places.append((rows["offset"].to_numpy()[where], where))
        return EventBatch(
            interactions=_arranged(INTERACTION_SCHEMA, [p.interactions for p in parts], places),
            items=_arranged(ITEM_SCHEMA, [p.items for p in parts], places),
            dead=[letter for part in parts for letter in part.dead],
            ranges=ranges,
            exhausted=exhausted,
            originals=[part.originals for part in parts if part.originals is not None],
        )

    def _decoded(self, partition: Partition, rows: pa.Table) -> Records:
        return self._decode(
            partition,
            rows["offset"].to_numpy(),
            rows["raw"].to_pylist(),
            rows["key"].to_pylist(),
            [
                [(header["name"], header["value"]) for header in headers or ()]
                for headers in rows["headers"].to_pylist()
            ],
            rows["append_ts"].to_pylist(),
        )

    def _cover_tails(self, ranges: dict[Partition, tuple[int, int]]) -> None:
        """Extend the last ranges over offsets behind the last records, which hold none."""
        for partition, (_, end) in self._spans.items():
            if self._next[partition] < end:
                first, _ = ranges.get(partition, (self._next[partition], end))
                ranges[partition] = (first, end)
                self._next[partition] = end


def _arranged(
    schema: pa.Schema,
    tables: list[pa.Table],
    places: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> pa.Table:
    """Return rows of several partitions in the order in which their records stand in the log."""
    whole = pa.concat_tables([schema.empty_table(), *tables])
    ranks = [
        rows[np.searchsorted(offs, table["off"].to_numpy())]
        for table, (offs, rows) in zip(tables, places, strict=True)
    ]
    return whole.take(pa.array(np.argsort(np.concatenate(ranks), kind="stable")))
