"""Interactions: append, reads in history order, counts, popularity.

A read bounded by `as_of` sees the rows of a user's home partition below the given offset. Rows of a
user that came from another partition have no place in that order and are always seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

from storage import counters
from storage.bounds import below, distinct, fetch, homes, in_history_order, side
from storage.database import Tx
from storage.digests import USERS_PER_CHUNK, feed
from storage.errors import StorageError
from storage.records import (
    INTERACTION_SCHEMA,
    HistoryKey,
    PartitionKey,
    Reader,
    partition_table,
    to_timestamp,
)

__all__ = [
    "INTERACTION_SCHEMA",
    "append",
    "digest",
    "duplicates_of",
    "event_ids",
    "history_counts",
    "load_history",
    "load_recents",
    "popularity",
    "read_ahead",
    "read_range",
    "seen_items",
    "user_count",
]

_SELECT_HISTORY = "SELECT {columns} FROM rows_ms WHERE in_history"
_ALL_COLUMNS = "* EXCLUDE (hot, h_ts)"
_COLUMNS = ", ".join(
    f"epoch_ms(h.{name.removesuffix('_ms')}) AS {name}" if name.endswith("_ms") else f"h.{name}"
    for name in INTERACTION_SCHEMA.names
)


def append(tx: Tx, table: pa.Table, *, first: bool = True) -> int:
    """Append interactions (`INTERACTION_SCHEMA`) in log order and return their number.

    The first append of a database fixes the reference time of its counters: the UTC midnight at or
    before the first row's event time, unless one was set.

    Args:
        tx: The transaction.
        table: The rows.
        first: Whether it may be the first append; a writer that knows of an earlier one saves a query.

    Raises:
        StorageError: Columns are missing, unknown or of a wrong type.
    """
    try:
        rows = table.select(INTERACTION_SCHEMA.names).cast(INTERACTION_SCHEMA)
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise StorageError(f"interactions to append do not fit the table: {error}") from error
    if first and rows.num_rows and counters.counter_ref_ms(tx) is None:
        first_ms = rows["ts_ms"][0].as_py()
        counters.set_counter_ref(tx, first_ms - first_ms % counters.DAY_MS)
    return tx.insert("interactions_hot", rows)


def read_range(reader: Reader, topic: str, part: int, first: int, next_off: int) -> pa.Table:
    """Return every row with first <= offset < next_off of one partition, by offset."""
    return reader.query(
        "SELECT * EXCLUDE (hot, h_ts) FROM rows_ms "
        "WHERE topic = ? AND part = ? AND off >= ? AND off < ? ORDER BY off",
        [topic, part, first, next_off],
    )


def read_ahead(
    reader: Reader,
    first: Mapping[PartitionKey, int],
    ends: Mapping[PartitionKey, int],
    limit: int,
) -> pa.Table:
    """Return rows that were not answered yet, in the order in which they were stored.

    Such rows are hot: a rotation moves what was answered only.

    Args:
        reader: Where to read.
        first: Offset per partition at which answering goes on, 0 where there is none.
        ends: Exclusive upper offset per partition; others are left out.
        limit: Most rows.
    """
    table = partition_table(ends, "next_off")
    starts = pa.array([first.get(key, 0) for key in ends], pa.int64())
    rows = reader.query(
        f"SELECT {_COLUMNS} FROM interactions_hot h "  # noqa: S608 names of the schema
        "JOIN bounds b ON b.topic = h.topic AND b.part = h.part "
        "WHERE h.off >= b.first_off AND h.off < b.next_off ORDER BY h.rowid LIMIT ?",
        [limit],
        tables={"bounds": table.append_column("first_off", starts)},
    )
    return rows.cast(INTERACTION_SCHEMA)


def load_history(
    reader: Reader,
    users: Sequence[int],
    as_of: Mapping[int, int] | None = None,
    home: Mapping[int, PartitionKey] | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Return the users' whole histories, by user_idx and history order; arguments as `load_recents`."""
    return load_recents(reader, users, as_of=as_of, home=home, columns=columns)


