"""Ticks: when one is due, and what it does to tokens, popularity and storage. The same live and in a replay."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from storage import journal, positions, rotation
from storage.faults import reach
from stream.clock import from_ms, to_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from storage.database import Database, Tx
    from storage.runs import RunRow
    from stream.config import PipelineConfig
    from stream.ingest import Ingest
    from stream.refresh import Refresher
    from stream.shared import Shared


@dataclass(frozen=True, slots=True)
class TickReport:
    """What one tick did."""

    at: datetime
    segments: int
    users: int
    seconds: float


class Ticks:
    """Compresses what is due, publishes what is ready, renews what users share, and tidies the store.

    Args:
        db: the shard's database.
        ingest: what was stored so far; its event times are the clock.
        shared: candidates and popularity, renewed here.
        refresher: what compresses; None without a model.
        config: everything the pipeline is told.
        published: told a run whose groups are readable from now on, and their users.
    """

    def __init__(
        self,
        db: Database,
        ingest: Ingest,
        shared: Shared,
        refresher: Refresher | None,
        config: PipelineConfig,
        published: Callable[[int, Sequence[int]], None],
    ) -> None:
        self._db = db
        self._ingest = ingest
        self._shared = shared
        self._refresher = refresher
        self._config = config
        self._published = published
        self._interval_ms = config.refresh.tick_interval_s * 1000
        self._pending: list[RunRow] = refresher.unpublished() if refresher else []
        self._shown: list[RunRow] = []
        entry = journal.latest(db, "popularity")
        self._last: int | None = None if entry is None else int(entry.detail["tick"])

    @property
    def clock_ms(self) -> int | None:
        """The event clock: newest event time stored, milliseconds; None before the first event."""
        return max(self._ingest.max_event_ms.values(), default=None)

    def next_threshold(self) -> int:
        """Event time at which something changes: the next tick, or a run that becomes visible."""
        now = self.clock_ms
        if now is None:
            return -(1 << 62)
        threshold = (now // self._interval_ms + 1) * self._interval_ms
        pending = [run.visible_from_ms for run in self._pending if run.visible_from_ms is not None]
        return min([threshold, *pending])

    def due(self) -> bool:
        """Whether the event clock stands at a new tick, or a finished run has become visible."""
        now = self.clock_ms
        return now is not None and (self._is_new(now) or bool(self._ready(now, undated=False)))

    def run_due(self) -> TickReport | None:
        """Run the tick that is due, if one is; otherwise publish the runs whose time has come."""
        now = self.clock_ms
        if now is None:
            return None
        if self._is_new(now):
            return self.run(from_ms(now))
        if self._pending:
            with self._db.transaction() as tx:
                self._publish(tx, now)
            self._forget()
        return None

    def run(self, now: datetime) -> TickReport:
        """Compress what is due, publish what is ready, renew candidates and popularity; in that order, then maintenance."""
        started = perf_counter()
        watermarks = self._ingest.watermarks()
        record = partial(self._record, now=now, watermarks=watermarks)
        report = None if self._refresher is None else self._refresher.run(watermarks, now, record)
        if report is None:
            with self._db.transaction() as tx:
                record(tx, None)
        reach("tick.applied")
        self._renew()
        self._maintain(watermarks)
        users, segments = (report.users, report.segments) if report else (0, 0)
        return TickReport(now, segments, users, perf_counter() - started)

    def _number(self, now_ms: int) -> int:
        return now_ms // self._interval_ms

    def _is_new(self, now_ms: int) -> bool:
        return self._last is None or self._number(now_ms) > self._last

    def _record(
        self,
        tx: Tx,
        run: RunRow | None,
        *,
        now: datetime,
        watermarks: Mapping[tuple[str, int], int],
    ) -> None:
        """Write what readers see from this tick on, in the transaction of the newest run's last groups."""
        if run is not None:
            self._pending.append(run)
        self._publish(tx, to_ms(now))
        clock = self.clock_ms
        self._last = None if clock is None else self._number(clock)
        if watermarks and self._last is not None:
            self._shared.record_tick(
                tx,
                now,
                self._ingest.next_offsets,
                watermark_ms=max(watermarks.values()),
                tick=self._last,
            )
        reach("tick.journal")

    def _renew(self) -> None:
        """Follow what a tick recorded."""
        self._shared.renew()
        if self._config.score:
            self._shared.now()  # item records stored from here on wait for the next tick
        self._forget()

    def _ready(self, now_ms: int, *, undated: bool = True) -> list[RunRow]:
        """Runs that may become visible; `undated` takes in those whose time was not fixed."""
        return [
            run
            for run in self._pending
            if (undated if run.visible_from_ms is None else run.visible_from_ms <= now_ms)
        ]

    def _publish(self, tx: Tx, now_ms: int) -> None:
        """Journal every finished run whose time has come."""
        if self._refresher is None:
            return
        self._shown = self._ready(now_ms)
        for run in self._shown:
            self._refresher.publish(tx, run.run_id, self._ingest.next_offsets, from_ms(now_ms))

    def _forget(self) -> None:
        """Let cached states take in what the runs just published have compressed."""
        if self._refresher is None:
            return
        for run in self._shown:
            self._published(run.run_id, self._refresher.touched(run.run_id))
            self._pending.remove(run)
        self._shown = []

    def _maintain(self, watermarks: Mapping[tuple[str, int], int]) -> None:
        """Rotate a hot table grown past its limit into a sorted run, merge runs, join touching position ranges."""
        if not watermarks or self._ingest.hot_rows < self._config.rotate_rows:
            return
        before = min(watermarks.values()) - self._config.stream.visit_gap_ms
        with self._db.transaction() as tx:
            moved = rotation.rotate(tx, below=positions.scored_offsets(tx), before_ms=before)
            rotation.merge_runs(tx, max_runs=self._config.max_runs)
            positions.compact(tx)
            reach("rotation.commit")
        self._ingest.hot_rows -= moved
        self._db.checkpoint()
