"""One user's serving state in memory: key/value cache, counters, visits. Derived from storage, never the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from model.features import COUNTER_FEATURES, DAY_MS, DECAY_DAYS, FEATURES, counter_features
from stream.verdicts import NEVER

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.engine import KVCache
    from storage.records import HistoryKey

_TAU_MS = np.array(DECAY_DAYS) * DAY_MS
_SUMS = 1 + len(DECAY_DAYS)
_MAX_EXPONENT = 700.0
_IN_LAST_VISIT = FEATURES.index("in_last_visit")
_IN_VISIT = FEATURES.index("in_visit")
SparseRow: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.float32]]"
"""Items [m] and their features [m, F] of one scored row."""


class Counters:
    """Additive aggregates per item of one user: weighted count and exponentially decayed counts at a fixed reference time."""

    def __init__(
        self,
        ref_ms: int,
        items: NDArray[np.int64] | None = None,
        sums: NDArray[np.float64] | None = None,
    ) -> None:
        self.ref_ms = ref_ms
        n = 0 if items is None else len(items)
        self._items = np.empty(max(8, n), dtype=np.int64)
        self._sums = np.zeros((max(8, n), _SUMS))
        self._slots: dict[int, int] = {}
        self._n = n
        self.version = 0
        if items is not None and sums is not None:
            self._items[:n] = items
            self._sums[:n] = sums
            self._slots = {item: slot for slot, item in enumerate(items.tolist())}

    @property
    def items(self) -> NDArray[np.int64]:
        """Internal ids of the items counted, int64 [n]."""
        return self._items[: self._n]

    @property
    def sums(self) -> NDArray[np.float64]:
        """Count and decayed counts at the reference time, float64 [n, 5]."""
        return self._sums[: self._n]

    @property
    def nbytes(self) -> int:
        """Memory held, bytes; a dictionary entry is counted as 100."""
        return int(self._items.nbytes + self._sums.nbytes) + 100 * self._n

    def add(self, item_idx: int, ts_ms: int, weight: float) -> None:
        """Count one interaction."""
        slot = self._slots.get(item_idx)
        if slot is None:
            slot = self._grow(item_idx)
        self._sums[slot, 0] += weight
        self._sums[slot, 1:] += weight * _growth(ts_ms - self.ref_ms)
        self.version += 1

    def add_many(
        self, items: NDArray[np.int64], ts_ms: NDArray[np.int64], weights: NDArray[np.float64]
    ) -> None:
        """Count a run of interactions: items, event times and weights, each [n]."""
        distinct, which = np.unique(items, return_inverse=True)
        sums = np.zeros((len(distinct), _SUMS))
        decays = _growth(ts_ms[:, None] - self.ref_ms)
        np.add.at(sums, which, weights[:, None] * np.column_stack([np.ones(len(items)), decays]))
        for item, row in zip(distinct.tolist(), sums, strict=True):
            slot = self._slots.get(item)
            place = self._grow(item) if slot is None else slot  # growing replaces the array
            self._sums[place] += row
        self.version += 1

    def _grow(self, item_idx: int) -> int:
        slot = self._n
        if slot == len(self._items):
            self._items = np.concatenate([self._items, np.empty_like(self._items)])
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])
        self._items[slot] = item_idx
        self._slots[item_idx] = slot
        self._n += 1
        return slot

    def features(self, at_ms: int) -> NDArray[np.float32]:
        """Counter features at a time, float32 [n, 6]."""
        decayed = self.sums[:, 1:] * np.exp(-(at_ms - self.ref_ms) / _TAU_MS)
        return counter_features(self.sums[:, 0], decayed)

    def copy(self) -> Counters:
        """An independent copy."""
        return Counters(self.ref_ms, self.items, self.sums)


def _growth(age_ms: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """Weight of an event at the reference time; bounded as in storage, so that no sum overflows."""
    grown: NDArray[np.float64] = np.exp(np.minimum(age_ms / _TAU_MS, _MAX_EXPONENT))
    return grown


@dataclass(slots=True)
class Visit:
    """Consecutive interactions of a user: items with event times and weights, in history order."""

    items: list[int] = field(default_factory=list)
    ts_ms: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    session_id: str | None = None
    last_h_ts: int = NEVER

    def add(self, row: HistoryRow) -> None:
        """Append the visit's next interaction."""
        self.items.append(row.item_idx)
        self.ts_ms.append(row.ts_ms)
        self.weights.append(row.weight)
        self.session_id = row.session_id
        self.last_h_ts = row.key.h_ts_ms

    def count_into(self, counters: Counters) -> None:
        """Add the visit's interactions to counters."""
        for item, ts, weight in zip(self.items, self.ts_ms, self.weights, strict=True):
            counters.add(item, ts, weight)

    def continues(self, h_ts: int, session_id: str | None, gap_ms: int) -> bool:
        """Whether an interaction at `h_ts` belongs to this visit."""
        if not self.items:
            return False
        if session_id is not None and self.session_id is not None:
            return session_id == self.session_id
        return h_ts - self.last_h_ts <= gap_ms


