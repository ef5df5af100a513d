"""Merging of files by event time, in an order that does not depend on where reading started.

The rule is the plain merge of heads: whichever part's next record is oldest goes next (ties by part
number). A record older than the one before it in its part follows that one at once, so the rule
equals sorting all records by (largest time so far in the part, part, offset), which is how whole
chunks are merged here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from stream.errors import GapError, SourceError
from stream.events import EventBatch
from stream.sources.records import BEFORE_ALL, Records, numpy_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stream.events import Partition
    from stream.sources.readers import Reader

    OpenReader = Callable[[Path, Partition], Reader]


class Taken(NamedTuple):
    """Records handed out by one part.

    Attributes:
        partition: of the records.
        records: one range of it.
        keys: int64[n], the merge key per offset: the part's largest event time so far.
    """

    partition: Partition
    records: Records
    keys: NDArray[np.int64]


class FilePart:
    """One file: its position, and at most one chunk of records read ahead.

    Args:
        path: the file.
        partition: its partition; the number orders ties.
        open_reader: opens a reader at the beginning of a file.
        chunk_records: records read ahead at most.
    """

    def __init__(
        self, path: Path, partition: Partition, open_reader: OpenReader, chunk_records: int
    ) -> None:
        self.path = path
        self.partition = partition
        self.finished = False
        self.position = 0
        self._open = open_reader
        self._chunk_records = chunk_records
        self._reader: Reader | None = None
        self._chunk: Records | None = None
        self._keys = np.empty(0, dtype=np.int64)
        self._floor = BEFORE_ALL
        self._failure: SourceError | None = None

    @property
    def bound(self) -> tuple[int, int, bool]:
        """Where the records known so far end: merge key, part number, and whether inclusively."""
        if self._chunk is None:
            return (self._floor, self.partition.part, False)
        return (int(self._keys[-1]), self.partition.part, True)

    def keys_within(self, bound: tuple[int, int, bool]) -> NDArray[np.int64]:
        """Return the merge keys, int64[m], of the leading records that `bound` covers."""
        key, number, inclusive = bound
        if self._chunk is None:
            return self._keys[:0]
        mine = self.partition.part
        covered = mine < number or (mine == number and inclusive)
        return self._keys[: int(np.searchsorted(self._keys, key, "right" if covered else "left"))]

    def load(self) -> None:
        """Read the next chunk; at the end of the file the part is finished.

        Raises:
            SourceError: the file is damaged here.
            GapError: the file ends before the position.
        """
        if self._failure is not None:
            raise self._failure
        try:
            reader = self._positioned()
            chunk = reader.read(self._chunk_records)
        except SourceError as err:
            self._failure = err
            raise
        if chunk is None:
            self.finished = True
            self.close()
            return
        self._chunk = chunk
        self._keys = np.maximum(np.maximum.accumulate(chunk.times()), self._floor)

    def unload(self) -> None:
        """Close the file and forget the chunk, but not its first key."""
        if self._chunk is not None:
            self._floor = int(self._keys[0])
        self.close()

    def take(self, count: int) -> Taken:
        """Hand out the next `count` records of the chunk."""
        if self._chunk is None:
            raise RuntimeError(f"{self.partition}: take() before load()")
        chunk, keys = self._chunk, self._keys[:count]
        self.position = chunk.first + count
        self._floor = int(keys[-1])
        done = self.position == chunk.after
        self._chunk = None if done else chunk.slice(self.position, chunk.after)
        self._keys = self._keys[count:]
        return Taken(self.partition, chunk.slice(chunk.first, self.position), keys)

    def seek(self, position: int) -> None:
        """Continue at `position`; the next `load` goes there."""
        self.close()
        self._failure = None
        self._floor = BEFORE_ALL
        self.finished = False
        self.position = position

    def close(self) -> None:
        """Close the file; the position stays."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None
        self._chunk = None

    def _positioned(self) -> Reader:
        if self._reader is None:
            self._reader = self._open(self.path, self.partition)
            records = self._reader.skip(self.position)
            if records < self.position:
                raise GapError(
                    f"{self.path}: ends after {records} records, but {self.position} were read "
                    f"from {self.partition} before; restore the file, or use another database"
                )
        return self._reader


def merge(parts: Sequence[FilePart], max_records: int) -> list[Taken]:
    """Return the next records of all parts, at most `max_records`; empty when all are finished.

    Raises:
        SourceError: a file is damaged at its next record, and nothing can be handed out before it.
    """
    taken: list[Taken] = []
    room = max_records
    while room:
        live = [part for part in parts if not part.finished]
        if not live:
            break
        first = min(live, key=lambda part: part.bound)
        within = [part.keys_within(first.bound) for part in live]
        if not any(len(keys) for keys in within):
            try:
                first.load()
            except SourceError:
                if taken:
                    break
                raise
            continue
        for part, count in zip(live, _share(within, room), strict=True):
            if count:
                taken.append(part.take(count))
                room -= count
    return taken


def _share(within: Sequence[NDArray[np.int64]], room: int) -> list[int]:
    """Return how many of each part's records are among the first `room` of all, in merge order."""
    counts = [len(keys) for keys in within]
    if sum(counts) <= room:
        return counts
    if sum(1 for count in counts if count) == 1:
        return [min(count, room) for count in counts]
    owner = np.repeat(np.arange(len(within)), counts)
    order = np.lexsort((owner, np.concatenate(within)))[:room]
    return [int(count) for count in np.bincount(owner[order], minlength=len(within))]


def batch_of(taken: Sequence[Taken], *, exhausted: bool) -> EventBatch:
    """Return what was taken as one batch, rows in merge order."""
    ranges: dict[Partition, tuple[int, int]] = {}
    for partition, records, _ in taken:
        first, _ = ranges.get(partition, (records.first, 0))
        ranges[partition] = (first, records.after)
    return EventBatch(
        interactions=_ordered([(t, t.records.interactions) for t in taken]),
        items=_ordered([(t, t.records.items) for t in taken]),
        dead=[letter for t in taken for letter in t.records.dead],
        ranges=ranges,
        exhausted=exhausted,
    )


def _ordered(pieces: Sequence[tuple[Taken, pa.Table]]) -> pa.Table:
    table = pa.concat_tables([rows for _, rows in pieces])
    if len({taken.partition for taken, _ in pieces}) == 1:
        return table
    keys = [taken.keys[numpy_of(rows["off"]) - taken.records.first] for taken, rows in pieces]
    order = np.lexsort((numpy_of(table["off"]), numpy_of(table["part"]), np.concatenate(keys)))
    return table.take(pa.array(order))
