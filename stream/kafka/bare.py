"""The least that reading a topic can be: poll and count. What storing costs is measured against it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from kafka import TopicPartition

from stream.kafka.starting import consumer_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stream.kafka.config import KafkaConfig


class BareReader:
    """All records of some partitions, with the consumer that a source has; nothing is done with them.

    Args:
        config: how to connect.
        ends: exclusive offset per (topic, partition) up to which is read, from the first record on.
    """

    def __init__(self, config: KafkaConfig, ends: Mapping[tuple[str, int], int]) -> None:
        self._consumer = consumer_of(config)
        self._places = {TopicPartition(*key): end for key, end in ends.items()}
        self._consumer.assign(list(self._places))
        for place in self._places:
            self._consumer.seek(place, 0)

    def count(self, *, max_records: int, timeout_s: float) -> int:
        """Poll to the end and return how many records came.

        Args:
            max_records: of one poll.
            timeout_s: longest wait of one poll for a first record.
        """
        count, wanted = 0, sum(self._places.values())
        while count < wanted:
            found = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
            for records in found.values():
                count += len(records)
        return count

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close(autocommit=False)

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        self.close()
