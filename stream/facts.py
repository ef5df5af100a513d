"""What the read-out is told about a user, and the features of many rows from it at once. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.features import COUNTER_FEATURES, FEATURES, SparseFeatures, counter_features
from stream.counters import TAU_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

_IN_LAST_VISIT = FEATURES.index("in_last_visit")
_IN_VISIT = FEATURES.index("in_visit")


@dataclass(frozen=True, slots=True)
class Facts:
    """Exact memory behind some rows of a user.

    Attributes:
        items: items counted before the visit, int64 [n].
        sums: their counters at the reference time, float64 [n, 5].
        last_visit: distinct items of the visit before.
        visit: distinct items of the visit, in the order they entered it.
    """

    items: Ints
    sums: NDArray[np.float64]
    last_visit: Ints
    visit: Ints


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What the read-out is told about R rows, user by user; features are made of it where they are used.

    Attributes:
        facts: of the users that the rows belong to.
        which: place in `facts` per row, ascending, [R].
        at_ms: time per row, [R].
        visible: how many of the visit's distinct items the row has seen, at least one if there are any, [R].
        ref_ms: reference time of the counters.
    """

    facts: Sequence[Facts]
    which: Ints
    at_ms: Ints
    visible: Ints
    ref_ms: int

    def slice(self, start: int, stop: int) -> RowFacts:
        """Rows `start:stop`, at least one of them."""
        which = self.which[start:stop]
        first = int(which[0])
        return RowFacts(
            self.facts[first : int(which[-1]) + 1],
            which - first,
            self.at_ms[start:stop],
            self.visible[start:stop],
            self.ref_ms,
        )

    @classmethod
    def join(cls, parts: Sequence[RowFacts]) -> RowFacts:
        """The rows of several parts, one after the other."""
        starts = np.cumsum([0, *(len(part.facts) for part in parts[:-1])])
        return cls(
            [fact for part in parts for fact in part.facts],
            np.concatenate([part.which + start for part, start in zip(parts, starts, strict=True)]),
            np.concatenate([part.at_ms for part in parts]),
            np.concatenate([part.visible for part in parts]),
            parts[0].ref_ms,
        )

    def features(self, width: int) -> SparseFeatures:
        """Features of the rows over the first `width` items: later ones are no candidates yet."""
        found = sparse_features(self)
        kept = found.item < width
        if kept.all():
            return found
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
        return SparseFeatures(before[found.row_ptr], found.item[kept], found.x[kept])


def sparse_features(told: RowFacts) -> SparseFeatures:
    """Features of R rows, user by user; a user's counters are read once for all of his rows.

    The rows of a user are equally long: where one has not seen the whole visit, the visit's first item stands in with
    features of 0.
    """
    facts, at_ms = told.facts, told.at_ms
    n_rows = np.bincount(told.which, minlength=len(facts))
    widths = [len(fact.items) + len(fact.last_visit) + len(fact.visit) for fact in facts]
    row_ptr = np.concatenate([np.zeros(1, np.int64), np.repeat(widths, n_rows).cumsum()])
    item = np.empty(row_ptr[-1], np.int64)
    x = np.zeros((row_ptr[-1], len(FEATURES)), np.float32)
    decay = np.exp(-(at_ms[:, None] - told.ref_ms) / TAU_MS)
    moved = np.concatenate([np.zeros(1, np.int64), (at_ms[1:] != at_ms[:-1]).cumsum()])
    lo = start = 0
    for fact, rows, width in zip(facts, n_rows.tolist(), widths, strict=True):
        hi, stop = lo + rows, start + rows * width
        if stop > start:
            times = lo + 1 if moved[lo] == moved[hi - 1] else hi  # rows of one time share the work
            into = item[start:stop].reshape(rows, width), x[start:stop].reshape(rows, width, -1)
            _fill(fact, decay[lo:times], *into)
        lo, start = hi, stop
    _hide(told, row_ptr, item, x)
    return SparseFeatures(row_ptr, item, x)


def _fill(fact: Facts, decay: NDArray[np.float64], item: Ints, x: NDArray[np.float32]) -> None:
    """Write items [r, w] and features [r, w, F] of one user's rows; `decay` is [r, 4], or [1, 4] for rows of one time."""
    counted = len(fact.items)
    before = counted + len(fact.last_visit)
    item[:] = np.concatenate((fact.items, fact.last_visit, fact.visit))
    if counted:
        sums = np.ascontiguousarray(fact.sums.T)  # so that loops run over the items
        decayed = (sums[1:] * decay[:, :, None]).transpose(0, 2, 1)
        counter_features(sums[0], decayed, x[:, :counted, : len(COUNTER_FEATURES)])
        x[:, counted:before, _IN_LAST_VISIT] = 1.0
    x[:, before:, _IN_VISIT] = 1.0


def _hide(told: RowFacts, row_ptr: Ints, item: Ints, x: NDArray[np.float32]) -> None:
    """Put the visit's first item without features in the place of those that a row has not seen."""
    facts, which = told.facts, told.which
    unseen = np.array([len(fact.visit) for fact in facts], np.int64)[which] - told.visible
    rows = np.repeat(np.arange(len(which)), unseen)
    places = row_ptr[1:][rows] - 1 - steps(unseen)
    first = np.array([fact.visit[0] if len(fact.visit) else 0 for fact in facts], np.int64)
    item[places] = first[which[rows]]
    x[places, _IN_VISIT] = 0.0


def steps(sizes: Ints) -> Ints:
    """0, 1, .. up to each size, end to end."""
    ends = sizes.cumsum()
    return np.arange(sizes.sum()) - np.repeat(ends - sizes, sizes)