@dataclass(slots=True, frozen=True)
class HistoryRow:
    """One interaction as the state reads it; times in milliseconds, `key.h_ts_ms` is the time the model sees."""

    key: HistoryKey
    item_idx: int
    event_type: str
    ts_ms: int
    weight: float
    session_id: str | None


@dataclass(slots=True)
class UserState:
    """Everything the scorer knows of one user.

    `counters` cover the history before `visit`; `hidden` is the newest interaction's hidden row, [d], None without history.
    `n_history` counts the whole history; `first_recent` is the ordinal at which the cached recent window starts.
    """

    user_idx: int
    cache: KVCache
    counters: Counters
    visit: Visit
    last_visit: frozenset[int]
    last_key: HistoryKey | None
    n_history: int
    first_recent: int
    left_out: int
    groups: int
    covered_through_ms: int | None
    hidden: NDArray[np.float32] | None = None
    _memo: tuple[int, int, NDArray[np.float32]] | None = None

    @property
    def recents(self) -> int:
        """Interactions in the cached recent window."""
        return self.n_history - self.first_recent

    @property
    def nbytes(self) -> int:
        """Memory held by this state, bytes."""
        hidden = 0 if self.hidden is None else self.hidden.nbytes
        return self.cache.nbytes + self.counters.nbytes + hidden + 64 * len(self.visit.items) + 512

    def in_visit(self, at_ms: int, gap_ms: int) -> bool:
        """Whether a request at a time falls into the newest visit."""
        return self.visit.continues(at_ms, None, gap_ms)

    def push(self, row: HistoryRow, gap_ms: int) -> None:
        """Take one interaction, newest in history order, into visit and counters (the cache is extended apart)."""
        if not self.visit.continues(row.key.h_ts_ms, row.session_id, gap_ms):
            self._close_visit()
        self.visit.add(row)
        self.last_key = row.key
        self.n_history += 1

    def _close_visit(self) -> None:
        if not self.visit.items:
            return
        self.visit.count_into(self.counters)
        self.last_visit = frozenset(self.visit.items)
        self.visit = Visit()

    def line_features(self, at_ms: int) -> SparseRow:
        """Items and features [m], [m, 8] of a row inside the visit: counters before it, its own items flagged."""
        base = self._counter_features(at_ms)
        return _assemble(self.counters.items, base, self.last_visit, set(self.visit.items))

    def request_features(self, at_ms: int) -> SparseRow:
        """Items and features [m], [m, 8] of a request outside a visit: counters over everything."""
        if not self.visit.items:
            return _assemble(
                self.counters.items, self._counter_features(at_ms), self.last_visit, set()
            )
        folded = self.counters.copy()
        self.visit.count_into(folded)
        return _assemble(folded.items, folded.features(at_ms), frozenset(self.visit.items), set())

    def seen(self) -> NDArray[np.int64]:
        """Internal ids of every item of the whole history, int64 [m]."""
        return np.union1d(self.counters.items, np.array(self.visit.items, dtype=np.int64))

    def _counter_features(self, at_ms: int) -> NDArray[np.float32]:
        memo = self._memo
        if memo is None or memo[:2] != (at_ms, self.counters.version):
            memo = (at_ms, self.counters.version, self.counters.features(at_ms))
            self._memo = memo
        return memo[2]


def _assemble(
    counted: NDArray[np.int64],
    base: NDArray[np.float32],
    last_visit: frozenset[int],
    visit: set[int],
) -> SparseRow:
    last = np.array(sorted(last_visit), dtype=np.int64)
    current = np.array(sorted(visit), dtype=np.int64)
    items = np.concatenate([
        counted,
        last,
        current,
    ])  # the read-out adds up what an item's entries say
    x = np.zeros((len(items), len(FEATURES)), dtype=np.float32)
    split = len(counted) + len(last)
    x[: len(counted), : len(COUNTER_FEATURES)] = base
    x[len(counted) : split, _IN_LAST_VISIT] = 1.0
    x[split:, _IN_VISIT] = 1.0
    return items, x
