"""Item-to-item baselines: what follows an item, and what shares a visit with it.

Both tables are counted once, over events before `until_ms`, and stay frozen; they are kept as
sparse rows, so a catalogue of 100,000 items costs what its pairs cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.baselines.counting import Fallback
from model.baselines.log import EventLog, Floats, Ints, States, ranges

LAST_LINES = (1.0, 0.5, 0.25)  # weights of the newest, second and third newest line of the visit
VISIT_LINES = 50  # a visit's pairs grow with its square: its newest lines only


@dataclass(frozen=True, slots=True)
class ItemTable:
    """Sparse rows item -> (item, weight)."""

    first: Ints  # [V + 1]
    column: Ints  # [nnz]
    weight: Floats  # [nnz]

    def add(self, into: Floats, owner: Ints, item: Ints, weight: Floats) -> None:
        """Add to `into` [S, V], per (owner state, item, weight), that item's row times weight."""
        pair, cell = ranges(self.first[item], self.first[item + 1])
        flat = owner[pair] * into.shape[1] + self.column[cell]
        values = weight[pair] * self.weight[cell]
        into += np.bincount(flat, weights=values, minlength=into.size).reshape(into.shape)


def table_of_pairs(source: Ints, target: Ints, n_items: int) -> ItemTable:
    """Return counted pairs, each row divided by its sum: P(target | source)."""
    pairs, counts = np.unique(source * n_items + target, return_counts=True)
    row, column = pairs // n_items, pairs % n_items
    total = np.bincount(row, weights=counts, minlength=n_items)
    return ItemTable(
        first=np.searchsorted(row, np.arange(n_items + 1)),
        column=column,
        weight=counts / total[row],
    )


class Markov:
    """What followed the last three lines of the visit, weighted 1, 1/2 and 1/4."""

    name = "Markov, last 3 lines"

    def __init__(self, log: EventLog, fallback: Fallback, *, until_ms: int) -> None:
        follows = (log.visit[1:] == log.visit[:-1]) & (log.time_ms[1:] < until_ms)
        self._log = log
        self._fallback = fallback
        self._table = table_of_pairs(log.item[:-1][follows], log.item[1:][follows], log.n_items)

    def raw(self, states: States) -> Floats:
        """Return [S, V] without the fallback; zero at the first line of a visit."""
        scores = np.zeros((len(states), self._log.n_items))
        for steps_back, weight in enumerate(LAST_LINES, start=1):
            row = states.row - steps_back
            inside = np.flatnonzero(row >= states.visit_row)
            items = self._log.item[row[inside]]
            self._table.add(scores, inside, items, np.full(len(inside), weight))
        return scores

    def scores(self, states: States) -> Floats:
        """Return [S, V] weighted transition probabilities, popularity where they are equal."""
        return self._fallback.under(self.raw(states), states)


class CoOccurrence:
    """What shared a visit with the lines of the visit so far (before it: with the last visit's).

    A pair's weight is count / sqrt(count(a) count(b)), so a best seller does not win by being
    everywhere.
    """

    name = "co-occurrence"

    def __init__(self, log: EventLog, fallback: Fallback, *, until_ms: int) -> None:
        self._log = log
        self._fallback = fallback
        self._visit_row = log.visit_first_row()
        self._table = _shared_visits(log, until_ms, self._visit_row)

    def raw(self, states: States) -> Floats:
        """Return [S, V] summed weights without the fallback."""
        last_visit = self._visit_row[np.maximum(states.row - 1, 0)]
        inside = states.row > states.visit_row
        first = np.where(inside, states.visit_row, last_visit)
        first = np.maximum(first, self._log.start[states.user])
        owner, row = ranges(np.maximum(first, states.row - VISIT_LINES), states.row)
        scores = np.zeros((len(states), self._log.n_items))
        self._table.add(scores, owner, self._log.item[row], np.ones(len(row)))
        return scores

    def scores(self, states: States) -> Floats:
        """Return [S, V] summed weights, popularity where they are equal."""
        return self._fallback.under(self.raw(states), states)


def _shared_visits(log: EventLog, until_ms: int, visit_row: Ints) -> ItemTable:
    """Count pairs of different items in one visit, each line with the VISIT_LINES before it."""
    keep = np.flatnonzero(log.time_ms < until_ms)
    owner, row = ranges(np.maximum(visit_row[keep], keep - VISIT_LINES), keep)
    one, other = log.item[keep[owner]], log.item[row]
    differ = one != other
    one, other = one[differ], other[differ]
    codes, counts = np.unique(
        np.minimum(one, other) * log.n_items + np.maximum(one, other), return_counts=True
    )
    low, high = codes // log.n_items, codes % log.n_items
    seen = np.maximum(np.bincount(log.item[keep], minlength=log.n_items), 1)
    weight = counts / np.sqrt(seen[low] * seen[high])
    source, target = np.concatenate([low, high]), np.concatenate([high, low])
    order = np.lexsort((target, source))
    return ItemTable(
        first=np.searchsorted(source[order], np.arange(log.n_items + 1)),
        column=target[order],
        weight=np.concatenate([weight, weight])[order],
    )