def load_recents(
    reader: Reader,
    users: Sequence[int],
    *,
    after: Mapping[int, HistoryKey] | None = None,
    as_of: Mapping[int, int] | None = None,
    home: Mapping[int, PartitionKey] | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Return history rows newer than each user's `after` key, by user_idx and history order.

    Args:
        reader: Where to read.
        users: Internal ids; one query serves them all.
        after: Exclusive lower key per user; a user without one gets the whole history.
        as_of: Exclusive upper offset in the user's home partition; none means unbounded.
        home: Home partition of the users in `as_of`; read where not given.
        columns: Names of the columns, those of the history key, user, topic, part and off among them; None is all.
    """
    after = after or {}
    asked = distinct(users)
    listed = _ALL_COLUMNS if columns is None else ", ".join(columns)
    select, params = _SELECT_HISTORY.format(columns=listed), []
    if asked and all(user in after for user in asked):
        select += " AND h_ts >= make_timestamp(?)"
        params = [1000 * min(after[user].h_ts_ms for user in asked)]
    rows = fetch(reader, select, asked, params)
    mask = below(rows, as_of, homes(reader, asked, home) if as_of else {}) & (side(rows, after) > 0)
    return in_history_order(rows.filter(pa.array(mask)))


def history_counts(
    reader: Reader, users: Sequence[int], as_of: Mapping[int, int] | None = None
) -> pa.Table:
    """Return (user_idx, n) with the number of history rows; users without any are left out."""
    rows = _placed(reader, users, as_of)
    found, counts = np.unique(rows["user_idx"].to_numpy(), return_counts=True)
    return pa.table({"user_idx": pa.array(found, pa.int64()), "n": pa.array(counts, pa.int64())})


def seen_items(
    reader: Reader, users: Sequence[int], as_of: Mapping[int, int] | None = None
) -> pa.Table:
    """Return the distinct (user_idx, item_idx) of whole histories, ascending."""
    rows = _placed(reader, users, as_of).select(["user_idx", "item_idx"])
    pairs = rows.group_by(["user_idx", "item_idx"]).aggregate([])
    return pairs.sort_by([("user_idx", "ascending"), ("item_idx", "ascending")])


def duplicates_of(reader: Reader, keys: pa.Table, *, min_ts_ms: int | None = None) -> pa.Table:
    """Return every stored row with one of the given (user_idx, event_id), in log order.

    The verdict which of them is a duplicate is the caller's.

    Args:
        reader: Where to read.
        keys: (user_idx, event_id); null ids match nothing.
        min_ts_ms: Leave out rows with an older event time.
    """
    return reader.query(
        """
        SELECT r.* EXCLUDE (hot, h_ts) FROM rows_ms r
        SEMI JOIN keys k ON k.user_idx = r.user_idx AND k.event_id = r.event_id
        WHERE r.event_id IS NOT NULL AND (?::BIGINT IS NULL OR r.ts_ms >= ?::BIGINT)
        ORDER BY r.topic, r.part, r.off
        """,
        [min_ts_ms, min_ts_ms],
        tables={"keys": keys.select(["user_idx", "event_id"])},
    )


def user_count(reader: Reader) -> int:
    """Return how many users there are."""
    return int(reader.query("SELECT count(*) AS n FROM users")["n"][0].as_py())


def event_ids(reader: Reader, first: int, after: int) -> pa.Table:
    """Return (user_idx, event_id) of every stored row that has one, of users first..after-1."""
    return reader.query(
        "SELECT user_idx, event_id FROM rows_all "
        "WHERE user_idx >= ? AND user_idx < ? AND event_id IS NOT NULL",
        [first, after],
    )


def popularity(
    reader: Reader,
    cut: datetime,
    windows_days: Sequence[int | None] = (7, 30, 120, None),
    positions: Mapping[PartitionKey, int] | None = None,
) -> pa.Table:
    """Return per item the weight of history rows with event time in [cut - window, cut).

    Args:
        reader: Where to read.
        cut: Aware time, usually a UTC midnight.
        windows_days: Windows in days; None is all time.
        positions: Exclusive upper offsets; a row of a partition missing here was not read yet.

    Returns:
        (item_idx, p7, p30, p120, pall), the columns named after the windows; items with a row before the
        cut only, by item_idx.
    """
    end = to_timestamp(cut)
    names = ["pall" if days is None else f"p{int(days)}" for days in windows_days]
    starts = [
        datetime(1, 1, 1) if days is None else end - timedelta(days=days)  # noqa: DTZ001 naive UTC
        for days in windows_days
    ]
    sums = ", ".join(
        f"coalesce(fsum(r.weight) FILTER (r.ts >= ${place + 3}), 0.0) AS {name}"
        for place, name in enumerate(names)
    )
    statement = (
        "SELECT r.item_idx, "  # noqa: S608 names are made of numbers
        + sums
        + " FROM rows_all r LEFT JOIN bounds b ON b.topic = r.topic AND b.part = r.part"
        " WHERE r.in_history AND r.ts < $1 AND ($2 OR r.off < b.next_off)"
        " GROUP BY r.item_idx ORDER BY r.item_idx"
    )
    return reader.query(
        statement,
        [end, positions is None, *starts],
        tables={"bounds": partition_table(positions, "next_off")},
    )


def digest(reader: Reader) -> str:
    """Return a sha256 over all interactions, independent of internal ids.

    Covers (user_id, item_id, ts, seq, type, value, event_id, in_history), users by external id and each
    user's rows in history order.
    """
    users = reader.query("SELECT user_idx, user_id FROM users ORDER BY user_id")
    hasher = hashlib.sha256()
    for start in range(0, users.num_rows, USERS_PER_CHUNK):
        rows = reader.query(
            """
            SELECT w.user_id, i.item_id, r.ts_ms, r.seq, r.event_type, r.value, r.event_id, r.in_history
            FROM rows_ms r
            JOIN chunk w ON w.user_idx = r.user_idx
            JOIN items i ON i.item_idx = r.item_idx
            ORDER BY w.user_id, r.h_ts_ms, r.h_seq, r.h_part, r.h_off, r.displaced, r.off, r.topic
            """,
            tables={"chunk": users.slice(start, USERS_PER_CHUNK)},
        )
        feed(hasher, rows)
    return hasher.hexdigest()


def _placed(reader: Reader, users: Sequence[int], as_of: Mapping[int, int] | None) -> pa.Table:
    asked = distinct(users)
    rows = fetch(
        reader, "SELECT user_idx, item_idx, topic, part, off FROM rows_all WHERE in_history", asked
    )
    return rows.filter(pa.array(below(rows, as_of, homes(reader, asked) if as_of else {})))
