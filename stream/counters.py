"""Counters of one user in memory: additive aggregates per item, the exact part of the state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from model.features import DAY_MS, DECAY_DAYS

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        """Count a run of interactions: items [m] and their terms [m, 5]."""
        add_runs([self], [len(items)], items, terms)

    def copy(self) -> Counters:
        """An independent copy."""
        return Counters(self.items.copy(), self.sums.copy())


def add_runs(
    counters: Sequence[Counters],
    sizes: Sequence[int],
    items: NDArray[np.int64],
    terms: NDArray[np.float64],
) -> None:
    """Count a run of interactions for each of several users, all at once; arrays are replaced, never changed.

    Args:
        counters: of the users, each at most once.
        sizes: interactions per user.
        items: theirs, user after user, [m].
        terms: what each adds, [m, 5].
    """
    if not len(items):
        return
    held = [len(one.items) for one in counters]
    numbers = np.arange(len(counters))
    known = np.concatenate([one.items for one in counters])
    span = 1 + max(int(items.max()), int(known.max(initial=0)))
    known += np.repeat(numbers * span, held)  # one ascending key over all users
    keys, terms = _summed(items + np.repeat(numbers * span, sizes), terms)
    place = known.searchsorted(keys)
    sums = np.concatenate([one.sums for one in counters])
    found = np.zeros(len(keys), dtype=bool)
    if len(known):
        found = known.take(place, mode="clip") == keys
    sums[place[found]] += terms[found]
    fresh = ~found
    known, sums = _inserted(known, sums, place[fresh], keys[fresh], terms[fresh])
    ends = known.searchsorted(numbers[1:] * span).tolist()
    for number, one in enumerate(counters):
        cut = slice(ends[number - 1] if number else 0, ends[number] if number < len(ends) else None)
        one.items, one.sums = known[cut] - number * span, sums[cut].copy()


def _inserted(
    keys: NDArray[np.int64],
    sums: NDArray[np.float64],
    place: NDArray[np.intp],
    new_keys: NDArray[np.int64],
    new_sums: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Keys and sums with new ones before the places named; a copy by mask is several times faster than numpy's insert."""
    if not len(new_keys):
        return keys, sums
    size = len(keys) + len(new_keys)
    target = place + np.arange(len(new_keys))
    old = np.ones(size, dtype=bool)
    old[target] = False
    all_keys, all_sums = np.empty(size, np.int64), np.empty((size, N_SUMS))
    all_keys[old], all_sums[old] = keys, sums
    all_keys[target], all_sums[target] = new_keys, new_sums
    return all_keys, all_sums


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
