"""Features as of any past moment, from the raw history: what training and evaluation read.

The values equal those that serving builds from stored aggregates (``model.features``); here they
are looked up in arrays prepared once, so that hundreds of rows a step cost milliseconds.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model.features import (
    COUNTER_FEATURES,
    DAY_MS,
    DECAY_DAYS,
    FEATURES,
    POPULARITY_DAYS,
    SparseFeatures,
    counter_features,
    log_popularity,
)
from model.ragged import ranges

__all__ = ["AsOf", "Histories", "Popularity"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_POPULARITY_CACHE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Histories:
    """Histories of all users in history order: rows of one user are adjacent.

    Attributes:
        ptr: int64 [U + 1], rows of user u are ``ptr[u]:ptr[u + 1]``.
        item: int64 [N], candidate column.
        type_row: int64 [N], event type row of the model.
        ts: int64 [N], epoch milliseconds.
        weight: float64 [N], weight of the event type.
        visit: int64 [N], visit number, growing over all rows; a user's visits are his own.
    """

    ptr: Ints
    item: Ints
    type_row: Ints
    ts: Ints
    weight: Floats
    visit: Ints

    @property
    def n_rows(self) -> int:
        """Number of history rows N."""
        return len(self.item)

    @property
    def n_users(self) -> int:
        """Number of users U."""
        return len(self.ptr) - 1

    def user(self) -> Ints:
        """User of each row, int64 [N]."""
        return np.repeat(np.arange(self.n_users), np.diff(self.ptr))


class AsOf:
    """Counter and visit features of any (user, position) of a set of histories.

    A *position* is a row number p of the histories: the state is the user's rows before p.

    Args:
        histories: the rows.
        n_items: number of candidate columns V.
    """

    def __init__(self, histories: Histories, n_items: int) -> None:
        self.histories = histories
        self.n_items = n_items
        self._start = histories.ptr[histories.user()] if histories.n_rows else histories.ptr[:0]
        self._visit_start = _run_starts(histories.visit)
        order = np.lexsort((np.arange(histories.n_rows), histories.item, histories.user()))
        self._next_same, rank = _links(order, histories)
        self._count, self._decayed = _running_sums(order, rank, histories)

    def visit_start(self, rows: Ints) -> Ints:
        """First row of the visit that each row belongs to."""
        return self._visit_start[rows]

    def request(self, user: Ints, position: Ints, time_ms: Ints) -> SparseFeatures:
        """Features of request rows outside a visit: everything before ``position`` counts.

        Args:
            user: [R] user numbers.
            position: [R] state ends before this row.
            time_ms: [R] time of the request, where decays are evaluated.
        """
        return self._sparse(self.histories.ptr[user], position, position, time_ms)

    def line(self, newest: Ints) -> SparseFeatures:
        """Features of the rows ``newest`` [R] inside their visit, at their own time."""
        cut = self._visit_start[newest]
        return self._sparse(self._start[newest], cut, newest + 1, self.histories.ts[newest])

    def _sparse(self, start: Ints, cut: Ints, stop: Ints, time_ms: Ints) -> SparseFeatures:
        """Rows ``[start, cut)`` feed counters, rows ``[cut, stop)`` are the current visit."""
        query, row = ranges(start, stop)
        before = row < cut[query]
        keep = self._next_same[row] >= np.where(before, cut[query], stop[query])
        query, row, before = query[keep], row[keep], before[keep]
        x = np.zeros((row.shape[0], len(FEATURES)), np.float32)
        past, asked = row[before], query[before]
        age_days = (time_ms[asked] - self.histories.ts[past]) / DAY_MS
        decayed = self._decayed[past] * np.exp(-age_days[:, None] / np.array(DECAY_DAYS))
        x[before, : len(COUNTER_FEATURES)] = counter_features(self._count[past], decayed)
        last_visit = self._visit_start[np.maximum(cut - 1, 0)]
        x[before, FEATURES.index("in_last_visit")] = past >= last_visit[asked]
        x[~before, FEATURES.index("in_visit")] = 1.0
        ptr = np.searchsorted(query, np.arange(start.shape[0] + 1))
        return SparseFeatures.packed(ptr.astype(np.int64), self.histories.item[row], x)


class Popularity:
    """Log popularity of every item as of a UTC midnight, over the windows of the read-out.

    Args:
        histories: the rows that count.
        n_items: number of candidate columns V.
    """

    def __init__(self, histories: Histories, n_items: int) -> None:
        order = np.argsort(histories.ts, kind="stable")
        self.n_items = n_items
        self._ts = histories.ts[order]
        self._item = histories.item[order]
        self._weight = histories.weight[order]
        self._cache: OrderedDict[int, NDArray[np.float32]] = OrderedDict()
        self._cache_size = max(8, _POPULARITY_CACHE_BYTES // (16 * max(n_items, 1)))

    def at(self, cut_ms: int) -> NDArray[np.float32]:
        """Log popularity float32 [P, V] over days before ``cut_ms``, all-time window last."""
        cached = self._cache.get(cut_ms)
        if cached is not None:
            self._cache.move_to_end(cut_ms)
            return cached
        counts = np.empty((len(POPULARITY_DAYS), self.n_items), np.float64)
        stop = int(np.searchsorted(self._ts, cut_ms))
        for window, days in enumerate(POPULARITY_DAYS):
            start = 0 if days is None else int(np.searchsorted(self._ts, cut_ms - days * DAY_MS))
            counts[window] = np.bincount(
                self._item[start:stop], self._weight[start:stop], self.n_items
            )
        result = log_popularity(counts)
        self._cache[cut_ms] = result
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return result

    def groups(self, cut_ms: Ints) -> tuple[NDArray[np.float32], Ints]:
        """Log popularity of each distinct cut.

        Args:
            cut_ms: [R] cut of each row.

        Returns:
            float32 [G, P, V] and the group of each row, int64 [R].
        """
        cuts, group = np.unique(cut_ms, return_inverse=True)
        if not cuts.shape[0]:
            return np.zeros((0, len(POPULARITY_DAYS), self.n_items), np.float32), group
        return np.stack([self.at(int(cut)) for cut in cuts]), group.astype(np.int64)


def _run_starts(values: Ints) -> Ints:
    """Index of the first element of the run of equal values each element is in."""
    if not values.shape[0]:
        return values[:0]
    first = np.concatenate([[True], values[1:] != values[:-1]])
    return np.maximum.accumulate(np.where(first, np.arange(values.shape[0]), 0))


def _links(order: Ints, histories: Histories) -> tuple[Ints, Ints]:
    """Next row of the same (user, item) per row (N where none), and occurrence number in order."""
    n = histories.n_rows
    user, item = histories.user()[order], histories.item[order]
    following = np.full(n, n, np.int64)
    if n < 2:
        return following, np.zeros(n, np.int64)
    same = (user[1:] == user[:-1]) & (item[1:] == item[:-1])
    following[order[:-1][same]] = order[1:][same]
    pair = np.concatenate([[0], np.cumsum(~same)])
    return following, np.arange(n) - _run_starts(pair)


def _running_sums(order: Ints, rank: Ints, histories: Histories) -> tuple[Floats, Floats]:
    """Weight sums of each row's (user, item) up to and including the row.

    The decayed sums are as of the row's own time, so no reference time can overflow; they are
    filled one occurrence number at a time.
    """
    count = histories.weight.astype(np.float64)
    decayed = np.repeat(count[:, None], len(DECAY_DAYS), axis=1)
    by_rank = np.argsort(rank, kind="stable")
    bounds = np.searchsorted(rank[by_rank], np.arange(1, int(rank.max(initial=0)) + 2))
    for begin, end in pairwise(bounds):
        at = by_rank[begin:end]
        row, previous = order[at], order[at - 1]
        days = (histories.ts[row] - histories.ts[previous]) / DAY_MS
        count[row] += count[previous]
        decayed[row] += decayed[previous] * np.exp(-days[:, None] / np.array(DECAY_DAYS))
    return count, decayed
