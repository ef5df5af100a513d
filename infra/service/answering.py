"""Answers to stored events: how many at once, when to shed, and what to do when slates cannot be written."""

from __future__ import annotations

import logging
import threading
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from infra.service.loops import Loop, in_thread
from storage import positions
from stream.errors import SinkError
from stream.metrics import SCORE_EVENTS, SCORE_SECONDS, SINK_RETRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from infra.service.health import Health
    from infra.service.journeys import Journeys
    from storage.records import PartitionKey
    from stream.config import LiveConfig
    from stream.metrics import Metrics
    from stream.pipeline import Pipeline
    from stream.summary import Answered

LOOP = "score"
_IDLE_S = 0.5
_BEGIN_S, _TURN_S = (
    0.03,
    0.1,
)  # an answer begins when its events are delivered: a fetch waits up to 20 ms for others
logger = logging.getLogger(__name__)


class Pump(Protocol):
    """Has stored events answered; a thread over the store, or an agent fed by a broker."""

    async def start(self, failed: Callable[[BaseException], None], /) -> None:
        """Begin; `failed` is told what ends it before `stop`."""
        ...

    def wake(self) -> None:
        """Say that a batch was stored; from the thread that stores."""
        ...

    async def stop(self, timeout_s: float, /) -> bool:
        """Finish the answer in hand and end; return whether it did in time."""
        ...


class Answering:
    """Answers up to given positions, whoever asks for it: the pump, or the end of the service.

    Args:
        pipeline: scores and writes slates.
        config: how many events at once, and above which backlog only each user's newest.
        health: told of every answer, and of every attempt that failed for now.
        metrics: where answers are counted.
        journeys: told when an answer begins and what it took.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        config: LiveConfig,
        *,
        health: Health,
        metrics: Metrics,
        journeys: Journeys,
    ) -> None:
        self._pipeline = pipeline
        self._config = config
        self._health = health
        self._metrics = metrics
        self._journeys = journeys
        self._stopping = threading.Event()
        self._idle = threading.Event()
        self._idle.set()

    def let_pass(self) -> None:
        """Return when all that is stored is answered; sooner where no answer begins or one takes long."""
        if not self._pipeline.wait_answered(_BEGIN_S):
            self._idle.wait(_TURN_S)

    def wait_stored(self, ends: Mapping[PartitionKey, int], timeout_s: float) -> bool:
        """Wait until the log is stored up to exclusive offsets; return whether it is."""
        return self._pipeline.wait_stored(ends, timeout_s)

    def waiting(self) -> dict[PartitionKey, tuple[int, int]]:
        """Return (answered, stored) of every partition with rows that are not answered.

        Whoever answers asks it at every turn, also where there is nothing to answer.
        """
        self._health.beat(LOOP)
        return self._pipeline.waiting()

    def answered(self) -> dict[PartitionKey, int]:
        """Return the offset per partition below which everything is answered, as the database has it."""
        return positions.scored_offsets(self._pipeline.db)

    def answer(self, upto: Mapping[PartitionKey, int], *, shed: bool = False) -> Answered:
        """Answer stored events below these offsets; slates a sink does not take are written again.

        Raises:
            SinkError: a retry cannot help, or the service ends.
        """
        self._journeys.begin()
        self._idle.clear()
        try:
            answered = self._answer(upto, shed=shed)
        finally:
            self._idle.set()
        self._count(answered)
        return answered

    def answer_some(self) -> bool:
        """Answer a part of what is stored; return whether there was anything to answer."""
        waiting = self.waiting()
        if not waiting:
            return False
        backlog = sum(nxt - first for first, nxt in waiting.values())
        shed = self._pipeline.config.score and 0 < self._config.shed_above < backlog
        most = self._config.shed_above if shed else self._config.take_max
        share = max(1, most // len(waiting))
        ends = {key: min(nxt, first + share) for key, (first, nxt) in waiting.items()}
        self.answer(ends, shed=shed)
        return True

    def settle(self) -> None:
        """Move the scored positions up to what is answered."""
        self._pipeline.settle()

    def drain(self, deadline: float) -> bool:
        """Answer what is stored until a time of the monotonic clock; return whether nothing is left."""
        try:
            while monotonic() < deadline and self.answer_some():
                pass
            self.settle()
        except SinkError as err:
            if err.retry_after_s is None:
                raise
            return False  # the next start answers them
        return not self.waiting()

    def stop(self) -> None:
        """Do not wait for a sink any more."""
        self._stopping.set()

    def _answer(self, upto: Mapping[PartitionKey, int], *, shed: bool) -> Answered:
        while True:
            try:
                return self._pipeline.answer(upto, shed=shed)
            except SinkError as err:
                if err.retry_after_s is None or self._stopping.is_set():
                    raise
                self._metrics.add(SINK_RETRIES)
                logger.warning(
                    "sink_retry", extra={"error": str(err), "after_s": err.retry_after_s}
                )
                self._stopping.wait(err.retry_after_s)
                self._health.beat(LOOP)

    def _count(self, answered: Answered) -> None:
        self._journeys.done(answered)
        for stage, seconds in answered.seconds.items():
            self._metrics.observe(SCORE_SECONDS, seconds, stage=stage)
        self._metrics.observe(SCORE_EVENTS, answered.events)
        self._health.beat(LOOP)
        logger.info(
            "batch_answered",
            extra={
                "events": answered.events,
                "slates": answered.slates,
                "shed": answered.shed,
                "seconds": round(sum(answered.seconds.values()), 6),
            },
        )


class DirectPump:
    """Answers whatever is stored, on a thread of its own, as soon as it is stored; where nothing is scored it passes.

    Args:
        answering: answers.
        within_s: how long the first event waits for others.
        bound_s: a turn that takes longer is one that hangs.
        health: told of turns.
    """

    def __init__(
        self, answering: Answering, *, within_s: float, bound_s: float, health: Health
    ) -> None:
        self._answering = answering
        self._within_s = within_s
        self._bound_s = bound_s
        self._health = health
        self._stored = threading.Event()
        self._loop = Loop(LOOP, self._turn, health)

    async def start(self, failed: Callable[[BaseException], None], /) -> None:
        """Begin to answer."""
        self._health.watch(LOOP, self._bound_s)
        self._loop.start(failed)

    def wake(self) -> None:
        """Look at once: a batch was stored."""
        self._stored.set()

    async def stop(self, timeout_s: float, /) -> bool:
        """Finish the answer in hand and end; return whether it did in time."""
        self._loop.stop()
        self._stored.set()
        return await in_thread(lambda: self._loop.join(timeout_s))

    def _turn(self) -> None:
        self._stored.clear()
        if self._answering.answer_some():
            return
        self._answering.settle()
        if self._stored.wait(_IDLE_S):
            self._loop.wait(self._within_s)
