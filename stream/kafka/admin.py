"""Topics and how far they are read: what an operator asks before and while freshet runs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    GroupAuthorizationFailedError,
    GroupIdNotFoundError,
    IllegalGenerationError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownMemberIdError,
)
from kafka.structs import OffsetAndMetadata

from stream.errors import DeniedError, TopicError
from stream.events import Partition
from stream.kafka.connection import client_arguments
from stream.kafka.preflight import connected, coordinated, explained

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stream.kafka.config import KafkaConfig

_FIRST_RECORD_MS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicShape:
    """How a topic is made.

    Attributes:
        name: of the topic.
        partitions: how many.
        config: broker settings of the topic, such as retention.ms.
    """

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicOutcome:
    """What became of one topic.

    Attributes:
        name: of the topic.
        partitions: how many it has.
        created: whether it was made now.
        differs: what an existing one has otherwise, one text per difference.
    """

    name: str
    partitions: int
    created: bool
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLag:
    """How far one partition is read.

    Attributes:
        topic: of the partition.
        part: its number.
        stored: offset after the last one in the database; None without a database.
        committed: offset the group has committed; None if it has not.
        end: offset after the last record that readers of committed records can see.
        records: offsets between the position (stored, else committed) and the end; records, and the
            marks of transactions among them. None where there is no position.
        seconds: age of the first record that is not read; None where there is none.
    """

    topic: str
    part: int
    stored: int | None
    committed: int | None
    end: int
    records: int | None
    seconds: float | None


def topic_shapes(
    config: KafkaConfig, *, partitions: int, extra: Mapping[str, str]
) -> list[TopicShape]:
    """Return how the topics of the settings are made.

    Records of the interactions and items carry the time of the broker, not of the producer: it
    decides which events are dated ahead. Items and dead letters need no parallel readers.
    """
    of_broker = {"message.timestamp.type": "LogAppendTime"}
    shapes = [
        TopicShape(
            name=config.interactions_topic, partitions=partitions, config=of_broker | dict(extra)
        )
    ]
    if config.items_topic:
        shapes.append(
            TopicShape(name=config.items_topic, partitions=1, config=of_broker | dict(extra))
        )
    shapes.append(TopicShape(name=config.slates_topic, partitions=partitions, config=extra))
    if config.dead_topic:
        shapes.append(TopicShape(name=config.dead_topic, partitions=1, config=extra))
    return shapes


def create_topics(
    config: KafkaConfig, shapes: Sequence[TopicShape], *, replication: int
) -> list[TopicOutcome]:
    """Make the topics that are missing and compare the others; nothing that exists is changed.

    Raises:
        BrokerError: as `preflight`, or the broker refuses a topic; earlier ones are made.
    """
    with connected(config) as admin:
        return [_create(admin, config, shape, replication) for shape in shapes]


def partition_counts(config: KafkaConfig, topics: Iterable[str]) -> dict[str, int]:
    """Return topic -> number of partitions.

    Raises:
        BrokerError: as `preflight`.
        TopicError: one does not exist, or this client may not see it.
    """
    names = list(topics)
    with connected(config) as admin:
        found = admin.describe_topics(names)
    for topic in found:
        if topic["error_code"]:
            raise TopicError(
                f"topic {topic['name']}: not found on {config.bootstrap_servers}, or no ACL lets this"
                " client see it; `freshet topics create` makes it"
            )
    return {topic["name"]: len(topic["partitions"]) for topic in found}


def raise_positions(
    config: KafkaConfig, group: str, offsets: Mapping[tuple[str, int], int]
) -> None:
    """Move a group without members up to positions, never back; one with members is left alone.

    Raises:
        BrokerError: as `preflight`, or a request failed.
    """
    with connected(config) as admin, explained(config):
        committed = _committed(admin, group)
        behind = {
            TopicPartition(*key): OffsetAndMetadata(off, "", -1)
            for key, off in offsets.items()
            if committed.get(key, -1) < off
        }
        if behind:
            # A member that was killed is waited for as long as its session: it starts from its own
            # positions then, and what was answered before is passed over.
            with suppress(UnknownMemberIdError, IllegalGenerationError, GroupIdNotFoundError):
                coordinated(lambda: admin.alter_group_offsets(group, behind))


def lag(
    config: KafkaConfig,
    *,
    stored: Mapping[tuple[str, int], int] | None,
    now_ms: int,
) -> list[PartitionLag]:
    """Return how far every partition of the interactions and items is read.

    Args:
        config: broker, topics and group.
        stored: positions of a database, (topic, partition) -> next offset; None without one.
        now_ms: the time ages are taken at.

    Raises:
        BrokerError: as `preflight`, or a request failed.
    """
    counts = partition_counts(config, config.topics)
    keys = [Partition(topic, part) for topic in config.topics for part in range(counts[topic])]
    with explained(config):
        with connected(config) as admin:
            committed = _committed(admin, config.group)
        return _lags(config, keys, stored, committed, now_ms)


def _create(admin: Any, config: KafkaConfig, shape: TopicShape, replication: int) -> TopicOutcome:  # noqa: ANN401 - kafka-python has no types
    wanted = {
        "num_partitions": shape.partitions,
        "replication_factor": replication,
        "configs": dict(shape.config),
    }
    try:
        admin.create_topics({shape.name: wanted})
        admin.wait_for_topics([shape.name])  # made, and known to those who are asked about it
    except TopicAlreadyExistsError:
        return _compared(admin, shape)
    except TopicAuthorizationFailedError as err:
        raise DeniedError(
            f"topic {shape.name}: may not be made on {config.bootstrap_servers}: add an ACL that"
            " allows CREATE"
        ) from err
    except KafkaError as err:
        raise TopicError(f"topic {shape.name}: not made ({reason(err)})") from err
    return TopicOutcome(name=shape.name, partitions=shape.partitions, created=True)


def reason(err: KafkaError) -> str:
    """Return why a request failed in a few words; the client's own text repeats the whole request."""
    name = type(err).__name__
    _, found, text = str(err).partition("error_message='")
    return f"{name}: {text.partition(chr(39))[0]}" if found else name


