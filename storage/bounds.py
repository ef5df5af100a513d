"""Bounds of reads: which users, up to which log position, on which side of a history key.

DuckDB spends far more time planning a join over few users than running it, so reads for scoring are
plain filters in SQL and their per-user bounds are applied to the fetched columns here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.records import HistoryKey, Reader

KEY_COLUMNS = ("h_ts_ms", "h_seq", "h_part", "h_off", "displaced", "off")
NO_KEY = 2  # what `side` says of users without a key
_MOST_LITERALS = 512  # longer lists of users travel as a table

Mask = npt.NDArray[np.bool_]


def distinct(users: Sequence[int]) -> list[int]:
    """Return the users once each, ascending."""
    return sorted({int(user) for user in users})


def fetch(
    reader: Reader, select: str, users: Sequence[int], params: Sequence[int | str] = ()
) -> pa.Table:
    """Return a SELECT's rows of some users.

    Args:
        reader: Where to read.
        select: A SELECT of one table or view up to its last condition, with `user_idx` in sight.
        users: Internal ids.
        params: Values of the statement's parameters.
    """
    if len(users) <= _MOST_LITERALS:
        listed = ", ".join(f"{int(user):d}" for user in users) or "NULL"
        return reader.query(f"{select} AND user_idx IN ({listed})", params)
    wanted = pa.table({"user_idx": pa.array(users, pa.int64())})
    select += " AND user_idx IN (SELECT user_idx FROM wanted)"
    return reader.query(select, params, tables={"wanted": wanted})


def homes(
    reader: Reader, users: Sequence[int], known: Mapping[int, tuple[str, int]] | None = None
) -> Mapping[int, tuple[str, int]]:
    """Return the home partition per user: as a caller with identities in memory knows them, else as stored."""
    if known is not None:
        return known
    table = fetch(reader, "SELECT user_idx, topic, part FROM users WHERE true", users)
    columns = (table[name].to_pylist() for name in ("user_idx", "topic", "part"))
    return {user: (topic, part) for user, topic, part in zip(*columns, strict=True)}


def below(
    rows: pa.Table, as_of: Mapping[int, int] | None, home: Mapping[int, tuple[str, int]]
) -> Mask:
    """Return which rows lie below their user's offset; rows of other partitions always do.

    Args:
        rows: Interactions with user_idx, topic, part and off.
        as_of: Exclusive upper offset per user; users not named are unbounded.
        home: Home partition of the users named in `as_of`.
    """
    if not as_of or rows.num_rows == 0:
        return np.ones(rows.num_rows, np.bool_)
    users, place = _places(rows)
    top = np.iinfo(np.int64).max
    limit = np.array([as_of.get(int(user), top) for user in users], np.int64)
    mask: Mask = _ints(rows, "off") < limit[place]
    if not mask.all():
        mask |= ~_at_home(rows, users, place, home)
    return mask


def side(rows: pa.Table, keys: Mapping[int, HistoryKey] | None) -> npt.NDArray[np.int8]:
    """Return per row -1, 0 or 1: before, at or after its user's key; `NO_KEY` for users without one."""
    sign = np.full(rows.num_rows, NO_KEY, np.int8)
    if not keys or rows.num_rows == 0:
        return sign
    users, place = _places(rows)
    has = np.array([int(user) in keys for user in users], np.bool_)[place]
    sign[has] = 0
    for column, name in enumerate(KEY_COLUMNS):
        bound = np.array(
            [keys[int(user)][column] if int(user) in keys else 0 for user in users], np.int64
        )[place]
        values = _ints(rows, name)
        open_ = sign == 0
        sign[open_ & (values < bound)] = -1
        sign[open_ & (values > bound)] = 1
    return sign


def in_history_order(rows: pa.Table) -> pa.Table:
    """Return the rows by user_idx and history order; without a topic, rows of one place keep their order."""
    if rows.num_rows < 2:
        return rows
    keys = [_ints(rows, name) for name in ("user_idx", *KEY_COLUMNS)]
    if "topic" in rows.column_names:
        topics = rows["topic"].combine_chunks().dictionary_encode()
        rank = np.argsort(np.argsort(np.array(topics.dictionary.to_pylist())))
        keys.append(rank[topics.indices.to_numpy(zero_copy_only=False)])
    return rows.take(pa.array(np.lexsort(keys[::-1])))


def _places(rows: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    users, place = np.unique(_ints(rows, "user_idx"), return_inverse=True)
    return users, place


def _at_home(
    rows: pa.Table,
    users: npt.NDArray[np.int64],
    place: npt.NDArray[np.intp],
    home: Mapping[int, tuple[str, int]],
) -> Mask:
    part = np.array([home[int(u)][1] if int(u) in home else -1 for u in users], np.int64)
    known = np.array([int(u) in home for u in users], np.bool_)
    topic = pa.array([home[int(u)][0] if int(u) in home else None for u in users], pa.string())
    same_topic = pc.equal(rows["topic"].combine_chunks(), topic.take(pa.array(place)))
    same = np.asarray(same_topic.fill_null(fill_value=False), np.bool_)
    return np.asarray(~known[place] | (same & (part[place] == _ints(rows, "part"))), np.bool_)


def _ints(rows: pa.Table, name: str) -> npt.NDArray[np.int64]:
    return np.asarray(rows[name].to_numpy(), np.int64)
