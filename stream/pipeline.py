"""The pipeline: poll, store in one transaction, score, write slates, tick. The same object live and in a replay.

Source, sink, clock, tick source and compressor differ between the two; nothing else does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec

from storage import interactions, positions
from storage.faults import reach
from stream.backlog import Backlog
from stream.binding import bind
from stream.cache import CACHE_KEY
from stream.clock import from_ms, to_ms
from stream.cuts import cut, rows_before_item, rows_until
from stream.errors import ConfigError
from stream.events import EventBatch, Partition
from stream.ingest import Ingest
from stream.judge import SegmentRule
from stream.loading import StateLoader, WindowRule
from stream.popular import PopularScorer
from stream.refresh import Refresher
from stream.score import Scorer, StateRequest
from stream.shared import Shared
from stream.slate_log import log_slates
from stream.ticks import Ticks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    import pyarrow as pa

    from model.engine import Engine
    from storage.database import Database
    from storage.identities import Identities
    from stream.clock import Clock
    from stream.config import PipelineConfig
    from stream.loading import StateMode
    from stream.refresh import Compressor
    from stream.sinks import Sink
    from stream.slates import Slate
    from stream.sources import Source
    from stream.ticks import TickReport

_T = TypeVar("_T")
IntervalHook: TypeAlias = "Callable[[Mapping[Partition, int], Mapping[Partition, int]], None]"
"""Called with the first and next offsets of an inter-tick interval."""
_STAGES = ("poll", "store", "score", "sink", "tick")


@dataclass(slots=True)
class RunSummary:
    """What a run did; seconds by stage are process wall time."""

    records: int = 0
    interactions: int = 0
    dead: int = 0
    slates: int = 0
    ticks: int = 0
    segments: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_STAGES, 0.0))


class Pipeline:
    """One shard's loop over a source, a database, a model and a sink.

    Args:
        db: the shard's database; this pipeline is its only writer.
        identities: the database's internal ids.
        engine: the model that scores; None serves popular items and says so.
        compressor: what compresses segments; None with `engine` means in this process.
        source: the log; None for a pipeline that only answers requests.
        sink: where slates go; None drops them.
        config: everything it is told.
        clock: ingest times are taken from it.
    """

    def __init__(
        self,
        *,
        db: Database,
        identities: Identities,
        engine: Engine | None,
        config: PipelineConfig,
        clock: Clock,
        source: Source | None = None,
        sink: Sink | None = None,
        compressor: Compressor | None = None,
    ) -> None:
        self.db = db
        self.identities = identities
        self.engine = engine
        self.config = config
        self._clock = clock
        self._source = source
        self._sink = sink
        bind(db, engine, config, clock.now())
        rule = SegmentRule(config.refresh.segment_len, config.refresh.r_min)
        self.ingest = Ingest(db, identities, config.stream, rule, shards=config.shards)
        self.shared = Shared(db, identities, engine)
        self.ingest.tell(self.shared.popularity.passed)
        self.scorer = self._build_scorer()
        self._refresher = self._build_refresher(compressor)
        self._ticks = Ticks(
            db, self.ingest, self.shared, self._refresher, config, self.scorer.published
        )
        self._interval_start = dict(self.ingest.next_offsets)
        self.summary = RunSummary()

    def run(
        self,
        *,
        max_records: int | None = None,
        on_progress: Callable[[RunSummary], None] | None = None,
        on_interval: IntervalHook | None = None,
    ) -> RunSummary:
        """Work until the source is exhausted, from where the database stands.

        Args:
            max_records: stop after about this many records of this call.
            on_progress: called after every batch.
            on_interval: called with the first and next offsets of what was stored since the previous tick, after it was
                scored and before the tick changes anything.
        """
        self.resume()
        limit = None if max_records is None else self.summary.records + max_records
        size = self.config.stream.batch_records(scoring=self.config.score)
        while limit is None or self.summary.records < limit:
            room = size if limit is None else min(size, limit - self.summary.records)
            batch = self._timed("poll", partial(self._poll, room))
            self.process(batch, on_interval)
            if on_progress is not None:
                on_progress(self.summary)
            if batch.exhausted:
                break
        self._record_cache()
        return self.summary

    def _record_cache(self) -> None:
        """Leave what the cache of states held for `status`, which runs in another process."""
        if isinstance(self.scorer, Scorer) and self.config.score:
            found = msgspec.json.encode(self.scorer.cache_use()).decode()
            with self.db.transaction() as tx:
                self.db.set_meta(tx, CACHE_KEY, found)

    def resume(self) -> None:
        """Continue where the database stands: position the source, answer stored but unanswered events."""
        self.ingest.take_over()
        if self._source is not None:
            known = set(self._source.partitions())
            self._source.seek({
                Partition(*k): off
                for k, off in self.ingest.next_offsets.items()
                if Partition(*k) in known
            })
        scored = positions.scored_offsets(self.db)
        behind = {
            key: (scored.get(key, 0), off)
            for key, off in self.ingest.next_offsets.items()
            if scored.get(key, 0) < off
        }
        for (topic, part), (first, nxt) in behind.items():
            rows = interactions.read_range(self.db, topic, part, first, nxt)
            reach("catchup.begin")
            self._answer(rows, {(topic, part): nxt})
            reach("catchup.answered")
        self._count(self._ticks.run_due())

    def _poll(self, size: int) -> EventBatch:
        if self._source is None:
            raise ConfigError("this pipeline has no source; build it with one to run it")
        return self._source.poll(size)

    def process(
        self,
        batch: EventBatch,
        on_interval: IntervalHook | None = None,
    ) -> None:
        """Store and score one batch, ticking where its events' times cross a tick."""
        rest: EventBatch | None = batch
        while rest is not None and rest.ranges:
            head, rest = self._next_part(rest)
            self._store_and_answer(head)
            if self._ticks.due():
                self._close_interval(on_interval)
                self._count(self._ticks.run_due())
        if batch.exhausted:
            self._close_interval(on_interval)
            self.ingest.end()
            self._check_dead()

    def _next_part(self, batch: EventBatch) -> tuple[EventBatch, EventBatch | None]:
        """The part of a batch to handle before the next tick, visible run or item record; and the rest."""
        rows = batch.interactions.num_rows
        wanted = min(
            rows, rows_until(batch.interactions["ts"].to_numpy(), self._ticks.next_threshold())
        )
        if self.config.score:
            wanted = min(wanted, rows_before_item(batch))
        items_after = self.config.score and rows > 0 and batch.items.num_rows > 0
        if wanted == rows and not items_after:
            return batch, None
        return cut(batch, wanted)

    @property
    def clock_ms(self) -> int | None:
        """The event clock: newest event time stored, milliseconds; None before the first event."""
        return self._ticks.clock_ms

    def _store_and_answer(self, batch: EventBatch) -> None:
        stored = self._timed(
            "store",
            lambda: self.ingest.store(
                batch, now=self._clock.now(), scored=not self.config.score, announced=True
            ),
        )
        self.summary.records += stored.counts.records
        self.summary.interactions += stored.counts.interactions
        self.summary.dead += stored.counts.dead
        reach("store.committed")
        if self.config.score:
            ends = {(p.topic, p.part): nxt for p, (_, nxt) in batch.ranges.items()}
            self._answer(stored.rows, ends)
        if stored.items.num_rows:
            self.shared.set_available(stored.items)
        self._check_dead()

    def _answer(self, rows: pa.Table, ends: Mapping[tuple[str, int], int]) -> None:
        """Slates for stored rows: durable in the sink before the scored positions move."""
        slates: list[Slate] = []
        if self.config.score:
            slates = self._timed("score", lambda: self.scorer.score_rows(rows))
            reach("score.done")
        if self._sink is not None and slates:
            sink = self._sink
            self._timed("sink", lambda: sink.write(slates))
            reach("sink.written")
        with self.db.transaction() as tx:
            self.ingest.fence(tx)
            positions.set_scored(tx, ends, self._clock.now())
            log_slates(tx, slates, self.identities, keep=self.config.slate_log)
            reach("scored.commit")
        self.summary.slates += len(slates)

    def _check_dead(self) -> None:
        if self.ingest.excess is not None:
            raise self.ingest.excess

    def _close_interval(
        self,
        on_interval: IntervalHook | None,
    ) -> None:
        if on_interval is None:
            return
        ends = {Partition(*key): off for key, off in self.ingest.next_offsets.items()}
        starts = {p: self._interval_start.get((p.topic, p.part), 0) for p in ends}
        on_interval(starts, ends)
        self._interval_start = dict(self.ingest.next_offsets)

    def tick(self, now: datetime) -> TickReport:
        """Compress what is due, publish what is ready, renew candidates and popularity; then maintenance."""
        report = self._ticks.run(now)
        self._count(report)
        return report

    def _count(self, report: TickReport | None) -> None:
        if report is None:
            return
        self.summary.ticks += 1
        self.summary.segments += report.segments
        self.summary.seconds["tick"] += report.seconds

    def finish(self) -> TickReport | None:
        """A last tick at the event clock, so that everything due is compressed."""
        now = self.clock_ms
        return None if now is None else self.tick(from_ms(now))

    def load(self, source: Source) -> int:
        """Store everything a source holds without scoring it (an items file); returns the records read."""
        known = {p: self.ingest.next_offsets.get((p.topic, p.part), 0) for p in source.partitions()}
        source.seek({p: off for p, off in known.items() if off})
        records = 0
        while True:
            batch = source.poll(self.config.stream.batch_records(scoring=False))
            if batch.ranges:
                stored = self.ingest.store(batch, now=self._clock.now(), scored=True)
                self.scorer.skipped(stored.rows)
                records += stored.counts.records
                self._check_dead()
            if batch.exhausted:
                return records

    def recommend(
        self,
        user_id: str,
        *,
        at_ms: int | None = None,
        top_k: int | None = None,
        mode: StateMode = "tokens",
    ) -> Slate:
        """A slate for a request: at the event clock unless a time is given; an unknown user is a cold one."""
        user = self.identities.find_user(user_id)
        now = at_ms if at_ms is not None else self.clock_ms or to_ms(self._clock.now())
        request = StateRequest(-1 if user is None else user, now, mode=mode)
        slate = self.scorer.slate(request, top_k=top_k)
        return msgspec.structs.replace(slate, user_id=user_id)

    def _build_refresher(self, compressor: Compressor | None) -> Refresher | None:
        if self.engine is None:
            return None
        backlog = Backlog(self.config.refresh.segment_len, self.config.refresh.r_min)
        backlog.load(self.db, self.engine.version, self.ingest.watermarks())
        self.ingest.tell(backlog.stored)
        return Refresher(
            self.db,
            self.engine,
            compressor or self.engine,
            self.shared,
            backlog,
            self.config.refresh,
        )

    def _build_scorer(self) -> Scorer | PopularScorer:
        config = self.config
        if self.engine is None:
            return PopularScorer(self.db, self.identities, self.shared, config.serving)
        window = WindowRule(
            config.refresh.segment_len, config.serving.r_max, self.engine.config.window
        )
        gap = config.stream.visit_gap_ms
        loader = StateLoader(self.db, self.identities, self.engine, self.shared, window, gap)
        return Scorer(loader, self.identities, self.engine, self.shared, config.serving, gap)

    def _timed(self, stage: str, work: Callable[[], _T]) -> _T:
        started = perf_counter()
        try:
            return work()
        finally:
            self.summary.seconds[stage] += perf_counter() - started
