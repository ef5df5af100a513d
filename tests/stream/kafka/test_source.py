"""What the Kafka source does beyond the contract of all sources, on a real broker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from time import monotonic
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from infra.broker.process import Broker
from stream.errors import BrokerError, LostRecordsError, StalledError
from stream.events import EventBatch, Partition
from stream.kafka.report import OffsetReport
from stream.kafka.source import KafkaSource
from stream.kafka.starting import consumer_of
from tests.brokers.backends import TestBroker
from tests.stream.kafka.logs import (
    PATIENCE_S,
    event,
    producing,
    reading,
    send,
    settings,
)

MakeTopic = Callable[..., str]


def poll_until(source: KafkaSource, done: Callable[[], bool], **options: float) -> list[EventBatch]:
    batches = []
    deadline = monotonic() + PATIENCE_S
    while not done():
        assert monotonic() < deadline, f"stands at {source.progress}"
        batches.append(source.poll(int(options.get("size", 100)), 0.1))
    return batches


def at(source: KafkaSource, partition: Partition, offset: int) -> Callable[[], bool]:
    return lambda: source.progress[partition].position == offset


def names(batches: Iterable[EventBatch]) -> list[str]:
    return [name for batch in batches for name in batch.interactions["event_id"].to_pylist()]


def assert_touching(batches: Iterable[EventBatch], partition: Partition, end: int) -> None:
    at = 0
    for batch in batches:
        first, after = batch.ranges.get(partition, (at, at))
        assert first == at
        at = after
    assert at == end


def test_only_committed_records_arrive_and_ranges_touch_over_markers_and_aborted_ones(
    broker: TestBroker, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    place = Partition(topic, 0)
    with producing(broker, transactional_id=topic) as producer:
        for number, commit in enumerate((True, False, True, False)):
            producer.begin_transaction()
            send(producer, topic, 0, [event("u", number * 3 + i) for i in range(3)])
            (producer.commit_transaction if commit else producer.abort_transaction)()
    wanted = [f"e{i}" for i in (0, 1, 2, 6, 7, 8)]
    for size in (1, 2, 100):
        with reading(settings(broker, topic), {place: 0}) as source:
            batches = poll_until(source, at(source, place, 16), size=size)
        assert names(batches) == wanted
        assert all(len(batch.interactions) <= size for batch in batches)
        assert_touching(batches, place, 16)  # 12 records and 4 markers


def test_a_transaction_that_hangs_raises_no_alarm_and_holds_back_what_follows(
    broker: TestBroker, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    place = Partition(topic, 0)
    with (
        producing(broker) as plain,
        producing(broker, transactional_id=topic) as producer,
        reading(settings(broker, topic), {place: 0}, stall_s=0.4) as source,
    ):
        producer.begin_transaction()
        send(producer, topic, 0, [event("u", i, tag="open") for i in range(3)])
        send(plain, topic, 0, [event("u", 0)])
        poll_until(source, lambda: source.progress[place].end == 4)
        deadline = monotonic() + 2.0  # five times what would be a stall
        while monotonic() < deadline:
            assert not source.poll(100, 0.02).ranges
        assert source.progress[place].lag == 4
        producer.abort_transaction()
        batches = poll_until(source, at(source, place, 5))
    assert names(batches) == ["e0"]


def test_a_partition_whose_readable_records_never_arrive_ends_the_run(
    broker: TestBroker, make_topic: MakeTopic
) -> None:
    """The consumer pauses one partition without the source's knowledge, as a consumer with a fault would."""
    topic = make_topic(2)
    start = {Partition(topic, 0): 0, Partition(topic, 1): 0}
    with (
        producing(broker) as producer,
        reading(settings(broker, topic), start, stall_s=0.5) as source,
    ):
        send(producer, topic, 0, [event("u", 0)])
        send(producer, topic, 1, [event("v", 0)])
        poll_until(source, lambda: all(p.position == 1 for p in source.progress.values()))
        source._consumer.pause(TopicPartition(topic, 1))
        send(producer, topic, 1, [event("v", 1)])
        with pytest.raises(StalledError, match=r"\[1\]: 1 offsets from 1 on can be read"):
            poll_until(source, lambda: False)


def test_holding_takes_no_record_and_loses_none(broker: TestBroker, make_topic: MakeTopic) -> None:
    topic = make_topic(2)
    places = [Partition(topic, part) for part in range(2)]
    with producing(broker) as producer:
        for place in places:
            send(producer, topic, place.part, [event("u", i) for i in range(50)])
    batches = []
    with reading(settings(broker, topic), dict.fromkeys(places, 0), stall_s=0.5) as source:
        while sum(len(batch.interactions) for batch in batches) < 100:
            batches += [source.poll(7, 1.0)]  # some fetched records wait in the consumer
            before = dict(source.progress)
            deadline = monotonic() + 0.05
            while monotonic() < deadline:
                source.hold()
            assert source.progress == before
    for place in places:
        found = [b for batch in batches for b in batch.interactions.to_pylist()]
        own = [row["off"] for row in found if row["part"] == place.part]
        assert own == list(range(50))
        assert_touching(batches, place, 50)


