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


def sparse_features(
    facts: Sequence[Facts], which: Ints, at_ms: Ints, visible: Ints, ref_ms: int
) -> SparseFeatures:
    """Features of R rows, computed together.

    Rows of one user and one time that lie side by side share the work on their counters.

    Args:
        facts: of the users that the rows belong to.
        which: place in `facts` per row, [R].
        at_ms: time per row, [R].
        visible: how many of the visit's distinct items the row has seen, [R].
        ref_ms: reference time of the counters.
    """
    counted = _Joined.of([fact.items for fact in facts])
    last, visit = (
        _Joined.of([getattr(fact, name) for fact in facts]) for name in ("last_visit", "visit")
    )
    shared, rows_of = _shared(which, at_ms)
    x, lengths = _counter_rows(facts, counted, which[shared], at_ms[shared], ref_ms)
    sizes = [lengths[rows_of], last.lengths[which], visible]
    row_ptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(sum(sizes))])
    item = np.empty(row_ptr[-1], np.int64)
    out = np.zeros((row_ptr[-1], len(FEATURES)), np.float32)
    starts = np.cumsum(lengths) - lengths
    place = _ragged(row_ptr[:-1], sizes[0])
    alone = len(shared) == len(which)
    out[place, : len(COUNTER_FEATURES)] = x if alone else x[_ragged(starts[rows_of], sizes[0])]
    item[place] = counted.taken(which)
    begin = row_ptr[:-1] + sizes[0]
    for part, size, feature in ((last, sizes[1], _IN_LAST_VISIT), (visit, sizes[2], _IN_VISIT)):
        place = _ragged(begin, size)
        item[place] = part.values[_ragged(part.starts[which], size)]
        out[place, feature] = 1.0
        begin = begin + size
    return SparseFeatures(row_ptr, item, out)


def narrowed(features: SparseFeatures, width: int) -> SparseFeatures:
    """Leave out items that are no candidates yet: first seen since the last tick."""
    kept = features.item < width
    if kept.all():
        return features
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    return SparseFeatures(before[features.row_ptr], features.item[kept], features.x[kept])


@dataclass(frozen=True, slots=True)
class _Joined:
    """Arrays of several users end to end."""

    values: Ints
    starts: Ints
    lengths: Ints

    @classmethod
    def of(cls, parts: Sequence[Ints]) -> _Joined:
        lengths = np.array([len(part) for part in parts], np.int64)
        values = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return cls(values, np.cumsum(lengths) - lengths, lengths)

    def each_once(self, which: Ints) -> bool:
        """Whether `which` names every user once, in order: then nothing needs to be gathered."""
        return np.array_equal(which, np.arange(len(self.lengths)))

    def taken(self, which: Ints) -> Ints:
        """The arrays of some users end to end."""
        if self.each_once(which):
            return self.values
        return self.values[_ragged(self.starts[which], self.lengths[which])]


def _shared(which: Ints, at_ms: Ints) -> tuple[Ints, Ints]:
    """Rows that start a stretch of one user at one time, and each row's stretch."""
    new = np.ones(len(which), dtype=bool)
    new[1:] = (which[1:] != which[:-1]) | (at_ms[1:] != at_ms[:-1])
    return np.flatnonzero(new), np.cumsum(new) - 1


def _counter_rows(
    facts: Sequence[Facts], counted: _Joined, which: Ints, at_ms: Ints, ref_ms: int
) -> tuple[NDArray[np.float32], Ints]:
    """Counter features of stretches end to end, and the length of each."""
    lengths = counted.lengths[which]
    if not facts:
        return np.zeros((0, len(COUNTER_FEATURES)), np.float32), lengths
    sums = np.concatenate([fact.sums for fact in facts])
    if not counted.each_once(which):
        sums = sums[_ragged(counted.starts[which], lengths)]
    decay = np.exp(-(at_ms[:, None] - ref_ms) / TAU_MS)
    return counter_features(sums[:, 0], sums[:, 1:] * np.repeat(decay, lengths, axis=0)), lengths


def _ragged(starts: Ints, lengths: Ints) -> Ints:
    """Indexes of stretches `starts[i] .. starts[i] + lengths[i]`, end to end."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total)
