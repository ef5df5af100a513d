"""Counting baselines: popularity over a window of days, and what a user bought how often and when.

Days are UTC days; a window ends at the last midnight at or before the state, so a day never
counts itself. User baselines say nothing about items the user never had; popularity of the last
30 days orders those and breaks ties, too weakly ever to pass a difference of the user's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from model.baselines.log import DAY_MS, EventLog, Floats, Ints, States, ranges

FALLBACK_SCALE = 1e-9  # far below the smallest step between two scores of a user baseline


class Baseline(Protocol):
    """A fixed rule that scores the whole catalogue."""

    @property
    def name(self) -> str:
        """Return what reports call it."""
        ...

    def scores(self, states: States) -> Floats:
        """Return [S, V] scores, larger = better; columns are those of the `EventLog`."""
        ...


class DailyPopularity:
    """Counts of every item over windows of whole days, computed once per day asked for."""

    def __init__(self, log: EventLog) -> None:
        order = np.argsort(log.time_ms, kind="stable")
        self._item = log.item[order]
        self._weight = log.weight[order]
        self._time_ms = log.time_ms[order]
        self._n_items = log.n_items
        self._known: dict[tuple[int, int | None], Floats] = {}

    def counts(self, times_ms: Ints, days: int | None) -> Floats:
        """Return [S, V] weights summed over `days` whole days before each time (None = all)."""
        midnights, back = np.unique(times_ms // DAY_MS * DAY_MS, return_inverse=True)
        rows = [self._window(int(cut), days) for cut in midnights]
        table = np.stack(rows) if rows else np.zeros((0, self._n_items))
        counted: Floats = table[back]
        return counted

    def _window(self, cut_ms: int, days: int | None) -> Floats:
        key = (cut_ms, days)
        if key not in self._known:
            since = self._time_ms[:1].sum() if days is None else cut_ms - days * DAY_MS
            first, last = np.searchsorted(self._time_ms, [min(since, cut_ms), cut_ms])
            counted = np.bincount(
                self._item[first:last], weights=self._weight[first:last], minlength=self._n_items
            )
            self._known[key] = counted.astype(np.float64)
        return self._known[key]


def history_counts(log: EventLog, states: States, last: Ints, decay_days: float | None) -> Floats:
    """Return [S, V] weights of each user's events before row `last` [S], decayed by their age.

    An event of age a counts exp(-a / decay_days) of its weight; None = no decay.
    """
    owner, row = ranges(log.start[states.user], last)
    weight = log.weight[row]
    if decay_days is not None:
        age_ms = states.time_ms[owner] - log.time_ms[row]
        weight = weight * np.exp(-age_ms / (decay_days * DAY_MS))
    return spread(log, len(states), owner, row, weight)


def spread(log: EventLog, n_states: int, owner: Ints, row: Ints, weight: Floats) -> Floats:
    """Return [S, V]: the weight of each (state, log row) pair summed into its item's column."""
    cells = owner * log.n_items + log.item[row]
    flat = np.bincount(cells, weights=weight, minlength=n_states * log.n_items)
    return flat.astype(np.float64).reshape(n_states, log.n_items)


@dataclass(frozen=True)
class Popularity:
    """The best sellers of the last `days` days (None = since the log began), same for all users."""

    popularity: DailyPopularity
    days: int | None
    name: str

    def scores(self, states: States) -> Floats:
        """Return [S, V] counts."""
        return self.popularity.counts(states.time_ms, self.days)


@dataclass(frozen=True)
class Fallback:
    """Orders what a user baseline leaves at one score by popularity of the last 30 days."""

    popularity: DailyPopularity

    def under(self, scores: Floats, states: States) -> Floats:
        """Return `scores` plus a popularity term below every real difference, [S, V]."""
        recent = self.popularity.counts(states.time_ms, 30)
        top = 1.0 + recent.max(axis=1, keepdims=True, initial=0.0)
        ordered: Floats = scores + FALLBACK_SCALE * recent / top
        return ordered


@dataclass(frozen=True)
class MostRecent:
    """The user's distinct items, newest first."""

    log: EventLog
    fallback: Fallback
    name: str = "most recent"

    def scores(self, states: States) -> Floats:
        """Return [S, V]: minus the age of each item's newest event, in the user's own events."""
        owner, row = ranges(self.log.start[states.user], states.row)
        oldest = -1.0 - (states.row - self.log.start[states.user])
        newest = np.repeat(oldest[:, None], self.log.n_items, axis=1)
        np.maximum.at(newest, (owner, self.log.item[row]), row - states.row[owner])
        return self.fallback.under(newest, states)


@dataclass(frozen=True)
class MostFrequent:
    """The user's most frequent items, an event of age a counting exp(-a / decay_days)."""

    log: EventLog
    fallback: Fallback
    decay_days: float | None
    name: str

    def scores(self, states: States) -> Floats:
        """Return [S, V] decayed counts over everything before the state."""
        counts = history_counts(self.log, states, states.row, self.decay_days)
        return self.fallback.under(counts, states)
