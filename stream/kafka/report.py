"""Where reading stands, told to the broker: a signal for lag displays, never the truth.

It has a client of its own: a group that can not be used must not keep records from being read.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

from kafka import OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kafka import KafkaConsumer

    from stream.events import Partition

_log = logging.getLogger(__name__)
_EVERY_S = 1.0


class OffsetReport:
    """Commits offsets to a group, at most once a second and without waiting.

    Args:
        consumer: has a group and no assignment; closed with the report.
    """

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer
        self._pending: dict[TopicPartition, OffsetAndMetadata] = {}
        self._sent_at = monotonic() - _EVERY_S
        self._failing = False

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """Tell these offsets soon; failures are logged."""
        for partition, offset in next_offsets.items():
            self._pending[TopicPartition(*partition)] = OffsetAndMetadata(offset, "", -1)
        if not self._pending or monotonic() - self._sent_at < _EVERY_S:
            return
        self._sent_at = monotonic()
        sent, self._pending = self._pending, {}
        try:
            self._consumer.commit_async(sent, callback=self._answered)
        except KafkaError as err:
            self._answered(sent, err)

    def close(self, timeout_s: float) -> None:
        """Tell what is left within the time, and disconnect; safe to call twice."""
        sent, self._pending = self._pending, {}
        if sent:
            try:
                self._consumer.commit(sent, timeout_ms=int(timeout_s * 1000))
            except KafkaError as err:
                self._answered(sent, err)
        self._consumer.close(autocommit=False, timeout_ms=int(timeout_s * 1000))

    def _answered(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata], response: object
    ) -> None:
        """Log the first failure of a series, and its end; what failed is told again later."""
        failed = isinstance(response, Exception)
        if failed:
            self._pending = {**offsets, **self._pending}
        if failed and not self._failing:
            _log.warning(
                "offsets not reported to the group, lag displays stand still: %s", response
            )
        elif self._failing and not failed:
            _log.info("offsets are reported again")
        self._failing = failed
