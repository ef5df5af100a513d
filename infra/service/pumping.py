"""Faust's deliveries as the pump of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from infra.service.answering import LOOP
from infra.service.loops import in_thread
from stream.kafka.answering import Answerer, Answers
from stream.kafka.pump import Pump as Deliveries
from stream.metrics import SCORE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from infra.service.health import Health
    from storage.records import PartitionKey
    from stream.config import LiveConfig
    from stream.kafka.answering import Turn
    from stream.kafka.config import KafkaConfig
    from stream.metrics import Metrics

_MS = 1000.0


class Answering(Answers, Protocol):
    """What answers, and knows how far it is."""

    def answered(self) -> Mapping[PartitionKey, int]:
        """Return the offset per partition below which everything is answered."""
        ...


def faust_pump(
    kafka: KafkaConfig, live: LiveConfig, metrics: Metrics
) -> Callable[[Answering, Health], FaustPump]:
    """Return what builds the pump of a service over a broker."""

    def build(answering: Answering, health: Health) -> FaustPump:
        answerer = Answerer(
            answering,
            topic=kafka.interactions_topic,
            take_max=live.take_max,
            shed_above=live.shed_above,
        )

        def turn(done: Turn) -> None:
            metrics.observe(SCORE_SECONDS, done.stored_s, stage="queue")

        def deliveries(failed: Callable[[BaseException], None]) -> Deliveries:
            return Deliveries(
                kafka,
                answerer,
                take_max=live.take_max,
                take_within_s=live.take_within_ms / _MS,
                fail=failed,
                on_turn=turn,
            )

        # A broker that is away holds a write as long as a delivery may take.
        bound_s = live.stall_s + kafka.delivery_timeout_ms / _MS
        return FaustPump(deliveries, answering.answered, bound_s=bound_s, health=health)

    return build


class FaustPump:
    """Starts and ends the deliveries with the service.

    Args:
        deliveries: makes them, given what is told of a failure.
        answered: offsets of the database below which nothing need be delivered.
        bound_s: a turn that takes longer is one that hangs.
        health: told of that bound; not ready until partitions are delivered.
    """

    def __init__(
        self,
        deliveries: Callable[[Callable[[BaseException], None]], Deliveries],
        answered: Callable[[], Mapping[PartitionKey, int]],
        *,
        bound_s: float,
        health: Health,
    ) -> None:
        self._make = deliveries
        self._answered = answered
        self._bound_s = bound_s
        self._health = health
        self._deliveries: Deliveries | None = None
        health.check_ready(self._unassigned)

    async def start(self, failed: Callable[[BaseException], None], /) -> None:
        """Join the group and begin to deliver.

        Raises:
            BrokerError: the broker cannot be used.
        """
        self._deliveries = self._make(failed)
        await self._deliveries.start(await in_thread(self._answered))
        self._health.watch(LOOP, self._bound_s)

    def wake(self) -> None:
        """Do nothing: whoever waits for a batch is told by the pipeline."""

    async def stop(self, timeout_s: float, /) -> bool:
        """Answer and acknowledge what was delivered; return whether that was done in time."""
        return self._deliveries is None or await self._deliveries.stop(timeout_s)

    def _unassigned(self) -> str | None:
        if self._deliveries is not None and self._deliveries.assigned:
            return None
        return "not yet: partitions delivered"
