"""The scheduler is a clock: one turn at a time, what goes wrong is counted, stopping is bounded."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from infra.scheduler import Job, Scheduler
from stream.clock import WallClock
from stream.metrics import SCHEDULER_RUNS, Metric, NoMetrics

LONG_S = 86_400.0
WAIT_S = 20.0


class Counting(NoMetrics):
    """Counts by job and outcome, and wakes whoever waits for a count."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.changed = threading.Condition()

    def add(self, metric: Metric, amount: float = 1, /, **labels: str) -> None:
        assert metric is SCHEDULER_RUNS
        with self.changed:
            self.counts[labels["job"], labels["outcome"]] += int(amount)
            self.changed.notify_all()

    def wait(self, job: str, outcome: str, count: int = 1) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.counts[job, outcome] >= count, WAIT_S)


@contextmanager
def running(
    *jobs: Job, failures: list[BaseException] | None = None
) -> Iterator[tuple[Scheduler, Counting]]:
    metrics = Counting()
    told = [] if failures is None else failures
    scheduler = Scheduler(jobs, clock=WallClock(), metrics=metrics)
    scheduler.start(told.append)
    try:
        yield scheduler, metrics
    finally:
        assert scheduler.stop(WAIT_S)


def test_a_job_runs_when_it_is_triggered_and_is_counted():
    turns: list[str] = []
    with running(Job("tick", LONG_S, lambda: turns.append("tick"))) as (scheduler, metrics):
        scheduler.trigger("tick")
        assert metrics.wait("tick", "ok")
        scheduler.trigger("tick")
        assert metrics.wait("tick", "ok", 2)
    assert turns == ["tick", "tick"]


def test_jobs_never_run_beside_each_other():
    inside = threading.Lock()
    alone: list[bool] = []

    def run() -> None:
        free = inside.acquire(blocking=False)
        alone.append(free)
        if free:
            inside.release()

    jobs = [Job(name, LONG_S, run) for name in ("tick", "maintain", "checkpoint")]
    with running(*jobs) as (scheduler, metrics):
        for job in jobs:
            scheduler.trigger(job.name)
        assert all(metrics.wait(job.name, "ok") for job in jobs)
    assert alone == [True] * 3


def test_a_turn_that_overlaps_is_left_out_and_counted():
    started, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        started.set()
        go_on.wait(WAIT_S)

    with running(Job("tick", LONG_S, slow)) as (scheduler, metrics):
        scheduler.trigger("tick")
        assert started.wait(WAIT_S)
        scheduler.trigger("tick")
        assert metrics.wait("tick", "overlap")
        go_on.set()
        assert metrics.wait("tick", "ok")
    assert metrics.counts == {("tick", "overlap"): 1, ("tick", "ok"): 1}


def test_a_job_that_waits_behind_another_is_not_dropped():
    started, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        started.set()
        go_on.wait(WAIT_S)

    turns: list[int] = []
    with running(Job("tick", LONG_S, slow), Job("beat", LONG_S, lambda: turns.append(1))) as (
        scheduler,
        metrics,
    ):
        scheduler.trigger("tick")
        assert started.wait(WAIT_S)
        scheduler.trigger("beat")
        assert not turns
        go_on.set()
        assert metrics.wait("beat", "ok")
    assert turns == [1]


def test_what_a_job_raises_is_counted_logged_and_told(caplog):
    failures: list[BaseException] = []

    def broken() -> None:
        raise OSError("no room")

    with running(Job("tick", LONG_S, broken), failures=failures) as (scheduler, metrics):
        scheduler.trigger("tick")
        assert metrics.wait("tick", "error")
    assert [str(error) for error in failures] == ["no room"]
    (record,) = [record for record in caplog.records if record.message == "job_turn"]
    assert (record.job, record.outcome, record.error) == ("tick", "error", "no room")


def test_stopping_does_not_wait_longer_than_it_is_told():
    started, go_on = threading.Event(), threading.Event()

    def stuck() -> None:
        started.set()
        go_on.wait(WAIT_S)

    scheduler = Scheduler([Job("tick", LONG_S, stuck)], clock=WallClock(), metrics=NoMetrics())
    scheduler.start(lambda _: None)
    scheduler.trigger("tick")
    assert started.wait(WAIT_S)
    assert not scheduler.stop(0.05)
    go_on.set()


def test_a_job_that_is_not_there_cannot_be_triggered():
    with running() as (scheduler, _), pytest.raises(ValueError, match="no job 'tick'"):
        scheduler.trigger("tick")
