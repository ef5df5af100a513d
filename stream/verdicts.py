"""Verdicts on arriving records: late, future-dated, duplicate, displaced. Pure functions of the log.

A verdict on a record depends on the records before it in its partition and on nothing else: not on the wall clock,
not on how the log was cut into batches, not on when a tick ran. So a replay repeats every verdict of the live run.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from storage.records import HistoryKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEVER = np.iinfo(np.int64).min
"""Stands for "no time yet" in int64 arrays of milliseconds."""


def running_max(ts_ms: NDArray[np.int64], start_ms: int) -> NDArray[np.int64]:
    """Largest event time seen before each record, int64 [N]; `start_ms` is what the records before the batch left."""
    seen = np.empty(len(ts_ms), dtype=np.int64)
    if len(ts_ms):
        seen[0] = start_ms
        np.maximum(np.maximum.accumulate(ts_ms[:-1]), start_ms, out=seen[1:])
    return seen


def future_dated(
    ts_ms: NDArray[np.int64],
    append_ms: NDArray[np.int64],
    *,
    max_event_ms: int,
    lateness_ms: int,
    ahead_ms: int,
    jump_ms: int,
) -> NDArray[np.bool_]:
    """Mask of records dated too far ahead, bool [N].

    A record with an append time (`append_ms` not NEVER) may be ahead of it by `ahead_ms`; one without may be ahead of
    the watermark by `jump_ms`. A future-dated record does not move the watermark. The first record of a partition is accepted.
    """
    bad = np.zeros(len(ts_ms), dtype=bool)
    appended = append_ms != NEVER
    bad[appended] = ts_ms[appended] > append_ms[appended] + ahead_ms
    if appended.all():
        return bad
    before = running_max(ts_ms, max_event_ms)
    suspect = ~appended & (before != NEVER) & (ts_ms - jump_ms > before - lateness_ms)
    if not (suspect.any() or bad.any()):
        return bad
    newest = (
        max_event_ms  # a jump was seen: walk, since a refused record must not excuse the next one
    )
    for i, ts in enumerate(ts_ms.tolist()):
        if not appended[i]:
            bad[i] = newest != NEVER and ts - jump_ms > newest - lateness_ms
        if not bad[i]:
            newest = max(newest, ts)
    return bad


@dataclass(slots=True)
class OpenWindow:
    """One user's history keys in order, and the event ids seen: what late and duplicate verdicts are judged against."""

    segment_len: int
    r_min: int
    keys: list[HistoryKey] = field(default_factory=list)
    events: dict[str, tuple[HistoryKey, int]] = field(default_factory=dict)

    def frozen(self, watermark_ms: int) -> HistoryKey | None:
        """Key of the last interaction of the last due segment at a watermark, None where no segment is due."""
        before = bisect.bisect_left(self.keys, watermark_ms, key=lambda key: key.h_ts_ms)
        due = max(0, before - self.r_min) // self.segment_len
        return self.keys[due * self.segment_len - 1] if due else None

    def place(self, key: HistoryKey, watermark_ms: int) -> HistoryKey:
        """The key an arriving interaction takes: its own, or the oldest place of the open window when that is frozen."""
        last = self.frozen(watermark_ms)
        if last is None or key > last:
            return key
        return last._replace(displaced=True, off=key.off)

    def add(self, key: HistoryKey) -> None:
        """Insert a key at its place."""
        bisect.insort(self.keys, key)

    def is_duplicate(self, event_id: str, watermark_ms: int, lateness_ms: int) -> bool:
        """Whether an earlier record carries `event_id` within the open window or the lateness bound before the watermark."""
        original = self.events.get(event_id)
        if original is None:
            return False
        key, ts = original
        last = self.frozen(watermark_ms)
        return last is None or key > last or ts >= watermark_ms - lateness_ms
