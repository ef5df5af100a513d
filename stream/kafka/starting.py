"""Where reading begins: the shard's partitions, checked against what its database was built from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from storage import positions
from storage.database import get_meta, set_meta
from storage.faults import reach
from stream.clock import to_ms
from stream.errors import (
    BrokerError,
    ConfigError,
    GapError,
    LostRecordsError,
    RepartitionedError,
    UnreachableError,
)
from stream.events import Partition
from stream.kafka.connection import client_arguments
from stream.kafka.preflight import Access, connected, preflight
from stream.kafka.report import OffsetReport
from stream.kafka.source import KafkaSource, bounds, check_offset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.database import Database
    from stream.kafka.config import KafkaConfig
    from stream.sources.records import Decode

Start: TypeAlias = Literal["earliest", "latest"] | datetime
"""Where a partition not read before begins; a time means its first record appended then or later."""

# Meta keys of what a database is bound to.
_SHARD, _PARTITIONS, _ID = "kafka_shard", "kafka_partitions/", "kafka_topic_id/"
_NAMED: dict[str, Literal["earliest", "latest"]] = {"earliest": "earliest", "latest": "latest"}
# Committed records, checked, from no other offset than the one asked for. What is fetched ahead stays below 16 MB.
_READING: dict[str, object] = {
    "isolation_level": "read_committed",
    "auto_offset_reset": "none",
    "enable_auto_commit": False,
    "allow_auto_create_topics": False,
    "check_crcs": True,
    "fetch_max_bytes": 16 << 20,
    "max_partition_fetch_bytes": 2 << 20,
    "fetch_min_bytes": 1,
    "fetch_max_wait_ms": 250,
}


def parse_start(text: str) -> Start:
    """Return `earliest`, `latest`, or the time that a date or ISO 8601 time names; without a zone it is UTC.

    Raises:
        ConfigError: the text is none of these.
    """
    if text in _NAMED:
        return _NAMED[text]
    try:
        at = datetime.fromisoformat(text)
    except ValueError as err:
        raise ConfigError(
            f"--from {text}: no place to begin; use earliest, latest or a time such as 2026-05-01T12:00:00Z"
        ) from err
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def open_source(
    db: Database,
    config: KafkaConfig,
    decode: Decode,
    *,
    start: Start,
    now: datetime,
    accept_data_loss: bool = False,
) -> KafkaSource:
    """Connect, settle where every partition of the shard begins, and return the source.

    To be called before the database's pipeline is built, which then knows these positions.

    Args:
        db: the shard's database.
        config: broker, topics and shard.
        decode: turns records into columns.
        start: where interactions not read before begin; items always begin at the first record.
        now: time written beside new positions.
        accept_data_loss: go on behind records the log no longer has, and note the loss.

    Raises:
        BrokerError: as `preflight`; a topic is missing, for one.
        RepartitionedError: partitions or shards differ from those the database was built from.
        LostRecordsError: the log dropped records before they were read.
        GapError: the log is another one than the stored positions are of.
        ConfigError: the shard would own no partition.
    """
    shape = _shape(config)
    _check_shape(db, shape)
    consumer = consumer_of(config)
    try:
        begun = _positions(db, consumer, _owned(config, shape), start, accept=accept_data_loss)
        with db.transaction() as tx:
            for key, value in shape.items():
                set_meta(tx, key, value)
            positions.begin(tx, {(p.topic, p.part): offset for p, offset in begun.items()}, now)
            reach("positions.begun")
        return KafkaSource(
            consumer,
            begun,
            decode,
            report=OffsetReport(consumer_of(config, config.group)),
            stall_s=config.stall_s,
            outage_s=config.outage_limit_s,
        )
    except BaseException:
        consumer.close(autocommit=False, timeout_ms=1000)
        raise


def consumer_of(config: KafkaConfig, group: str | None = None) -> KafkaConsumer:
    """Return a consumer of committed records, without an assignment.

    Raises:
        UnreachableError: no broker answers.
        ConfigError: a file of a secret or a certificate can not be read.
    """
    try:
        return KafkaConsumer(group_id=group, **client_arguments(config), **_READING)
    except KafkaError as err:
        raise UnreachableError(
            f"{config.bootstrap_servers}: no broker answers ({err}); start it and try again"
        ) from err


def _shape(config: KafkaConfig) -> dict[str, str]:
    """What of the topics and the shard a database is bound to, by its key there."""
    preflight(config, Access(reads=config.topics))
    with connected(config) as admin:
        described = admin.describe_topics(list(config.topics))
    shape = {_SHARD: f"{config.shard} of {config.shards}"}
    for topic in described:
        shape[_PARTITIONS + topic["name"]] = str(len(topic["partitions"]))
        shape[_ID + topic["name"]] = str(topic["topic_id"])
    return shape


def _check_shape(db: Database, shape: Mapping[str, str]) -> None:
    for key, value in shape.items():
        known = get_meta(db, key)
        if known in (None, value):
            continue
        if key.startswith(_ID):
            raise GapError(
                f"{db.path}: the topic {key.removeprefix(_ID)} was made anew since its records were"
                " stored, so positions mean other records; read it into a new database"
            )
        what, remedy = "this is shard", "read the topic from the start (--from earliest)"
        if key != _SHARD:
            what = f"{key.removeprefix(_PARTITIONS)} has"
            remedy = (
                "copy the log into a new topic (freshet export-log, freshet produce) and read it"
            )
        raise RepartitionedError(
            f"{db.path}: {what} {value}, the database was built with {known}, so users are in other"
            f" partitions now; stop every shard and {remedy} into new databases"
        )


def _owned(config: KafkaConfig, shape: Mapping[str, str]) -> dict[Partition, bool]:
    """This shard's partitions of the interactions, and all of the items; whether a start policy concerns them."""
    topic, items = config.interactions_topic, config.items_topic
    counts = {name: int(shape[_PARTITIONS + name]) for name in config.topics}
    owned = {Partition(topic, part): True for part in range(counts[topic]) if config.owns(part)}
    if not owned:
        raise ConfigError(
            f"kafka.shards: shard {config.shard} of {config.shards} owns none of the {counts[topic]}"
            f" partitions of {topic}; run fewer shards"
        )
    return owned | {Partition(items, part): False for part in range(counts.get(items, 0))}


