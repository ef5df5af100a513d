"""The thread that stores: poll, one transaction, then the hint to the broker and what follows a stored batch."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import TYPE_CHECKING

from infra.service.loops import Loop
from stream.metrics import (
    HOLDING,
    INGEST_BATCH_RECORDS,
    INGEST_BATCH_SECONDS,
    INGEST_MARKED,
    INGEST_RECORDS,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.service.health import Health
    from stream.config import LiveConfig
    from stream.events import EventBatch
    from stream.ingest import IngestCounts
    from stream.metrics import Metrics
    from stream.pipeline import Pipeline
    from stream.sources import Source

LOOP = "ingest"
FIRST_POLL = "first poll"
_MS = 1000.0
# Share of what is too much at which it is no longer: one held and let go at every turn fetches in vain.
_ON_AT = 0.75
logger = logging.getLogger(__name__)


class Ingesting:
    """Polls a source and stores what it returns, batch after batch.

    Args:
        pipeline: stores.
        source: where records come from; whatever ends or fails there ends the service.
        config: longest wait for a first record, and how many stored events may wait for an answer.
        let_answer: called before each poll; returns when what is stored is answered, or not to be waited for.
        after: called with the counts of each stored batch, in order.
        hold: called at every turn in which none are taken, so that the source keeps its connection.
        health: told of turns and of the first poll.
        metrics: where batches are counted.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        source: Source,
        config: LiveConfig,
        *,
        let_answer: Callable[[], object],
        after: Callable[[IngestCounts], None],
        hold: Callable[[], object],
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._pipeline = pipeline
        self._source = source
        told = pipeline.config
        self._max_records = told.stream.batch_records(scoring=told.score)
        self._poll_s = config.poll_ms / _MS
        self._pace_s = config.store_every_ms / _MS
        self._let_answer = let_answer
        self._after = after
        self._hold_above = config.hold_above
        self._hold = hold
        self._holding = False
        self._health = health
        self._metrics = metrics
        self.loop = Loop(LOOP, self._turn, health)

    def _turn(self) -> None:
        if self._too_many(self._pipeline.unanswered()):
            self._hold()
            self.loop.wait(self._poll_s)
            return
        self._let_answer()
        started = perf_counter()
        batch = self._source.poll(self._max_records, self._poll_s)
        self._health.met(FIRST_POLL)
        if batch.ranges:
            self._store(batch)
            self.loop.wait(self._pace_s - (perf_counter() - started))
        else:
            self.loop.wait(self._poll_s - (perf_counter() - started))  # sources that do not wait

    def _too_many(self, backlog: int) -> bool:
        """Whether answering is so far behind that what comes next may as well wait in the log."""
        if not self._hold_above:
            return False
        before, limit = self._holding, self._hold_above
        self._holding = backlog > (_ON_AT * limit if before else limit)
        if self._holding != before:
            self._metrics.set(HOLDING, self._holding)
            event = "holding" if self._holding else "reading_on"
            logger.info(event, extra={"unanswered": backlog})
        return self._holding

    def _store(self, batch: EventBatch) -> None:
        started = perf_counter()
        counts = self._pipeline.store(batch).counts
        seconds = perf_counter() - started
        self._source.commit({partition: nxt for partition, (_, nxt) in batch.ranges.items()})
        self._after(counts)
        self._count(counts, seconds)
        logger.info(
            "batch_stored",
            extra={
                "records": counts.records,
                "interactions": counts.interactions,
                "dead": counts.dead,
                "seconds": round(seconds, 6),
                "ends": {str(partition): nxt for partition, (_, nxt) in batch.ranges.items()},
            },
        )
        if self._pipeline.ingest.excess is not None:
            raise self._pipeline.ingest.excess

    def _count(self, counts: IngestCounts, seconds: float) -> None:
        add = self._metrics.add
        add(INGEST_RECORDS, counts.interactions, outcome="interaction")
        add(INGEST_RECORDS, counts.items, outcome="item")
        add(INGEST_RECORDS, counts.dead, outcome="dead")
        add(INGEST_MARKED, counts.late, mark="late")
        add(INGEST_MARKED, counts.duplicates, mark="duplicate")
        add(INGEST_MARKED, counts.displaced, mark="displaced")
        self._metrics.observe(INGEST_BATCH_SECONDS, seconds)
        self._metrics.observe(INGEST_BATCH_RECORDS, counts.records)
