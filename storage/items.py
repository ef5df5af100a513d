"""Item records: text and availability, as files or events said last."""

from __future__ import annotations

import pyarrow as pa

from storage.database import Tx
from storage.errors import StorageError
from storage.records import Reader

ITEM_SCHEMA = pa.schema([
    pa.field("item_idx", pa.int64(), nullable=False),
    pa.field("text", pa.string()),
    pa.field("available", pa.bool_()),
    pa.field("first_seen_ms", pa.int64()),
    pa.field("source", pa.string()),
])
"""One item record; a null leaves what is stored."""


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


def all_items(reader: Reader) -> pa.Table:
    """Return (item_idx, item_id, text, available, first_seen_ms, source), by item_idx."""
    return reader.query(
        "SELECT item_idx, item_id, text, available, epoch_ms(first_seen) AS first_seen_ms, source "
        "FROM items ORDER BY item_idx"
    )
