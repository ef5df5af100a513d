"""Faust's transport with a pace: a fetch waits for what else arrives within some milliseconds.

aiokafka answers every single record with a fetch of its own, and each costs as much as one of many
records: at 500 events a second that was a third of the service's time, which storing and scoring then
waited for. Faust has no setting for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

_FETCH_WAIT_MS = 20
_FETCH_BYTES = 1 << 20
"""A fetch that finds so much does not wait."""


class _PacedThread(AIOKafkaConsumerThread):
    # Private hooks of Faust and aiokafka: both versions are pinned exactly.
    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:  # noqa: ANN401
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_min_bytes = _FETCH_BYTES  # noqa: SLF001
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS  # noqa: SLF001
        return consumer


class _PacedConsumer(Consumer):
    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        return _PacedThread(self, loop=self.loop, beacon=self.beacon)


class PacedTransport(Transport):
    """Kafka over aiokafka, at most one fetch per broker every `_FETCH_WAIT_MS` while little arrives."""

    Consumer = _PacedConsumer
