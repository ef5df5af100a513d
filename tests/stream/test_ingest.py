"""One batch, one transaction: all of it or nothing, each record once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from storage import faults, journal, positions
from storage.database import Database, Tx
from storage.errors import FencedError
from storage.identities import Identities
from storage.items import all_items
from stream.config import FileConfig, StreamConfig
from stream.errors import GapError, PartitionMovedError
from stream.events import EventBatch, Partition
from stream.ingest import Ingest
from stream.judge import SegmentRule
from stream.sources.file import FileSource
from stream.sources.memory import MemorySource
from tests.stream.support import NOW, START_MS, TOPIC, Event, encode, event

LOG = Partition(TOPIC, 0)
CONFIG = StreamConfig(lateness_ms=0)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database.open(tmp_path / "a.db", now=NOW) as opened:
        yield opened


def ingest_of(db: Database, config: StreamConfig = CONFIG, *, refuse_moved: bool = False) -> Ingest:
    return Ingest(db, Identities.load(db), config, SegmentRule(4, 4), refuse_moved=refuse_moved)


def batch_of(*records: Event | bytes, part: int = 0, first: int = 0) -> EventBatch:
    partition = Partition(TOPIC, part)
    source = MemorySource(first={partition: first})
    for one in records:
        source.append(partition, one if isinstance(one, bytes) else encode(one))
    source.end()
    return source.poll(1000)


def stored(db: Database) -> list[int]:
    offs: list[int] = db.query("SELECT off FROM rows_all ORDER BY topic, part, off")[
        "off"
    ].to_pylist()
    return offs


def test_every_record_is_a_row_or_a_dead_letter_at_its_position(db: Database) -> None:
    ingest = ingest_of(db)
    bad = b'{"user_id": "u"}'
    odd = event("u", "i", START_MS + 400 * 86_400_000)
    found = ingest.store(
        batch_of(event("u", "i1", START_MS), bad, b"{", odd, event("u", "i2", START_MS + 1)),
        now=NOW,
    )
    assert stored(db) == [0, 4]
    reasons = db.query("SELECT off, reason FROM dead_letters ORDER BY off").to_pylist()
    assert [(r["off"], r["reason"]) for r in reasons] == [
        (1, "missing_field"),
        (2, "malformed"),
        (3, "future_dated"),
    ]
    assert (found.counts.records, found.counts.interactions, found.counts.dead) == (5, 2, 3)
    assert ingest.max_event_ms == {(TOPIC, 0): START_MS + 1}


def test_a_transaction_that_fails_leaves_nothing(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest = ingest_of(db)
    ingest.store(batch_of(event("u", "i1", START_MS)), now=NOW)
    second = batch_of(event("new", "i9", START_MS + 1), first=1)
    with monkeypatch.context() as patch:
        patch.setattr(positions, "append", _fail)
        with pytest.raises(RuntimeError):
            ingest.store(second, now=NOW)
    assert stored(db) == [0]
    assert ingest.next_offsets == {(TOPIC, 0): 1}
    ingest.store(second, now=NOW)
    assert stored(db) == [0, 1]
    users = db.query("SELECT user_id FROM users ORDER BY user_idx")["user_id"].to_pylist()
    assert users == ["u", "new"]


def _fail(tx: Tx, *args: object, **more: object) -> None:
    raise RuntimeError


def test_bad_records_count_against_the_limits_once_they_are_stored(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest = ingest_of(db, replace(CONFIG, max_dead_run=3))
    batch = batch_of(b"{", b"{")
    with monkeypatch.context() as patched:
        patched.setattr(positions, "append", _fail)
        with pytest.raises(RuntimeError):
            ingest.store(batch, now=NOW)
    ingest.store(batch, now=NOW)
    assert ingest.excess is None
    ingest.store(batch_of(b"{", b"{", first=2), now=NOW)
    assert ingest.excess is not None
    assert (ingest.excess.dead, ingest.next_offsets[TOPIC, 0]) == (3, 3)


def test_records_delivered_again_change_nothing(db: Database) -> None:
    ingest = ingest_of(db)
    events = [event("u", f"i{n}", START_MS + n) for n in range(4)]
    ingest.store(batch_of(*events[:3]), now=NOW)
    again = ingest.store(batch_of(*events), now=NOW)
    assert again.rows["off"].to_pylist() == [3]
    assert again.counts.records == 1
    twice = ingest_of(db).store(batch_of(*events), now=NOW)
    assert twice.counts.records == 0
    assert stored(db) == [0, 1, 2, 3]


def test_a_hole_in_the_log_is_refused(db: Database) -> None:
    ingest = ingest_of(db)
    ingest.store(batch_of(event("u", "i", START_MS)), now=NOW)
    with pytest.raises(GapError, match=r"log\[0\]: offsets 1\.\.4 are missing"):
        ingest.store(batch_of(event("u", "i", START_MS), first=5), now=NOW)
    assert stored(db) == [0]


def test_blank_lines_of_a_file_hold_a_position_and_are_nothing_else(
    db: Database, tmp_path: Path
) -> None:
    lines = [encode(event("u", "i", START_MS)), b"", b"  ", encode(event("u", "j", START_MS + 1))]
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\n".join([*lines, b"", b""]))
    ingest = ingest_of(db)
    source = FileSource(path, FileConfig(topic=TOPIC))
    counts = ingest.store(source.poll(1000), now=NOW).counts
    source.close()
    assert (counts.records, counts.interactions) == (2, 2)
    assert stored(db) == [0, 3]
    assert ingest.next_offsets[TOPIC, 0] >= 4


def test_watermarks_move_forward_only_and_outlive_the_process(db: Database) -> None:
    config = replace(CONFIG, lateness_ms=10)
    ingest_of(db, config).store(batch_of(event("u", "i", START_MS + 50)), now=NOW)
    again = ingest_of(db, config)
    assert again.watermarks() == {(TOPIC, 0): START_MS + 40}
    again.store(batch_of(event("u", "i", START_MS), first=1), now=NOW)
    assert again.watermarks() == {(TOPIC, 0): START_MS + 40}
    assert ingest_of(db, config).watermarks() == {(TOPIC, 0): START_MS + 40}


def test_with_several_shards_a_user_in_a_second_partition_stops_before_anything_is_stored(
    db: Database,
) -> None:
    ingest = ingest_of(db, refuse_moved=True)
    users = [f"u{n}" for n in range(5)]
    ingest.store(batch_of(*(event(user, "i", START_MS) for user in users)), now=NOW)
    events = [event(user, "new", START_MS + 1) for user in ("v", *reversed(users), "u4")]
    with pytest.raises(PartitionMovedError) as caught:
        ingest.store(batch_of(*events, part=1), now=NOW)
    message = str(caught.value)
    assert "'u4' (log[0], now log[1]), 'u3' (log[0], now log[1]), 'u2' " in message
    assert "and 2 more come from a second partition" in message
    assert "key the topic by user, or run one shard" in message
    assert "\n" not in message
    assert stored(db) == [0, 1, 2, 3, 4]
    assert all_items(db)["item_id"].to_pylist() == ["i"]
    assert positions.next_offsets(db) == {(TOPIC, 0): 5}
    ingest.store(batch_of(event("v", "i", START_MS + 1), part=1), now=NOW)
    assert ingest.next_offsets == {(TOPIC, 0): 5, (TOPIC, 1): 1}


def test_a_user_in_two_partitions_of_one_batch_is_noticed(db: Database) -> None:
    source = MemorySource()
    for part in (0, 1):
        source.append(Partition(TOPIC, part), encode(event("u", "i", START_MS + part)))
    with pytest.raises(PartitionMovedError, match=r"'u' \(log\[0\], now log\[1\]\) come"):
        ingest_of(db, refuse_moved=True).store(source.poll(10), now=NOW)
    assert stored(db) == []


def test_with_one_shard_a_user_in_a_second_partition_is_stored_and_counted(db: Database) -> None:
    ingest = ingest_of(db)
    first = ingest.store(batch_of(event("u", "i", START_MS), event("v", "i", START_MS)), now=NOW)
    events = [event("u", "j", START_MS + 1), event("w", "j", START_MS + 1)]
    second = ingest.store(batch_of(*events, part=1), now=NOW)
    assert (first.counts.moved, second.counts.moved, ingest.counts.moved) == (0, 1, 1)
    homes = db.query("SELECT user_id, part FROM users ORDER BY user_idx").to_pylist()
    assert [(row["user_id"], row["part"]) for row in homes] == [("u", 0), ("v", 0), ("w", 1)]
    assert stored(db) == [0, 1, 0, 1]


def test_an_ingest_that_was_taken_over_stores_nothing_more(db: Database) -> None:
    """Both know the database's epoch; the second one's start ends the first one's."""
    first = ingest_of(db)
    first.take_over()
    first.store(batch_of(event("u", "i", START_MS)), now=NOW)
    second = ingest_of(db)
    second.take_over()
    with pytest.raises(FencedError, match=r"epoch 1 ended when a later pipeline took epoch 2"):
        first.store(batch_of(event("new", "j", START_MS), first=1), now=NOW)
    assert stored(db) == [0]
    assert db.query("SELECT user_id FROM users")["user_id"].to_pylist() == ["u"]
    second.store(batch_of(event("v", "j", START_MS), first=1), now=NOW)
    assert stored(db) == [0, 1]


