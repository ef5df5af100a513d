"""Rows that are stored and not answered: in memory up to a number of rows, in the store beyond that."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from storage import interactions
from stream.judge import partition_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from storage.database import Database
    from storage.records import PartitionKey
    from stream.cuts import Cut

    Ints = NDArray[np.int64]

_HELD_ROWS = 200_000
_READ_ROWS = 50_000
_TOGETHER_ROWS = 1_024


class Chunk:
    """Rows of one transaction, or of one read, in the order in which they were stored.

    Args:
        rows: interactions as appended.
        ends: exclusive upper offset per partition of what the chunk holds, records that are no rows included.
    """

    def __init__(self, rows: pa.Table, ends: Mapping[PartitionKey, int]) -> None:
        self.rows = rows
        self.ends = dict(ends)
        self.ts = rows["ts_ms"].to_numpy()
        self.off = rows["off"].to_numpy()
        self.item_idx = rows["item_idx"].to_numpy()
        self.keys: list[PartitionKey] = []
        self._code = np.zeros(rows.num_rows, np.int64)
        for code, (key, where) in enumerate(partition_rows(rows)):
            self.keys.append(key)
            self._code[where] = code
        self.left: Ints = np.arange(rows.num_rows)

    def below(self, bounds: Mapping[PartitionKey, int]) -> NDArray[np.bool_]:
        """Which of the rows that are left lie below exclusive offsets; none of a partition without one."""
        limit = np.array([bounds.get(key, 0) for key in self.keys], np.int64)
        if not len(limit):
            return np.zeros(0, np.bool_)
        return np.asarray(self.off[self.left] < limit[self._code[self.left]], np.bool_)

    def take(self, bounds: Mapping[PartitionKey, int], cut: Cut) -> pa.Table:
        """Let the rows below the bounds pass and return them; the cut takes them in."""
        below = self.below(bounds)
        at = self.left[below]
        self.left = self.left[~below]
        for key, rows in self._per_partition(at):
            cut.see(key, int(self.ts[rows].max()), int(self.item_idx[rows].max()) + 1)
            cut.rise({key: int(self.off[rows].max()) + 1})
        return self._rows(at)

    def peek(self, bounds: Mapping[PartitionKey, int]) -> pa.Table:
        """Return the rows below the bounds that are left."""
        return self._rows(self.left[self.below(bounds)])

    def _rows(self, at: Ints) -> pa.Table:
        if not len(at):
            return self.rows.slice(0, 0)
        first, last = int(at[0]), int(at[-1])
        if last - first + 1 == len(at):
            return self.rows.slice(first, len(at))
        return self.rows.take(pa.array(at))

    def rows_before(self, threshold_ms: int) -> int:
        """How many of the rows that are left come before the first one at or past an event time."""
        reached = np.flatnonzero(self.ts[self.left] >= threshold_ms)
        return int(reached[0]) if len(reached) else len(self.left)

    def ends_after(self, count: int) -> dict[PartitionKey, int]:
        """Offset after the last one per partition of the first rows that are left."""
        return {
            key: int(self.off[rows].max()) + 1
            for key, rows in self._per_partition(self.left[:count])
        }

    def _per_partition(self, at: Ints) -> Iterator[tuple[PartitionKey, Ints]]:
        if len(self.keys) == 1 and len(at):
            yield self.keys[0], at
            return
        for code, key in enumerate(self.keys):
            rows = at[self._code[at] == code]
            if len(rows):
                yield key, rows


class Ahead:
    """What is stored beyond a cut. One thread stores, another one takes.

    Args:
        db: the shard's database, asked for what does not fit into memory.
        cut: where answering stands; moves with what is taken.
        stored: exclusive end of what is stored per partition.
        held_rows: rows kept in memory.
    """

    def __init__(
        self,
        db: Database,
        cut: Cut,
        stored: Mapping[PartitionKey, int],
        held_rows: int = _HELD_ROWS,
    ) -> None:
        self._db = db
        self._cut = cut
        self._most = held_rows
        self._lock = threading.Lock()
        self._chunks: deque[Chunk] = deque()
        self._stored = dict(stored)
        self._loaded = dict(cut.next_offsets)
        self._whole = all(off <= self._loaded.get(key, 0) for key, off in stored.items())

    def store(self, rows: pa.Table, ends: Mapping[PartitionKey, int]) -> None:
        """Take in what a transaction stored."""
        with self._lock:
            self._stored |= ends
            held = sum(len(chunk.left) for chunk in self._chunks)
            self._whole = self._whole and (not held or held + rows.num_rows <= self._most)
            if self._whole:
                self._chunks.append(Chunk(rows, ends))
                self._loaded |= ends

    @property
    def stored(self) -> dict[PartitionKey, int]:
        """Exclusive end of what is stored per partition."""
        with self._lock:
            return dict(self._stored)

    def front(self) -> Chunk | None:
        """The oldest rows that were not taken; None when everything was."""
        self.settle()
        if not self._whole and not self._chunks:
            self._read_on()
            self.settle()
        with self._lock:
            return self._chunks[0] if self._chunks else None

    def settle(self, limit: Mapping[PartitionKey, int] | None = None) -> None:
        """Let the cut rise over records that are no rows, behind rows that were taken; at most to a limit."""
        ends: dict[PartitionKey, int] = {}
        with self._lock:
            while self._chunks and not len(self._chunks[0].left):
                ends |= self._chunks.popleft().ends
            if self._whole and not self._chunks:
                ends = dict(self._stored)
        if limit is not None:
            ends = {key: min(off, limit.get(key, 0)) for key, off in ends.items()}
        self._cut.rise(ends)

    def take(self, bounds: Mapping[PartitionKey, int]) -> Iterator[pa.Table]:
        """Take the rows below exclusive offsets; the cut rises to them, at most to what is stored.

        Rows of small transactions pass together: answering takes as long for a few rows as for many.
        """
        stored = self.stored
        bounds = {key: min(off, stored[key]) for key, off in bounds.items() if key in stored}
        while True:
            with self._lock:
                chunks = list(self._chunks)
            together: list[pa.Table] = []
            count = 0
            for chunk in chunks:
                rows = chunk.take(bounds, self._cut)
                if rows.num_rows:
                    together.append(rows)
                    count += rows.num_rows
                if count >= _TOGETHER_ROWS:
                    yield pa.concat_tables(together)
                    together, count = [], 0
            if together:
                yield pa.concat_tables(together)
            if self._holds(bounds):
                break
            with self._lock:
                while self._chunks and not len(self._chunks[0].left):
                    self._chunks.popleft()
            self._read_on()
        self._cut.rise(bounds)

    def peek(self, bounds: Mapping[PartitionKey, int]) -> pa.Table | None:
        """The rows below exclusive offsets that are not taken; None where there is none."""
        while not self._holds(bounds):
            self._read_on()
        with self._lock:
            chunks = list(self._chunks)
        tables = [chunk.peek(bounds) for chunk in chunks]
        return pa.concat_tables(tables) if tables else None

    def waits_below(
        self, bounds: Mapping[PartitionKey, int], beside: Mapping[PartitionKey, int]
    ) -> bool:
        """Whether rows below the bounds are left that taking up to `beside` would leave."""
        if not self._holds(bounds):
            return True
        with self._lock:
            chunks = list(self._chunks)
        return any(bool((chunk.below(bounds) & ~chunk.below(beside)).any()) for chunk in chunks)

    def _holds(self, bounds: Mapping[PartitionKey, int]) -> bool:
        with self._lock:
            return self._whole or all(
                off <= self._loaded.get(key, 0) for key, off in bounds.items()
            )

    def _read_on(self) -> None:
        """Read the next rows from the store."""
        ends = self.stored
        rows = interactions.read_ahead(self._db, self._loaded, ends, _READ_ROWS)
        chunk = Chunk(rows, ends)
        if rows.num_rows == _READ_ROWS:
            chunk.ends = chunk.ends_after(rows.num_rows)
        with self._lock:
            self._chunks.append(chunk)
            self._loaded |= chunk.ends
            self._whole = self._loaded == self._stored
