"""The journal: everything besides the log that can change a slate, and from which positions on."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
_INSERT = """
INSERT INTO journal(journal_id, kind, ref, detail, recorded_at)
SELECT coalesce(max(journal_id), 0) + 1, ?, ?, ?, make_timestamp(? * 1000) FROM journal
RETURNING journal_id
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


def append(
    tx: Tx,
    kind: Kind,
    ref: str,
    detail: Mapping[str, Any] | None,
    positions: Mapping[PartitionKey, int],
    at: datetime,
) -> int:
    """Write an entry and return its number.

    Raises:
        StorageError: The kind is unknown.
    """
    if kind not in KINDS:
        raise StorageError(f"journal kind {kind!r} is unknown; use one of {', '.join(KINDS)}")
    journal_id = tx.execute(
        _INSERT, [kind, ref, json.dumps(dict(detail or {}), sort_keys=True), to_ms(at)]
    )
    table = partition_table(positions, "next_off")
    ids = pa.array([journal_id] * table.num_rows, pa.int64())
    tx.insert("journal_positions", table.append_column("journal_id", ids))
    return journal_id


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


def latest(reader: Reader, kind: Kind) -> JournalEntry | None:
    """Return the newest entry of a kind, None when there is none."""
    found = reader.query(
        "SELECT max(journal_id) AS journal_id FROM journal WHERE kind = ?", [kind]
    )["journal_id"][0].as_py()
    if found is None:
        return None
    return entries(reader, kind, after_id=int(found) - 1)[0]


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
