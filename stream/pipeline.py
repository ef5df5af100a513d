"""The pipeline: store what was polled, answer it, tick. The same object live and in a replay.

Storing runs ahead; everything else happens at positions of the log. Live, three threads share one pipeline: one calls
`store`, one `answer`, one `tick` and `maintain`. A replay calls the same from one loop.
"""

from __future__ import annotations

import threading
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import msgspec

from storage.faults import reach
from stream.binding import bind
from stream.clock import from_ms, to_ms
from stream.errors import ConfigError
from stream.events import Partition
from stream.parts import build
from stream.passage import ByCalls, ByEvents
from stream.rerun import ByJournal
from stream.score import Scorer, StateRequest
from stream.upkeep import record_cache, tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    import pyarrow as pa

    from model.engine import Engine
    from storage.database import Database
    from storage.identities import Identities
    from storage.records import PartitionKey
    from stream.answers import Listener
    from stream.clock import Clock
    from stream.config import PipelineConfig
    from stream.events import EventBatch
    from stream.ingest import Stored
    from stream.journals import PastEntry
    from stream.loading import StateMode
    from stream.parts import Parts
    from stream.passage import IntervalHook, Passage
    from stream.refresh import Compressor
    from stream.sinks import Sink
    from stream.slates import Slate
    from stream.sources import Source
    from stream.summary import Answered, RunSummary
    from stream.ticks import TickReport

_T = TypeVar("_T")
TickSource: TypeAlias = "Literal['events', 'calls'] | Sequence[PastEntry]"
"""What ticks: event time reaching the next interval (a replay), calls of `tick` (live), or the journal of another run."""


