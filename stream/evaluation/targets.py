"""What has to be recommended, and when it is asked: the targets of the protocol, for any log.

Three protocols, never mixed in one figure:

* ``next_visit``: a request at the time of a visit's first event, before that event is stored;
  targets are the visit's distinct items.
* ``next_line``: the state just before one event of a visit, its earlier events included; the
  target is that event's item. Before the first event of a visit this is a request too.
* ``after_visit``: the slate the last event of a visit caused; targets are those of the next
  visit. It is asked days too early, so it says what a slate that just lies there is worth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.baselines.log import EventLog, States
from stream.errors import EvaluationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stream.evaluation.log import EvaluationLog

    Ints = NDArray[np.int64]
    Flags = NDArray[np.bool_]

Protocol = Literal["next_visit", "next_line", "after_visit"]
Split = Literal["validation", "test"]
PROTOCOLS: tuple[Protocol, ...] = ("next_visit", "next_line")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """Where time is cut, epoch milliseconds: train < train_end <= validation < validation_end <= test < test_end."""

    train_end: int
    validation_end: int
    test_end: int

    def __post_init__(self) -> None:
        """Refuse cuts out of order."""
        if not self.train_end < self.validation_end < self.test_end:
            raise EvaluationError(
                "the cuts must grow: end of training < end of validation < end of test;"
                f" got {self.train_end}, {self.validation_end}, {self.test_end} (ms)"
            )

    def period(self, split: Split) -> tuple[int, int]:
        """Return [first, last) of a split."""
        if split == "validation":
            return self.train_end, self.validation_end
        return self.validation_end, self.test_end


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions:
    """Who is measured, and how often.

    Attributes:
        min_events: A user needs this many events before the end of training.
        max_visit_targets: At most so many (visit, item) targets per user, drawn at random.
        max_line_targets: At most so many lines per user.
        max_users: At most so many users, drawn at random; None = all.
        seed: Of the draws.
    """

    min_events: int = 192
    max_visit_targets: int = 50
    max_line_targets: int = 25
    max_users: int | None = 5000
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The targets of one protocol in one period.

    Attributes:
        protocol: How the state is asked.
        split: Validation or test.
        states: [S] distinct states, in the order of their time.
        state: [T] state of each target.
        column: [T] item column of each target.
        novel: [T] the user never had the item before the state.
    """

    protocol: Protocol
    split: Split
    states: States
    state: Ints
    column: Ints
    novel: Flags

    def __len__(self) -> int:
        """Return the number of targets."""
        return len(self.state)

    @property
    def user(self) -> Ints:
        """User of each target, [T]."""
        users: Ints = self.states.user[self.state]
        return users

    def where(self, kept: Flags) -> Targets:
        """Return some of the targets, [T] flags, and the states they need."""
        used, state = np.unique(self.state[kept], return_inverse=True)
        return replace(
            self,
            states=self.states.take(used),
            state=state.astype(np.int64),
            column=self.column[kept],
            novel=self.novel[kept],
        )


def sample_targets(
    log: EvaluationLog, cuts: Cuts, protocol: Protocol, split: Split, options: TargetOptions
) -> Targets:
    """Return targets drawn from a period, the same for the same log, cuts, options and seed.

    Raises:
        EvaluationError: No user has enough history and an event in the period.
    """
    events = log.events
    rows = _rows_of_period(events, cuts, split, options)
    if protocol != "next_line":
        rows = _first_of_item_in_visit(events, rows)
        most = options.max_visit_targets
    else:
        most = options.max_line_targets
    if not len(rows):
        first, last = cuts.period(split)
        raise EvaluationError(
            f"no user with at least {options.min_events} events before the end of training has an"
            f" event in the {split} period ({first} to {last} ms); choose other cuts or --min-events"
        )
    rows = _at_most_per_user(events, rows, most, options.seed)
    visit_row = events.visit_first_row()[rows]
    row = rows if protocol == "next_line" else visit_row
    return _targets(log, protocol, split, row, events.item[rows])