def _positions(
    db: Database,
    consumer: KafkaConsumer,
    owned: Mapping[Partition, bool],
    start: Start,
    *,
    accept: bool,
) -> dict[Partition, int]:
    """Where every partition goes on or begins."""
    stored = positions.next_offsets(db)
    begins, ends = bounds(consumer, owned)
    begun = {}
    for partition in owned:
        known = stored.get((partition.topic, partition.part))
        if known is None:
            begun[partition] = begins[partition]
        else:
            begun[partition] = _kept(
                partition, known, begins[partition], ends[partition], accept=accept
            )
    new = [p for p, asked in owned.items() if asked and (p.topic, p.part) not in stored]
    if start == "latest":
        return begun | {p: ends[p] for p in new}
    if start == "earliest" or not new:
        return begun
    try:
        found = consumer.offsets_for_times({TopicPartition(*p): to_ms(start) for p in new})
    except KafkaError as err:
        raise BrokerError(f"the broker does not find offsets by time ({err}); try again") from err
    later = {Partition(*place): at.offset for place, at in found.items() if at is not None}
    return begun | {p: later.get(p, ends[p]) for p in new}


def _kept(partition: Partition, offset: int, begin: int, end: int, *, accept: bool) -> int:
    """The stored position, or where the log begins if the loss up to there is accepted."""
    try:
        check_offset(partition, offset, begin, end)
    except LostRecordsError:
        if not accept:
            raise
        return begin
    return offset
