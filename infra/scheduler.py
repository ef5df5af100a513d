"""APScheduler as a clock: it says when a job's turn has come, one thread takes the turns, nothing is stored.

What a job has to do is derived from the database at its turn, so a turn that is missed, overlaps or dies with the
process loses nothing: the next one finds the same work.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

from apscheduler.events import (
    EVENT_JOB_ERROR,
    EVENT_JOB_EXECUTED,
    EVENT_JOB_MAX_INSTANCES,
    EVENT_JOB_MISSED,
)
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler

from stream.metrics import SCHEDULER_RUNS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from apscheduler.events import JobEvent

    from stream.clock import Clock
    from stream.metrics import Metrics

_EXECUTOR = "refresh"
_OUTCOMES = {
    EVENT_JOB_EXECUTED: "ok",
    EVENT_JOB_ERROR: "error",
    EVENT_JOB_MISSED: "missed",
    EVENT_JOB_MAX_INSTANCES: "overlap",
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """Something to do again and again.

    Attributes:
        name: of the job in logs and metrics.
        every_s: seconds from one turn to the next.
        run: does it; takes nothing, returns nothing.
    """

    name: str
    every_s: float
    run: Callable[[], object]


class Scheduler:
    """Gives jobs their turns on one thread, so that no two of them ever run at once.

    A turn that comes while the job's last one is still running is left out and counted; turns that came due
    together are one.

    Args:
        jobs: what to do, and how often.
        clock: tells `trigger` what "now" is.
        metrics: turns are counted there, by job and outcome.
    """

    def __init__(self, jobs: Sequence[Job], *, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._failed: Callable[[BaseException], None] | None = None
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            jobstores={"default": MemoryJobStore()},
            executors={_EXECUTOR: ThreadPoolExecutor(1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._scheduler.add_listener(self._heard, sum(_OUTCOMES))
        for job in jobs:
            self._scheduler.add_job(
                job.run, "interval", seconds=job.every_s, id=job.name, executor=_EXECUTOR
            )

    def start(self, failed: Callable[[BaseException], None]) -> None:
        """Begin to count time; a job's first turn comes after its interval. `failed` is told what a job raised."""
        self._failed = failed
        self._scheduler.start()

    def trigger(self, name: str) -> None:
        """Give a job its turn now, as if its time had come.

        Raises:
            ValueError: there is no such job.
        """
        if self._scheduler.get_job(name) is None:
            raise ValueError(f"there is no job {name!r}")
        self._scheduler.modify_job(name, next_run_time=self._clock.now())

    def stop(self, timeout_s: float) -> bool:
        """Give no more turns, and wait for the one that runs; return whether it ended in time."""
        if not self._scheduler.running:
            return True
        self._scheduler.pause()
        # shutdown waits for the running job without a bound of its own
        ending = threading.Thread(
            target=self._scheduler.shutdown, name="scheduler-stop", daemon=True
        )
        ending.start()
        ending.join(timeout_s)
        return not ending.is_alive()

    def _heard(self, event: JobEvent) -> None:
        outcome = _OUTCOMES[event.code]
        self._metrics.add(SCHEDULER_RUNS, job=event.job_id, outcome=outcome)
        if outcome == "ok":
            return
        error = getattr(event, "exception", None)
        logger.log(
            logging.ERROR if error else logging.WARNING,
            "job_turn",
            extra={
                "job": event.job_id,
                "outcome": outcome,
                "error": None if error is None else str(error),
            },
        )
        if error is not None and self._failed is not None:
            self._failed(error)
