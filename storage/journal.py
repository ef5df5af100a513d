"""The journal: everything besides the log that can change a slate, and from which positions on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias, get_args

import pyarrow as pa

from storage.database import Tx
from storage.errors import StorageError
from storage.records import PartitionKey, Reader, partition_table, to_ms

Kind: TypeAlias = Literal[
    "group_visible",
    "catalogue",
    "popularity",
    "availability",
    "version",
    "config",
    "shed",
    "window",
]
_NEWEST = "SELECT coalesce(max(journal_id), 0) AS journal_id FROM journal"
_BEYOND = """
SELECT p.journal_id FROM journal_positions p
LEFT JOIN bounds b ON b.topic = p.topic AND b.part = p.part
WHERE p.next_off > coalesce(b.next_off, 0)
"""
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One entry.

    Attributes:
        journal_id: Its number; later entries have larger ones.
        kind: What changed.
        ref: What it refers to, such as the run id of `group_visible`.
        detail: Further values.
        at_ms: When it was written.
        positions: Per partition the offset of the first event it applies to; a partition that is not
            named had not been read, so the entry applies to all of it.
    """

    journal_id: int
    kind: str
    ref: str
    detail: dict[str, Any]
    at_ms: int
    positions: dict[PartitionKey, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An entry to be written; see `JournalEntry`."""

    kind: Kind
    ref: str
    detail: Mapping[str, Any]
    positions: Mapping[PartitionKey, int]
    at: datetime


def append(
    tx: Tx,
    kind: Kind,
    ref: str,
    detail: Mapping[str, Any] | None,
    positions: Mapping[PartitionKey, int],
    at: datetime,
) -> int:
    """Write one entry and return its number; see `append_all`."""
    draft = Draft(kind=kind, ref=ref, detail=detail or {}, positions=positions, at=at)
    return append_all(tx, [draft])[0].journal_id


def append_all(tx: Tx, drafts: Sequence[Draft]) -> list[JournalEntry]:
    """Write entries in their order and return them.

    Raises:
        StorageError: A kind is unknown.
    """
    if not drafts:
        return []
    for draft in drafts:
        if draft.kind not in KINDS:
            raise StorageError(
                f"journal kind {draft.kind!r} is unknown; use one of {', '.join(KINDS)}"
            )
    first = 1 + int(tx.query(_NEWEST)["journal_id"][0].as_py())
    found = [
        JournalEntry(
            journal_id=number,
            kind=draft.kind,
            ref=draft.ref,
            detail=dict(draft.detail),
            at_ms=to_ms(draft.at),
            positions=dict(draft.positions),
        )
        for number, draft in enumerate(drafts, first)
    ]
    tx.insert(
        "journal",
        pa.table({
            "journal_id": pa.array([one.journal_id for one in found], pa.int64()),
            "kind": pa.array([one.kind for one in found], pa.string()),
            "ref": pa.array([one.ref for one in found], pa.string()),
            "detail": [json.dumps(one.detail, sort_keys=True) for one in found],
            "recorded_at_ms": pa.array([one.at_ms for one in found], pa.int64()),
        }),
    )
    tx.insert("journal_positions", _places_table(found))
    return found


def _places_table(found: Sequence[JournalEntry]) -> pa.Table:
    places = [
        (one.journal_id, topic, part, off)
        for one in found
        for (topic, part), off in one.positions.items()
    ]
    return pa.table({
        "journal_id": pa.array([place[0] for place in places], pa.int64()),
        "topic": pa.array([place[1] for place in places], pa.string()),
        "part": pa.array([place[2] for place in places], pa.int32()),
        "next_off": pa.array([place[3] for place in places], pa.int64()),
    })


def entries(reader: Reader, kind: Kind | None = None, *, after_id: int = 0) -> list[JournalEntry]:
    """Return entries in the order they were written, of one kind or all, after a given one."""
    table = reader.query(
        "SELECT journal_id, kind, ref, detail, epoch_ms(recorded_at) AS at_ms FROM journal "
        "WHERE journal_id > $1 AND ($2::VARCHAR IS NULL OR kind = $2::VARCHAR) ORDER BY journal_id",
        [after_id, kind],
    )
    places = reader.query(
        "SELECT journal_id, topic, part, next_off FROM journal_positions WHERE journal_id > $1 "
        "AND ($2::VARCHAR IS NULL OR journal_id IN (SELECT journal_id FROM journal WHERE kind = $2)) "
        "ORDER BY journal_id, topic, part",
        [after_id, kind],
    )
    return _entries(table, places)


def latest(
    reader: Reader, kind: Kind, positions: Mapping[PartitionKey, int] | None = None
) -> JournalEntry | None:
    """Return the newest entry of a kind, None when there is none.

    Args:
        reader: Where to read.
        kind: Of the entry.
        positions: Only entries that apply to the first event beyond these positions already; None for any.
    """
    found = reader.query(
        f"SELECT max(journal_id) AS journal_id FROM journal WHERE kind = $1 "  # noqa: S608 a constant
        f"AND ($2 OR journal_id NOT IN ({_BEYOND}))",
        [kind, positions is None],
        tables={"bounds": partition_table(positions, "next_off")},
    )["journal_id"][0].as_py()
    if found is None:
        return None
    return entries(reader, kind, after_id=int(found) - 1)[0]


def beyond(reader: Reader, positions: Mapping[PartitionKey, int]) -> list[JournalEntry]:
    """Return the entries that do not apply yet at the given positions, in the order in which they will.

    Entries are cuts of the log, each at or after the one before it: the sum of their offsets orders them.
    """
    oldest = reader.query(
        f"SELECT min(journal_id) AS first FROM ({_BEYOND})",  # noqa: S608 a constant
        tables={"bounds": partition_table(positions, "next_off")},
    )["first"][0].as_py()
    if oldest is None:
        return []
    found = [
        one
        for one in entries(reader, after_id=int(oldest) - 1)
        if any(off > positions.get(key, 0) for key, off in one.positions.items())
    ]
    return in_order(found)


def in_order(found: Iterable[JournalEntry]) -> list[JournalEntry]:
    """Return entries in the order in which they apply."""
    return sorted(found, key=lambda one: (sum(one.positions.values()), one.journal_id))


def _entries(table: pa.Table, places: pa.Table) -> list[JournalEntry]:
    positions: dict[int, dict[PartitionKey, int]] = {}
    for place in places.to_pylist():
        found = positions.setdefault(place["journal_id"], {})
        found[place["topic"], place["part"]] = place["next_off"]
    result = []
    for row in table.to_pylist():
        detail: dict[str, Any] = json.loads(row.pop("detail"))
        result.append(
            JournalEntry(detail=detail, positions=positions.get(row["journal_id"], {}), **row)
        )
    return result
