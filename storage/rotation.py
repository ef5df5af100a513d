"""Moving hot interactions into sorted runs, and merging runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from storage.database import Tx
from storage.faults import reach
from storage.records import Param, PartitionKey, Reader

_MOVE_ROWS = """
INSERT INTO interactions_runs
SELECT h.*, $1::INTEGER FROM interactions_hot h WHERE {moves}
ORDER BY h.user_idx, h.h_ts, h.off
"""
_ADD_COUNTERS = """
INSERT INTO counter_runs
SELECT $1::INTEGER, h.user_idx, h.item_idx, fsum(h.n), fsum(h.s7), fsum(h.s30), fsum(h.s90),
    fsum(h.s365), max(h.ts), max(h.h_ts)
FROM counter_terms h WHERE h.hot AND {moves}
GROUP BY h.user_idx, h.item_idx ORDER BY h.user_idx, h.item_idx
"""
_DELETE_MOVED = "DELETE FROM interactions_hot h WHERE $1 > 0 AND {moves}"


_MERGE_ROWS = """
INSERT INTO interactions_runs
SELECT * REPLACE ($1::INTEGER AS run) FROM interactions_runs
WHERE run >= $2 AND run < $1 AND user_idx >= $3 AND user_idx < $4
ORDER BY user_idx, h_ts, off
"""
_MERGE_COUNTERS = """
INSERT INTO counter_runs
SELECT $1::INTEGER, user_idx, item_idx, fsum(n), fsum(s7), fsum(s30), fsum(s90), fsum(s365),
    max(last_ts), max(last_h_ts)
FROM counter_runs WHERE run >= $2 AND run < $1 AND user_idx >= $3 AND user_idx < $4
GROUP BY user_idx, item_idx ORDER BY user_idx, item_idx
"""
_SLICE_ROWS = 400_000
_BUCKETS = 1_000


def rotate(tx: Tx, *, below: Mapping[PartitionKey, int], before_ms: int) -> int:
    """Move hot rows into a new run sorted by user and time, and add up their counters.

    Args:
        tx: The transaction.
        below: Exclusive upper offset per partition; partitions missing here keep their rows hot.
        before_ms: Exclusive upper time of the history key.

    Returns:
        The number of rows moved; 0 makes no run.
    """
    if not below:
        return 0
    run = _last_run(tx) + 1
    moves, values = _moving(below, before_ms)
    moved = tx.execute(_MOVE_ROWS.format(moves=moves), [run, *values])
    if moved == 0:
        return 0
    reach("rotation.moved")
    tx.execute(_ADD_COUNTERS.format(moves=moves), [run, *values])
    reach("rotation.counted")
    tx.execute(
        "INSERT INTO rotations SELECT $1::INTEGER, topic, part, max(off) + 1 FROM interactions_runs "
        "WHERE run = $1 GROUP BY topic, part ORDER BY topic, part",
        [run],
    )
    tx.execute(_DELETE_MOVED.format(moves=moves), [run, *values])
    reach("rotation.deleted")
    return moved


def _moving(below: Mapping[PartitionKey, int], before_ms: int) -> tuple[str, list[Param]]:
    """Return the condition on rows `h` that move, and the values of its parameters, from $2 on."""
    places: list[str] = []
    values: list[Param] = [before_ms]
    for (topic, part), next_off in below.items():
        at = len(values) + 2
        places.append(f"h.topic = ${at} AND h.part = ${at + 1} AND h.off < ${at + 2}")
        values += [topic, part, next_off]
    return f"h.h_ts < make_timestamp($2 * 1000) AND ({' OR '.join(places)})", values


def merge_runs(tx: Tx, *, max_runs: int) -> bool:
    """Merge the newer runs of interactions and counters into one when there are more than `max_runs`.

    At least half of the runs are merged, and older ones as long as they are no larger than what they join: so a
    row is written again about as often as the log doubles, not at every merge.
    """
    sizes = tx.query(
        "SELECT run, count(*) AS n FROM interactions_runs GROUP BY run ORDER BY run DESC"
    )
    if sizes.num_rows <= max_runs:
        return False
    runs: list[int] = []
    rows = 0
    for run, size in zip(sizes["run"].to_pylist(), sizes["n"].to_pylist(), strict=True):
        if len(runs) > max_runs // 2 and size > rows:
            break
        runs.append(run)
        rows += size
    new = _last_run(tx) + 1
    oldest = min(runs)  # newer ones are all merged
    for users in _slices(tx, oldest, rows):
        tx.execute(_MERGE_ROWS, [new, oldest, *users])
        reach("merge.rows")
        tx.execute(_MERGE_COUNTERS, [new, oldest, *users])
        reach("merge.counters")
    tx.execute(
        "INSERT INTO rotations SELECT $1::INTEGER, topic, part, max(upto) FROM rotations "
        "WHERE run >= $2 GROUP BY topic, part ORDER BY topic, part",
        [new, oldest],
    )
    for statement in (
        "DELETE FROM interactions_runs WHERE run BETWEEN ? AND ?",
        "DELETE FROM counter_runs WHERE run BETWEEN ? AND ?",
        "DELETE FROM rotations WHERE run BETWEEN ? AND ?",
    ):
        tx.execute(statement, [oldest, new - 1])
    reach("merge.deleted")
    return True


def _slices(tx: Tx, oldest: int, rows: int) -> list[tuple[int, int]]:
    """Return ranges of users (first, after) with about `_SLICE_ROWS` rows each, so that sorting one fits in memory."""
    last = int(
        tx.query("SELECT max(user_idx) AS u FROM interactions_runs WHERE run >= ?", [oldest])["u"][
            0
        ].as_py()
    )
    width = last // _BUCKETS + 1
    counted = tx.query(
        "SELECT user_idx // $1 AS bucket, count(*) AS n FROM interactions_runs WHERE run >= $2 "
        "GROUP BY bucket ORDER BY bucket",
        [width, oldest],
    )
    slices = np.cumsum(counted["n"].to_numpy()) * (rows // _SLICE_ROWS + 1) // (rows + 1)
    starts = np.flatnonzero(np.diff(slices, prepend=-1))
    firsts = (counted["bucket"].to_numpy()[starts] * width).tolist()
    return list(zip(firsts, [*firsts[1:], last + 1], strict=True))


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
