"""The thread that stores: poll, one transaction, then the hint to the broker and what follows a stored batch."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import TYPE_CHECKING

from infra.service.loops import Loop
from stream.metrics import (
    INGEST_BATCH_RECORDS,
    INGEST_BATCH_SECONDS,
    INGEST_MARKED,
    INGEST_RECORDS,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.service.health import Health
    from stream.events import EventBatch
    from stream.ingest import IngestCounts
    from stream.metrics import Metrics
    from stream.pipeline import Pipeline
    from stream.sources import Source

LOOP = "ingest"
FIRST_POLL = "first poll"
logger = logging.getLogger(__name__)


class Ingesting:
    """Polls a source and stores what it returns, batch after batch.

    Args:
        pipeline: stores.
        source: where records come from; whatever ends or fails there ends the service.
        max_records: of one batch.
        poll_s: longest wait for a first record.
        after: called with the counts of each stored batch, in order.
        health: told of turns and of the first poll.
        metrics: where batches are counted.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        source: Source,
        *,
        max_records: int,
        poll_s: float,
        after: Callable[[IngestCounts], None],
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._pipeline = pipeline
        self._source = source
        self._max_records = max_records
        self._poll_s = poll_s
        self._after = after
        self._health = health
        self._metrics = metrics
        self.loop = Loop(LOOP, self._turn, health)

    def _turn(self) -> None:
        started = perf_counter()
        batch = self._source.poll(self._max_records, self._poll_s)
        self._health.met(FIRST_POLL)
        if batch.ranges:
            self._store(batch)
        else:
            self.loop.wait(self._poll_s - (perf_counter() - started))  # sources that do not wait

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