def test_item_records_fill_in_what_they_say(db: Database) -> None:
    ingest = ingest_of(db)
    ingest.store(
        batch_of(
            event("u", "a", START_MS),
            b'{"kind":"item","item_id":"a","text":"Red box","available":false}',
            b'{"kind":"item","item_id":"b","text":"Lamp"}',
        ),
        now=NOW,
    )
    rows = {row["item_id"]: row for row in all_items(db).to_pylist()}
    assert (rows["a"]["text"], rows["a"]["available"]) == ("Red box", False)
    assert (rows["b"]["text"], rows["b"]["available"]) == ("Lamp", True)
    assert stored(db) == [0]


def test_what_item_records_change_is_journaled_with_them_or_not_at_all(db: Database) -> None:
    """A death right after the commit must not lose the entry: nothing would ever write it."""
    ingest = ingest_of(db)
    gone = b'{"kind":"item","item_id":"a","available":false}'
    ingest.store(batch_of(event("u", "a", START_MS), gone), now=NOW, announced=True)
    (entry,) = journal.entries(db, "availability")
    assert (entry.ref, entry.detail) == ("a", {"available": False})
    assert entry.positions == positions.next_offsets(db) == {(TOPIC, 0): 2}

    def die(point: str, _spoil: faults.Spoil | None) -> None:
        if point == "ingest.commit":
            raise KeyboardInterrupt

    faults.install(die)
    try:
        with pytest.raises(KeyboardInterrupt):
            ingest.store(batch_of(gone, first=2), now=NOW, announced=True)
    finally:
        faults.install(None)
    assert len(journal.entries(db, "availability")) == 1
    assert positions.next_offsets(db) == {(TOPIC, 0): 2}
    ingest.store(batch_of(gone, first=2), now=NOW)
    assert len(journal.entries(db, "availability")) == 1
