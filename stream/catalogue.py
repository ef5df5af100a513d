"""Items as item records left them at a cut of the log, read from the store only when one of them may have changed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from storage import items
from stream.judge import partition_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from storage.database import Database
    from storage.records import PartitionKey

    Offsets = Mapping[PartitionKey, int]


class Catalogue:
    """The table of `items.as_of`, kept between reads.

    What was read as of some positions holds as of later ones too, unless an item record lies between them or an item is
    new. Records are told as they are stored, before anything asks for positions behind them.

    Args:
        db: the shard's database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = threading.Lock()
        self._ends = items.record_ends(db)
        self._at: Offsets = {}
        self._table: pa.Table | None = None

    def stored(self, records: pa.Table) -> None:
        """Take note of item records that were stored."""
        off = records["off"].to_numpy()
        ends = {key: int(off[where].max()) + 1 for key, where in partition_rows(records)}
        with self._lock:
            for key, end in ends.items():
                self._ends[key] = max(end, self._ends.get(key, 0))

    def as_of(self, positions: Offsets, n_items: int) -> pa.Table:
        """The first `n_items` items without what records at or beyond the positions changed.

        Args:
            positions: exclusive upper offsets; a partition missing here was not read yet.
            n_items: how many items are known there.
        """
        with self._lock:
            if self._table is None or not self._holds(positions, n_items):
                self._table = items.as_of(self._db, positions)
                self._at = dict(positions)
            return self._table.slice(0, n_items)

    def _holds(self, positions: Offsets, n_items: int) -> bool:
        """Whether the table holds at some positions: they lie at or after its own, and no record after its own."""
        before = any(positions.get(key, 0) < off for key, off in self._at.items())
        changed = any(end > self._at.get(key, 0) for key, end in self._ends.items())
        known = 0 if self._table is None else self._table.num_rows
        return not before and not changed and n_items <= known
