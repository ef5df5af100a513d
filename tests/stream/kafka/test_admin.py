"""Topics are made once and compared after; the lag is what is left to read, in records and seconds."""

from uuid import uuid4

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from stream.errors import TopicError
from stream.kafka.admin import create_topics, lag, partition_counts, topic_shapes
from stream.kafka.config import KafkaConfig
from stream.kafka.preflight import coordinated


@pytest.fixture
def config(broker):
    tag = uuid4().hex[:8]
    return KafkaConfig(
        bootstrap_servers=broker.bootstrap,
        interactions_topic=f"events.{tag}",
        items_topic=f"items.{tag}",
        slates_topic=f"slates.{tag}",
        dead_topic=f"dead.{tag}",
        group=f"group.{tag}",
    )


def create(config, partitions=3, **extra):
    extra = {key.replace("_", "."): value for key, value in extra.items()}
    return create_topics(
        config, topic_shapes(config, partitions=partitions, extra=extra), replication=1
    )


def produce(config, count, *, part=0):
    producer = KafkaProducer(bootstrap_servers=config.bootstrap_servers)
    for number in range(count):
        producer.send(config.interactions_topic, f"{number}".encode(), partition=part)
    producer.close()


def test_topics_are_made_as_asked_and_the_second_time_found(config):
    made = create(config, retention_ms="3600000")
    assert [found.created for found in made] == [True] * 4
    again = create(config, retention_ms="3600000")
    assert [(found.created, found.differs) for found in again] == [(False, ())] * 4
    counts = partition_counts(config, [found.name for found in made])
    assert list(counts.values()) == [3, 1, 3, 1]


def test_what_an_existing_topic_has_otherwise_is_said_and_left(config):
    create(config)
    interactions, items, *_ = create(config, partitions=4, retention_ms="60000")
    assert interactions.differs[0] == "3 partitions, not 4"
    assert interactions.differs[1].endswith("not 60000")
    assert [text.partition(" ")[0] for text in items.differs] == ["retention.ms"]
    assert partition_counts(config, [config.interactions_topic]) == {config.interactions_topic: 3}


def test_a_topic_the_broker_refuses_is_named_with_the_reason(config):
    shapes = topic_shapes(config, partitions=1, extra={})
    with pytest.raises(TopicError, match=rf"{config.interactions_topic}.*replication factor"):
        create_topics(config, shapes, replication=3)


def test_a_missing_topic_has_no_partitions(config):
    with pytest.raises(TopicError, match=config.items_topic):
        partition_counts(config, [config.items_topic])


def test_lag_counts_from_the_database_and_from_the_group_without_one(config, admin):
    create(config, partitions=2)
    produce(config, 10)
    topic = config.interactions_topic
    spec = {TopicPartition(topic, 0): OffsetAndMetadata(4, "", -1)}
    coordinated(lambda: admin.alter_group_offsets(config.group, spec))
    produce(config, 5)

    of_group = {(row.topic, row.part): row for row in lag(config, stored=None, now_ms=0)}
    first = of_group[topic, 0]
    assert (first.stored, first.committed, first.end, first.records) == (None, 4, 15, 11)
    second = of_group[topic, 1]
    assert (second.committed, second.end, second.records, second.seconds) == (None, 0, None, None)

    of_database = {
        (row.topic, row.part): row for row in lag(config, stored={(topic, 0): 12}, now_ms=0)
    }
    first = of_database[topic, 0]
    assert (first.stored, first.committed, first.records) == (12, 4, 3)
    assert of_database[topic, 1].records == 0


def test_the_age_is_that_of_the_first_record_not_read(config):
    create(config, partitions=1)
    produce(config, 1)
    now_ms = 4_000_000_000_000
    row = next(iter(lag(config, stored={}, now_ms=now_ms)))
    later = next(iter(lag(config, stored={}, now_ms=now_ms + 5000)))
    assert row.records == 1
    assert later.seconds - row.seconds == pytest.approx(5)
