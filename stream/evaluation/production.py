"""Scores of the production path at every target state, taken while a log is replayed.

Nothing here scores by itself: the pipeline stores events, ticks on the event clock and swaps token
groups as it always does; between two ticks this asks its scorer for the states of that stretch, each
as of its own log position, once per variant of the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from stream.score import StateRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from stream.evaluation.log import EvaluationLog
    from stream.evaluation.ranks import RankBook
    from stream.events import Partition
    from stream.loading import StateMode
    from stream.score import StateScores
    from stream.slates import Coverage

    Ints = NDArray[np.int64]

STATE_BLOCK = 64
"""States scored together: bounds memory, changes no score."""


class StateScorer(Protocol):
    """The part of the production scorer that answers for a past position."""

    def score_states(self, requests: Sequence[StateRequest]) -> StateScores:
        """Return scores of every known item for each request."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to read a state.

    Attributes:
        name: How reports call it.
        mode: What of the state the scorer reads.
        every: Ask every so-many-th user only: for variants that cost much more than the others.
    """

    name: str
    mode: StateMode
    every: int = 1


TOKENS = Variant(name="tokens + recents", mode="tokens")
RECENTS = Variant(name="recents only", mode="recents")
SWAPPED = Variant(name="another user's tokens", mode="swap")
FULL = Variant(name="full history, every 3rd user", mode="full", every=3)


class IntervalScorer:
    """Ranks the targets of one or more books, interval by interval of a replay.

    Args:
        scorer: Answers for states.
        find_user: External id -> internal id of the database, None while unknown.
        log: The whole log: where states stand in it, and the item columns.
        books: Where ranks go.
        variants: What to ask; the first is production's own and gives candidates and coverage.
        model_number: Which trained model this is, when several are averaged.
        seed: Draws whose tokens stand in for a user's own.
        on_states: Told the number of states done so far and in all.
    """

    def __init__(
        self,
        scorer: StateScorer,
        find_user: Callable[[str], int | None],
        log: EvaluationLog,
        books: Sequence[RankBook],
        variants: Sequence[Variant],
        *,
        model_number: int = 0,
        seed: int = 0,
        on_states: Callable[[int, int], None] | None = None,
    ) -> None:
        self._scorer = scorer
        self._find_user = find_user
        self._log = log
        self._variants = tuple(variants)
        self._model_number = model_number
        self._on_states = on_states
        self._queues = [_Queue(log, book) for book in books]
        self._partner = _partners(books, seed)
        self._columns: Ints | None = None
        self._column_ids: list[str] = []
        self.done = 0
        self.total = sum(len(book.targets.states) for book in books)

    def __call__(self, starts: Mapping[Partition, int], ends: Mapping[Partition, int]) -> None:
        """Ask for the states whose newest stored record lies in [start, end) of its partition."""
        found = [queue.between(starts, ends) for queue in self._queues]
        number = np.repeat(np.arange(len(found)), [len(states) for states in found])
        state = np.concatenate(found)
        users = [
            queue.book.targets.states.user[states]
            for queue, states in zip(self._queues, found, strict=True)
        ]
        by_user = np.argsort(np.concatenate(users), kind="stable")  # a user is loaded once
        for first in range(0, len(state), STATE_BLOCK):
            block = by_user[first : first + STATE_BLOCK]
            self._ask(number[block], state[block])
            self.done += len(block)
            if self._on_states is not None:
                self._on_states(self.done, self.total)

    def _ask(self, number: Ints, state: Ints) -> None:
        """Score states (book number, state), all variants in one call, and rank their targets."""
        parts: list[tuple[RankBook, Ints, Variant]] = []
        requests: list[StateRequest] = []
        for place, queue in enumerate(self._queues):
            states = state[number == place]
            for variant in self._variants:
                users = queue.book.targets.states.user[states]
                chosen = states[users % variant.every == 0]
                if len(chosen):
                    parts.append((queue.book, chosen, variant))
                    requests += self._requests(queue, chosen, variant)
        answer = self._scorer.score_states(requests)
        columns = self._columns_of(answer.item_ids)
        shown = answer.candidate & (columns >= 0)
        candidates = np.zeros(self._log.events.n_items, dtype=bool)
        candidates[columns[shown]] = True
        first = 0
        for book, chosen, variant in parts:
            rows = slice(first, first + len(chosen))
            first += len(chosen)
            if variant == self._variants[0]:
                book.stood(chosen, candidates)
                _note(book, chosen, answer.coverage[rows])
            scores = np.full((len(chosen), self._log.events.n_items), -np.inf, dtype=np.float32)
            scores[:, columns[shown]] = answer.scores[rows][:, shown]
            book.put(variant.name, chosen, scores, seed=self._model_number)

    def _requests(self, queue: _Queue, states: Ints, variant: Variant) -> list[StateRequest]:
        chosen = queue.book.targets.states.take(states)
        protocol = queue.book.targets.protocol
        return [
            StateRequest(
                user_idx=self._user(user),
                at_ms=at_ms,
                as_of=as_of,
                mode=variant.mode,
                swap_user_idx=self._user(self._partner[user]) if variant.mode == "swap" else None,
                readout="line" if protocol == "after_visit" else "auto",
            )
            for user, at_ms, as_of in zip(
                chosen.user.tolist(),
                chosen.time_ms.tolist(),
                queue.as_of[states].tolist(),
                strict=True,
            )
        ]

    def _user(self, user: int) -> int:
        found = self._find_user(self._log.user_ids[user])
        return -1 if found is None else found

    def _columns_of(self, item_ids: list[str]) -> Ints:
        if self._columns is None or len(item_ids) != len(self._column_ids):
            self._columns = self._log.columns_of(item_ids)
            self._column_ids = item_ids
        return self._columns


def _note(book: RankBook, states: Ints, coverage: Sequence[Coverage]) -> None:
    book.groups[states] = [one.groups for one in coverage]
    book.age_ms[states] = [-1 if one.age_s is None else round(one.age_s * 1000) for one in coverage]


class _Queue:
    """The states of a book by log position."""

    def __init__(self, log: EvaluationLog, book: RankBook) -> None:
        self.book = book
        states = book.targets.states
        row = states.row
        self._partitions = log.partitions
        self._partition = log.partition[row - (book.targets.protocol == "after_visit")]
        if book.targets.protocol == "after_visit":
            self._at = log.offset[row - 1]  # asked once the last line of the visit is stored
            self.as_of = self._at + 1
        else:
            self._at = log.offset[row]  # asked before this record counts
            self.as_of = self._at

    def between(self, starts: Mapping[Partition, int], ends: Mapping[Partition, int]) -> Ints:
        """Return the states of an interval, in log order."""
        inside = np.zeros(len(self._at), dtype=bool)
        for number, partition in enumerate(self._partitions):
            if partition in ends:
                inside |= (
                    (self._partition == number)
                    & (self._at >= starts.get(partition, 0))
                    & (self._at < ends[partition])
                )
        found = np.flatnonzero(inside)
        order: Ints = found[np.argsort(self._at[found], kind="stable")]
        return order


def _partners(books: Sequence[RankBook], seed: int) -> dict[int, int]:
    """Give every measured user another one: the next in a random ring."""
    users = np.unique(np.concatenate([book.targets.states.user for book in books]))
    ring = np.random.default_rng(seed).permutation(users)
    return dict(zip(ring.tolist(), np.roll(ring, 1).tolist(), strict=True))
