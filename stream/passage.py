"""Answering what is stored: rows pass in order, ticks and journal entries apply between them, slates come out.

Where ticks and entries lie among the rows is all that differs between a replay (`ByEvents`), a live run (`ByCalls`) and
the replay of a live run (`ByJournal`, in `rerun.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias

from storage import journal
from stream.events import Partition
from stream.journals import APPLIED
from stream.ticks import Plan, TickReport, report
from stream.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    import pyarrow as pa

    from storage.journal import JournalEntry
    from storage.records import PartitionKey
    from stream.ingest import Stored
    from stream.parts import Parts

IntervalHook: TypeAlias = "Callable[[Mapping[Partition, int], Mapping[Partition, int]], None]"
"""Called with the first and next offsets of an inter-tick interval."""


class Passage(ABC):
    """Answers stored rows from where the database stands.

    Attributes:
        announces: whether storing journals what item records change.
        hook: called before a replay's tick changes anything.
    """

    announces = True

    def __init__(self, parts: Parts) -> None:
        self.hook: IntervalHook | None = None
        self._parts = parts

    def stored(self, stored: Stored) -> None:
        """Take note of a commit, before anything else is written."""
        self._parts.ahead.store(stored.rows, stored.ends)

    @abstractmethod
    def answer(self, upto: Mapping[PartitionKey, int] | None, *, shed: bool, whole: bool) -> None:
        """Let rows pass, up to exclusive offsets or all; `whole`: nothing more will be stored."""

    @abstractmethod
    def tick(self, now: datetime) -> TickReport:
        """Tick at a time."""

    def loaded(self, ends: Mapping[PartitionKey, int]) -> None:
        """What lies below exclusive offsets was stored to be passed without an answer."""
        for rows in self._parts.ahead.take(ends):
            self._count(rows)
        self._parts.ahead.settle()
        self._parts.cut.n_items = self._parts.identities.n_items

    def make_up(self) -> None:  # noqa: B027 only where event time ticks
        """Tick where a tick should have been."""

    def close_interval(self) -> None:  # noqa: B027 only where event time ticks
        """Nothing more is stored before the next tick."""

    def _take(self, passes: Iterator[pa.Table]) -> None:
        """Answer rows as they pass."""
        for rows in passes:
            self._count(rows)
            self._parts.answers.take(rows)

    def _count(self, rows: pa.Table) -> None:  # noqa: B027 only where event time ticks
        """Tell of rows that pass, where due segments are counted as they do."""

    def _beyond(self) -> list[JournalEntry]:
        """Entries of the database's own journal that do not apply yet."""
        found = journal.beyond(self._parts.db, self._parts.cut.next_offsets)
        return [entry for entry in found if entry.kind in APPLIED]

    def _apply(self, entry: JournalEntry) -> None:
        """Let a journal entry apply to all rows that pass from now on."""
        parts = self._parts
        if entry.kind == "group_visible":
            run = int(entry.ref)
            if parts.refresher is not None:
                parts.scorer.published(run, parts.refresher.made(run))
        elif entry.kind == "popularity":
            parts.shared.renew(entry)
        elif entry.kind == "availability":
            idx = parts.identities.find_item(entry.ref)
            parts.cut.n_items = max(parts.cut.n_items, -1 if idx is None else idx + 1)
            parts.shared.set_available(entry.ref, available=bool(entry.detail["available"]))


class ByEvents(Passage):
    """A replay: a tick comes right after the row whose event time reaches it."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._walk = Walk(parts.ahead, parts.cut, self._apply)
        self._walk.announce(self._beyond())
        self._start = dict(parts.cut.next_offsets)
        if parts.engine is not None:
            parts.backlog.load(parts.db, parts.engine.version, parts.cut)

    def stored(self, stored: Stored) -> None:
        """Take note of a commit, before anything else is written."""
        super().stored(stored)
        self._walk.announce(stored.entries)

    def answer(self, upto: Mapping[PartitionKey, int] | None, *, shed: bool, whole: bool) -> None:  # noqa: ARG002
        """Let everything stored pass. Where no answer lies between them, all ticks are carried out together."""
        plans: list[Plan] = []

        def tick(plan: Plan) -> None:
            if not self._parts.config.score and self.hook is None:
                plans.append(plan)
                return
            self.close_interval()
            self._carry_out([plan])

        self._take(self._walk.by_clock(self._parts.ticks, tick))
        if plans:
            self._carry_out(plans)

    def tick(self, now: datetime) -> TickReport:
        """Tick where the walk stands."""
        started = perf_counter()
        plan = self._parts.ticks.plan(now, self._parts.cut)
        self._carry_out([plan])
        return report(plan, perf_counter() - started)

    def make_up(self) -> None:
        """Tick where the run before this one should have."""
        plan = self._parts.ticks.due(self._parts.cut)
        if plan is not None:
            self._carry_out([plan])

    def close_interval(self) -> None:
        """Call the hook with what passed since it was called last."""
        if self.hook is None:
            return
        ends = {Partition(*key): off for key, off in self._parts.cut.next_offsets.items()}
        self.hook({p: self._start.get((p.topic, p.part), 0) for p in ends}, ends)
        self._start = dict(self._parts.cut.next_offsets)

    def _count(self, rows: pa.Table) -> None:
        if self._parts.engine is not None:
            self._parts.backlog.take(rows)

    def _carry_out(self, plans: Sequence[Plan]) -> None:
        parts, started = self._parts, perf_counter()
        entries = parts.ticks.carry_out(plans, also=parts.answers.along(parts.clock.now()))
        for entry in entries:
            self._apply(entry)
        seconds = (perf_counter() - started) / len(plans)
        for plan in plans:
            if plan.renews:
                parts.count(report(plan, seconds))


class ByCalls(Passage):
    """A live run: ticks come when they are called for, after everything stored by then."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._walk = Walk(parts.ahead, parts.cut, self._apply)
        self._walk.announce(self._beyond())
        if parts.engine is not None:
            parts.backlog.load(parts.db, parts.engine.version, parts.ingest.cut())

    def stored(self, stored: Stored) -> None:
        """Take note of a commit, before anything else is written."""
        super().stored(stored)
        self._walk.announce(stored.entries)
        if self._parts.engine is not None:
            self._parts.backlog.take(stored.rows)

    def answer(self, upto: Mapping[PartitionKey, int] | None, *, shed: bool, whole: bool) -> None:  # noqa: ARG002
        """Let rows pass; with `shed` only each user's newest one among them is answered."""
        parts = self._parts
        ends = dict(parts.ingest.next_offsets if upto is None else upto)
        rows = parts.ahead.peek(self._walk.reach(ends)) if shed else None
        if rows is not None:
            parts.answers.shed(rows)
        self._take(self._walk.by_entries(ends, {}))

    def tick(self, now: datetime) -> TickReport:
        """Tick after everything that is stored."""
        done = self._parts.ticks.now(now, self._walk.announce)
        self._parts.count(done)
        return done
