"""A recorded log gives a database what the topics gave it: rows, positions, dead letters."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from storage.database import Database
from storage.identities import Identities
from stream.clock import DAY_MS, WallClock, to_ms
from stream.config import FormatsConfig, StreamConfig, TopicFormat
from stream.formats.decoder import TopicDecoder
from stream.ingest import Ingest
from stream.judge import SegmentRule
from stream.kafka.export import record_topics
from stream.kafka.starting import open_source
from stream.recording import LogRecorder
from stream.sources.recorded import RecordedSource
from tests.stream.formats.encodings import CE_HEADERS, STRUCTURED, framed, structured
from tests.stream.kafka.logs import event, producing, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stream.kafka.config import KafkaConfig
    from stream.sources import Source

NOW = datetime(2026, 11, 1, tzinfo=UTC)
FORMATS = FormatsConfig(items=TopicFormat(kind="item"))
STREAM = StreamConfig(lateness_ms=2_000, unlisted="both")
ROWS = """SELECT user_id, item_id, event_type, epoch_ms(ts) AS ts, topic, part, off, event_id, late, duplicate,
    displaced, epoch_ms(append_ts) AS append_ms, epoch_ms(h_ts) AS h_ts FROM interactions ORDER BY topic, part, off"""
DEAD = "SELECT * EXCLUDE (ingested_at) FROM dead_letters ORDER BY topic, part, off"
PLACES = "SELECT topic, part, max(next_off) AS next_off, sum(dead)::BIGINT AS dead FROM position_ranges GROUP BY ALL ORDER BY ALL"
ITEMS = "SELECT item_id, text, available FROM items ORDER BY item_id"


def write(broker: Any, clicks: str, items: str) -> None:
    """Events of every encoding, late and repeated ones, and every way to be bad; some in a transaction."""
    far = json.loads(event("u1", 1, tag="far"))
    far["ts"] = to_ms(WallClock().now()) + DAY_MS  # against the broker's clock
    tree = json.loads(event("u2", 3, tag="m"))
    log: Sequence[tuple[bytes | None, Any]] = [
        (event("u1", 1), []),
        (event("u3", 90), [("traceparent", b"00-1")]),
        (event("u1", 2), CE_HEADERS),
        (event("u1", 2), CE_HEADERS),
        (structured(json.loads(event("u2", 4))), STRUCTURED),
        (msgspec.msgpack.encode(tree), [("content-type", b"application/msgpack")]),
        (framed(event("u2", 5, tag="f")), []),
        (b'{"user_id":"u4","item_id":"i"}', []),
        (json.dumps(far).encode(), [("h", b"\xff")]),
        (framed(b"\x02"), []),
        (b"{", [("h", b"1"), ("h", b"2")]),
        (b"", []),
        (None, []),
        (b"x" * 70_000, []),
    ]
    with producing(broker) as plain, producing(broker, transactional_id=clicks) as atomic:
        for number, (value, headers) in enumerate(log * 3):
            plain.send(clicks, value, b"\x00key", headers=headers, partition=number % 2)
        plain.send(items, b'{"item_id":"i1","text":"mug"}', b"i1")
        plain.send(items, None, b"i2")
        plain.send(items, b"no", b"i3")
        plain.flush()
        for commit in (False, True):
            atomic.begin_transaction()
            atomic.send(clicks, event("u5", 7, tag=f"t{commit}"), partition=0).get(10)
            (atomic.commit_transaction if commit else atomic.abort_transaction)()


def stored(
    path: Path, source: Callable[[Database], Source], ends: dict[Any, int]
) -> dict[str, Any]:
    """Store a log up to its ends and return what a database then holds."""
    with Database.open(path, now=NOW) as db, closing(source(db)) as log:
        ingest = Ingest(db, Identities.load(db), STREAM, SegmentRule(8, 8))
        while any(ingest.next_offsets.get(tuple(p), 0) < end for p, end in ends.items()):
            batch = log.poll(5, 0.5)
            if batch.ranges:
                ingest.store(batch, now=NOW)
        return {sql: db.query(sql).to_pylist() for sql in (ROWS, DEAD, PLACES, ITEMS)}


@pytest.fixture
def config(broker: Any, make_topic: Any) -> KafkaConfig:
    clicks, items = make_topic(partitions=2), make_topic()
    write(broker, clicks, items)
    return settings(broker, clicks, items=items)


def test_a_replay_of_a_recorded_log_stores_what_the_live_run_stored(
    config: KafkaConfig, tmp_path: Path
) -> None:
    decode = TopicDecoder(FORMATS, config.items_topic)
    with LogRecorder(tmp_path / "log", items_topic=config.items_topic) as recorder:
        spans = record_topics(config, recorder)
        recorder.finish(spans)
    ends = {partition: end for partition, (_, end) in spans.items()}
    live = stored(
        tmp_path / "live.db",
        lambda db: open_source(db, config, decode, start="earliest", now=NOW),
        ends,
    )
    replayed = stored(
        tmp_path / "again.db", lambda _: RecordedSource(tmp_path / "log", decode), ends
    )
    assert replayed == live
    assert {row["reason"] for row in live[DEAD]} == {"malformed", "unsupported", "future_dated"}
    assert all(row["append_ts"] is not None and row["key"] is not None for row in live[DEAD])
    assert any(row["size"] == 70_000 and len(row["raw"]) < 70_000 for row in live[DEAD])
    future = next(row for row in live[DEAD] if row["reason"] == "future_dated")
    assert (
        json.loads(future["raw"])["event_id"] == "far1"
    )  # the record itself, not what was made of it
    assert any(row["late"] for row in live[ROWS])
    assert any(row["duplicate"] for row in live[ROWS])
    assert [row["available"] for row in live[ITEMS] if row["item_id"] in {"i1", "i2"}] == [
        True,
        False,
    ]
