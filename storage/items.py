"""Item records: text and availability, as files or events said last."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.database import Tx
from storage.errors import StorageError
from storage.records import PartitionKey, Reader, partition_dict, partition_table

ITEM_SCHEMA = pa.schema([
    pa.field("item_idx", pa.int64(), nullable=False),
    pa.field("text", pa.string()),
    pa.field("available", pa.bool_()),
    pa.field("first_seen_ms", pa.int64()),
    pa.field("source", pa.string()),
])
"""One item record; a null leaves what is stored."""
_CHANGED = ("text", "available", "first_seen_ms")
_NOTE = """
INSERT INTO item_changes
SELECT n.topic, n.part, n.off, i.item_idx, i.text, i.available, i.first_seen
FROM incoming n JOIN items i ON i.item_idx = n.item_idx
"""
_BEYOND = """
SELECT c.item_idx, c.text, c.available, epoch_ms(c.first_seen) AS first_seen_ms
FROM item_changes c LEFT JOIN bounds b ON b.topic = c.topic AND b.part = c.part
WHERE c.off >= coalesce(b.next_off, 0) ORDER BY c.rowid
"""
_ENDS = "SELECT topic, part, max(off) + 1 AS next_off FROM item_changes GROUP BY topic, part"
_SEEN_BELOW = """
SELECT r.item_idx FROM rows_all r JOIN bounds b ON b.topic = r.topic AND b.part = r.part WHERE r.off < b.next_off
UNION
SELECT c.item_idx FROM item_changes c JOIN bounds b ON b.topic = c.topic AND b.part = c.part
WHERE c.off < b.next_off
"""
_COUNT_BELOW = """
SELECT 1 + greatest(
    (SELECT coalesce(max(r.item_idx), -1) FROM rows_all r
     JOIN bounds b ON b.topic = r.topic AND b.part = r.part WHERE r.off < b.next_off),
    (SELECT coalesce(max(c.item_idx), -1) FROM item_changes c
     JOIN bounds b ON b.topic = c.topic AND b.part = c.part WHERE c.off < b.next_off)) AS n
"""


def upsert(tx: Tx, table: pa.Table) -> int:
    """Bring item records up to date and return how many items changed.

    A null keeps the stored value. When a table has several rows of an item, the last non-null value of
    each column wins. `first_seen` only moves back.

    Args:
        tx: The transaction.
        table: `ITEM_SCHEMA`; the items must have been assigned before.

    Raises:
        StorageError: Columns are missing or of a wrong type.
    """
    try:
        rows = table.select(ITEM_SCHEMA.names).cast(ITEM_SCHEMA)
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise StorageError(f"item records do not fit the table: {error}") from error
    if rows.num_rows == 0:
        return 0
    rows = rows.append_column("place", pa.array(range(rows.num_rows), pa.int64()))
    return tx.execute(
        """
        UPDATE items SET
            text = coalesce(n.text, items.text),
            available = coalesce(n.available, items.available),
            first_seen = coalesce(least(items.first_seen, n.first_seen), items.first_seen, n.first_seen),
            source = coalesce(n.source, items.source)
        FROM (
            SELECT item_idx,
                arg_max(text, place) FILTER (text IS NOT NULL) AS text,
                arg_max(available, place) FILTER (available IS NOT NULL) AS available,
                make_timestamp(min(first_seen_ms) * 1000) AS first_seen,
                arg_max(source, place) FILTER (source IS NOT NULL) AS source
            FROM incoming GROUP BY item_idx
        ) n WHERE n.item_idx = items.item_idx
        """,
        tables={"incoming": rows},
    )


def note_changes(tx: Tx, table: pa.Table) -> None:
    """Keep what items were before their records at (topic, part, off) change them.

    Args:
        tx: The transaction that goes on to `upsert` them.
        table: (topic, part, off, item_idx), each item once.
    """
    tx.execute(_NOTE, tables={"incoming": table.select(["topic", "part", "off", "item_idx"])})


def all_items(reader: Reader) -> pa.Table:
    """Return (item_idx, item_id, text, available, first_seen_ms, source), by item_idx."""
    return reader.query(
        "SELECT item_idx, item_id, text, available, epoch_ms(first_seen) AS first_seen_ms, source "
        "FROM items ORDER BY item_idx"
    )


def as_of(reader: Reader, positions: Mapping[PartitionKey, int]) -> pa.Table:
    """Return `all_items` without what item records at or beyond the positions changed.

    Args:
        reader: Where to read.
        positions: Exclusive upper offsets; a partition missing here was not read yet. Items that were first
            seen beyond them are among the rows: their internal ids are larger than those of all others.
    """
    table = all_items(reader)  # first: what is written in between takes back to what was read
    later = reader.query(_BEYOND, tables={"bounds": partition_table(positions, "next_off")})
    later = later.filter(pc.less(later["item_idx"], table.num_rows))
    if later.num_rows == 0:
        return table
    changed, first = np.unique(later["item_idx"].to_numpy(), return_index=True)
    before = later.take(pa.array(first))
    for name in _CHANGED:
        values = table[name].to_pylist()
        for place, value in zip(changed.tolist(), before[name].to_pylist(), strict=True):
            values[place] = value
        column = pa.array(values, table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def record_ends(reader: Reader) -> dict[PartitionKey, int]:
    """Return per partition the offset after its last item record that changed an item."""
    return partition_dict(reader.query(_ENDS), "next_off")


def first_seen_after(reader: Reader, n_items: int, at_ms: int) -> list[str]:
    """Return the external ids of the items, of the first `n_items`, that are first seen after a time."""
    found: list[str] = reader.query(
        "SELECT item_id FROM items WHERE item_idx < ? AND first_seen > make_timestamp(?) "
        "ORDER BY item_idx",
        [n_items, 1000 * at_ms],
    )["item_id"].to_pylist()
    return found


def count_below(reader: Reader, positions: Mapping[PartitionKey, int]) -> int:
    """Return how many items the records below the positions made known: 1 + their largest internal id."""
    found = reader.query(_COUNT_BELOW, tables={"bounds": partition_table(positions, "next_off")})
    return int(found["n"][0].as_py())


def seen_below(reader: Reader, positions: Mapping[PartitionKey, int]) -> pa.Array:
    """Return the distinct internal ids of items with a record below the positions."""
    return reader.query(_SEEN_BELOW, tables={"bounds": partition_table(positions, "next_off")})[
        "item_idx"
    ].combine_chunks()