def test_a_value_that_is_missing_or_empty_is_a_dead_letter_that_says_so(
    broker: TestBroker, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    with producing(broker) as producer:
        send(producer, topic, 0, [None, b"", event("u", 2), b"{"])
    place = Partition(topic, 0)
    with reading(settings(broker, topic), {place: 0}) as source:
        batches = poll_until(source, at(source, place, 4))
    letters = [letter for batch in batches for letter in batch.dead]
    assert [(d.off, d.reason, d.raw, d.key) for d in letters] == [
        (0, "malformed", None, b"key"),
        (1, "malformed", b"", b"key"),
        (3, "malformed", b"{", b"key"),
    ]
    assert "tombstone" in letters[0].detail
    assert names(batches) == ["e2"]


def test_the_time_a_record_was_appended_comes_with_it(
    broker: TestBroker, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    with producing(broker) as producer:
        producer.send(topic, event("u", 0), partition=0, timestamp_ms=1_700_000_000_123).get(10)
    place = Partition(topic, 0)
    with reading(settings(broker, topic), {place: 0}) as source:
        (batch,) = (b for b in poll_until(source, at(source, place, 1)) if b.ranges)
    assert batch.interactions["append_ts"].to_pylist() == [1_700_000_000_123]


def test_records_dropped_before_they_were_read_are_named(
    broker: TestBroker, make_topic: MakeTopic, admin: KafkaAdminClient
) -> None:
    topic = make_topic()
    place = Partition(topic, 0)
    with producing(broker) as producer:
        send(producer, topic, 0, [event("u", i) for i in range(10)])
    admin.delete_records({TopicPartition(topic, 0): 6})
    with reading(settings(broker, topic), {place: 2}) as source:
        with pytest.raises(LostRecordsError, match=r"records 2\.\.5 are gone, the log begins at 6"):
            poll_until(source, lambda: False)
        with pytest.raises(LostRecordsError, match=r"records 5\.\.5 are gone"):
            source.seek({place: 5})
        source.seek({place: 6})
        assert names(poll_until(source, at(source, place, 10))) == ["e6", "e7", "e8", "e9"]


def test_stored_offsets_are_told_to_the_group(broker: TestBroker, make_topic: MakeTopic) -> None:
    topic, group = make_topic(), f"g-{uuid4().hex}"
    place = Partition(topic, 0)
    config = settings(broker, topic)
    with producing(broker) as producer:
        send(producer, topic, 0, [event("u", i) for i in range(3)])
    report = OffsetReport(consumer_of(config, group))
    with reading(config, {place: 0}, report=report) as source:
        poll_until(source, at(source, place, 3))
        source.commit({place: 2})
        source.commit({place: 3})  # too soon after the other: told when the source is closed
    group_of_displays = consumer_of(config, group)
    assert group_of_displays.committed(TopicPartition(topic, 0)) == 3
    group_of_displays.close()


def test_a_group_that_can_not_be_told_is_logged_once_and_stops_nothing(
    broker: TestBroker,
    make_topic: MakeTopic,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Members of the group refuse offsets of outsiders."""
    topic, group = make_topic(), f"g-{uuid4().hex}"
    place = Partition(topic, 0)
    config = settings(broker, topic)
    with producing(broker) as producer:
        send(producer, topic, 0, [event("u", i) for i in range(3)])
    report = OffsetReport(consumer_of(config, group))
    member = KafkaConsumer(topic, bootstrap_servers=broker.bootstrap, group_id=group)
    try:
        deadline = monotonic() + PATIENCE_S
        while not member.assignment():
            member.poll(100)
            assert monotonic() < deadline
        with (
            caplog.at_level(logging.WARNING, "stream.kafka.report"),
            reading(config, {place: 0}, report=report) as source,
        ):
            source.commit({place: 1})
            assert names(poll_until(source, at(source, place, 3))) == ["e0", "e1", "e2"]
            source.commit({place: 3})
    finally:
        member.close()
    lines = [r.message for r in caplog.records if r.name == "stream.kafka.report"]
    assert len(lines) == 1
    assert "not reported to the group" in lines[0]


@pytest.mark.slow
def test_an_outage_is_polled_through_and_what_follows_is_read(
    own_broker: Broker,
) -> None:
    topic = f"outage.{uuid4().hex[:8]}"
    place = Partition(topic, 0)
    admin = KafkaAdminClient(bootstrap_servers=own_broker.bootstrap)
    admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}})
    admin.close()
    with producing(own_broker) as producer:
        send(producer, topic, 0, [event("u", 0)])
        config = settings(own_broker, topic)
        with (
            reading(config, {place: 0}, stall_s=1.0) as patient,
            reading(config, {place: 0}, outage_s=2.0) as strict,
        ):
            poll_until(patient, at(patient, place, 1))
            poll_until(strict, at(strict, place, 1))
            own_broker.kill()
            with pytest.raises(BrokerError, match=r"longer than kafka\.outage_limit_s"):
                poll_until(strict, lambda: False)
            started = monotonic()
            strict.close(timeout_s=1.0)
            assert monotonic() - started < 5.0
            for _ in range(5):
                assert not patient.poll(10, 0.2).ranges
            own_broker.start()
            send(producer, topic, 0, [event("u", 1)])
            assert names(poll_until(patient, at(patient, place, 2))) == ["e1"]
