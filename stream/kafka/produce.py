"""A log file as messages: at a rate or as it was recorded, with exact counts of what was acknowledged."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from kafka import KafkaProducer

from stream.clock import to_ms
from stream.errors import ConfigError
from stream.kafka.preflight import Access, explained, preflight
from stream.kafka.producer import producer_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kafka.producer.future import RecordMetadata

    from stream.clock import Clock
    from stream.events import EventBatch
    from stream.kafka.config import KafkaConfig
    from stream.sources import Source

Kind = Literal["interaction", "item", "bad"]

HEADERS = [("content-type", b"application/json")]
_POLL_RECORDS = 4096
_LINGER_MS = 5
_MAX_WAITING = 20_000  # messages on their way: no faster than they are acknowledged
_LONGEST_WAIT_S = 0.5  # between looks at whether to stop
_ABSENT = {"value": 1.0, "seq": 0}  # what a reader takes where nothing is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast messages are sent, and with which event times.

    Attributes:
        rate: messages per second; None where `as_recorded`, or for as fast as possible.
        as_recorded: with the gaps between event times.
        speed: of `as_recorded`; 60 sends an hour of the log in a minute.
        shift_to_now: the event time is the time of sending, not that of the file.
        malformed: share of messages that are spoiled on purpose, 0 to 1.
        seed: the same seed spoils the same messages in the same way.
    """

    rate: float | None = None
    as_recorded: bool = False
    speed: float = 1.0
    shift_to_now: bool = False
    malformed: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse paces that contradict themselves."""
        if self.rate is not None and (self.as_recorded or self.rate <= 0):
            raise ConfigError("a rate must be > 0, and excludes --as-recorded; give one of them")
        if self.speed <= 0:
            raise ConfigError(f"speed must be > 0, not {self.speed}")
        if not 0 <= self.malformed <= 1:
            raise ConfigError(f"malformed must be between 0 and 1, not {self.malformed}")

    def due_s(self, number: int, ts: int | None, first_ts: int | None) -> float:
        """Return when a record is due, seconds after the first."""
        if self.rate is not None:
            return number / self.rate
        if self.as_recorded and ts is not None and first_ts is not None:
            return (ts - first_ts) / 1000 / self.speed
        return 0.0


@dataclass(slots=True)
class Produced:
    """What was sent.

    Attributes:
        sent: messages handed to the client; acknowledged + failed at the end.
        acknowledged: messages the broker has.
        failed: messages that were given up; some of them may be there nevertheless.
        interactions: sent ones that are good interactions.
        items: sent ones that are items.
        malformed: sent ones that were spoiled on purpose.
        bad_in_file: sent ones that were bad records of the file already.
        seconds: time it took.
        error: what the last failed one failed with.
    """

    sent: int = 0
    acknowledged: int = 0
    failed: int = 0
    interactions: int = 0
    items: int = 0
    malformed: int = 0
    bad_in_file: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Record:
    """One message before it is sent: fields of a good record, or key and bytes of a bad one."""

    kind: Kind
    ts: int | None
    fields: dict[str, Any] = field(default_factory=dict)
    raw: bytes = b""
    key: bytes | None = None
    of_items: bool = False


class Sender:
    """Sends the records of sources to the topics of the settings.

    Args:
        config: broker and topics.
        clock: tells the time events are shifted to.
        stop: set it to end after the message at hand; what was sent is still waited for.
        on_acknowledged: called with (topic, partition, offset) of every acknowledged message, in
            another thread.

    Raises:
        BrokerError: as `preflight`.
    """

    def __init__(
        self,
        config: KafkaConfig,
        *,
        clock: Clock,
        stop: threading.Event | None = None,
        on_acknowledged: Callable[[str, int, int], None] | None = None,
    ) -> None:
        preflight(config, Access(writes=config.topics))
        self._config = config
        self._clock = clock
        self._stop = stop or threading.Event()
        self._heard = on_acknowledged
        self._done = threading.Condition()
        self.produced = Produced()
        with explained(config):
            self._producer = KafkaProducer(**producer_arguments(config), linger_ms=_LINGER_MS)

    def send(
        self,
        source: Source,
        pace: Pace,
        *,
        items_topic: str = "",
        max_records: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Send what a source holds at a pace; returns when the last message is handed over.

        Bad records that the source has on `items_topic` go to the topic of items too.

        Raises:
            SourceError: the source can not be read any further.
            ConfigError: it holds items, and no topic of items is set.
            BrokerError: the client can not take messages any more.
        """
        begun, first_ts = perf_counter(), None
        random = np.random.default_rng(pace.seed)
        for number, record in enumerate(islice(_records(source, items_topic), max_records)):
            if first_ts is None:
                first_ts = record.ts
            if not self._wait_until(begun + pace.due_s(number, record.ts, first_ts)):
                break
            self._send(record, pace, random)
            if progress is not None:
                progress(self.produced.sent)
        self.produced.seconds += perf_counter() - begun

    def close(self) -> Produced:
        """Wait until every message is acknowledged or given up; return the counts."""
        begun = perf_counter()
        self._producer.flush()
        self._producer.close()
        self.produced.seconds += perf_counter() - begun
        return self.produced

    def _wait_until(self, due: float) -> bool:
        """Return True when it is time and there is room, False when told to stop."""
        while (left := due - perf_counter()) > 0:
            if self._stop.wait(min(left, _LONGEST_WAIT_S)):
                return False
        counts = self.produced
        with self._done:
            while counts.sent - counts.acknowledged - counts.failed >= _MAX_WAITING:
                self._done.wait(_LONGEST_WAIT_S)
        return not self._stop.is_set()

    def _send(self, record: _Record, pace: Pace, random: np.random.Generator) -> None:
        config, counts = self._config, self.produced
        key, value = self._message(record, pace, random)
        topic = config.items_topic if record.of_items else config.interactions_topic
        if not topic:
            raise ConfigError(
                "kafka.items_topic: empty, and there is an item to send; name a topic"
            )
        counts.sent += 1
        with explained(config):
            future = self._producer.send(topic, key=key, value=value, headers=HEADERS)
        future.add_callback(self._acknowledged)
        future.add_errback(self._given_up)

    def _message(
        self, record: _Record, pace: Pace, random: np.random.Generator
    ) -> tuple[bytes | None, bytes]:
        counts = self.produced
        if record.kind == "bad":
            counts.bad_in_file += 1
            return record.key, record.raw
        fields = record.fields
        if pace.shift_to_now and record.ts is not None:
            fields["ts"] = to_ms(self._clock.now())
        key = str(fields["item_id" if record.kind == "item" else "user_id"]).encode()
        if pace.malformed and random.random() < pace.malformed:
            counts.malformed += 1
            return key, _spoiled(fields, int(random.integers(len(_FAULTS))))
        if record.kind == "item":
            counts.items += 1
        else:
            counts.interactions += 1
        return key, msgspec.json.encode(fields)

    def _acknowledged(self, found: RecordMetadata) -> None:
        if self._heard is not None:
            self._heard(found.topic, found.partition, found.offset)
        with self._done:
            self.produced.acknowledged += 1
            self._done.notify_all()

    def _given_up(self, error: Exception) -> None:
        with self._done:
            self.produced.failed += 1
            self.produced.error = f"{type(error).__name__}: {error}"
            self._done.notify_all()


