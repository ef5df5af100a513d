"""Every committed record once, whatever dies in between: judged by a client of another make."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import confluent_kafka as confluent
import pytest

from storage import doctor, faults
from storage.database import Database
from storage.identities import Identities
from stream.config import StreamConfig
from stream.ingest import Ingest
from stream.judge import SegmentRule
from stream.kafka.config import KafkaConfig
from stream.kafka.starting import open_source
from tests.brokers.backends import TestBroker
from tests.stream.kafka.logs import PATIENCE_S, decoder, event, producing, settings
from tests.stream.support import NOW

PARTS = 3
WAVES = 60
KILLS = 10
_POINTS = ("ingest.rows", "ingest.commit", "positions.begun")
Record = tuple[int, int, bytes | None]


class Killed(BaseException):
    """What a death leaves undone is not done; what it leaves open is left open."""


@pytest.mark.slow
def test_rows_and_dead_letters_are_the_committed_records_each_once(
    broker: TestBroker, make_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = make_topic(PARTS)
    config = settings(broker, topic)
    draw = random.Random(11)
    deaths: list[str] = []
    deadline = monotonic() + 4 * PATIENCE_S
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write, broker, topic, random.Random(5))
        while len(deaths) < KILLS or not writing.done():
            assert monotonic() < deadline
            live_and_die(config, tmp_path / "a.db", draw, deaths)
        writing.result()
    assert set(deaths) == set(_POINTS)
    wanted = read_committed(broker, topic)
    with Database.open(tmp_path / "a.db", now=NOW) as db:
        finish(db, config, len(wanted))
        assert stored(db) == sorted(wanted, key=lambda record: record[:2])
        assert [f for f in doctor.run_checks(db, segment_len=4) if not f.ok] == []
        dead = db.query("SELECT count(*) AS n FROM dead_letters")["n"][0].as_py()
    assert 0 < dead < len(wanted)


def write(broker: TestBroker, topic: str, draw: random.Random) -> None:
    """Small transactions, a third of them taken back, with records outside transactions between them."""
    with (
        producing(broker, transactional_id=topic) as producer,
        producing(broker) as plain,
    ):
        for wave in range(WAVES):
            producer.begin_transaction()
            for number in range(draw.randrange(1, 40)):
                producer.send(
                    topic, value(wave, number, draw), b"k", partition=draw.randrange(PARTS)
                )
            producer.flush()
            (producer.abort_transaction if draw.random() < 0.33 else producer.commit_transaction)()
            for number in range(100, 100 + draw.randrange(8)):
                plain.send(topic, value(wave, number, draw), b"k", partition=draw.randrange(PARTS))
            plain.flush()


def value(wave: int, number: int, draw: random.Random) -> bytes | None:
    if draw.random() < 0.1:
        return draw.choice([b"{", b'{"user_id":"u"}', b"", None, b"\xff"])
    return event(f"u{draw.randrange(20)}", number, tag=f"w{wave}-")


def live_and_die(config: KafkaConfig, path: Path, draw: random.Random, deaths: list[str]) -> None:
    """Open everything anew, store for a while, and die at a point or between two batches."""
    with Database.open(path, now=NOW) as db, deadly(draw, deaths):
        source = open_source(db, config, decoder(config), start="earliest", now=NOW)
        try:
            ingest = ingest_of(db)
            for _ in range(draw.randrange(3, 10)):
                ingest.store(source.poll(draw.randrange(1, 60), 0.2), now=NOW)
        finally:
            source.close(timeout_s=1.0)


@contextmanager
def deadly(draw: random.Random, deaths: list[str]) -> Iterator[None]:
    point = draw.choice(_POINTS)
    countdown = 1 if point == "positions.begun" else draw.randrange(1, 6)

    def die(reached: str, _spoil: faults.Spoil | None) -> None:
        nonlocal countdown
        countdown -= reached == point
        if countdown == 0 and reached == point:
            deaths.append(point)
            raise Killed

    faults.install(die)
    try:
        yield
    except Killed:
        pass
    finally:
        faults.install(None)


def finish(db: Database, config: KafkaConfig, records: int) -> None:
    source = open_source(db, config, decoder(config), start="latest", now=NOW)
    ingest = ingest_of(db)
    deadline = monotonic() + PATIENCE_S
    try:
        while len(stored(db)) < records or any(p.lag != 0 for p in source.progress.values()):
            assert monotonic() < deadline, f"{len(stored(db))} of {records}: {source.progress}"
            ingest.store(source.poll(500, 0.2), now=NOW)
    finally:
        source.close()


def ingest_of(db: Database) -> Ingest:
    ingest = Ingest(db, Identities.load(db), StreamConfig(), SegmentRule(4, 4))
    ingest.take_over()
    return ingest


def stored(db: Database) -> list[Record]:
    """(partition, offset, event id or raw bytes) of all rows and dead letters."""
    table = db.query(
        "SELECT part, off, event_id::BLOB AS what FROM rows_all "
        "UNION ALL SELECT part, off, raw FROM dead_letters ORDER BY part, off"
    )
    return [(row["part"], row["off"], row["what"]) for row in table.to_pylist()]


def read_committed(broker: TestBroker, topic: str) -> list[Record]:
    consumer = confluent.Consumer({
        "bootstrap.servers": broker.bootstrap,
        "group.id": topic,
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "enable.auto.commit": False,
    })
    consumer.assign([confluent.TopicPartition(topic, part, 0) for part in range(PARTS)])
    found: list[Record] = []
    ended: set[int] = set()
    deadline = monotonic() + PATIENCE_S
    while len(ended) < PARTS:
        assert monotonic() < deadline
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            assert message.error().code() == confluent.KafkaError._PARTITION_EOF
            ended.add(message.partition())
            continue
        found.append((message.partition(), message.offset(), _name(message.value())))
    consumer.close()
    return found


def _name(raw: bytes | None) -> bytes | None:
    """The event id of a good record, else the bytes as they are."""
    if raw is None or b"event_id" not in raw:
        return raw
    return raw.split(b'"event_id": "')[1].split(b'"')[0]
