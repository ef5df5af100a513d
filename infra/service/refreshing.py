"""Jobs of the refresh thread: ticks, upkeep of the store, checkpoints while nothing else happens."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from infra.scheduler import Job
from storage.wal import wal_bytes
from stream.errors import CompressError
from stream.metrics import COMPRESSED_SEGMENTS, COMPRESSED_USERS, TICK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.service.health import Health
    from storage.database import Database
    from stream.clock import Clock
    from stream.config import LiveConfig
    from stream.metrics import Metrics
    from stream.pipeline import Pipeline

LOOP = "refresh"
logger = logging.getLogger(__name__)


class Refreshing:
    """What the scheduler's thread does when a job's turn comes.

    Args:
        pipeline: ticks and upkeep.
        db: checkpointed when idle.
        clock: the time of a tick.
        commits: a number that grows with every commit of the other threads.
        health: told of turns.
        metrics: where ticks are counted.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        db: Database,
        *,
        clock: Clock,
        commits: Callable[[], int],
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._pipeline = pipeline
        self._db = db
        self._clock = clock
        self._commits = commits
        self._health = health
        self._metrics = metrics
        self._seen = -1

    def jobs(self, config: LiveConfig) -> list[Job]:
        """Return the jobs, each with its interval."""
        return [
            Job("tick", config.tick_interval_s, self.tick),
            Job("maintain", config.maintain_interval_s, self.maintain),
            Job("checkpoint", config.maintain_interval_s, self.checkpoint),
        ]

    def tick(self) -> None:
        """Run one tick; segments that could not be compressed are planned anew by the next one."""
        self._health.beat(LOOP)
        try:
            report = self._pipeline.tick(self._clock.now())
        except CompressError as err:
            self._metrics.add(COMPRESSED_USERS, outcome="error")
            logger.warning("tick_without_tokens", extra={"error": str(err)})
        else:
            self._metrics.add(COMPRESSED_USERS, report.users, outcome="ok")
            self._metrics.add(COMPRESSED_SEGMENTS, report.segments)
            self._metrics.observe(TICK_SECONDS, report.seconds)
            logger.info(
                "tick_done",
                extra={
                    "users": report.users,
                    "segments": report.segments,
                    "seconds": round(report.seconds, 6),
                },
            )
        self._health.beat(LOOP)

    def maintain(self) -> None:
        """Rotate and merge what has grown past its limit."""
        self._pipeline.maintain()
        self._health.beat(LOOP)

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file if nothing was committed since the last look."""
        now = self._commits()
        if now == self._seen and wal_bytes(self._db.path):
            self._db.checkpoint()
            logger.info("checkpoint_done")
        self._seen = now
        self._health.beat(LOOP)