_FAULTS: tuple[Callable[[dict[str, Any]], dict[str, Any] | None], ...] = (
    lambda _: None,  # half a record
    lambda fields: fields | {"item_id": 7},  # another type
    lambda fields: {name: value for name, value in fields.items() if name != "item_id"},
    lambda fields: fields | {"item_id": ""},
    lambda fields: fields | {"ts": -1},
)


def _spoiled(fields: dict[str, Any], fault: int) -> bytes:
    """Return the bytes of a record that no reader accepts."""
    wrong = _FAULTS[fault](fields)
    if wrong is None:
        text = msgspec.json.encode(fields)
        return text[: len(text) // 2]
    return msgspec.json.encode(wrong)


def _records(source: Source, items_topic: str) -> Iterator[_Record]:
    """Yield the records of a source in its order."""
    while True:
        batch = source.poll(_POLL_RECORDS, timeout_s=1.0)
        yield from _in_order(batch, items_topic)
        if batch.exhausted:
            return


def _in_order(batch: EventBatch, items_topic: str) -> list[_Record]:
    found = [
        (row["off"], _Record("interaction", row["ts"], _interaction(row)))
        for row in batch.interactions.to_pylist()
    ]
    for row in batch.items.to_pylist():
        fields = {"kind": "item", "item_id": row["item_id"], "available": row["available"]}
        fields |= {name: row[name] for name in ("text", "ts") if row[name] is not None}
        found.append((row["off"], _Record("item", row["ts"], fields, of_items=True)))
    for letter in batch.dead:
        raw, of_items = letter.raw or b"", letter.topic == items_topic
        found.append((letter.off, _Record("bad", None, raw=raw, key=letter.key, of_items=of_items)))
    found.sort(key=lambda pair: pair[0])
    return [record for _, record in found]


def _interaction(row: dict[str, Any]) -> dict[str, Any]:
    fields = {
        name: value
        for name, value in row.items()
        if value is not None and name not in {"topic", "part", "off", "append_ts"}
        if _ABSENT.get(name) != value
    }
    if "props" in fields:
        fields["props"] = msgspec.Raw(fields["props"].encode())
    return fields
