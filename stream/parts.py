"""The parts of a pipeline, put together from its settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from storage import positions
from stream.ahead import Ahead
from stream.answers import Answers
from stream.backlog import Backlog
from stream.cuts import Cut, read_cut
from stream.ingest import Ingest
from stream.judge import SegmentRule
from stream.loading import StateLoader, WindowRule
from stream.popular import PopularScorer
from stream.refresh import Refresher
from stream.score import Scorer
from stream.shared import Shared
from stream.summary import RunSummary
from stream.ticks import Ticks

if TYPE_CHECKING:
    from model.engine import Engine
    from storage.database import Database
    from storage.identities import Identities
    from stream.clock import Clock
    from stream.config import PipelineConfig
    from stream.refresh import Compressor
    from stream.sinks import Sink
    from stream.ticks import TickReport


@dataclass(slots=True)
class Parts:
    """What stores, answers and compresses.

    Attributes:
        db: the shard's database.
        identities: its internal ids.
        engine: the model; None without one.
        config: everything the pipeline is told.
        clock: of everything that is written down with a time.
        ingest: stores batches.
        cut: where answering stands.
        shared: what all users share there.
        scorer: what answers.
        refresher: what compresses; None without a model.
        backlog: counts what is due.
        ticks: plans ticks and carries them out.
        ahead: what is stored beyond the cut.
        answers: makes slates durable.
        summary: counts what is done.
    """

    db: Database
    identities: Identities
    engine: Engine | None
    config: PipelineConfig
    clock: Clock
    ingest: Ingest
    cut: Cut
    shared: Shared
    scorer: Scorer | PopularScorer
    refresher: Refresher | None
    backlog: Backlog
    ticks: Ticks
    ahead: Ahead
    answers: Answers
    summary: RunSummary = field(default_factory=RunSummary)

    def count(self, done: TickReport) -> None:
        """Count a tick."""
        self.summary.ticks += 1
        self.summary.segments += done.segments
        self.summary.seconds["tick"] += done.seconds


def build(
    db: Database,
    identities: Identities,
    engine: Engine | None,
    config: PipelineConfig,
    clock: Clock,
    sink: Sink | None,
    compressor: Compressor | None,
    *,
    patient: bool,
) -> Parts:
    """Put the parts together where the database stands; what is due is not counted yet.

    With `patient` a user that cannot be compressed is left out of a tick, which ends it otherwise.
    """
    rule = SegmentRule(config.refresh.segment_len, config.refresh.r_min)
    ingest = Ingest(db, identities, config.stream, rule, refuse_moved=config.refuse_moved)
    cut = _standing(db, ingest.cut(), config.stream.lateness_ms)
    shared = Shared(db, identities, engine, cut)
    scorer = _scorer(db, identities, engine, shared, config)
    backlog = Backlog(rule.segment_len, rule.r_min)
    refresher = None
    if engine is not None:
        worker = compressor or engine
        refresher = Refresher(db, engine, worker, shared, backlog, config.refresh, patient=patient)
    return Parts(
        db=db,
        identities=identities,
        engine=engine,
        config=config,
        clock=clock,
        ingest=ingest,
        cut=cut,
        shared=shared,
        scorer=scorer,
        refresher=refresher,
        backlog=backlog,
        ticks=Ticks(db, refresher, config, ingest.cut),
        ahead=Ahead(db, cut, ingest.next_offsets),
        answers=Answers(db, identities, scorer, sink, cut, config, ingest.fence),
    )


def _standing(db: Database, stored: Cut, lateness_ms: int) -> Cut:
    """Where answering stands: what is stored below the scored positions."""
    scored = positions.scored_offsets(db)
    if all(off <= scored.get(key, 0) for key, off in stored.next_offsets.items()):
        return stored
    return read_cut(db, scored, lateness_ms)


def _scorer(
    db: Database,
    identities: Identities,
    engine: Engine | None,
    shared: Shared,
    config: PipelineConfig,
) -> Scorer | PopularScorer:
    """What answers: the model, or without one popular items."""
    if engine is None:
        return PopularScorer(db, identities, shared, config.serving)
    window = WindowRule(config.refresh.segment_len, config.serving.r_max, engine.config.window)
    gap = config.stream.visit_gap_ms
    loader = StateLoader(db, identities, engine, shared, window, gap)
    return Scorer(loader, identities, engine, shared, config.serving, gap)
