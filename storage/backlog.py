"""What compression has to do: rows before a watermark per user, and the rows that no group covers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from storage.bounds import in_history_order, side
from storage.records import HistoryKey, PartitionKey, Reader, partition_table

_SELECT_UNCOVERED = """
SELECT r.user_idx, r.item_idx, r.event_type, epoch_ms(r.h_ts) AS h_ts_ms,
    r.h_seq, r.h_part, r.h_off, r.displaced, r.off
FROM rows_all r JOIN wanted w ON w.user_idx = r.user_idx AND r.h_ts >= make_timestamp(w.oldest_ms * 1000)
WHERE r.in_history
"""


def due_counts(
    reader: Reader,
    watermarks: Mapping[PartitionKey, int],
    *,
    positions: Mapping[PartitionKey, int] | None = None,
) -> pa.Table:
    """Return (user_idx, n_before): history rows placed before the watermark of the user's partition.

    Args:
        reader: Where to read.
        watermarks: Epoch ms per partition; users of other partitions are left out.
        positions: Exclusive upper offsets; a row of a partition missing here was not read yet.
    """
    return reader.query(
        """
        SELECT r.user_idx, count(*) AS n_before
        FROM rows_all r
        JOIN users u ON u.user_idx = r.user_idx
        JOIN marks m ON m.topic = u.topic AND m.part = u.part
        LEFT JOIN bounds b ON b.topic = r.topic AND b.part = r.part
        WHERE r.in_history AND r.h_ts < make_timestamp(m.watermark_ms * 1000)
            AND (? OR r.off < b.next_off)
        GROUP BY r.user_idx ORDER BY r.user_idx
        """,
        [positions is None],
        tables={
            "marks": partition_table(watermarks, "watermark_ms"),
            "bounds": partition_table(positions, "next_off"),
        },
    )


def open_rows(
    reader: Reader,
    watermarks: Mapping[PartitionKey, int],
    *,
    positions: Mapping[PartitionKey, int] | None = None,
) -> pa.Table:
    """Return (user_idx, h_ts_ms, topic, part) of the history rows that `due_counts` leaves out.

    Args:
        reader: Where to read.
        watermarks: Epoch ms per partition; users of other partitions are left out.
        positions: Exclusive upper offsets; a row of a partition missing here was not read yet.
    """
    return reader.query(
        """
        SELECT r.user_idx, epoch_ms(r.h_ts) AS h_ts_ms, u.topic, u.part
        FROM rows_all r
        JOIN users u ON u.user_idx = r.user_idx
        JOIN marks m ON m.topic = u.topic AND m.part = u.part
        LEFT JOIN bounds b ON b.topic = r.topic AND b.part = r.part
        WHERE r.in_history AND r.h_ts >= make_timestamp(m.watermark_ms * 1000)
            AND (? OR r.off < b.next_off)
        """,
        [positions is None],
        tables={
            "marks": partition_table(watermarks, "watermark_ms"),
            "bounds": partition_table(positions, "next_off"),
        },
    )


def uncovered_rows(
    reader: Reader, after: Mapping[int, HistoryKey | None], first: Mapping[int, int]
) -> pa.Table:
    """Return each user's oldest history rows after a key, by user_idx and history order.

    Args:
        reader: Where to read.
        after: Exclusive lower key per user; None for the whole history.
        first: How many rows of each user at most.

    Returns:
        (user_idx, item_idx, event_type) and the history key.
    """
    bounds = {user: key for user, key in after.items() if key is not None}
    oldest = [bounds[user].h_ts_ms if user in bounds else 0 for user in after]
    wanted = pa.table({
        "user_idx": pa.array(list(after), pa.int64()),
        "oldest_ms": pa.array(oldest, pa.int64()),
    })
    rows = reader.query(_SELECT_UNCOVERED, tables={"wanted": wanted})
    rows = in_history_order(rows.filter(pa.array(side(rows, bounds) > 0)))
    users = np.asarray(rows["user_idx"].to_numpy(), np.int64)
    found, start, place = np.unique(users, return_index=True, return_inverse=True)
    limit = np.array([first[user] for user in found.tolist()], np.int64)
    return rows.filter(pa.array(np.arange(len(users)) - start[place] < limit[place]))
