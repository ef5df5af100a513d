"""Following a topic from its first record, in no group and without a trace: for whoever wants to see what arrives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from kafka import KafkaConsumer, TopicPartition

from stream.kafka.connection import client_arguments

if TYPE_CHECKING:
    from kafka.consumer.fetcher import ConsumerRecord

    from stream.kafka.config import KafkaConfig

_POLL_MS = 100
_TAKE = 5_000


@dataclass(frozen=True, slots=True)
class Seen:
    """One record.

    Attributes:
        part: partition.
        off: offset.
        at_ms: its time in the log, ms since the epoch.
        value: its bytes.
    """

    part: int
    off: int
    at_ms: int
    value: bytes | None


class Tail:
    """All partitions of one topic, read from the beginning; only committed records are seen.

    Args:
        config: how to connect.
        topic: which one; it must exist.
    """

    def __init__(self, config: KafkaConfig, topic: str) -> None:
        self._consumer = KafkaConsumer(
            **client_arguments(config),
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            group_id=None,
        )
        self._places = [
            TopicPartition(topic, part)
            for part in sorted(self._consumer.partitions_for_topic(topic) or ())
        ]
        self._consumer.assign(self._places)
        self._consumer.seek_to_beginning(*self._places)

    def poll(self) -> list[Seen]:
        """Return records that have come since the last call; waits for a moment where there are none."""
        found: dict[TopicPartition, list[ConsumerRecord]] = self._consumer.poll(
            timeout_ms=_POLL_MS, max_records=_TAKE
        )
        return [
            Seen(place.partition, record.offset, record.timestamp, record.value)
            for place, records in found.items()
            for record in records
        ]

    def rest(self) -> list[Seen]:
        """Return everything up to where the topic ends now."""
        ends = self.ends()
        seen: list[Seen] = []
        while any(
            self._consumer.position(place) < ends[place.topic, place.partition]
            for place in self._places
        ):
            seen += self.poll()
        return seen

    def ends(self) -> dict[tuple[str, int], int]:
        """Return per topic and partition the offset after the last record."""
        found = self._consumer.end_offsets(self._places)
        return {(place.topic, place.partition): end for place, end in found.items()}

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close(autocommit=False)

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        self.close()
