"""Popularity as running sums: how often each item came up on each day, kept as rows are stored.

Rows are counted, not weighed, so sums do not depend on the order in which rows came: after a restart the same counts are
read from the log, and every window has the same bits.
"""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from model.features import DAY_MS, POPULARITY_DAYS
from storage import daily
from stream.judge import partition_rows
from stream.verdicts import NEVER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from storage.database import Database
    from storage.records import PartitionKey

    Ints = NDArray[np.int64]
    Counted = tuple[Ints, Ints]

_LONGEST = max(days for days in POPULARITY_DAYS if days is not None)
_COLUMNS = ["item_idx", "weight", "in_history", "ts_ms", "topic", "part", "off"]


class Popularity:
    """Counts of history rows per weight, day and item, below positions that move on.

    Rows may be told long before they count: those at or beyond the positions asked for wait. Days that have left every
    window are added up.

    Args:
        db: the log; read when first asked, and again where positions or cut go back.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = threading.Lock()
        self._at: tuple[int, dict[PartitionKey, int]] | None = None
        self._read: dict[PartitionKey, int] = {}
        self._days: dict[tuple[float, int], Counted] = {}
        self._settled: dict[float, Ints] = {}
        self._waiting: list[pa.Table] = []

    def passed(self, rows: pa.Table) -> None:
        """Take note of rows as they are stored: interactions, in log order per partition."""
        with self._lock:
            if self._at is not None:
                fresh = rows.select(_COLUMNS).filter(pa.array(~_below(rows, self._read)))
                self._waiting.append(fresh)

    def counts(
        self, positions: Mapping[PartitionKey, int], cut_ms: int, n_items: int
    ) -> NDArray[np.float64]:
        """Weight of each item per window before a cut, float64 [P, V], over the rows below the positions.

        Args:
            positions: exclusive upper offsets; a partition missing here was not read yet.
            cut_ms: a UTC midnight.
            n_items: V; every row below the positions is of one of these items.
        """
        cut = cut_ms // DAY_MS
        with self._lock:
            if self._goes_back(positions, cut):
                self._load(positions)
            self._at = cut, dict(positions)
            self._reach(positions)
            self._settle(cut - _LONGEST, n_items)
            return self._weighed(cut, n_items)

    def _goes_back(self, positions: Mapping[PartitionKey, int], cut: int) -> bool:
        """Whether what was counted last is more than what is asked for now."""
        if self._at is None:
            return True
        before, ends = self._at
        return cut < before or any(positions.get(key, 0) < end for key, end in ends.items())

    def _load(self, positions: Mapping[PartitionKey, int]) -> None:
        """Count what is stored below the positions; what is stored beyond them waits."""
        with self._db.snapshot() as snapshot:
            counted = daily.daily_counts(snapshot, positions)
            beyond = daily.rows_after(snapshot, positions)
        off = beyond["off"].to_numpy()
        ends = {key: int(off[where].max()) + 1 for key, where in partition_rows(beyond)}
        self._read = {**positions, **ends}
        self._days, self._settled, self._waiting = {}, {}, [beyond]
        names = ("weight", "day", "item_idx", "n")
        self._count(*(counted[name].to_numpy() for name in names))

    def _reach(self, positions: Mapping[PartitionKey, int]) -> None:
        """Count the waiting rows below the positions."""
        waiting = (
            pa.concat_tables(self._waiting, promote_options="permissive") if self._waiting else None
        )
        if waiting is None or not waiting.num_rows:
            return
        below = _below(waiting, positions)
        self._waiting = [waiting.filter(pa.array(~below))]
        rows = waiting.filter(pa.array(below & waiting["in_history"].to_numpy()))
        day = rows["ts_ms"].to_numpy() // DAY_MS
        item, weight = rows["item_idx"].to_numpy(), rows["weight"].to_numpy()
        self._count(weight, day, item, np.ones(len(day), np.int64))

    def _count(self, weight: NDArray[np.float64], day: Ints, item: Ints, n: Ints) -> None:
        """Add rows, `n` of each kind, to the counts of their days."""
        if not len(day):
            return
        order = np.lexsort((day, weight))
        weight, day, item, n = weight[order], day[order], item[order], n[order]
        new = np.flatnonzero((day[1:] != day[:-1]) | (weight[1:] != weight[:-1])) + 1
        for start, stop in pairwise([0, *new.tolist(), len(day)]):
            key = float(weight[start]), int(day[start])
            own = [(item[start:stop], n[start:stop])]
            self._days[key] = _together([*own, self._days[key]] if key in self._days else own)

    def _settle(self, first: int, n_items: int) -> None:
        """Add up the days before the first one that a window can still need."""
        for weight, day in [key for key in self._days if key[1] < first]:
            n = _per_item([self._days.pop((weight, day))], n_items)
            self._settled[weight] = _widened(self._settled.get(weight), n_items) + n

    def _weighed(self, cut: int, n_items: int) -> NDArray[np.float64]:
        out = np.zeros((len(POPULARITY_DAYS), n_items))
        for weight in sorted({*self._settled, *(weight for weight, _ in self._days)}):
            own = [(day, found) for (w, day), found in self._days.items() if w == weight]
            for place, days in enumerate(POPULARITY_DAYS):
                start = NEVER if days is None else cut - days
                n = _per_item([found for day, found in own if start <= day < cut], n_items)
                if days is None:
                    n += _widened(self._settled.get(weight), n_items)
                out[place] += weight * n
        return out


def _below(rows: pa.Table, positions: Mapping[PartitionKey, int]) -> NDArray[np.bool_]:
    """Whether each row lies below the positions."""
    off = rows["off"].to_numpy()
    mask = np.zeros(rows.num_rows, dtype=bool)
    for key, where in partition_rows(rows):
        mask[where] = off[where] < positions.get(key, 0)
    return mask


def _together(parts: Sequence[Counted]) -> Counted:
    """Each item once, ascending, and how often it came up in all parts."""
    items, place = np.unique(np.concatenate([item for item, _ in parts]), return_inverse=True)
    n = np.bincount(place, np.concatenate([n for _, n in parts]), len(items))
    return items, n.astype(np.int64)


def _per_item(parts: Sequence[Counted], n_items: int) -> Ints:
    """How often each item came up, [V]."""
    if not parts:
        return np.zeros(n_items, np.int64)
    items, n = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return np.bincount(items, n, n_items).astype(np.int64)


def _widened(counts: Ints | None, n_items: int) -> Ints:
    out = np.zeros(n_items, np.int64)
    if counts is not None:
        out[: len(counts)] = counts
    return out
