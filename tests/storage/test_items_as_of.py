"""Items as of a position: what their later records changed is taken back."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from storage import items
from storage.database import Database
from storage.identities import Identities
from tests.storage.support import NOW

TOPIC = "items"


def put(db: Database, ids: Identities, off: int, item_id: str, **said: Any) -> None:
    with db.transaction() as tx:
        found = ids.assign_items(tx, [item_id], [0])
        table = pa.table({
            "topic": [TOPIC],
            "part": pa.array([0], pa.int32()),
            "off": [off],
            "item_idx": found,
            "text": pa.array([said.get("text")], pa.string()),
            "available": pa.array([said.get("available")], pa.bool_()),
            "first_seen_ms": pa.array([said.get("ts")], pa.int64()),
            "source": ["item"],
        })
        items.note_changes(tx, table)
        items.upsert(tx, table)


def test_items_are_read_as_they_were_below_a_position(tmp_path):
    with Database.open(tmp_path / "a.db", now=NOW) as db:
        ids = Identities.load(db)
        put(db, ids, 0, "a", text="Red", available=True, ts=5_000)
        put(db, ids, 1, "b", text="Lamp", available=True, ts=9_000)
        put(db, ids, 2, "a", available=False)
        put(db, ids, 3, "a", text="Blue", available=True, ts=1_000)

        def at(off: int) -> list[tuple[str | None, bool, int]]:
            table = items.as_of(db, {(TOPIC, 0): off})
            columns = (table[name].to_pylist() for name in ("text", "available", "first_seen_ms"))
            return list(zip(*columns, strict=True))

        assert at(4) == [("Blue", True, 0), ("Lamp", True, 0)]
        assert at(3) == [("Red", False, 0), ("Lamp", True, 0)]
        assert at(2) == [("Red", True, 0), ("Lamp", True, 0)]
        assert [items.count_below(db, {(TOPIC, 0): off}) for off in (0, 1, 2, 4)] == [0, 1, 2, 2]
        assert items.as_of(db, {})["text"].to_pylist() == [None, None]
        assert items.seen_below(db, {(TOPIC, 0): 1}).to_pylist() == [0]
        assert items.first_seen_after(db, 2, -1) == ["a", "b"]
        assert items.first_seen_after(db, 1, -1) == ["a"]
        assert items.first_seen_after(db, 2, 0) == []
