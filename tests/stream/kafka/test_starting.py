"""Where reading begins, and what is refused before anything is read; on a real broker, with a real database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import TopicAlreadyExistsError

from storage import doctor, positions
from storage.database import Database
from storage.identities import Identities
from stream.clock import from_ms
from stream.config import StreamConfig
from stream.errors import (
    ConfigError,
    GapError,
    LostRecordsError,
    RepartitionedError,
    TopicError,
    UnreachableError,
)
from stream.ingest import Ingest
from stream.judge import SegmentRule
from stream.kafka.config import KafkaConfig
from stream.kafka.source import KafkaSource
from stream.kafka.starting import Start, open_source, parse_start
from tests.brokers.backends import TestBroker
from tests.stream.kafka.logs import PATIENCE_S, decoder, event, producing, settings
from tests.stream.support import NOW

MakeTopic = Callable[..., str]
T0 = 1_700_000_000_000


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database.open(tmp_path / "a.db", now=NOW) as opened:
        yield opened


@contextmanager
def started(
    db: Database, config: KafkaConfig, start: Start = "earliest", **options: Any
) -> Iterator[KafkaSource]:
    source = open_source(db, config, decoder(config), start=start, now=NOW, **options)
    try:
        yield source
    finally:
        source.close()


def refused(db: Database, config: KafkaConfig, **options: Any) -> None:
    with started(db, config, **options):
        pass


def store(db: Database, source: KafkaSource, *, records: int) -> None:
    """Store records until so many of this call are stored."""
    ingest = Ingest(db, Identities.load(db), StreamConfig(max_ahead_ms=10**12), SegmentRule(4, 4))
    while ingest.counts.records < records:
        ingest.store(source.poll(10, 5.0), now=NOW)


def write(broker: TestBroker, topic: str, count: int, *, part: int = 0, first: int = 0) -> None:
    """Records one minute apart, by what the log says."""
    with producing(broker) as producer:
        for number in range(first, first + count):
            at = T0 + number * 60_000
            producer.send(topic, event("u", number), partition=part, timestamp_ms=at)
        producer.flush()


def stands(db: Database) -> dict[tuple[str, int], int]:
    return positions.next_offsets(db)


@pytest.mark.parametrize(
    ("start", "offset"),
    [
        ("earliest", 0),
        ("latest", 5),
        (from_ms(T0 + 2 * 60_000), 2),
        (from_ms(T0 + 2 * 60_000 + 1), 3),
        (from_ms(T0) - timedelta(days=1), 0),
        (from_ms(T0) + timedelta(days=1), 5),
    ],
)
def test_reading_begins_where_it_is_told_and_that_is_written_before_the_first_poll(
    broker: TestBroker, make_topic: MakeTopic, db: Database, start: Start, offset: int
) -> None:
    topic = make_topic(2)
    write(broker, topic, 5)
    config = settings(broker, topic)
    with started(db, config, start):
        assert stands(db) == {(topic, 0): offset, (topic, 1): 0}
        assert positions.scored_offsets(db) == stands(db)
    write(broker, topic, 2, first=5)
    with started(db, config, "latest") as source:  # a start policy moves no stored position
        assert stands(db) == {(topic, 0): offset, (topic, 1): 0}
        store(db, source, records=7 - offset)
    offs = db.query("SELECT off FROM rows_all ORDER BY off")["off"].to_pylist()
    assert offs == list(range(offset, 7))
    assert all(finding.ok for finding in doctor.run_checks(db, segment_len=4))


def test_items_begin_at_the_first_record_whatever_interactions_do(
    broker: TestBroker, make_topic: MakeTopic, db: Database
) -> None:
    topic, items = make_topic(), make_topic(2)
    write(broker, topic, 3)
    write(broker, items, 2, part=1)
    with started(db, settings(broker, topic, items=items), "latest"):
        assert stands(db) == {(topic, 0): 3, (items, 0): 0, (items, 1): 0}


def test_a_shard_reads_its_partitions_and_all_items(
    broker: TestBroker, make_topic: MakeTopic, tmp_path: Path
) -> None:
    topic, items = make_topic(5), make_topic(2)
    owned = []
    for shard in range(2):
        config = settings(broker, topic, items=items, shard=shard, shards=2)
        with (
            Database.open(tmp_path / f"{shard}.db", now=NOW) as db,
            started(db, config) as source,
        ):
            owned.append({p.part for p in source.partitions() if p.topic == topic})
            assert {p.part for p in source.partitions() if p.topic == items} == {0, 1}
    assert owned == [{0, 2, 4}, {1, 3}]


def test_a_database_of_another_shard_is_refused(
    broker: TestBroker, make_topic: MakeTopic, db: Database
) -> None:
    topic = make_topic(4)
    with started(db, settings(broker, topic, shard=0, shards=2)):
        pass
    for shard, shards in ((1, 2), (0, 1), (0, 4)):
        config = settings(broker, topic, shard=shard, shards=shards)
        with pytest.raises(RepartitionedError, match=rf"shard {shard} of {shards}.*with 0 of 2"):
            refused(db, config)


def test_a_shard_without_partitions_is_refused(
    broker: TestBroker, make_topic: MakeTopic, db: Database
) -> None:
    topic = make_topic(2)
    with pytest.raises(ConfigError, match=r"shard 2 of 3 owns none of the 2 partitions"):
        refused(db, settings(broker, topic, shard=2, shards=3))
    assert stands(db) == {}


def test_a_topic_that_got_more_partitions_is_refused_with_the_way_out(
    broker: TestBroker, make_topic: MakeTopic, db: Database, admin: KafkaAdminClient, tmp_path: Path
) -> None:
    topic = make_topic(2)
    config = settings(broker, topic)
    write(broker, topic, 3)
    with started(db, config) as source:
        store(db, source, records=3)
    admin.create_partitions({topic: 3})
    with pytest.raises(RepartitionedError, match=r"has 3, .* built with 2.*new databases") as found:
        refused(db, config)
    assert "\n" not in str(found.value)
    assert stands(db) == {(topic, 0): 3, (topic, 1): 0}
    with Database.open(tmp_path / "new.db", now=NOW) as new, started(new, config) as source:
        store(new, source, records=3)
        assert stands(new) == {(topic, 0): 3, (topic, 1): 0, (topic, 2): 0}


def test_records_lost_while_nothing_was_read_are_refused_until_the_loss_is_accepted(
    broker: TestBroker, make_topic: MakeTopic, db: Database, admin: KafkaAdminClient
) -> None:
    topic = make_topic()
    config = settings(broker, topic)
    write(broker, topic, 10)
    with started(db, config) as source:
        ingest = Ingest(db, Identities.load(db), StreamConfig(), SegmentRule(4, 4))
        while ingest.counts.records < 4:
            ingest.store(source.poll(4, 5.0), now=NOW)
    admin.delete_records({TopicPartition(topic, 0): 7})
    with pytest.raises(
        LostRecordsError, match=r"records 4\.\.6 are gone, .* at 7: .*--accept-data-loss"
    ):
        refused(db, config)
    assert stands(db) == {(topic, 0): 4}
    assert positions.gaps(db).num_rows == 0
    with started(db, config, accept_data_loss=True) as source:
        store(db, source, records=3)
    offs = db.query("SELECT off FROM rows_all ORDER BY off")["off"].to_pylist()
    assert offs == [0, 1, 2, 3, 7, 8, 9]
    (gap,) = positions.gaps(db).to_pylist()
    assert (gap["topic"], gap["part"], gap["first_off"], gap["next_off"]) == (topic, 0, 4, 7)
    assert all(finding.ok for finding in doctor.run_checks(db, segment_len=4))
    with started(db, config):  # accepted once, it is asked about no more
        assert stands(db) == {(topic, 0): 10}


def test_a_log_that_ends_before_what_is_stored_is_refused_whatever_is_accepted(
    broker: TestBroker, make_topic: MakeTopic, db: Database
) -> None:
    topic = make_topic()
    with db.transaction() as tx:
        positions.begin(tx, {(topic, 0): 12}, NOW)
    with pytest.raises(GapError, match=r"stored up to 12, the log ends at 0") as found:
        refused(db, settings(broker, topic), accept_data_loss=True)
    assert not isinstance(found.value, LostRecordsError)


def test_a_topic_made_anew_under_its_old_name_is_noticed_however_long_it_is(
    broker: TestBroker, make_topic: MakeTopic, db: Database, admin: KafkaAdminClient
) -> None:
    topic = make_topic()
    config = settings(broker, topic)
    write(broker, topic, 3)
    with started(db, config) as source:
        store(db, source, records=3)
    admin.delete_topics([topic])
    _make_again(admin, topic)
    write(broker, topic, 9)
    with pytest.raises(GapError, match=r"was made anew .* read it into a new database"):
        refused(db, config, accept_data_loss=True)
    assert stands(db) == {(topic, 0): 3}


def _make_again(admin: KafkaAdminClient, topic: str) -> None:
    """A deleted topic's name is free a moment later."""
    deadline = monotonic() + PATIENCE_S
    while True:
        try:
            admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}})
        except TopicAlreadyExistsError:
            assert monotonic() < deadline
        else:
            return


def test_a_missing_topic_and_a_missing_broker_are_named(
    broker: TestBroker, db: Database, tmp_path: Path
) -> None:
    with pytest.raises(TopicError, match=r"nowhere does not exist.*freshet topics create"):
        refused(db, settings(broker, "nowhere"))
    away = KafkaConfig(bootstrap_servers="127.0.0.1:9", items_topic="", connect_timeout_s=0.5)
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9: no broker answers"):
        refused(db, away)


def test_places_to_begin_are_names_and_times() -> None:
    assert parse_start("earliest") == "earliest"
    assert parse_start("latest") == "latest"
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert parse_start("2026-05-01T12:00:00Z") == parse_start("2026-05-01T12:00") == noon
    assert parse_start("2026-05-01T14:00:00+02:00") == noon
    assert parse_start("2026-05-01") == datetime(2026, 5, 1, tzinfo=UTC)
    with pytest.raises(ConfigError, match="--from yesterday: no place to begin"):
        parse_start("yesterday")
