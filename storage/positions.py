"""Positions in the log: which records were stored, up to where events were scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from storage.database import Tx
from storage.errors import PositionError
from storage.records import (
    Param,
    PartitionKey,
    Reader,
    partition_dict,
    partition_table,
    to_ms,
)

_MOVE_SCORED = """
UPDATE scored_positions s SET next_off = m.next_off, scored_at = make_timestamp(m.at_ms * 1000)
FROM (VALUES {rows}) m(next_off, at_ms, topic, part) WHERE s.topic = m.topic AND s.part = m.part
"""
_SCORED_ROW = "(?::BIGINT, ?::BIGINT, ?::VARCHAR, ?::INTEGER)"
_FIRST_SCORED = """
INSERT INTO scored_positions(next_off, scored_at, topic, part)
VALUES ($1, make_timestamp($2 * 1000), $3, $4)
"""
_GAP = """
INSERT INTO gaps(topic, part, first_off, next_off, accepted_at)
VALUES ($1, $2, $3, $4, make_timestamp($5 * 1000))
"""
_COUNTS = ("records", "interactions", "dead", "items", "late", "duplicates", "displaced")


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeRow:
    """What one transaction took from one partition.

    Attributes:
        topic: Topic.
        part: Partition number.
        first: First offset taken.
        next_off: Offset after the last one taken.
        records: Records seen; interactions + dead + items.
        interactions: Records stored as interactions.
        dead: Records stored as dead letters.
        items: Records that were item records.
        late: Interactions below the watermark at their position.
        duplicates: Interactions marked as duplicates.
        displaced: Interactions placed after a segment that was already due.
        max_event_ms: Largest event time in the range, None without interactions.
    """

    topic: str
    part: int
    first: int
    next_off: int
    records: int
    interactions: int
    dead: int = 0
    items: int = 0
    late: int = 0
    duplicates: int = 0
    displaced: int = 0
    max_event_ms: int | None = None


def append(
    tx: Tx,
    ranges: Sequence[RangeRow],
    *,
    at: datetime,
    ends: Mapping[PartitionKey, int] | None = None,
) -> None:
    """Record the ranges a transaction stores; empty ones (first = next) are left out.

    Args:
        tx: The transaction that also stores the rows.
        ranges: In log order per partition.
        at: Time of reading.
        ends: What `next_offsets` says, from the one writer that keeps count of it; read when left out.

    Raises:
        PositionError: A range overlaps what is stored, leaves a gap, or its counts do not add up.
    """
    ends = next_offsets(tx) if ends is None else dict(ends)
    rows = [row for row in ranges if row.first != row.next_off]
    for row in rows:
        _check(row, ends.get((row.topic, row.part)))
        ends[row.topic, row.part] = row.next_off
    tx.insert("position_ranges", _table(rows, at))


def begin(tx: Tx, offsets: Mapping[PartitionKey, int], at: datetime) -> None:
    """Say where reading begins in new partitions, or goes on past records the log no longer has.

    The position stands before anything is read, so a restart never asks again where to begin. What is
    skipped in a known partition becomes a row of `gaps`, a known one that goes on where it stands stays as it is.

    Raises:
        PositionError: An offset lies before what is stored.
    """
    ends = next_offsets(tx)
    moved = {key: offset for key, offset in offsets.items() if ends.get(key) != offset}
    for (topic, part), offset in moved.items():
        end = ends.get((topic, part))
        if end is None:
            set_scored(tx, {(topic, part): offset}, at)
        elif offset < end:
            raise PositionError(f"{topic}[{part}]: stored up to {end} already; seek to {end}")
        else:
            tx.execute(_GAP, [topic, part, end, offset, to_ms(at)])
    tx.insert("position_ranges", _table([_empty(*key, off) for key, off in moved.items()], at))


def next_offsets(reader: Reader) -> dict[PartitionKey, int]:
    """Return per partition the offset at which reading goes on."""
    return partition_dict(
        reader.query(
            "SELECT topic, part, max(next_off) AS next_off FROM position_ranges "
            "GROUP BY topic, part ORDER BY topic, part"
        ),
        "next_off",
    )


def max_event_ms(reader: Reader) -> dict[PartitionKey, int]:
    """Return per partition the largest event time seen; the watermark is that minus the lateness."""
    return partition_dict(
        reader.query(
            "SELECT topic, part, epoch_ms(max(max_event)) AS ms FROM position_ranges "
            "WHERE max_event IS NOT NULL GROUP BY topic, part ORDER BY topic, part"
        ),
        "ms",
    )


def newest_below(reader: Reader, positions: Mapping[PartitionKey, int]) -> dict[PartitionKey, int]:
    """Return per partition the largest event time of the rows below an exclusive upper offset."""
    return partition_dict(
        reader.query(
            "SELECT r.topic, r.part, epoch_ms(max(r.ts)) AS ms FROM rows_all r "
            "JOIN bounds b ON b.topic = r.topic AND b.part = r.part WHERE r.off < b.next_off "
            "GROUP BY r.topic, r.part ORDER BY r.topic, r.part",
            tables={"bounds": partition_table(positions, "next_off")},
        ),
        "ms",
    )


def set_scored(tx: Tx, offsets: Mapping[PartitionKey, int], at: datetime) -> None:
    """Store per partition the offset after the last event that was scored."""
    if not offsets:
        return
    rows: list[list[Param]] = [[off, to_ms(at), *key] for key, off in offsets.items()]
    move = _MOVE_SCORED.format(rows=", ".join([_SCORED_ROW] * len(rows)))
    if tx.execute(move, [value for row in rows for value in row]) == len(rows):
        return
    known = scored_offsets(tx)
    for key, row in zip(offsets, rows, strict=True):
        if key not in known:
            tx.execute(_FIRST_SCORED, row)


def scored_offsets(reader: Reader) -> dict[PartitionKey, int]:
    """Return per partition the offset after the last event that was scored."""
    return partition_dict(
        reader.query("SELECT topic, part, next_off FROM scored_positions ORDER BY topic, part"),
        "next_off",
    )


def gaps(reader: Reader) -> pa.Table:
    """Return the accepted losses (topic, part, first_off, next_off, accepted_at_ms), oldest first."""
    return reader.query(
        "SELECT topic, part, first_off, next_off, epoch_ms(accepted_at) AS accepted_at_ms FROM gaps "
        "ORDER BY accepted_at, topic, part, first_off"
    )


def totals(reader: Reader) -> pa.Table:
    """Return per partition (topic, part, first_off, next_off, gaps) and the sums of the counts."""
    return reader.query(
        """
        SELECT topic, part, min(first_off) AS first_off, max(next_off) AS next_off,
            count(*) FILTER (before <> first_off) AS gaps,
            sum(records)::BIGINT AS records, sum(interactions)::BIGINT AS interactions,
            sum(dead)::BIGINT AS dead, sum(items)::BIGINT AS items, sum(late)::BIGINT AS late,
            sum(duplicates)::BIGINT AS duplicates, sum(displaced)::BIGINT AS displaced
        FROM (SELECT *, lag(next_off) OVER (PARTITION BY topic, part ORDER BY first_off, next_off) AS before
              FROM position_ranges)
        GROUP BY topic, part ORDER BY topic, part
        """
    )


def compact(tx: Tx) -> int:
    """Join ranges that touch and return how many rows that saved."""
    before = int(tx.query("SELECT count(*) AS n FROM position_ranges")["n"][0].as_py())
    joined = tx.query(
        """
        SELECT topic, part, min(first_off) AS first_off, max(next_off) AS next_off,
            sum(records)::BIGINT AS records, sum(interactions)::BIGINT AS interactions,
            sum(dead)::BIGINT AS dead, sum(items)::BIGINT AS items, sum(late)::BIGINT AS late,
            sum(duplicates)::BIGINT AS duplicates, sum(displaced)::BIGINT AS displaced,
            epoch_ms(max(max_event)) AS max_event_ms, epoch_ms(max(read_at)) AS read_at_ms
        FROM (
            SELECT *, sum(starts::INTEGER) OVER (PARTITION BY topic, part ORDER BY first_off, next_off) AS island
            FROM (
                SELECT *, lag(next_off) OVER (PARTITION BY topic, part ORDER BY first_off, next_off)
                    IS DISTINCT FROM first_off AS starts
                FROM position_ranges))
        GROUP BY topic, part, island ORDER BY topic, part, first_off
        """
    )
    if joined.num_rows == before:
        return 0
    tx.execute("DELETE FROM position_ranges")
    tx.insert("position_ranges", joined)
    return before - int(joined.num_rows)


def _empty(topic: str, part: int, offset: int) -> RangeRow:
    """A range without records: reading begins at its offset."""
    return RangeRow(
        topic=topic, part=part, first=offset, next_off=offset, records=0, interactions=0
    )


def _table(rows: Sequence[RangeRow], at: datetime) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "topic": pa.array([row.topic for row in rows], pa.string()),
        "part": pa.array([row.part for row in rows], pa.int32()),
        "first_off": pa.array([row.first for row in rows], pa.int64()),
        "next_off": pa.array([row.next_off for row in rows], pa.int64()),
    }
    for name in _COUNTS:
        columns[name] = pa.array([getattr(row, name) for row in rows], pa.int64())
    columns["max_event_ms"] = pa.array([row.max_event_ms for row in rows], pa.int64())
    columns["read_at_ms"] = pa.array([to_ms(at)] * len(rows), pa.int64())
    return pa.table(columns)


def _check(row: RangeRow, end: int | None) -> None:
    where = f"{row.topic}[{row.part}] {row.first}..{row.next_off}"
    if row.first > row.next_off:
        raise PositionError(f"{where}: a range must not end before it starts")
    if row.records != row.interactions + row.dead + row.items:
        raise PositionError(
            f"{where}: {row.records} records are not {row.interactions} interactions + {row.dead} dead "
            f"+ {row.items} item records"
        )
    if row.records > row.next_off - row.first:
        raise PositionError(f"{where}: {row.records} records do not fit the range")
    if end is None or row.first == end:
        return
    if row.first < end:
        raise PositionError(f"{where}: stored up to {end} already; seek to {end}")
    raise PositionError(f"{where}: records {end}..{row.first} are missing; seek to {end}")
