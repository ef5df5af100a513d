"""A service from its parts: any pipeline, any source, any pump."""

from __future__ import annotations

import logging
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


def assemble(
    pipeline: Pipeline,
    source: Source,
    *,
    live: LiveConfig,
    clock: Clock,
    metrics: PrometheusMetrics,
    resources: ExitStack,
    pump: PumpOf | None = None,
    after: Callable[[IngestCounts], None] | None = None,
    interrupt: Callable[[], object] = lambda: None,
    health: Health | None = None,
    sites: Sequence[Site] = (),
) -> Service:
    """Return a service that is ready to `run`.

    Args:
        pipeline: built on `source`; nothing else drives it.
        source: of records.
        live: intervals, bounds, addresses.
        clock: of ticks and freshness.
        metrics: the registry behind /metrics.
        resources: closed at the end, within the bound of the drain.
        pump: what has them answered; by default a thread that answers whatever is stored.
        after: called with the counts of every stored batch, on the thread that stores.
        interrupt: stops what may keep the refresh thread for long.
        health: where other parts have told theirs already.
        sites: more to run on the event loop.
    """
    health = health or Health()
    config = pipeline.config
    observer = Observer(metrics, clock, LiveHits(pipeline.identities))
    pipeline.on_stored(observer.stored)
    pipeline.on_answered(observer.answered)
    answering = _answering(pipeline, live, clock, health, metrics) if config.score else None
    pumping = None if answering is None else (pump or _direct(live))(answering, health)

    def stored(counts: IngestCounts) -> None:
        if after is not None:
            after(counts)
        if pumping is not None:
            pumping.wake()

    storing = _storing(pipeline, source, live, stored, health, metrics)
    _expect(health, pipeline, live)
    if live.http_port:
        sampler = Sampler(pipeline, source, metrics, clock, health)
        sites = [lambda: _pages(health, sampler, metrics, live), *sites]
    return Service(
        pipeline,
        storing,
        answering=answering,
        pump=pumping,
        scheduler=_scheduler(pipeline, live, clock, observer, health, metrics),
        health=health,
        drain_s=live.drain_s,
        resources=resources,
        interrupt=interrupt,
        sites=sites,
    )


def _answering(
    pipeline: Pipeline, live: LiveConfig, clock: Clock, health: Health, metrics: Metrics
) -> Answering:
    journeys = Journeys(metrics, clock)
    pipeline.on_stored(journeys.stored)
    pipeline.on_answered(journeys.answered)
    return Answering(pipeline, live, health=health, metrics=metrics, journeys=journeys)


def _storing(
    pipeline: Pipeline,
    source: Source,
    live: LiveConfig,
    after: Callable[[IngestCounts], None],
    health: Health,
    metrics: Metrics,
) -> Ingesting:
    config = pipeline.config
    return Ingesting(
        pipeline,
        source,
        max_records=config.stream.batch_records(scoring=config.score),
        poll_s=live.poll_ms / _MS,
        after=after,
        health=health,
        metrics=metrics,
    )


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


def _expect(health: Health, pipeline: Pipeline, live: LiveConfig) -> None:
    """Say what a service that is alive and ready does."""
    health.expect(RESUMED, ingesting.FIRST_POLL)
    health.check_ready(writable(pipeline.db.path))
    health.watch(ingesting.LOOP, live.stall_s + live.poll_ms / _MS)
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
