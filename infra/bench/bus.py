"""A broker that benchmarks share a machine with, topics of one's own in it, and events ready to be sent."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import pyarrow.parquet as pq

from infra.broker.process import Broker
from infra.errors import InfraError
from infra.torture.live.readback import librdkafka
from stream.kafka.admin import create_topics, topic_shapes
from stream.kafka.config import KafkaConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from infra.bench.room import Room
    from stream.kafka.admin import TopicShape

PARTITIONS = 8
_PATIENCE_S = 120.0
_IN_FLIGHT = 50_000

Ends = dict[tuple[str, int], int]
"""Exclusive offset per topic and partition."""


class BusError(InfraError):
    """A benchmark's broker did not take what was sent."""


@dataclass(frozen=True, slots=True)
class Event:
    """A message of the topic of interactions: key and value as bytes."""

    key: bytes
    value: bytes


@contextmanager
def broker_of(room: Room) -> Iterator[str]:
    """Yield the address of the room's broker, or of one that is started for the while.

    Raises:
        BrokerUnavailableError: none can be started here.
    """
    if room.bootstrap:
        yield room.bootstrap
        return
    room.note("starting a broker")
    with Broker(room.folder / "kafka") as broker:
        yield broker.bootstrap


def new_topics(bootstrap: str, partitions: int = PARTITIONS) -> KafkaConfig:
    """Make topics that nobody else uses and return the settings that name them."""
    name = f"bench-{uuid4().hex[:8]}"
    config = KafkaConfig(
        bootstrap_servers=bootstrap,
        interactions_topic=f"{name}.interactions",
        items_topic=f"{name}.items",
        slates_topic=f"{name}.recommendations",
        group=name,
    )
    shapes: list[TopicShape] = topic_shapes(config, partitions=partitions, extra={})
    create_topics(config, shapes, replication=1)
    return config


def events_of(log: Path) -> list[Event]:
    """Return the interactions of a generated Parquet log as messages, in its order."""
    names = ("user_id", "item_id", "event_type", "ts", "event_id")
    columns = (column.to_pylist() for column in pq.read_table(log).select(names).columns)
    return [
        Event(user.encode(), event_json(user, item, kind, ts, event_id))
        for user, item, kind, ts, event_id in zip(*columns, strict=True)
    ]


def event_json(user: str, item: str, kind: str, ts: int, event_id: str) -> bytes:
    """Return one interaction as the JSON a producer would send."""
    return (
        f'{{"event_id":"{event_id}","user_id":"{user}","item_id":"{item}","event_type":"{kind}",'
        f'"ts":{ts},"value":1.0,"session_id":"{user}-{ts // 3_600_000}"}}'
    ).encode()


def fill(config: KafkaConfig, events: Iterable[Event]) -> Ends:
    """Send events as fast as they go; return where the partitions end once all are acknowledged.

    Raises:
        BusError: the broker did not take all of them.
    """
    ends: Ends = {}
    failed: list[str] = []

    def told(error: object, message: object) -> None:
        if error is not None:
            failed.append(str(error))
            return
        key = (message.topic(), message.partition())  # type: ignore[attr-defined]  # confluent's Message
        ends[key] = max(ends.get(key, 0), message.offset() + 1)  # type: ignore[attr-defined]

    producer = librdkafka().Producer(producing(config.bootstrap_servers))
    for number, event in enumerate(events):
        producer.produce(config.interactions_topic, event.value, key=event.key, on_delivery=told)
        if number % _IN_FLIGHT == _IN_FLIGHT - 1:
            producer.flush(_PATIENCE_S)
    if producer.flush(_PATIENCE_S) or failed:
        why = failed[0] if failed else "no answer"
        raise BusError(f"{config.bootstrap_servers}: not all events were taken ({why}); run again")
    return ends


def producing(bootstrap: str) -> dict[str, object]:
    """Return what librdkafka's producers of benchmarks are told; keys go where Java clients would put them."""
    return {
        "bootstrap.servers": bootstrap,
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 1,
        "partitioner": "murmur2_random",
        "queue.buffering.max.messages": 2 * _IN_FLIGHT,
        "log_level": 0,
    }
