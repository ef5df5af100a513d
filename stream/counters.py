"""Counters of one user in memory: additive aggregates per item, the exact part of the state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from model.features import DAY_MS, DECAY_DAYS

if TYPE_CHECKING:
    from numpy.typing import NDArray

TAU_MS = np.array(DECAY_DAYS) * DAY_MS
N_SUMS = 1 + len(DECAY_DAYS)
_MAX_EXPONENT = 700.0
_NONE = np.empty(0, np.int64)


class Counters:
    """Weighted count and exponentially decayed counts per item, at a fixed reference time.

    Attributes:
        items: internal ids of the items counted, ascending, int64 [n].
        sums: count and decayed counts at the reference time, float64 [n, 5].
    """

    __slots__ = ("items", "sums")

    def __init__(
        self, items: NDArray[np.int64] = _NONE, sums: NDArray[np.float64] | None = None
    ) -> None:
        self.items = items
        self.sums = np.zeros((0, N_SUMS)) if sums is None else sums

    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        return int(self.items.nbytes + self.sums.nbytes)

    def add(self, items: NDArray[np.int64], terms: NDArray[np.float64]) -> None:
        """Count a run of interactions: items [m] and their terms [m, 5]; arrays are replaced where items are new."""
        if len(items) > 1:
            items, terms = _summed(items, terms)
        place = self.items.searchsorted(items)
        if not len(self.items):
            return self._insert(place, items, terms)
        known = self.items.take(place, mode="clip") == items
        if known.all():
            self.sums[place] += terms
            return None
        fresh = ~known
        if known.any():
            self.sums[place[known]] += terms[known]
            place, items, terms = place[fresh], items[fresh], terms[fresh]
        return self._insert(place, items, terms)

    def _insert(
        self, place: NDArray[np.intp], items: NDArray[np.int64], terms: NDArray[np.float64]
    ) -> None:
        """Put new items where they belong; an insert by mask is several times faster than numpy's."""
        size = len(self.items) + len(items)
        target = place + np.arange(len(items))
        old = np.ones(size, dtype=bool)
        old[target] = False
        source = np.cumsum(old)
        source -= 1  # of new places too: overwritten below
        joined, sums = np.empty(size, np.int64), np.empty((size, N_SUMS))
        if len(self.items):
            self.items.take(source, out=joined, mode="clip")
            self.sums.take(source, axis=0, out=sums, mode="clip")
        joined[target], sums[target] = items, terms
        self.items, self.sums = joined, sums

    def copy(self) -> Counters:
        """An independent copy."""
        return Counters(self.items.copy(), self.sums.copy())


def terms(
    ts_ms: NDArray[np.int64], weights: NDArray[np.float64], ref_ms: int
) -> NDArray[np.float64]:
    """What interactions add to counters, float64 [m, 5]; bounded as in storage, so that no sum overflows.

    Args:
        ts_ms: event times, [m].
        weights: event weights, [m].
        ref_ms: reference time of the counters.
    """
    out = np.empty((len(ts_ms), N_SUMS))
    out[:, 0] = weights
    age = (np.asarray(ts_ms)[:, None] - ref_ms) / TAU_MS
    out[:, 1:] = np.exp(np.minimum(age, _MAX_EXPONENT)) * np.asarray(weights)[:, None]
    return out


def _summed(
    items: NDArray[np.int64], terms: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Each item once, ascending, and the sum of its terms."""
    order = items.argsort(kind="stable")
    items, terms = items[order], terms[order]
    new = items[1:] != items[:-1]
    if new.all():
        return items, terms
    starts = np.concatenate([[0], np.flatnonzero(new) + 1])
    return items[starts], np.add.reduceat(terms, starts, axis=0)
