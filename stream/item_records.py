"""Item records of a batch: their items' numbers, what they change, and from where on the change applies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import items, journal
from stream.judge import partition_rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from numpy.typing import NDArray

    from storage.database import Tx
    from storage.identities import Identities
    from storage.journal import JournalEntry
    from storage.records import PartitionKey

    Ints = NDArray[np.int64]

_SIGHT = pa.schema([("item_id", pa.string()), ("ts", pa.int64())])


class ItemRecords:
    """Item records between the rows of a batch.

    Args:
        rows: interactions of the batch, in the order of delivery.
        records: its item records, in the order of delivery.
    """

    def __init__(self, rows: pa.Table, records: pa.Table) -> None:
        self._rows = rows
        self._records = records
        self._places = _places(rows, records)
        self._item_idx: Ints = np.empty(0, np.int64)

    def assign(self, tx: Tx, identities: Identities) -> Ints:
        """Number the items of rows and records in the order in which they were delivered; returns those of the rows."""
        rows, n = self._rows, self._rows.num_rows
        if not self._records.num_rows:
            return identities.assign_items(tx, rows["item_id"], rows["ts"])
        order = np.concatenate([2 * np.arange(n) + 1, 2 * self._places]).argsort(kind="stable")
        both = pa.concat_tables([
            table.select(_SIGHT.names).cast(_SIGHT) for table in (rows, self._records)
        ]).take(pa.array(order))
        found = np.empty(len(order), np.int64)
        found[order] = identities.assign_items(tx, both["item_id"], pc.fill_null(both["ts"], 0))
        self._item_idx = found[n:]
        return found[:n]

    def store(self, tx: Tx) -> None:
        """Bring items up to date, record after record of an item."""
        left = np.arange(self._records.num_rows)
        while len(left):
            _, first = np.unique(self._item_idx[left], return_index=True)
            turn = left[np.sort(first)]
            left = np.setdiff1d(left, turn)
            part = self._records.take(pa.array(turn))
            table = pa.table({
                **{name: part[name] for name in ("topic", "part", "off", "text", "available")},
                "item_idx": self._item_idx[turn],
                "first_seen_ms": part["ts"],
                "source": pa.array(["item"] * len(turn), pa.string()),
            })
            items.note_changes(tx, table)
            items.upsert(tx, table)

    def announce(
        self, tx: Tx, stored: Mapping[PartitionKey, int], at: datetime
    ) -> list[JournalEntry]:
        """Journal what records say with the rows around them: a crash in between would lose the entry for good.

        An entry applies after its record, and in other partitions after what was delivered before it.

        Args:
            tx: the transaction that stores the batch.
            stored: where each partition stood before the batch.
            at: time of storing.
        """
        ends, passed, drafts = dict(stored), 0, []
        columns = self._records.select(["topic", "part", "off", "item_id", "available"])
        for place, row in zip(self._places.tolist(), columns.to_pylist(), strict=True):
            between = self._rows.slice(passed, place - passed)
            for key, where in partition_rows(between):
                ends[key] = int(between["off"][int(where[-1])].as_py()) + 1
            passed = place
            ends[row["topic"], row["part"]] = row["off"] + 1
            draft = journal.Draft(
                kind="availability",
                ref=row["item_id"],
                detail={"available": row["available"]},
                positions=dict(ends),
                at=at,
            )
            drafts.append(draft)
        return journal.append_all(tx, drafts)


def _places(rows: pa.Table, records: pa.Table) -> Ints:
    """Before which row each item record was delivered, int64 [records].

    Rows and item records of a batch are kept apart: a record came before the next row of its own partition, and before
    the records after it.
    """
    places = np.full(records.num_rows, rows.num_rows, np.int64)
    if not records.num_rows:
        return places
    own = dict(partition_rows(rows))
    off, at = rows["off"].to_numpy(), records["off"].to_numpy()
    for key, where in partition_rows(records):
        if key in own:
            after = np.searchsorted(off[own[key]], at[where])
            places[where] = np.append(own[key], rows.num_rows)[after]
    return np.minimum.accumulate(places[::-1])[::-1]
