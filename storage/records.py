"""Records and small Arrow tables that cross the border of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol, TypeAlias

import pyarrow as pa

PartitionKey: TypeAlias = tuple[str, int]
"""A partition of the log: (topic, partition number)."""

Param: TypeAlias = str | int | float | bool | bytes | datetime | list[int] | list[str] | None
"""A value bound to a statement."""


class HistoryKey(NamedTuple):
    """Place of an interaction in its user's history; comparing two keys compares the places.

    `h_*` is the row's own (event time, seq, partition, offset), or for a displaced row that of the
    last interaction before it; `off` is always the row's own offset.
    """

    h_ts_ms: int
    h_seq: int
    h_part: int
    h_off: int
    displaced: bool
    off: int


class Reader(Protocol):
    """What reads: an open database, a snapshot of it, or a transaction."""

    def query(
        self,
        sql: str,
        params: Sequence[Param] = (),
        *,
        tables: Mapping[str, pa.Table] | None = None,
    ) -> pa.Table:
        """Return the whole result of one SELECT."""


INTERACTION_SCHEMA = pa.schema([
    pa.field("user_idx", pa.int64(), nullable=False),
    pa.field("item_idx", pa.int64(), nullable=False),
    pa.field("event_type", pa.string(), nullable=False),
    pa.field("ts_ms", pa.int64(), nullable=False),
    pa.field("seq", pa.int64(), nullable=False),
    pa.field("value", pa.float64()),
    pa.field("weight", pa.float64(), nullable=False),
    pa.field("in_history", pa.bool_(), nullable=False),
    pa.field("scores", pa.bool_(), nullable=False),
    pa.field("duplicate", pa.bool_(), nullable=False),
    pa.field("displaced", pa.bool_(), nullable=False),
    pa.field("late", pa.bool_(), nullable=False),
    pa.field("h_ts_ms", pa.int64(), nullable=False),
    pa.field("h_seq", pa.int64(), nullable=False),
    pa.field("h_part", pa.int32(), nullable=False),
    pa.field("h_off", pa.int64(), nullable=False),
    pa.field("event_id", pa.string()),
    pa.field("session_id", pa.string()),
    pa.field("recommendation_id", pa.string()),
    pa.field("props", pa.string()),
    pa.field("topic", pa.string(), nullable=False),
    pa.field("part", pa.int32(), nullable=False),
    pa.field("off", pa.int64(), nullable=False),
    pa.field("append_ts_ms", pa.int64()),
    pa.field("ingested_at_ms", pa.int64(), nullable=False),
])
"""One stored interaction; flags and history key are set by the writer."""

ROW_COLUMNS: tuple[str, ...] = tuple(INTERACTION_SCHEMA.names)
"""Columns of every function that returns stored interactions."""


def to_ms(at: datetime) -> int:
    """Return epoch milliseconds of an aware time.

    Raises:
        ValueError: The time has no time zone.
    """
    if at.tzinfo is None:
        raise ValueError(f"{at!r} has no time zone; pass an aware time")
    delta = at.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


def to_timestamp(at: datetime) -> datetime:
    """Return an aware time as the naive UTC time that a TIMESTAMP column holds."""
    to_ms(at)
    return at.astimezone(UTC).replace(tzinfo=None)


def wanted_users(
    users: Sequence[int],
    as_of: Mapping[int, int] | None,
    bound: Mapping[int, HistoryKey] | None = None,
) -> pa.Table:
    """Return one row per distinct user: (user_idx, upto, b_ts_ms, b_seq, b_part, b_off, b_displaced, b_row_off).

    Args:
        users: Internal ids.
        as_of: Exclusive upper offset per user; no entry means no bound.
        bound: A history key per user, null columns where there is none.
    """
    ids = list(dict.fromkeys(int(user) for user in users))
    keys = [bound.get(user) if bound else None for user in ids]
    upto = [as_of.get(user) if as_of else None for user in ids]
    columns: dict[str, pa.Array] = {
        "user_idx": pa.array(ids, pa.int64()),
        "upto": pa.array(upto, pa.int64()),
    }
    names = ("b_ts_ms", "b_seq", "b_part", "b_off", "b_displaced", "b_row_off")
    types = (pa.int64(), pa.int64(), pa.int32(), pa.int64(), pa.bool_(), pa.int64())
    for place, (name, kind) in enumerate(zip(names, types, strict=True)):
        columns[name] = pa.array([None if key is None else key[place] for key in keys], kind)
    return pa.table(columns)


def partition_table(values: Mapping[PartitionKey, int] | None, name: str) -> pa.Table:
    """Return (topic, part, `name`) with one row per partition."""
    items = list((values or {}).items())
    return pa.table({
        "topic": pa.array([topic for (topic, _), _ in items], pa.string()),
        "part": pa.array([part for (_, part), _ in items], pa.int32()),
        name: pa.array([value for _, value in items], pa.int64()),
    })


def partition_dict(table: pa.Table, name: str) -> dict[PartitionKey, int]:
    """Return {(topic, part): value} of a table with those columns."""
    rows = zip(
        table["topic"].to_pylist(), table["part"].to_pylist(), table[name].to_pylist(), strict=True
    )
    return {(topic, part): value for topic, part, value in rows}