class Pipeline:
    """One shard's log, states, slates and ticks.

    Args:
        db: the shard's database; this pipeline is its only writer.
        identities: the database's internal ids.
        engine: the model that scores; None serves popular items and says so.
        compressor: what compresses segments; None with `engine` means in this process.
        source: the log; None for a pipeline that is fed with `store`, or only answers requests.
        sink: where slates go; None drops them.
        config: everything it is told.
        clock: ingest times are taken from it.
        ticks: what ticks.
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
        ticks: TickSource = "events",
    ) -> None:
        self.db = db
        self.identities = identities
        self.engine = engine
        self.config = config
        self._clock = clock
        self._source = source
        bind(db, engine, config, clock.now())
        patient = ticks == "calls"
        parts = build(db, identities, engine, config, clock, sink, compressor, patient=patient)
        self.ingest = parts.ingest
        self.shared = parts.shared
        self.scorer = parts.scorer
        self.summary = parts.summary
        self._parts = parts
        self._passage = _passage(parts, ticks, source)
        self.ingest.tell(self.shared.stored)
        self.ingest.tell(self._passage.stored)
        self._answering = threading.RLock()
        self._news = threading.Condition()
        self._listeners: list[Callable[[pa.Table], None]] = []

    def store(self, batch: EventBatch) -> Stored:
        """Store a polled batch in one transaction: rows, dead letters, items, journal entries, positions.

        Raises:
            GapError: the batch starts beyond the stored position.
            PartitionMovedError: an event comes from another partition than its user's earlier ones, and the
                configuration refuses that.
            FencedError: a later pipeline has taken over.
        """
        now, announced = self._clock.now(), self._passage.announces
        work = partial(self.ingest.store, batch, now=now, announced=announced)
        stored = self._timed("store", work)
        self.summary.records += stored.counts.records
        self.summary.interactions += stored.counts.interactions
        self.summary.dead += stored.counts.dead
        reach("store.committed")
        self._tell()
        for listener in self._listeners:
            listener(stored.rows)
        return stored

    def wait_stored(self, ends: Mapping[PartitionKey, int], timeout_s: float) -> bool:
        """Wait until the log is stored up to exclusive offsets; return whether it is."""

        def reached() -> bool:
            stored = self.ingest.next_offsets
            return all(stored.get(key, 0) >= off for key, off in ends.items())

        with self._news:
            return self._news.wait_for(reached, timeout_s)

    def wait_answered(self, timeout_s: float) -> bool:
        """Wait until all that is stored is answered; return whether it is."""
        with self._news:
            return self._news.wait_for(lambda: not self.unanswered(), timeout_s)

    def _tell(self) -> None:
        """Let those who wait look again."""
        with self._news:
            self._news.notify_all()

    def waiting(self) -> dict[PartitionKey, tuple[int, int]]:
        """Scored and stored offset of every partition with records that are not answered."""
        at, stored = dict(self._parts.cut.next_offsets), self.ingest.next_offsets
        return {key: (at.get(key, 0), off) for key, off in stored.items() if at.get(key, 0) < off}

    def unanswered(self) -> int:
        """Events that are stored and whose answer is not durable: those that wait, and those in hand."""
        waiting = sum(stored - scored for scored, stored in self.waiting().values())
        return waiting + self._parts.answers.in_hand

    def on_stored(self, listener: Callable[[pa.Table], None]) -> None:
        """Call `listener` with the rows of every batch that is stored from now on."""
        self._listeners.append(listener)

    def on_answered(self, listener: Listener) -> None:
        """Call `listener` with rows that were answered, their slates, and what was shed, once it is durable."""
        self._parts.answers.listeners.append(listener)

    def load(self, source: Source) -> int:
        """Store everything a source holds without scoring it (an items file); returns the records read."""
        self._catch_up()
        known = {p: self.ingest.next_offsets.get((p.topic, p.part), 0) for p in source.partitions()}
        source.seek({p: off for p, off in known.items() if off})
        records = 0
        while True:
            batch = source.poll(self.config.stream.batch_records(scoring=False))
            if batch.ranges:
                stored = self.ingest.store(batch, now=self._clock.now(), scored=True)
                self.scorer.skipped(stored.rows)
                self._passage.loaded(stored.ends)
                records += stored.counts.records
                self._check_dead()
            if batch.exhausted:
                return records

    def resume(self) -> None:
        """Continue where the database stands: position the source, answer stored but unanswered events."""
        self.ingest.take_over()
        if self._source is not None:
            known = set(self._source.partitions())
            stored = self.ingest.next_offsets.items()
            self._source.seek({Partition(*k): off for k, off in stored if Partition(*k) in known})
        self._catch_up()
        self._passage.make_up()

    def _catch_up(self) -> None:
        """Answer what a run before this one stored and did not answer."""
        if self.waiting():
            reach("catchup.begin")
            self.answer()
            reach("catchup.answered")

    def answer(
        self, upto: Mapping[PartitionKey, int] | None = None, *, shed: bool = False
    ) -> Answered:
        """Answer stored events: slates into the sink, then the scored positions move.

        Live, rows of other partitions are answered too where a journal entry between applies after them. A replay
        answers everything stored, with a tick wherever event time reaches one.

        Args:
            upto: exclusive offset per partition, as far as stored; None for all.
            shed: live: let every row move its user's state, but answer only each user's newest, and journal what was
                left out.

        Raises:
            SinkError: the sink did not take the slates; the next call writes them again.
        """
        return self._answer(upto, shed=shed)

    def _answer(
        self,
        upto: Mapping[PartitionKey, int] | None = None,
        *,
        shed: bool = False,
        whole: bool = False,
    ) -> Answered:
        started, answers = perf_counter(), self._parts.answers
        with self._answering:
            before_s = answers.spent_s
            self._passage.answer(upto, shed=shed, whole=whole)
            applied_s = perf_counter() - started - (answers.spent_s - before_s)
            done = answers.commit(self._clock.now())
        done.applied_s = applied_s
        self._tell()
        self.summary.slates += done.slates
        for stage, seconds in done.seconds.items():
            self.summary.seconds[stage] += seconds
        return done

    def settle(self) -> None:
        """Move the scored positions up to what is answered, where they may stay behind for a while.

        Raises:
            SinkError: slates wait for the sink, and it did not take them.
        """
        with self._answering:
            self._parts.answers.commit(self._clock.now(), settle=True)

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
        with self._answering:
            slate = self.scorer.slate(request, top_k=top_k)
        return msgspec.structs.replace(slate, user_id=user_id)

    @property
    def clock_ms(self) -> int | None:
        """The event clock: newest event time stored, milliseconds; None before the first event."""
        return self.ingest.cut().clock_ms

    def tick(self, now: datetime) -> TickReport:
        """Compress what is due, publish what is ready, renew candidates and popularity.

        Live it comes before everything stored after it, and a tick that fails is made up for by the next.
        """
        return self._passage.tick(now)

    def finish(self) -> TickReport | None:
        """A last tick at the event clock, so that everything due is compressed."""
        now = self.clock_ms
        return None if now is None else self.tick(from_ms(now))

    def maintain(self) -> None:
        """Rotate a hot table grown past its limit into a sorted run, merge runs, join touching position ranges."""
        tidy(self.db, self.ingest, self.config, self._parts.answers.along(self._clock.now()))

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
            on_interval: called with the first and next offsets of what passed since the previous tick, after it was
                scored and before the tick changes anything.
        """
        self._passage.hook = on_interval
        self.resume()
        limit = None if max_records is None else self.summary.records + max_records
        size = self.config.stream.batch_records(scoring=self.config.score)
        while limit is None or self.summary.records < limit:
            room = size if limit is None else min(size, limit - self.summary.records)
            batch = self._timed("poll", partial(self._poll, room))
            self._process(batch)
            if on_progress is not None:
                on_progress(self.summary)
            if batch.exhausted:
                break
        self.settle()
        if isinstance(self.scorer, Scorer) and self.config.score:
            record_cache(self.db, self.scorer.cache_use())
        return self.summary

    def _poll(self, size: int) -> EventBatch:
        if self._source is None:
            raise ConfigError("this pipeline has no source; build it with one to run it")
        return self._source.poll(size)

    def _process(self, batch: EventBatch) -> None:
        """Store and answer one batch, then tidy up."""
        if batch.ranges:
            self.store(batch)
        if batch.ranges or batch.exhausted:
            self._answer(whole=batch.exhausted)
            self.maintain()
            self._check_dead()
        if batch.exhausted:
            self._passage.close_interval()
            self.ingest.end()
            self._check_dead()

    def _check_dead(self) -> None:
        if self.ingest.excess is not None:
            raise self.ingest.excess

    def _timed(self, stage: str, work: Callable[[], _T]) -> _T:
        started = perf_counter()
        try:
            return work()
        finally:
            self.summary.seconds[stage] += perf_counter() - started


def _passage(parts: Parts, ticks: TickSource, source: Source | None) -> Passage:
    """What decides where ticks and entries lie."""
    if ticks == "events":
        return ByEvents(parts)
    if ticks == "calls":
        return ByCalls(parts)
    partitions = source.partitions() if source is not None else ()
    return ByJournal(parts, list(ticks), [(p.topic, p.part) for p in partitions])
