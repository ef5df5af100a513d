"""The event log as arrays a counting baseline can read: sorted by user, with visits marked.

Everything here is a fixed definition, free of learned weights and of the product's own model and
storage, so a figure of a baseline does not move when the product does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLog:
    """Every user's history, one after the other, each in history order.

    Attributes:
        user: [N] user number, 0.., ascending.
        item: [N] column of the item.
        time_ms: [N] event time, ascending within a user.
        weight: [N] weight of the event.
        source_row: [N] row of the log the event came from (log order).
        visit: [N] visit number, ascending over the whole array.
        start: [U + 1] first row of each user.
        n_items: Number of columns.
    """

    user: Ints
    item: Ints
    time_ms: Ints
    weight: Floats
    source_row: Ints
    visit: Ints
    start: Ints
    n_items: int

    def visit_first_row(self) -> Ints:
        """Return the first row of every event's visit, shape [N]."""
        if not len(self.user):
            return np.zeros(0, dtype=np.int64)
        opens = np.flatnonzero(np.r_[True, self.visit[1:] != self.visit[:-1]])
        return opens[self.visit]


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """Moments at which something is recommended, S of them.

    Attributes:
        user: [S] user number.
        row: [S] row of the `EventLog`: the state is everything of the user before it.
        time_ms: [S] when the slate is asked for.
        visit_row: [S] row where the visit the state stands in begins; equal to `row` when the
            state stands before a visit.
    """

    user: Ints
    row: Ints
    time_ms: Ints
    visit_row: Ints

    def __len__(self) -> int:
        """Return the number of states."""
        return len(self.user)

    def take(self, rows: slice | Ints) -> States:
        """Return some of the states."""
        return States(
            user=self.user[rows],
            row=self.row[rows],
            time_ms=self.time_ms[rows],
            visit_row=self.visit_row[rows],
        )

    def blocks(self, size: int) -> Iterator[tuple[slice, States]]:
        """Yield the states in blocks of at most `size`, each with its place."""
        for first in range(0, len(self), size):
            where = slice(first, min(len(self), first + size))
            yield where, self.take(where)


def build_log(
    user: Ints,
    item: Ints,
    time_ms: Ints,
    *,
    n_items: int,
    weight: Floats | None = None,
    session: Ints | None = None,
    seq: Ints | None = None,
    visit_gap_ms: int = 0,
) -> EventLog:
    """Return the log sorted by user and history order (time, seq, log order), visits marked.

    Args:
        user: [N] user number of each row of the log, in log order.
        item: [N] item column.
        time_ms: [N] event time.
        n_items: Number of item columns.
        weight: [N] weights; None = 1 each.
        session: [N] session number, -1 = none. Two neighbors that both have one
            share a visit if it is the same.
        seq: [N] the producer's order number among events of one time; None = log order.
        visit_gap_ms: Otherwise a gap up to this long stays in the visit.
    """
    rows = np.arange(len(user))
    order = np.lexsort((rows, rows if seq is None else seq, time_ms, user))
    users, items, times = user[order], item[order], time_ms[order]
    sessions = np.full(len(order), -1) if session is None else session[order]
    opens = np.ones(len(order), dtype=bool)
    same_user = users[1:] == users[:-1]
    near = times[1:] - times[:-1] <= visit_gap_ms
    named = (sessions[1:] >= 0) & (sessions[:-1] >= 0)
    joined = np.where(named, sessions[1:] == sessions[:-1], near)
    opens[1:] = ~(same_user & joined)
    n_users = int(users[-1]) + 1 if len(users) else 0
    return EventLog(
        user=users,
        item=items,
        time_ms=times,
        weight=np.ones(len(order)) if weight is None else weight[order],
        source_row=order,
        visit=np.cumsum(opens) - 1,
        start=np.searchsorted(users, np.arange(n_users + 1)),
        n_items=n_items,
    )


def ranges(first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Return (owner, row) of every row in the half-open ranges [first, last), ragged to flat."""
    counts = np.maximum(last - first, 0)
    owner = np.repeat(np.arange(len(first)), counts)
    offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, first[owner] + offset
