"""A service from its parts: any pipeline, any source, any pump."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.scheduler import Scheduler
from infra.service import ingesting, refreshing
from infra.service.answering import Answering, DirectPump
from infra.service.health import Health, writable
from infra.service.ingesting import Ingesting
from infra.service.journeys import Journeys
from infra.service.observing import Observer, Sampler
from infra.service.pages import health_app, serving
from infra.service.refreshing import Refreshing
from infra.service.service import RESUMED, Service
from stream.hits import LiveHits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager, ExitStack

    from infra.service.answering import Pump
    from infra.service.service import Site
    from infra.telemetry import PrometheusMetrics
    from stream.clock import Clock
    from stream.config import LiveConfig
    from stream.ingest import IngestCounts
    from stream.metrics import Metrics
    from stream.pipeline import Pipeline
    from stream.sources import Source

    PumpOf = Callable[[Answering, Health], Pump]

logger = logging.getLogger(__name__)
_MS = 1000.0


def nothing() -> None:
    """Nothing has to be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What else a service does; nothing unless told.

    Attributes:
        after: called with the counts of every stored batch, on the thread that stores.
        patience_s: how long that may take where it waits for somebody else.
        hold: called on that thread at every turn in which no records are taken.
        interrupt: stops what may keep the refresh thread for long.
        sites: run on the event loop.
    """

    after: Callable[[IngestCounts], None] | None = None
    patience_s: float = 0.0
    hold: Callable[[], object] = nothing
    interrupt: Callable[[], object] = nothing
    sites: Sequence[Site] = ()


def assemble(
    pipeline: Pipeline,
    source: Source,
    *,
    live: LiveConfig,
    clock: Clock,
    metrics: PrometheusMetrics,
    resources: ExitStack,
    pump: PumpOf | None = None,
    health: Health | None = None,
    beside: Beside | None = None,
) -> Service:
    """Return a service that is ready to `run`.

    Args:
        pipeline: built on `source`; nothing else drives it.
        source: of records.
        live: intervals, bounds, addresses.
        clock: of ticks and freshness.
        metrics: the registry behind /metrics.
        resources: closed at the end, within the bound of the drain.
        pump: what has them answered; without one, and where nothing is scored, a thread that lets
            pass whatever is stored.
        health: where other parts have told theirs already.
        beside: what else there is to do.
    """
    health, beside = health or Health(), beside or Beside()
    observer, journeys = _watching(pipeline, clock, metrics)
    answering = Answering(pipeline, live, health=health, metrics=metrics, journeys=journeys)
    delivered = pump if pipeline.config.score else None
    pumping = (delivered or _direct(live))(answering, health)

    def stored(counts: IngestCounts) -> None:
        if beside.after is not None:
            beside.after(counts)
        pumping.wake()

    storing = Ingesting(
        pipeline, source, live,
        let_answer=answering.let_pass, after=stored, hold=beside.hold, health=health, metrics=metrics,
    )  # fmt: skip
    _expect(health, pipeline, live, beside.patience_s)
    sites = list(beside.sites)
    if live.http_port:
        sampler = Sampler(pipeline, source, metrics, clock, health)
        sites.insert(0, lambda: _pages(health, sampler, metrics, live))
    return Service(
        pipeline,
        storing,
        answering=answering,
        pump=pumping,
        scheduler=_scheduler(pipeline, live, clock, observer, health, metrics),
        health=health,
        drain_s=live.drain_s,
        resources=resources,
        interrupt=beside.interrupt,
        sites=sites,
    )


def _watching(
    pipeline: Pipeline, clock: Clock, metrics: PrometheusMetrics
) -> tuple[Observer, Journeys]:
    observer = Observer(metrics, clock, LiveHits(pipeline.identities))
    journeys = Journeys(metrics, clock)
    for watching in (observer, journeys):
        pipeline.on_stored(watching.stored)
        pipeline.on_answered(watching.answered)
    return observer, journeys


def _scheduler(
    pipeline: Pipeline,
    live: LiveConfig,
    clock: Clock,
    observer: Observer,
    health: Health,
    metrics: Metrics,
) -> Scheduler:
    refresh = Refreshing(
        pipeline,
        pipeline.db,
        clock=clock,
        commits=lambda: observer.commits,
        health=health,
        metrics=metrics,
    )
    return Scheduler(refresh.jobs(live), clock=clock, metrics=metrics)


def _expect(health: Health, pipeline: Pipeline, live: LiveConfig, patience_s: float) -> None:
    """Say what a service that is alive and ready does."""
    health.expect(RESUMED, ingesting.FIRST_POLL)
    health.check_ready(writable(pipeline.db.path))
    health.watch(ingesting.LOOP, live.stall_s + live.poll_ms / _MS + patience_s)
    slowest = max(live.tick_interval_s, live.maintain_interval_s, live.worker_deadline_s)
    health.watch(refreshing.LOOP, live.stall_s + slowest)


def _pages(
    health: Health, sampler: Sampler, metrics: PrometheusMetrics, live: LiveConfig
) -> AbstractAsyncContextManager[None]:
    return serving(health_app(health, sampler, metrics), live.http_host, live.http_port)


def _direct(live: LiveConfig) -> PumpOf:
    def build(answering: Answering, health: Health) -> Pump:
        return DirectPump(
            answering, within_s=live.take_within_ms / _MS, bound_s=live.stall_s, health=health
        )

    return build
