"""A second opinion on what a broker's log holds: librdkafka, which no other part of freshet uses."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, cast
from uuid import uuid4

from infra.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from confluent_kafka import Consumer, Message


_QUIET_S = 60.0
_TAKE = 5_000


@dataclass(frozen=True, slots=True)
class Record:
    """One committed record of a topic.

    Attributes:
        part: partition.
        off: offset.
        key: as sent.
        value: as sent.
        at_ms: when the log took it, or what the producer said of that; ms since the epoch.
    """

    part: int
    off: int
    key: bytes | None
    value: bytes | None
    at_ms: int


def librdkafka() -> ModuleType:
    """Return the module `confluent_kafka`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module("confluent_kafka")
    except ImportError as err:
        raise MissingExtraError(
            "a second opinion on the broker needs confluent-kafka: pip install 'freshet[dev]'"
        ) from err


def read_back(bootstrap: str, topic: str) -> Iterator[Record]:
    """Yield every committed record of a topic, from its first to the end it has now, by partition as they come.

    Raises:
        MissingExtraError: confluent-kafka is not installed.
        TimeoutError: nothing came for a minute.
    """
    kafka = librdkafka()
    with _consumer(kafka, bootstrap) as consumer:
        found = consumer.list_topics(topic, timeout=_QUIET_S).topics[topic]
        waiting = set(found.partitions)
        consumer.assign([kafka.TopicPartition(topic, part, 0) for part in waiting])
        quiet_at = monotonic() + _QUIET_S
        while waiting:
            messages = consumer.consume(_TAKE, timeout=1.0)
            if messages:
                quiet_at = monotonic() + _QUIET_S
            elif monotonic() > quiet_at:
                raise TimeoutError(f"{topic}: nothing more came for {_QUIET_S:.0f} s")
            for message in messages:
                error = message.error()
                if error is None:
                    yield _record(message)
                elif error.code() == kafka.KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                    waiting.discard(message.partition())


@contextmanager
def _consumer(kafka: ModuleType, bootstrap: str) -> Iterator[Consumer]:
    consumer = kafka.Consumer({
        "bootstrap.servers": bootstrap,
        "group.id": f"readback-{uuid4().hex}",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
    })
    try:
        yield consumer
    finally:
        consumer.close()


def _record(message: Message) -> Record:
    _, at_ms = message.timestamp()
    return Record(
        part=cast("int", message.partition()),
        off=cast("int", message.offset()),
        key=message.key(),
        value=message.value(),
        at_ms=at_ms,
    )