def _compared(admin: Any, shape: TopicShape) -> TopicOutcome:  # noqa: ANN401
    (topic,) = admin.describe_topics([shape.name])
    partitions = len(topic["partitions"])
    differs = []
    if partitions != shape.partitions:
        differs.append(f"{partitions} partitions, not {shape.partitions}")
    if shape.config:
        resource = ConfigResource(ConfigResourceType.TOPIC, shape.name, list(shape.config))
        described = admin.describe_configs([resource], config_filter="all")
        known = described["topic"][shape.name]
        differs += [
            f"{key} = {known[key]['value']}, not {value}"
            for key, value in shape.config.items()
            if key in known and known[key]["value"] != value
        ]
    return TopicOutcome(
        name=shape.name, partitions=partitions, created=False, differs=tuple(differs)
    )


def _committed(admin: Any, group: str) -> dict[tuple[str, int], int]:  # noqa: ANN401
    try:
        found = coordinated(lambda: admin.list_group_offsets({group: None}))
    except GroupAuthorizationFailedError:
        return {}
    return {(tp.topic, tp.partition): entry.offset for tp, entry in found.get(group, {}).items()}


def _lags(
    config: KafkaConfig,
    keys: Sequence[Partition],
    stored: Mapping[tuple[str, int], int] | None,
    committed: Mapping[tuple[str, int], int],
    now_ms: int,
) -> list[PartitionLag]:
    consumer = KafkaConsumer(
        **client_arguments(config),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",  # a position before the log's beginning is still shown
        isolation_level="read_committed",
        allow_auto_create_topics=False,
        max_poll_records=1,
    )
    try:
        return [_lag(consumer, key, stored, committed.get(key), now_ms) for key in keys]
    finally:
        consumer.close()


def _lag(
    consumer: Any,  # noqa: ANN401
    key: Partition,
    stored: Mapping[tuple[str, int], int] | None,
    committed: int | None,
    now_ms: int,
) -> PartitionLag:
    partition = TopicPartition(*key)
    consumer.assign([partition])
    end = consumer.end_offsets([partition])[partition]
    in_database = None if stored is None else stored.get(key, 0)
    position = committed if in_database is None else in_database
    seconds = None
    if position is not None and position < end:
        consumer.seek(partition, position)
        first = [record for found in consumer.poll(_FIRST_RECORD_MS).values() for record in found]
        seconds = (now_ms - first[0].timestamp) / 1000 if first else None
    return PartitionLag(
        topic=key.topic,
        part=key.part,
        stored=in_database,
        committed=committed,
        end=end,
        records=None if position is None else max(0, end - position),
        seconds=seconds,
    )
