"""A producer in a process of its own: events encoded beforehand, sent at a rate that one thread of a measuring process could not."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from infra.bench.bus import BusError, producing
from infra.torture.live.readback import librdkafka

if TYPE_CHECKING:
    from infra.bench.crowd import Crowd
    from stream.kafka.config import KafkaConfig

_LOT_S = 0.005
_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Flooded:
    """What was sent: records the log has, and the seconds from the first to the last."""

    acknowledged: int
    seconds: float


class Flood:
    """Sends events of a crowd's active users, in turn, from `go` on.

    Args:
        config: the topic.
        crowd: whose events.
        rate: events a second.
        seconds: so long.
        name: told apart by their event ids.
    """

    def __init__(
        self, config: KafkaConfig, crowd: Crowd, *, rate: float, seconds: float, name: str
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._count = context.Value("q", 0)
        self._go, self._ready = context.Event(), context.Event()
        self._results: Any = context.SimpleQueue()
        self._process = context.Process(
            target=_send,
            args=(
                config, crowd, rate, seconds, name,
                self._count, self._ready, self._go, self._results,
            ),
            daemon=True,
        )  # fmt: skip
        self._process.start()

    @property
    def acknowledged(self) -> int:
        """Records the log has so far."""
        return int(self._count.value)

    @property
    def running(self) -> bool:
        """Whether it still sends."""
        return self._process.is_alive() and self._results.empty()

    def go(self) -> None:
        """Begin to send, once everything is encoded.

        Raises:
            BusError: the process did not get ready.
        """
        if not self._ready.wait(_PATIENCE_S):
            raise BusError("the producer's process did not start; run again on a less busy machine")
        self._go.set()

    def result(self) -> Flooded:
        """Wait for its end and return what it did.

        Raises:
            BusError: the broker did not take everything, or the process died.
        """
        self._process.join(_PATIENCE_S)
        if self._results.empty():
            self._process.kill()
            raise BusError("the producer's process ended without a result; run again")
        failed, found = self._results.get()
        if failed:
            raise BusError(f"the broker did not take {failed} events; run again")
        flooded: Flooded = found
        return flooded


def _send(
    config: KafkaConfig,
    crowd: Crowd,
    rate: float,
    seconds: float,
    name: str,
    count: Any,  # noqa: ANN401 - what multiprocessing shares
    ready: Any,  # noqa: ANN401
    go: Any,  # noqa: ANN401
    results: Any,  # noqa: ANN401
) -> None:
    total, failed = int(rate * seconds), 0
    events = list(crowd.live([number % crowd.active for number in range(total)], name))

    def told(error: object, _: object) -> None:
        nonlocal failed
        if error is None:
            count.value += 1
        else:
            failed += 1

    producer = librdkafka().Producer(producing(config.bootstrap_servers))
    ready.set()
    go.wait()
    begun, sent = monotonic(), 0
    while sent < total:
        due = min(total, int((monotonic() - begun) * rate) + 1)
        for event in events[sent:due]:
            while True:
                try:
                    producer.produce(
                        config.interactions_topic, event.value, key=event.key, on_delivery=told
                    )
                    break
                except BufferError:  # the broker is behind: wait for room
                    producer.poll(_LOT_S)
        sent = due
        producer.poll(0)
        sleep(_LOT_S)
    left = producer.flush(_PATIENCE_S)
    results.put((failed + left, Flooded(int(count.value), monotonic() - begun)))
