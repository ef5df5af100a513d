"""Moving hot interactions into sorted runs, and merging runs."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from storage.database import Tx
from storage.records import PartitionKey, Reader, partition_table

_MOVE_ROWS = """
INSERT INTO interactions_runs
SELECT h.*, $2::INTEGER FROM interactions_hot h
WHERE EXISTS (SELECT 1 FROM bounds b
        WHERE b.topic = h.topic AND b.part = h.part AND h.off < b.next_off)
    AND h.h_ts < make_timestamp($1 * 1000)
ORDER BY h.user_idx, h.h_ts, h.h_seq, h.h_part, h.h_off, h.displaced, h.off
"""
_ADD_COUNTERS = """
INSERT INTO counter_runs
SELECT $2::INTEGER, h.user_idx, h.item_idx, fsum(h.n), fsum(h.s7), fsum(h.s30), fsum(h.s90),
    fsum(h.s365), max(h.ts), max(h.h_ts)
FROM counter_terms h
WHERE h.hot AND EXISTS (SELECT 1 FROM bounds b
        WHERE b.topic = h.topic AND b.part = h.part AND h.off < b.next_off)
    AND h.h_ts < make_timestamp($1 * 1000)
GROUP BY h.user_idx, h.item_idx ORDER BY h.user_idx, h.item_idx
"""
_DELETE_MOVED = """
DELETE FROM interactions_hot h
WHERE EXISTS (SELECT 1 FROM bounds b
        WHERE b.topic = h.topic AND b.part = h.part AND h.off < b.next_off)
    AND h.h_ts < make_timestamp($1 * 1000)
"""


def rotate(tx: Tx, *, below: Mapping[PartitionKey, int], before_ms: int) -> int:
    """Move hot rows into a new run sorted by user and history key, and add up their counters.

    Args:
        tx: The transaction.
        below: Exclusive upper offset per partition; partitions missing here keep their rows hot.
        before_ms: Exclusive upper time of the history key.

    Returns:
        The number of rows moved; 0 makes no run.
    """
    run = _last_run(tx) + 1
    bounds = {"bounds": partition_table(below, "next_off")}
    moved = tx.execute(
        _MOVE_ROWS,
        [before_ms, run],
        tables=bounds,
    )
    if moved == 0:
        return 0
    tx.execute(
        _ADD_COUNTERS,
        [before_ms, run],
        tables=bounds,
    )
    tx.execute(
        "INSERT INTO rotations SELECT $1::INTEGER, topic, part, max(off) + 1 FROM interactions_runs "
        "WHERE run = $1 GROUP BY topic, part ORDER BY topic, part",
        [run],
    )
    tx.execute(
        _DELETE_MOVED,
        [before_ms],
        tables=bounds,
    )
    return moved


def merge_runs(tx: Tx, *, max_runs: int) -> bool:
    """Merge all runs of interactions and counters into one when there are more than `max_runs`."""
    if count_runs(tx) <= max_runs:
        return False
    run = _last_run(tx) + 1
    tx.execute(
        "INSERT INTO interactions_runs SELECT * REPLACE ($1::INTEGER AS run) FROM interactions_runs "
        "ORDER BY user_idx, h_ts, h_seq, h_part, h_off, displaced, off",
        [run],
    )
    tx.execute(
        "INSERT INTO counter_runs SELECT $1::INTEGER, user_idx, item_idx, fsum(n), fsum(s7), fsum(s30), "
        "fsum(s90), fsum(s365), max(last_ts), max(last_h_ts) FROM counter_runs "
        "GROUP BY user_idx, item_idx ORDER BY user_idx, item_idx",
        [run],
    )
    tx.execute(
        "INSERT INTO rotations SELECT $1::INTEGER, topic, part, max(upto) FROM rotations "
        "GROUP BY topic, part ORDER BY topic, part",
        [run],
    )
    for statement in (
        "DELETE FROM interactions_runs WHERE run < ?",
        "DELETE FROM counter_runs WHERE run < ?",
        "DELETE FROM rotations WHERE run < ?",
    ):
        tx.execute(statement, [run])
    return True


def count_runs(reader: Reader) -> int:
    """Return how many sorted runs there are."""
    table = reader.query("SELECT count(DISTINCT run) AS n FROM rotations")
    return int(table["n"][0].as_py())


def _last_run(tx: Tx) -> int:
    table: pa.Table = tx.query("SELECT coalesce(max(run), 0) AS run FROM rotations")
    return int(table["run"][0].as_py())


def hot_rows(reader: Reader) -> int:
    """Return how many rows wait in the hot table."""
    return int(reader.query("SELECT count(*) AS n FROM interactions_hot")["n"][0].as_py())
