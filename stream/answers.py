"""Answers to rows that pass: states move, slates are made durable, then the scored positions move."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

import pyarrow as pa

from storage import journal, positions
from storage.faults import reach
from stream.shed import Unanswered, shed_drafts
from stream.slate_log import log_slates
from stream.slates import SlateLines
from stream.summary import Answered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from storage.database import Database, Tx
    from storage.identities import Identities
    from storage.journal import JournalEntry
    from storage.records import PartitionKey
    from stream.config import PipelineConfig
    from stream.cuts import Cut
    from stream.popular import PopularScorer
    from stream.score import Scorer
    from stream.sinks import Sink
    from stream.slates import Slate

    Listener = Callable[[pa.Table, list[Slate], list[JournalEntry]], None]


@dataclass(slots=True)
class _Work:
    """What passed since the scored positions moved last; slates themselves only where somebody reads them."""

    start: dict[PartitionKey, int]
    tables: list[pa.Table] = field(default_factory=list)
    lines: SlateLines = field(default_factory=SlateLines)
    slates: list[Slate] = field(default_factory=list)
    shed: Counter[PartitionKey] = field(default_factory=Counter)
    done: Answered = field(default_factory=Answered)


class Answers:
    """Scores rows, writes their slates, and moves the scored positions behind them.

    Args:
        db: the shard's database.
        identities: its internal ids.
        scorer: what answers.
        sink: where slates go; None drops them.
        cut: where the walk over stored rows stands.
        config: everything the pipeline is told.
        fence: refuses to move positions once another pipeline has taken over.
    """

    def __init__(
        self,
        db: Database,
        identities: Identities,
        scorer: Scorer | PopularScorer,
        sink: Sink | None,
        cut: Cut,
        config: PipelineConfig,
        fence: Callable[[Tx], None],
    ) -> None:
        self._db = db
        self._ids = identities
        self._scorer = scorer
        self._sink = sink
        self._cut = cut
        self._config = config
        self._fence = fence
        self._scored = positions.scored_offsets(db)
        self._settled_at: datetime | None = None
        self._work = _Work(dict(cut.next_offsets))
        self.unanswered = Unanswered()
        self.listeners: list[Listener] = []

    @property
    def in_hand(self) -> int:
        """Events that have passed and whose slates are not durable yet."""
        return self._work.done.events

    @property
    def spent_s(self) -> float:
        """Seconds that scoring and writing took since the last answer was durable."""
        return sum(self._work.done.seconds.values())

    def take(self, rows: pa.Table) -> None:
        """Answer rows that pass; the slates become durable with `commit`."""
        work = self._work
        work.done.events += rows.num_rows
        if self.listeners:
            work.tables.append(rows)
        if self._config.score and rows.num_rows:
            started = perf_counter()
            encoded = 0.0
            for slates in self._scorer.score_rows(self.unanswered.cleared(rows)):
                encoded -= perf_counter()
                self._put(slates)
                encoded += perf_counter()
            work.done.spent("score", perf_counter() - started - encoded)
            work.done.spent("sink", encoded)

    def _put(self, slates: list[Slate]) -> None:
        work = self._work
        work.done.slates += len(slates)
        if self._sink is not None:
            work.lines.add(slates)
        if self.listeners or self._config.slate_log:
            work.slates += slates

    def shed(self, rows: pa.Table) -> None:
        """Of the rows that are about to pass, answer only each user's newest."""
        self.unanswered = Unanswered()
        self._work.shed.update(self.unanswered.add(rows))

    def commit(self, at: datetime, *, settle: bool = False) -> Answered:
        """Make slates durable in the sink, then move the scored positions to the cut, when they are due or are to.

        Raises:
            SinkError: the sink did not take the slates; the next call writes them again.
        """
        work = self._work
        if self._config.score and work.done.events:
            reach("score.done")
        if self._sink is not None and work.lines:
            started = perf_counter()
            self._sink.write(work.lines)
            work.done.spent("sink", perf_counter() - started)
            reach("sink.written")
        self._work = _Work(dict(self._cut.next_offsets))
        sheds: list[JournalEntry] = []
        if self.behind() and (settle or self._due(work, at)):
            with self._db.transaction() as tx:
                self.settle(tx, at)
                log_slates(tx, work.slates, self._ids, keep=self._config.slate_log)
                drafts = shed_drafts(work.shed, work.start, self._cut.next_offsets, at)
                sheds = journal.append_all(tx, drafts)
                reach("scored.commit")
        work.done.shed = work.shed.total()
        for listener in self.listeners if work.tables else ():
            listener(pa.concat_tables(work.tables), work.slates, sheds)
        return work.done

    def behind(self) -> dict[PartitionKey, int]:
        """Where the scored positions have to move to."""
        scored = self._scored
        ends = self._cut.next_offsets.items()
        return {key: off for key, off in ends if off > scored.get(key, 0)}

    def _due(self, work: _Work, at: datetime) -> bool:
        """Whether the scored positions move now: in time, and together with what else there is to write.

        Where nothing is scored they move with what needs them: a tick, a rotation, the end of a run.
        """
        if not self._config.score:
            return False
        if work.shed or (work.slates and self._config.slate_log) or self._settled_at is None:
            return True
        return at - self._settled_at >= timedelta(milliseconds=self._config.settle_ms)

    def settle(self, tx: Tx, at: datetime) -> None:
        """Move the scored positions to the cut in a transaction."""
        self._fence(tx)
        ends: Mapping[PartitionKey, int] = self.behind()
        positions.set_scored(tx, ends, at)
        tx.on_commit(lambda: self._settled(ends, at))

    def along(self, at: datetime) -> Callable[[Tx], None] | None:
        """What moves the scored positions in a transaction of others; None where slates decide when they move."""
        return None if self._config.score else partial(self.settle, at=at)

    def _settled(self, ends: Mapping[PartitionKey, int], at: datetime) -> None:
        self._scored.update(ends)
        self._settled_at = at
