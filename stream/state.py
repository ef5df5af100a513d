"""One user's serving state in memory: key/value cache, counters, visits. Derived from storage, never the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from stream.counters import Counters, add_runs, terms
from stream.facts import Facts
from stream.verdicts import NEVER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.engine import KVCache
    from storage.records import HistoryKey

_EMPTY = np.empty(0, np.int64)
_OBJECT_BYTES = 1_024
"""Memory of the Python objects of a state, about; arrays are counted exactly."""
_VISIT_ROW_BYTES = 120


@dataclass(slots=True)
class Visit:
    """Consecutive interactions of a user: items with event times and weights, in history order.

    `distinct` holds each item once, in the order they entered the visit.
    """

    items: list[int] = field(default_factory=list)
    ts_ms: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    distinct: list[int] = field(default_factory=list)
    session_id: str | None = None
    last_h_ts: int = NEVER

    def add(
        self, items: Sequence[int], ts_ms: Sequence[int], weights: Sequence[float]
    ) -> list[int]:
        """Append interactions; returns how many distinct items the visit held after each."""
        known = set(self.distinct)
        counts = []
        for item in items:
            if item not in known:
                known.add(item)
                self.distinct.append(item)
            counts.append(len(known))
        self.items += items
        self.ts_ms += ts_ms
        self.weights += weights
        return counts

    def ends_with(self, h_ts: int, session_id: str | None) -> None:
        """Take the newest interaction's time as the model sees it, and its session."""
        self.last_h_ts = h_ts
        self.session_id = session_id

    def terms(self, ref_ms: int) -> NDArray[np.float64]:
        """What the visit adds to counters, float64 [m, 5]."""
        return terms(np.array(self.ts_ms, np.int64), np.array(self.weights), ref_ms)

    def continues(self, h_ts: int, session_id: str | None, gap_ms: int) -> bool:
        """Whether an interaction at `h_ts` belongs to this visit."""
        if not self.items:
            return False
        if session_id is not None and self.session_id is not None:
            return session_id == self.session_id
        return h_ts - self.last_h_ts <= gap_ms


@dataclass(slots=True)
class UserState:
    """Everything the scorer knows of one user.

    `counters` cover the history before `visit`, `last_visit` the distinct items of the visit before it; `hidden` is the
    newest interaction's hidden row, [d], None without history. `n_history` counts the whole history; `first_recent` is
    the ordinal at which the cached recent window starts.
    """

    user_idx: int
    cache: KVCache
    counters: Counters
    visit: Visit
    last_visit: NDArray[np.int64]
    last_key: HistoryKey | None
    n_history: int
    first_recent: int
    left_out: int
    groups: int
    covered_through_ms: int | None
    hidden: NDArray[np.float32] | None = None

    @property
    def recents(self) -> int:
        """Interactions in the cached recent window."""
        return self.n_history - self.first_recent

    @property
    def nbytes(self) -> int:
        """Memory held by this state, bytes."""
        hidden = 0 if self.hidden is None else self.hidden.nbytes
        arrays = self.cache.nbytes + self.counters.nbytes + self.last_visit.nbytes + hidden
        return arrays + _VISIT_ROW_BYTES * len(self.visit.items) + _OBJECT_BYTES

    def in_visit(self, at_ms: int, gap_ms: int) -> bool:
        """Whether a request at a time falls into the newest visit."""
        return self.visit.continues(at_ms, None, gap_ms)

    def line_facts(self) -> Facts:
        """What a row inside the visit reads: counters before it, its own items flagged."""
        visit = np.array(self.visit.distinct, np.int64)
        return Facts(self.counters.items, self.counters.sums, self.last_visit, visit)

    def request_facts(self, ref_ms: int) -> Facts:
        """What a request outside a visit reads: counters over everything."""
        counters, last = self.counters, self.last_visit
        if self.visit.items:
            counters = counters.copy()
            counters.add(np.array(self.visit.items, np.int64), self.visit.terms(ref_ms))
            last = np.array(self.visit.distinct, np.int64)
        return Facts(counters.items, counters.sums, last, _EMPTY)


def close_visits(states: Sequence[UserState], ref_ms: int) -> None:
    """Count the newest visits of some states, all at once, and start empty ones."""
    visits = [state.visit for state in states]
    ts_ms = np.array([ts for visit in visits for ts in visit.ts_ms], np.int64)
    weights = np.array([weight for visit in visits for weight in visit.weights])
    items = np.array([item for visit in visits for item in visit.items], np.int64)
    counters = [state.counters for state in states]
    add_runs(counters, [len(visit.items) for visit in visits], items, terms(ts_ms, weights, ref_ms))
    for state in states:
        state.last_visit = np.array(state.visit.distinct, np.int64)
        state.visit = Visit()
