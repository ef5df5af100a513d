"""Features of the read-out: counters per (user, item), visits and popularity.

One definition serves both sides. Serving reads aggregates from the store and calls
``counter_features`` and ``log_popularity``; training computes the same values
as of any past moment from the raw history (``model.asof``). Nothing here needs torch.

Counters of a row cover everything *before the visit the row belongs to*; the visit itself is
only visible through ``in_visit``, the one before it also through ``in_last_visit``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.ragged import flat

__all__ = [
    "COUNTER_FEATURES",
    "DAY_MS",
    "DECAY_DAYS",
    "FEATURES",
    "POPULARITY_DAYS",
    "SparseFeatures",
    "counter_features",
    "log_popularity",
    "popularity_cut",
]

DAY_MS = 86_400_000
DECAY_DAYS: tuple[float, ...] = (7.0, 30.0, 90.0, 365.0)
"""Time constants of the decayed counts, in days: exp(-age / tau)."""
POPULARITY_DAYS: tuple[int | None, ...] = (7, 30, 120, None)
"""Windows of the popularity counts, in days before the cut; None = everything before it."""
COUNTER_FEATURES: tuple[str, ...] = (
    "bought",
    "log_count",
    *(f"log_decay_{int(days)}d" for days in DECAY_DAYS),
)
FEATURES: tuple[str, ...] = (*COUNTER_FEATURES, "in_last_visit", "in_visit")
"""Columns of a sparse feature row, in order."""


class Pairs(NamedTuple):
    """Pairs of R rows and their entries, row by row.

    Attributes:
        row_ptr: int64 [R + 1], pairs of row r are ``row_ptr[r]:row_ptr[r + 1]``.
        entry: int64 [nnz].
        cell: int64 [nnz], where the pair lies in scores [R, V], counted row by row.
    """

    row_ptr: NDArray[np.int64]
    entry: NDArray[np.int64]
    cell: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SparseFeatures:
    """Features of R rows over the candidate items, each row a stretch of E entries; rows may share entries.

    The read-out is linear in them, so an item may appear twice in one row: its features add up.

    Attributes:
        start: int64 [R], entries of row r are ``start[r]:stop[r]``.
        stop: int64 [R].
        item: int64 [E], candidate column of each entry.
        x: float32 [E, len(FEATURES)].
    """

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    item: NDArray[np.int64]
    x: NDArray[np.float32]

    @classmethod
    def packed(
        cls, row_ptr: NDArray[np.int64], item: NDArray[np.int64], x: NDArray[np.float32]
    ) -> SparseFeatures:
        """Rows that share nothing: entries of row r are ``row_ptr[r]:row_ptr[r + 1]``, int64 [R + 1]."""
        return cls(row_ptr[:-1], row_ptr[1:], item, x)

    @property
    def n_rows(self) -> int:
        """Number of rows R."""
        return len(self.start)

    def slice(self, first: int, stop: int) -> SparseFeatures:
        """Rows ``first:stop`` with no more entries than they need."""
        starts, stops = self.start[first:stop], self.stop[first:stop]
        lo, hi = int(starts.min(initial=len(self.item))), int(stops.max(initial=0))
        lo = min(lo, hi)
        return SparseFeatures(starts - lo, stops - lo, self.item[lo:hi], self.x[lo:hi])

    def where(self, kept: NDArray[np.bool_]) -> SparseFeatures:
        """The same rows without the entries that are not kept, bool [E]."""
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
        return SparseFeatures(before[self.start], before[self.stop], self.item[kept], self.x[kept])

    def pairs(self, n_items: int) -> Pairs:
        """Every pair of a row and one of its entries, over scores of ``n_items`` candidates."""
        sizes = self.stop - self.start
        row_ptr = np.concatenate([np.zeros(1, np.int64), sizes.cumsum()])
        entry = flat(self.start, sizes)
        cell = np.repeat(np.arange(len(sizes)) * n_items, sizes) + self.item[entry]
        return Pairs(row_ptr, entry, cell)

    def dense(self, n_items: int) -> NDArray[np.float32]:
        """All features as one float32 [R, n_items, len(FEATURES)] array (tests, inspection)."""
        out = np.zeros((self.n_rows * n_items, len(FEATURES)), np.float32)
        pairs = self.pairs(n_items)
        np.add.at(out, pairs.cell, self.x[pairs.entry])
        return out.reshape(self.n_rows, n_items, len(FEATURES))


def counter_features(
    count: NDArray[np.float64],
    decayed: NDArray[np.float64],
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Transform counters of (user, item) pairs into features.

    Args:
        count: [n], summed event weights.
        decayed: [..., n, len(DECAY_DAYS)], summed weights times exp(-age / tau) at the time of each row.
        out: where to write, [..., n, len(COUNTER_FEATURES)] with any leading shape that both fit.

    Returns:
        float32 [..., n, len(COUNTER_FEATURES)]: bought (1 if the count is above 0), log(1 + count),
        log(1 + decayed count) per time constant. Rounding below zero counts as zero.
    """
    positive = np.maximum(np.asarray(count, np.float64), 0.0)
    if out is None:
        out = np.empty((*np.shape(decayed)[:-1], len(COUNTER_FEATURES)), np.float32)
    out[..., 0] = positive > 0.0
    out[..., 1] = np.log1p(positive)
    logs = np.maximum(np.asarray(decayed, np.float64), 0.0)
    out[..., 2:] = np.log1p(logs, out=logs)
    return out


def log_popularity(counts: NDArray[np.float64]) -> NDArray[np.float32]:
    """Transform popularity counts, any shape (usually [P, V]), into log(1 + count) float32."""
    return np.log1p(np.maximum(np.asarray(counts, np.float64), 0.0)).astype(np.float32)


def popularity_cut(time_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """UTC midnight at or before each time; training counts days strictly before it."""
    return np.asarray(time_ms, np.int64) // DAY_MS * DAY_MS
