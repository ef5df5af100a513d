"""Logs on a real broker, and a running log that ends for tests."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

from kafka import KafkaProducer

from stream.config import FormatsConfig
from stream.events import Partition, empty_batch
from stream.formats.decoder import TopicDecoder
from stream.kafka.config import KafkaConfig
from stream.kafka.source import KafkaSource
from stream.kafka.starting import consumer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from stream.events import EventBatch

PATIENCE_S = 60.0
_WAIT_S = 0.25


def settings(broker: Any, topic: str, *, items: str = "", **changes: Any) -> KafkaConfig:
    return KafkaConfig(
        bootstrap_servers=broker.bootstrap, interactions_topic=topic, items_topic=items, **changes
    )


def decoder(config: KafkaConfig) -> TopicDecoder:
    return TopicDecoder(FormatsConfig(), config.items_topic)


@contextmanager
def producing(broker: Any, **options: Any) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(
        bootstrap_servers=broker.bootstrap, reconnect_backoff_max_ms=1000, **options
    )
    if options.get("transactional_id"):
        producer.init_transactions()
    try:
        yield producer
    finally:
        producer.close(timeout=10)


def send(producer: KafkaProducer, topic: str, part: int, values: Sequence[bytes | None]) -> int:
    """Send records and return the offset after the last one."""
    sent = [producer.send(topic, value, b"key", partition=part) for value in values]
    producer.flush()
    return max(future.get(10).offset for future in sent) + 1


def event(user: str, number: int, *, tag: str = "e") -> bytes:
    return json.dumps({
        "user_id": user,
        "item_id": f"i{number % 7}",
        "event_type": "view",
        "ts": 1_700_000_000_000 + 1_000 * number,
        "event_id": f"{tag}{number}",
    }).encode()


@contextmanager
def reading(
    config: KafkaConfig, start: Mapping[Partition, int], **options: Any
) -> Iterator[KafkaSource]:
    """A source without a database."""
    source = KafkaSource(consumer_of(config), start, decoder(config), **options)
    try:
        yield source
    finally:
        source.close()


class Ended:
    """A running log that is over where the test stopped writing: it waits for records and says when it has all."""

    def __init__(self, source: KafkaSource, ends: Mapping[Partition, int]) -> None:
        self._source = source
        self._ends = ends
        self._at = dict.fromkeys(ends, 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def poll(self, max_records: int, timeout_s: float = 0.0) -> EventBatch:
        deadline = monotonic() + PATIENCE_S
        while not self._over():
            assert monotonic() < deadline, f"no records after {self._at} of {self._ends}"
            batch = self._source.poll(max_records, max(timeout_s, _WAIT_S))
            if batch.ranges:
                self._at |= batch.next_offsets
                return replace(batch, exhausted=self._over())
        return empty_batch(exhausted=True)

    def seek(self, next_offsets: Mapping[Partition, int]) -> None:
        self._source.seek(next_offsets)
        self._at |= next_offsets

    def _over(self) -> bool:
        return all(self._at[partition] >= end for partition, end in self._ends.items())


@contextmanager
def opening(config: KafkaConfig, ends: Mapping[Partition, int]) -> Iterator[Callable[[], Ended]]:
    """Open fresh sources at the start of a log; all are closed at the end."""
    with ExitStack() as stack:
        yield lambda: Ended(stack.enter_context(reading(config, dict.fromkeys(ends, 0))), ends)