def load_targets(path: Path, log: EvaluationLog, protocol: Protocol, split: Split) -> Targets:
    """Return the targets of a file: columns split, protocol, user_id, row (log offset), ts, item_id.

    Raises:
        EvaluationError: The file is of another log.
    """
    table = pq.read_table(path)
    named = "next_visit" if protocol == "after_visit" else protocol
    chosen = [
        place
        for place, (one, other) in enumerate(
            zip(table["split"].to_pylist(), table["protocol"].to_pylist(), strict=True)
        )
        if (one, other) == (split, named)
    ]
    table = table.take(pa.array(chosen, pa.int64()))
    by_offset = np.argsort(log.offset, kind="stable")
    place = np.searchsorted(log.offset[by_offset], table["row"].to_numpy())
    row = by_offset[np.minimum(place, len(by_offset) - 1)]
    users = [log.user_ids[user] for user in log.events.user[row]]
    column = log.columns_of(table["item_id"].to_pylist())
    same_time = np.array_equal(log.events.time_ms[row], table["ts"].to_numpy())
    if users != table["user_id"].to_pylist() or not same_time or (column < 0).any():
        raise EvaluationError(
            f"{path}: the targets do not fit this log; leave the target file out to draw new ones"
        )
    return _targets(log, protocol, split, row.astype(np.int64), column)


def _targets(
    log: EvaluationLog, protocol: Protocol, split: Split, row: Ints, column: Ints
) -> Targets:
    events = log.events
    if protocol == "after_visit":  # a user's first visit has no slate before it
        kept = row > events.start[events.user[row]]
        row, column = row[kept], column[kept]
    distinct, state = np.unique(row, return_inverse=True)
    time_order = np.lexsort((distinct, events.time_ms[distinct]))
    place = np.empty(len(distinct), dtype=np.int64)
    place[time_order] = np.arange(len(distinct))
    distinct, state = distinct[time_order], place[state]
    visit_row = events.visit_first_row()[distinct]
    time_ms = events.time_ms[distinct]
    if protocol == "after_visit":
        visit_row = events.visit_first_row()[distinct - 1]
        time_ms = events.time_ms[distinct - 1]
    states = States(user=events.user[distinct], row=distinct, time_ms=time_ms, visit_row=visit_row)
    return Targets(
        protocol=protocol,
        split=split,
        states=states,
        state=state,
        column=column,
        novel=_is_novel(events, states.user[state], states.row[state], column),
    )


def _is_novel(events: EventLog, user: Ints, row: Ints, column: Ints) -> Flags:
    """Return whether the user's first event of the item is not before the row, [T]."""
    pair = events.user * events.n_items + events.item
    known, first = np.unique(pair, return_index=True)
    wanted = user * events.n_items + column
    place = np.minimum(np.searchsorted(known, wanted), max(0, len(known) - 1))
    novel: Flags = (known[place] != wanted) | (first[place] >= row)
    return novel


def _rows_of_period(events: EventLog, cuts: Cuts, split: Split, options: TargetOptions) -> Ints:
    early = np.bincount(
        events.user[events.time_ms < cuts.train_end], minlength=len(events.start) - 1
    )
    first, last = cuts.period(split)
    inside = (events.time_ms >= first) & (events.time_ms < last)
    inside &= (early >= options.min_events)[events.user]
    rows = np.flatnonzero(inside)
    users = np.unique(events.user[rows])
    if options.max_users is not None and len(users) > options.max_users:
        generator = np.random.default_rng(options.seed)
        users = generator.choice(users, options.max_users, replace=False)
        rows = rows[np.isin(events.user[rows], users)]
    return rows


def _first_of_item_in_visit(events: EventLog, rows: Ints) -> Ints:
    """Return the rows of visits that begin among them, each item of a visit once."""
    opening = events.visit_first_row()[rows]
    rows = rows[np.isin(opening, rows)]
    pair = events.visit[rows] * events.n_items + events.item[rows]
    _, first = np.unique(pair, return_index=True)
    return np.sort(rows[first])


def _at_most_per_user(events: EventLog, rows: Ints, most: int, seed: int) -> Ints:
    generator = np.random.default_rng(seed)
    order = np.lexsort((generator.random(len(rows)), events.user[rows]))
    users = events.user[rows[order]]
    place = np.arange(len(rows)) - np.searchsorted(users, users)
    return np.sort(rows[order[place < most]])
