"""Popularity's material: how often each item was in the history on each UTC day, by weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.records import partition_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from storage.records import PartitionKey, Reader

_BELOW = """
SELECT r.item_idx, r.weight, epoch_ms(date_trunc('day', r.ts)) // 86400000 AS day, count(*) AS n
FROM rows_all r JOIN bounds b ON b.topic = r.topic AND b.part = r.part
WHERE r.in_history AND r.off < b.next_off
GROUP BY ALL
"""
_REST = """
SELECT r.item_idx, r.weight, r.in_history, epoch_ms(r.ts) AS ts_ms, r.topic, r.part, r.off
FROM rows_all r LEFT JOIN bounds b ON b.topic = r.topic AND b.part = r.part
WHERE r.off >= coalesce(b.next_off, 0)
"""


def daily_counts(reader: Reader, positions: Mapping[PartitionKey, int]) -> pa.Table:
    """Return (item_idx, weight, day, n): history rows below the positions, days since the epoch.

    Args:
        reader: Where to read.
        positions: Exclusive upper offsets; a partition missing here was not read yet.
    """
    return reader.query(_BELOW, tables={"bounds": partition_table(positions, "next_off")})


def rows_after(reader: Reader, positions: Mapping[PartitionKey, int]) -> pa.Table:
    """Return (item_idx, weight, in_history, ts_ms, topic, part, off) of the rows that `daily_counts` leaves out."""
    return reader.query(_REST, tables={"bounds": partition_table(positions, "next_off")})
