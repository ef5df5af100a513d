"""What happens to delivered events, free of Faust: wait until they are stored, answer, shed under overload.

Delivered offsets only say that there may be something to answer: rows, verdicts and positions are the
database's. Offsets of aborted or undecided transactions are delivered too and never answered.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from stream.errors import BrokerError

Key = tuple[str, int]
Offsets = Mapping[Key, int]


class Answers(Protocol):
    """The part of `stream.pipeline.Pipeline` that answers."""

    def wait_stored(self, ends: Offsets, timeout_s: float) -> bool:
        """Return whether the log is stored up to these exclusive offsets, waiting for it at most so long."""
        ...

    def waiting(self) -> Mapping[Key, tuple[int, int]]:
        """Return scored and stored offset of every partition with rows that are not answered."""
        ...

    def answer(self, upto: Offsets, *, shed: bool = False) -> object:
        """Answer stored rows below exclusive offsets, as far as stored."""
        ...

    def settle(self) -> None:
        """Move the scored positions up to what is answered."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One batch of delivered events, answered.

    Attributes:
        first: partition -> first offset delivered.
        ends: partition -> offset after the last one delivered.
        events: how many were delivered.
        stored_s: seconds of waiting until they were stored.
        answered_s: seconds of answering.
        shed: whether more waited than is answered one by one.
    """

    first: Offsets
    ends: Offsets
    events: int
    stored_s: float
    answered_s: float
    shed: bool


class AbandonedError(BrokerError):
    """Told to stop while events were not stored: they are delivered and answered after the next start."""


class Answerer:
    """Answers delivered events over a pipeline; called from one thread, the scorer's.

    Args:
        pipeline: stores, waits and answers.
        topic: of the interactions.
        take_max: events answered in one transaction.
        shed_above: stored offsets without an answer above which only each user's newest is scored;
            0 never sheds.
        patience_s: an event that is delivered and not stored for so long ends the process. An
            undecided transaction of a producer holds back what follows it for as long as it lasts.
        slice_s: meanwhile, what is stored is answered in such turns.
    """

    def __init__(
        self,
        pipeline: Answers,
        *,
        topic: str,
        take_max: int,
        shed_above: int,
        patience_s: float = 900.0,
        slice_s: float = 0.25,
    ) -> None:
        self._pipeline = pipeline
        self._topic = topic
        self._take_max = take_max
        self._shed_above = shed_above
        self._patience_s = patience_s
        self._slice_s = slice_s
        self._abandoned = threading.Event()
        self._swept: dict[Key, int] = {}

    def abandon(self) -> None:
        """Make a wait end at its next turn."""
        self._abandoned.set()

    def take(self, first: Offsets, ends: Offsets, events: int) -> Turn:
        """Return when everything below `ends` is stored and answered.

        What else is stored is answered with it, `take_max` per partition at most: its delivery is on the way, and need
        not wait for a turn of its own.

        Raises:
            BrokerError: it was not stored within `patience_s`.
            AbandonedError: `abandon` was called meanwhile.
        """
        begun = perf_counter()
        stored_s = answered_s = 0.0
        shed = stored = False
        while not stored:
            at = perf_counter()
            stored = self._pipeline.wait_stored(ends, self._slice_s)
            after = perf_counter()
            stored_s += after - at
            # What is not stored yet must not keep other partitions from being answered.
            shed = self._answer(ends if stored else None, beyond=self._take_max) or shed
            answered_s += perf_counter() - after
            if not stored:
                self._go_on(begun, ends)
        return Turn(
            first=first, ends=ends, events=events,
            stored_s=stored_s, answered_s=answered_s, shed=shed,
        )  # fmt: skip

    def sweep(self) -> None:
        """Answer what already waited at the last sweep, rows that no delivery asks for; then settle what is answered.

        The positions of the group may be ahead of a restored database: what is stored again is then
        not delivered again.
        """
        waiting = self._pipeline.waiting()
        old = {
            key: min(stored, self._swept[key])
            for key, (scored, stored) in waiting.items()
            if scored < self._swept.get(key, 0)
        }
        self._swept = {key: stored for key, (_, stored) in waiting.items()}
        if old:
            self._answer(old)
        self._pipeline.settle()

    def _go_on(self, begun: float, ends: Offsets) -> None:
        if self._abandoned.is_set():
            raise AbandonedError(f"{_text(ends)}: stopped before they were stored")
        if perf_counter() - begun > self._patience_s:
            raise BrokerError(
                f"{_text(ends)}: delivered, and not stored within {self._patience_s:g} s; look at"
                " ingest, and for a producer whose transaction stays open"
            )

    def _answer(self, limit: Offsets | None, *, beyond: int = 0) -> bool:
        """Answer stored rows up to `limit` and at least `beyond` of each partition, None for all; say whether some were shed."""
        waiting = self._pipeline.waiting()
        backlog = sum(
            stored - scored
            for (topic, _), (scored, stored) in waiting.items()
            if topic == self._topic
        )
        shed = 0 < self._shed_above < backlog
        if shed:  # all that waits, in transactions that memory can hold
            limit, size = None, max(1, self._shed_above // len(waiting))
        else:
            size = self._take_max
        if limit is not None and beyond:
            limit = {key: max(limit.get(key, 0), at + beyond) for key, (at, _) in waiting.items()}
        for upto in _rounds(waiting, limit, size):
            self._pipeline.answer(upto, shed=shed)
        return shed


def _rounds(
    waiting: Mapping[Key, tuple[int, int]], limit: Offsets | None, size: int
) -> Iterator[dict[Key, int]]:
    """Yield growing offsets until `limit` or all that is stored, at most `size` per partition at once."""
    at = {key: scored for key, (scored, _) in waiting.items()}
    ends = {key: stored for key, (_, stored) in waiting.items()}
    if limit is not None:
        ends = {key: min(end, limit[key]) for key, end in ends.items() if key in limit}
    while ends := {key: end for key, end in ends.items() if at[key] < end}:
        at |= {key: min(end, at[key] + size) for key, end in ends.items()}
        yield {key: at[key] for key in ends}


def _text(ends: Offsets) -> str:
    return ", ".join(f"{topic}[{part}]@{off - 1}" for (topic, part), off in sorted(ends.items()))
