"""When a partition counts as stalled, and when the broker as gone: with a clock that tests turn."""

from __future__ import annotations

import pytest

from stream.errors import BrokerError, StalledError
from stream.events import Partition
from stream.kafka.watch import Progress, Watch

A, B = Partition("log", 0), Partition("log", 1)


class Polls:
    """A consumer under watch that is polled once a second."""

    def __init__(self, *, stall_s: float = 20.0, outage_s: float = 0.0) -> None:
        self.now = 1000.0
        self.asked = 0
        self.progress = {A: Progress(5, 5), B: Progress(7, 7)}
        self.ends: dict[Partition, int] | None = {A: 5, B: 7}
        self.watch = Watch(self._answer, stall_s=stall_s, outage_s=outage_s, clock=lambda: self.now)

    def _answer(self) -> dict[Partition, int] | None:
        self.asked += 1
        return self.ends

    def run(self, seconds: int, *, moving: Partition | None = None, full: bool = False) -> None:
        for _ in range(seconds):
            self.now += 1
            if moving is not None:
                self.progress[moving] = Progress(self.progress[moving].position + 1, None)
            self.watch.polled(self.progress, full=full)


def test_a_log_that_was_read_to_its_end_is_seldom_asked_about() -> None:
    polls = Polls()
    polls.run(500)
    assert 0 < polls.asked <= 100


def test_an_end_known_from_before_the_stall_hides_nothing() -> None:
    """What is not fetched brings no new end."""
    polls = Polls()
    polls.ends = {A: 9, B: 7}
    with pytest.raises(StalledError, match=r"log\[0\]: 4 offsets from 5 on"):
        polls.run(60)


def test_a_partition_that_stands_still_before_readable_records_is_stalled() -> None:
    polls = Polls()
    polls.progress[A], polls.ends = Progress(5, 9), {A: 9, B: 7}
    with pytest.raises(StalledError, match=r"log\[0\]: 4 offsets from 5 on .* for 20 s"):
        polls.run(60)


def test_another_partition_that_moves_is_no_sign_of_life() -> None:
    polls = Polls()
    polls.progress[A], polls.ends = Progress(5, 9), {A: 9, B: 1000}
    with pytest.raises(StalledError, match=r"log\[0\]"):
        polls.run(60, moving=B)


def test_a_partition_that_never_had_an_answer_is_looked_at_too() -> None:
    polls = Polls()
    polls.progress[A], polls.ends = Progress(0, None), {A: 3, B: 7}
    with pytest.raises(StalledError, match=r"log\[0\]"):
        polls.run(60)


def test_records_of_an_open_transaction_are_no_stall() -> None:
    polls = Polls()
    polls.progress[A] = Progress(5, 900)
    polls.run(500)
    assert 0 < polls.asked <= 101  # seldom


def test_a_partition_that_moves_now_and_then_is_not_stalled() -> None:
    polls = Polls()
    polls.ends = {A: 10_000, B: 7}
    for position in range(5, 25):
        polls.progress[A] = Progress(position, 10_000)
        polls.run(15)


def test_time_without_polls_is_no_stall() -> None:
    """A store that takes long keeps the consumer from being polled; it has had no chance to move."""
    polls = Polls()
    polls.progress[A], polls.ends = Progress(5, 9), {A: 9, B: 7}
    polls.run(8)
    polls.now += 600
    polls.run(1)
    polls.now += 600
    polls.run(1)


def test_a_partition_that_waits_while_polls_are_full_is_not_stalled() -> None:
    """The backlog of the others comes first; the partition's turn is counted from when it is over."""
    polls = Polls()
    polls.progress[A], polls.ends = Progress(5, 9), {A: 9, B: 100_000}
    polls.run(300, moving=B, full=True)
    polls.run(19, moving=B)
    with pytest.raises(StalledError, match=r"log\[0\]"):
        polls.run(60, moving=B)


def test_what_was_held_on_purpose_is_no_stall() -> None:
    polls = Polls()
    polls.progress[A], polls.ends = Progress(5, 9), {A: 9, B: 7}
    for _ in range(10):
        polls.run(19)
        polls.watch.rest()


def test_an_outage_is_no_stall_and_its_time_does_not_count() -> None:
    polls = Polls()
    polls.progress[A], polls.ends = Progress(5, 9), None
    polls.run(300)
    polls.ends = {A: 9, B: 7}
    polls.run(19)
    polls.progress[A] = Progress(9, 9)
    polls.run(100)


def test_without_a_bound_an_outage_is_waited_out() -> None:
    polls = Polls(stall_s=0)
    polls.ends = None
    polls.run(5000)
    assert polls.asked == 0


def test_an_outage_longer_than_allowed_ends_the_run() -> None:
    polls = Polls(outage_s=30)
    polls.run(200)  # nothing arrives, and the broker answers
    polls.ends = None
    with pytest.raises(
        BrokerError, match=r"not answered for .* s, longer than kafka.outage_limit_s"
    ):
        polls.run(60)


def test_nothing_is_looked_at_when_both_limits_are_off() -> None:
    polls = Polls(stall_s=0)
    polls.progress[A], polls.ends = Progress(5, 9), {A: 9, B: 7}
    polls.run(1000)
    assert polls.asked == 0
