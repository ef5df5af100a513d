"""`freshet run` put together from settings: the database, the model, the log, and where slates go."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from infra.asking.app import owner_app, serve
from infra.asking.sockets import socket_of
from infra.cli import installed_version
from infra.databases import creating
from infra.service.assembling import Beside, assemble, nothing
from infra.service.health import Health
from infra.service.pumping import faust_pump
from infra.service.refreshing import LOOP as REFRESH
from infra.telemetry import PrometheusMetrics
from infra.wiring import (
    bound_config,
    checkpoint_of,
    engine_of,
    pipeline_config,
    remember_checkpoint,
)
from infra.workers import WorkerCompressor
from storage.identities import Identities
from stream.clock import Clock, WallClock
from stream.formats.decoder import TopicDecoder
from stream.kafka.mirror import KafkaMirror
from stream.kafka.preflight import access_of_run, preflight
from stream.kafka.sink import KafkaSink
from stream.kafka.starting import Start, open_source
from stream.metrics import BUILD_INFO
from stream.mirroring import Mirroring
from stream.pipeline import Pipeline
from stream.sinks.jsonl import JsonlSink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from infra.service.service import Service
    from infra.settings import Loaded
    from model.engine import Engine, SegmentJob, TokenBlock
    from storage.database import Database
    from stream.config import LiveConfig
    from stream.ingest import IngestCounts
    from stream.kafka.config import KafkaConfig
    from stream.metrics import Metrics
    from stream.refresh import Compressor
    from stream.sinks import Sink

Slates = Literal["topic", "file", "none"]
_MS = 1000.0


class _Closes(Protocol):
    def close(self) -> object: ...


_P = TypeVar("_P", bound=_Closes)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a service reads and writes.

    Attributes:
        db_path: the shard's database, created if there is none.
        model_path: checkpoint; None takes the one the database knows, and recent popularity where it knows none.
        start: where partitions not read before begin.
        accept_data_loss: go on behind records the log no longer has.
        slates: where slates go.
        slates_path: their file, where they go to one.
        score: whether stored events are answered.
    """

    db_path: Path
    model_path: Path | None = None
    start: Start = "earliest"
    accept_data_loss: bool = False
    slates: Slates = "topic"
    slates_path: Path | None = None
    score: bool = True

    @property
    def to_topic(self) -> bool:
        """Whether slates are sent to their topic."""
        return self.score and self.slates == "topic"


def service_of(plan: RunPlan, loaded: Loaded, *, clock: Clock | None = None) -> Service:
    """Return the service of a plan, everything opened, nothing started.

    Raises:
        BrokerError: the broker cannot be used as wanted; nothing was opened.
        StorageError: the database cannot be opened.
        MismatchError: model, database and settings contradict each other.
        SourceError: the log cannot be read on from where the database stands.
    """
    clock = clock or WallClock()
    kafka, live = loaded.settings.kafka, loaded.settings.live
    metrics, health = PrometheusMetrics(), Health()
    preflight(kafka, access_of_run(kafka, slates=plan.to_topic, score=plan.score))
    with ExitStack() as stack:
        db = stack.enter_context(creating(plan.db_path, loaded))
        engine = engine_of(db, plan.model_path)
        worker = _closed_later(stack, _worker(db, engine, plan, live, metrics))
        source = open_source(
            db,
            kafka,
            TopicDecoder(loaded.settings.formats, kafka.items_topic),
            start=plan.start,
            now=clock.now(),
            accept_data_loss=plan.accept_data_loss,
        )
        stack.enter_context(closing(source))
        sink = _closed_later(stack, _sink(plan, kafka))
        config = pipeline_config(loaded, engine.config if engine else None, score=plan.score)
        config = replace(bound_config(db, loaded, config), settle_ms=live.settle_ms)
        pipeline = Pipeline(
            db=db,
            identities=Identities.load(db),
            engine=engine,
            compressor=None if worker is None else _Beating(worker, health),
            source=source,
            sink=sink,
            config=config,
            clock=clock,
            ticks="calls",
        )
        beside = Beside(
            after=_mirror(db, kafka, stack),
            patience_s=kafka.delivery_timeout_ms / _MS if kafka.dead_topic else 0.0,
            hold=source.hold,
            interrupt=nothing if worker is None else worker.close,
            sites=[lambda: serve(owner_app(pipeline), socket_of(plan.db_path))],
        )
        version = "" if engine is None else engine.version
        metrics.set(BUILD_INFO, 1, version=installed_version(), model=version)
        return assemble(
            pipeline,
            source,
            live=live,
            clock=clock,
            metrics=metrics,
            resources=stack.pop_all(),
            pump=faust_pump(kafka, live, metrics),
            health=health,
            beside=beside,
        )


def _closed_later(stack: ExitStack, part: _P | None) -> _P | None:
    """Return a part that is closed with the service, where there is one."""
    return None if part is None else stack.enter_context(closing(part))


def _worker(
    db: Database, engine: Engine | None, plan: RunPlan, live: LiveConfig, metrics: Metrics
) -> WorkerCompressor | None:
    """What compresses: always another process, so that a backlog cannot slow the answers."""
    path = checkpoint_of(db, plan.model_path)
    if engine is None or path is None:
        return None
    remember_checkpoint(db, path)
    return WorkerCompressor(path, deadline_s=live.worker_deadline_s, metrics=metrics)


def _sink(plan: RunPlan, kafka: KafkaConfig) -> Sink | None:
    if plan.slates_path is not None:
        return JsonlSink(plan.slates_path)
    return KafkaSink(kafka) if plan.to_topic else None


def _mirror(
    db: Database, kafka: KafkaConfig, stack: ExitStack
) -> Callable[[IngestCounts], None] | None:
    """What sends bad records on once they are stored."""
    if not kafka.dead_topic:
        return None
    mirroring = Mirroring(db, stack.enter_context(closing(KafkaMirror(kafka))))
    return lambda counts: mirroring.keep_up(counts.dead)


class _Beating:
    """A compressor whose every batch is a turn of the refresh thread."""

    def __init__(self, compressor: Compressor, health: Health) -> None:
        self._compressor = compressor
        self._health = health

    def compress(self, jobs: Sequence[SegmentJob]) -> list[TokenBlock]:
        """Token blocks in the order of the jobs."""
        blocks = self._compressor.compress(jobs)
        self._health.beat(REFRESH)
        return blocks
