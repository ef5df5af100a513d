"""Where the time of slates goes: the way of an event from the log to its acknowledged slate, by part."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from stream.judge import partition_rows
from stream.metrics import SLATE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from storage.journal import JournalEntry
    from storage.records import PartitionKey
    from stream.clock import Clock
    from stream.metrics import Metrics
    from stream.slates import Slate
    from stream.summary import Answered

_MS = 1000.0
_ANSWERED = ("score", "sink")


class Journeys:
    """Adds up, over slates, the seconds between the stations of their events.

    Told from the thread that stores (`stored`) and from the one that answers (`begin`, `answered`, `done`).

    Args:
        metrics: where they are counted.
        clock: the one that also dates the rows.
    """

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._commits: dict[PartitionKey, list[tuple[int, float]]] = {}
        self._begun_ms = 0.0
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def stored(self, rows: pa.Table) -> None:
        """Remember when rows were committed."""
        now_ms, off = self._now_ms(), rows["off"].to_numpy()
        with self._lock:
            for key, where in partition_rows(rows):
                self._commits.setdefault(key, []).append((int(off[where].max()) + 1, now_ms))

    def begin(self) -> None:
        """An answer begins."""
        self._begun_ms = self._now_ms()

    def answered(
        self, rows: pa.Table, slates: Sequence[Slate], sheds: Sequence[JournalEntry]
    ) -> None:
        """Add up the ways of the rows that have slates, to where their answer began."""
        del sheds
        causes = {
            (one.cause.topic, one.cause.partition, one.cause.offset) for one in slates if one.cause
        }
        off = rows["off"].to_numpy()
        polled_ms = rows["ingested_at_ms"].to_numpy().astype(np.float64)
        taken_ms = pc.coalesce(rows["append_ts_ms"], rows["ingested_at_ms"]).to_numpy()
        for key, where in partition_rows(rows):
            asked = where[[(*key, place) in causes for place in off[where].tolist()]]
            stored_ms = self._stored_ms(key, off[asked], polled_ms[asked])
            self._forget(key, int(off[where].max()) + 1)
            for part, begin, end in (
                ("poll", taken_ms[asked], polled_ms[asked]),
                ("store", polled_ms[asked], stored_ms),
                ("wait", stored_ms, np.full(len(asked), self._begun_ms)),
            ):
                self._seconds[part] += float(np.maximum(end - begin, 0).sum()) / _MS

    def done(self, answered: Answered) -> None:
        """Count an answer that is over: every slate of it waited for all of them."""
        self._seconds["apply"] += answered.applied_s * answered.slates
        for part in _ANSWERED:
            self._seconds[part] += answered.seconds.get(part, 0.0) * answered.slates
        for part, seconds in self._seconds.items():
            self._metrics.add(SLATE_SECONDS, seconds, part=part)
        self._seconds.clear()

    def _stored_ms(
        self, key: PartitionKey, offs: NDArray[np.int64], unknown: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """When rows were committed; `unknown` for those that were before this process."""
        with self._lock:
            commits = list(self._commits.get(key, ()))
        ends = np.array([end for end, _ in commits], np.int64)
        place = np.searchsorted(ends, offs, side="right")
        times = np.array([at for _, at in commits] + [0.0])
        return np.asarray(np.where(place < len(ends), times[place], unknown), np.float64)

    def _forget(self, key: PartitionKey, off: int) -> None:
        with self._lock:
            left = [commit for commit in self._commits.get(key, ()) if commit[0] > off]
            self._commits[key] = left

    def _now_ms(self) -> float:
        return self._clock.now().timestamp() * _MS
