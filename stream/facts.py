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
        return found if kept.all() else found.where(kept)


def sparse_features(told: RowFacts) -> SparseFeatures:
    """Features of R rows, user by user; rows of a user that differ only in what they have seen of the visit share them."""
    facts, which, at_ms = told.facts, told.which, told.at_ms
    new = np.ones(len(which), dtype=bool)
    new[1:] = (which[1:] != which[:-1]) | (at_ms[1:] != at_ms[:-1])
    group = new.cumsum() - 1
    n_groups = np.bincount(which[new], minlength=len(facts)).tolist()
    widths = [len(fact.items) + len(fact.last_visit) + len(fact.visit) for fact in facts]
    ends = np.repeat(widths, n_groups).cumsum()
    size = int(ends[-1]) if len(ends) else 0
    item, x = np.empty(size, np.int64), np.zeros((size, len(FEATURES)), np.float32)
    decay = np.exp(-(at_ms[new][:, None] - told.ref_ms) / TAU_MS)
    lo = start = 0
    for fact, groups, width in zip(facts, n_groups, widths, strict=True):
        hi, stop = lo + groups, start + groups * width
        if stop > start:
            into = item[start:stop].reshape(groups, width), x[start:stop].reshape(groups, width, -1)
            _fill(fact, decay[lo:hi], *into)
        lo, start = hi, stop
    sizes = np.array(widths, np.int64)[which]
    unseen = np.array([len(fact.visit) for fact in facts], np.int64)[which] - told.visible
    return SparseFeatures(ends[group] - sizes, ends[group] - unseen, item, x)


def _fill(fact: Facts, decay: NDArray[np.float64], item: Ints, x: NDArray[np.float32]) -> None:
    """Write items [g, w] and features [g, w, F] of one user's rows at g times; `decay` is [g, 4].

    The visit's items come last, in the order they entered it: a row has seen the first of them.
    """
    counted = len(fact.items)
    before = counted + len(fact.last_visit)
    item[:] = np.concatenate((fact.items, fact.last_visit, fact.visit))
    if counted:
        sums = np.ascontiguousarray(fact.sums.T)  # so that loops run over the items
        decayed = (sums[1:] * decay[:, :, None]).transpose(0, 2, 1)
        counter_features(sums[0], decayed, x[:, :counted, : len(COUNTER_FEATURES)])
        x[:, counted:before, _IN_LAST_VISIT] = 1.0
    x[:, before:, _IN_VISIT] = 1.0
