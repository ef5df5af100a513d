"""Ticks: when one is due, and what it compresses, shows and renews. The same live and in a replay."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from storage import items, journal
from storage.faults import reach
from storage.journal import Draft
from stream.clock import from_ms, midnight_ms, to_ms
from stream.cuts import NOWHERE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from storage.database import Database, Tx
    from storage.journal import JournalEntry
    from storage.runs import RunRow
    from stream.config import PipelineConfig
    from stream.cuts import Cut
    from stream.refresh import Refresher, Wanted


@dataclass(frozen=True, slots=True)
class TickReport:
    """What one tick did."""

    at: datetime
    segments: int
    users: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A tick to be carried out.

    Attributes:
        at: its time.
        cut: what lies before it; None: all that is stored when it is recorded.
        wanted: what it compresses, if anything.
        shown: finished runs that become readable with it.
        renews: whether candidates and popularity are renewed; otherwise runs become readable, nothing else.
    """

    at: datetime
    cut: Cut | None
    wanted: Wanted | None
    shown: list[RunRow]
    renews: bool


class Ticks:
    """Plans ticks and carries them out: compresses what is due, publishes what is ready, renews what users share.

    Args:
        db: the shard's database.
        refresher: what compresses; None without a model.
        config: everything the pipeline is told.
        stored: where the log is stored to.
    """

    def __init__(
        self,
        db: Database,
        refresher: Refresher | None,
        config: PipelineConfig,
        stored: Callable[[], Cut],
    ) -> None:
        self._db = db
        self._refresher = refresher
        self._stored = stored
        self._interval_ms = config.refresh.tick_interval_s * 1000
        self._pending: list[RunRow] = refresher.unpublished() if refresher else []
        entry = journal.latest(db, "popularity")
        self._last: int | None = None if entry is None else int(entry.detail["tick"])

    def next_threshold(self, now_ms: int | None) -> int:
        """Event time at which something changes: the next tick, or a run that becomes visible."""
        if now_ms is None:
            return NOWHERE
        threshold = (now_ms // self._interval_ms + 1) * self._interval_ms
        pending = [run.visible_from_ms for run in self._pending if run.visible_from_ms is not None]
        return min([threshold, *pending])

    def due(self, cut: Cut) -> Plan | None:
        """What the event clock asks for at a cut: a tick, the runs whose time has come, or nothing."""
        now_ms = cut.clock_ms
        if now_ms is None:
            return None
        if self._last is None or now_ms // self._interval_ms > self._last:
            return self.plan(from_ms(now_ms), cut)
        shown = self._show(now_ms, undated=False)
        return Plan(from_ms(now_ms), cut.copy(), None, shown, renews=False) if shown else None

    def plan(self, at: datetime, cut: Cut | None) -> Plan:
        """A tick at a time: what is due is compressed, what is ready shown.

        Args:
            at: its time.
            cut: what lies before it; None: all that is stored when it is recorded.
        """
        wanted = None
        if self._refresher is not None:
            marks = (cut or self._stored()).watermarks()
            wanted = self._refresher.wanted(marks, at, self._refresher.plan(marks))
        if wanted is not None:
            self._pending = [*self._pending, wanted.run]
        self._last = to_ms(at) // self._interval_ms
        shown = self._show(to_ms(at))
        return Plan(at, None if cut is None else cut.copy(), wanted, shown, renews=True)

    def carry_out(
        self,
        plans: Sequence[Plan],
        *,
        also: Callable[[Tx], None] | None = None,
        told: Callable[[list[JournalEntry]], None] | None = None,
    ) -> list[JournalEntry]:
        """Compress what ticks want in one pass and record them in one transaction; returns their journal entries.

        Args:
            plans: in their order.
            also: called in that transaction.
            told: given the entries after its commit, before anything else can be written.
        """
        entries: list[JournalEntry] = []

        def record(tx: Tx) -> None:
            drafts = [draft for plan in plans for draft in self._drafts(tx, plan)]
            entries.extend(journal.append_all(tx, drafts))
            if also is not None:
                also(tx)
            if told is not None:
                tx.on_commit(lambda: told(entries))
            reach("tick.journal")

        wanted = [plan.wanted for plan in plans if plan.wanted is not None]
        if self._refresher is not None and wanted:
            self._refresher.run(wanted, record)
        else:
            with self._db.transaction() as tx:
                record(tx)
        reach("tick.applied")
        return entries

    def now(self, at: datetime, told: Callable[[list[JournalEntry]], None]) -> TickReport:
        """A tick by the wall clock, over all that is stored; one that fails is planned anew by the next.

        Args:
            at: its time.
            told: given its journal entries after the commit, before anything else can be written.
        """
        started = perf_counter()
        pending, last = self._pending, self._last
        try:
            plan = self.plan(at, None)
            self.carry_out([plan], told=told)
        except BaseException:
            self._pending, self._last = pending, last
            raise
        return report(plan, perf_counter() - started)

    def _show(self, now_ms: int, *, undated: bool = True) -> list[RunRow]:
        """Runs that become visible now; `undated` takes in those whose time was not fixed."""
        ready = [
            run
            for run in self._pending
            if (undated if run.visible_from_ms is None else run.visible_from_ms <= now_ms)
        ]
        self._pending = [run for run in self._pending if run not in ready]
        return ready

    def _drafts(self, tx: Tx, plan: Plan) -> list[Draft]:
        """What readers see from this tick on."""
        cut = plan.cut or self._stored()
        drafts = [
            Draft(
                kind="group_visible",
                ref=str(run.run_id),
                detail={},
                positions=dict(cut.next_offsets),
                at=plan.at,
            )
            for run in plan.shown
        ]
        if plan.renews and cut.newest_ms:
            drafts.append(self._renewal(tx, plan, cut))
        return drafts

    def _renewal(self, tx: Tx, plan: Plan, cut: Cut) -> Draft:
        """The entry from which candidates and popularity of the next interval follow.

        Live it names the items that are not to be shown yet: another run may meet a new item in another order.
        """
        watermark = max(cut.watermarks().values())
        day = midnight_ms(watermark)
        detail: dict[str, object] = {
            "n_items": cut.n_items,
            "cut_ms": day,
            "at_ms": watermark,
            "tick": to_ms(plan.at) // self._interval_ms,
        }
        if plan.cut is None:
            detail["unseen"] = items.first_seen_after(tx, cut.n_items, watermark)
        return Draft(
            kind="popularity",
            ref=str(day),
            detail=detail,
            positions=dict(cut.next_offsets),
            at=plan.at,
        )


def report(plan: Plan, seconds: float) -> TickReport:
    """What a tick did that was carried out."""
    due = plan.wanted.due if plan.wanted else []
    return TickReport(plan.at, sum(map(len, due)), len(due), seconds)
