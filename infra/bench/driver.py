"""An open-loop load on a broker: events at their times whatever the answers take, and when each answer could be read."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from infra.bench.bus import BusError, producing
from infra.torture.live.readback import librdkafka
from stream.clock import WallClock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from infra.bench.bus import Event
    from stream.kafka.config import KafkaConfig

_PATIENCE_S = 60.0
_READ_S = 0.1
_MS = 1000.0


class Place(NamedTuple):
    """Partition and offset of an event."""

    partition: int
    offset: int


class _Cause(msgspec.Struct):
    partition: int
    offset: int


class _Answer(msgspec.Struct):
    cause: _Cause


@dataclass(frozen=True, slots=True)
class Answered:
    """One event that was answered, seconds of the performance counter.

    Attributes:
        due: when it was to be sent.
        logged: when the log took it, by the broker's clock in whole milliseconds.
        read: when a consumer had its answer.
    """

    due: float
    logged: float
    read: float


@dataclass(slots=True)
class _Sent:
    due: float
    logged: float = 0.0


class Reader:
    """Follows the topic of answers from its present end, on a thread of its own."""

    def __init__(self, config: KafkaConfig) -> None:
        kafka = librdkafka()
        self._consumer = kafka.Consumer({
            "bootstrap.servers": config.bootstrap_servers,
            "group.id": f"{config.group}-reader",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "log_level": 0,
        })
        topic = config.slates_topic
        parts = self._consumer.list_topics(topic, timeout=_PATIENCE_S).topics[topic].partitions
        places = [kafka.TopicPartition(topic, part) for part in parts]
        for place in places:
            place.offset = self._consumer.get_watermark_offsets(place, timeout=_PATIENCE_S)[1]
        self._consumer.assign(places)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._found: list[tuple[float, bytes]] = []
        self._thread.start()

    @property
    def count(self) -> int:
        """Answers read so far."""
        return len(self._found)

    def close(self) -> None:
        """Stop."""
        self._stopping.set()
        self._thread.join(_PATIENCE_S)
        self._consumer.close()

    def first(self) -> dict[Place, float]:
        """Return when the first answer to each event was read."""
        first: dict[Place, float] = {}
        decode = msgspec.json.Decoder(_Answer).decode
        for at, value in list(self._found):
            cause = decode(value).cause
            first.setdefault(Place(cause.partition, cause.offset), at)
        return first

    def _run(self) -> None:
        while not self._stopping.is_set():
            message = self._consumer.poll(_READ_S)
            if message is not None and message.error() is None:
                self._found.append((perf_counter(), message.value()))


@dataclass(slots=True)
class Load:
    """Events sent at a rate, and what became of them."""

    config: KafkaConfig
    rate: float
    sent: dict[Place, _Sent] = field(default_factory=dict)
    failed: int = 0
    _wall_s: float = field(default_factory=lambda: WallClock().now().timestamp() - perf_counter())

    def run(self, events: Iterable[Event]) -> None:
        """Send all events, each at its time, and wait until the log has them.

        Raises:
            BusError: the broker did not take all of them.
        """
        producer = librdkafka().Producer(
            producing(self.config.bootstrap_servers) | {"linger.ms": 0}
        )
        begun = perf_counter() + 0.01
        for number, event in enumerate(events):
            due = begun + number / self.rate
            while (left := due - perf_counter()) > 0:
                producer.poll(0)
                sleep(min(left, 0.0005))
            producer.produce(
                self.config.interactions_topic,
                event.value,
                key=event.key,
                on_delivery=self._told(_Sent(due)),
            )
            producer.poll(0)
        if producer.flush(_PATIENCE_S) or self.failed:
            raise BusError(f"{self.config.bootstrap_servers}: not all events were taken; run again")

    def _told(self, sent: _Sent) -> Any:  # noqa: ANN401 - librdkafka's callback
        def told(error: object, message: Any) -> None:  # noqa: ANN401
            if error is not None:
                self.failed += 1
                return
            sent.logged = message.timestamp()[1] / _MS - self._wall_s
            self.sent[Place(message.partition(), message.offset())] = sent

        return told

    def answered(self, read: dict[Place, float]) -> list[Answered]:
        """Return the events that were answered, in the order in which they were due."""
        found = [
            Answered(sent.due, sent.logged, read[place])
            for place, sent in self.sent.items()
            if place in read
        ]
        return sorted(found, key=lambda one: one.due)
