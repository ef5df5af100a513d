"""Delivered events are answered when they are stored; what never is stored holds nothing else up."""

import pytest

from stream.errors import BrokerError
from stream.kafka.answering import AbandonedError, Answerer

A, B = ("log", 0), ("log", 1)


class Store:
    """Positions of a database, and the calls that moved the scored ones."""

    def __init__(self, stored, scored=None):
        self.stored, self.scored = dict(stored), dict(scored or {})
        self.calls = []
        self.on_wait = lambda: None

    def wait_stored(self, ends, timeout_s):
        self.on_wait()
        return all(self.stored.get(key, 0) >= off for key, off in ends.items())

    def waiting(self):
        return {
            key: (self.scored.get(key, 0), off)
            for key, off in self.stored.items()
            if self.scored.get(key, 0) < off
        }

    def answer(self, upto, *, shed=False):
        self.calls.append((dict(upto), shed))
        for key, off in upto.items():
            self.scored[key] = max(min(off, self.stored[key]), self.scored.get(key, 0))

    def settle(self):
        self.settled = dict(self.scored)


def answerer(store, **more):
    settings = {"take_max": 100, "shed_above": 0, "slice_s": 0.0} | more
    return Answerer(store, topic="log", **settings)


def take(answering, ends):
    return answering.take(dict.fromkeys(ends, 0), ends, 1)


def test_stored_events_are_answered_with_those_that_were_delivered():
    store = Store({A: 10, B: 5})
    turn = take(answerer(store), {A: 7})
    assert store.calls == [({A: 10, B: 5}, False)]
    assert (turn.ends, turn.shed) == ({A: 7}, False)
    take(answerer(store), {A: 10})
    assert len(store.calls) == 1


def test_a_turn_goes_on_beyond_what_was_delivered_for_a_bounded_number_of_events():
    store = Store({A: 100, B: 100})
    take(answerer(store, take_max=10), {A: 25})
    assert store.calls == [({A: 10, B: 10}, False), ({A: 20}, False), ({A: 25}, False)]
    take(answerer(store, take_max=10), {A: 25})
    assert store.calls[3:] == [({A: 35, B: 20}, False)]


def test_events_that_were_answered_before_are_passed_over():
    store = Store({A: 10}, {A: 10})
    take(answerer(store), {A: 7})
    assert store.calls == []


def test_a_long_way_is_gone_in_transactions_of_a_bounded_size():
    store = Store({A: 25, B: 4})
    take(answerer(store, take_max=10), {A: 25, B: 3})
    assert [upto for upto, _ in store.calls] == [{A: 10, B: 4}, {A: 20}, {A: 25}]


def test_an_event_that_is_not_stored_yet_lets_other_partitions_be_answered():
    store = Store({A: 1, B: 6})
    store.on_wait = lambda: store.stored.update({A: 4} if store.scored.get(B) == 6 else {})
    turn = take(answerer(store), {A: 4})
    assert store.calls == [({A: 1, B: 6}, False), ({A: 4}, False)]
    assert turn.ends == {A: 4}


def test_an_event_that_is_never_stored_ends_in_an_error_that_names_it():
    store = Store({A: 1})
    with pytest.raises(BrokerError, match=r"log\[0\]@3: delivered, and not stored"):
        take(answerer(store, patience_s=0.0), {A: 4})


def test_a_stop_ends_the_waiting():
    store = Store({A: 1})
    answering = answerer(store)
    store.on_wait = answering.abandon
    with pytest.raises(AbandonedError):
        take(answering, {A: 4})


def test_when_too_much_waits_all_of_it_is_answered_and_shed_in_bounded_steps():
    store = Store({A: 60, B: 50})
    turn = take(answerer(store, take_max=10, shed_above=100), {A: 5})
    assert store.calls == [({A: 50, B: 50}, True), ({A: 60}, True)]
    assert turn.shed
    assert not store.waiting()
    store.stored[A] = 100
    assert not take(answerer(store, shed_above=100), {A: 100}).shed


def test_offsets_of_another_topic_are_no_overload():
    store = Store({A: 5, ("items", 0): 5000})
    assert not take(answerer(store, shed_above=100), {A: 5}).shed


def test_a_sweep_settles_what_is_answered():
    store = Store({A: 10})
    answering = answerer(store, take_max=7)
    take(answering, {A: 7})
    answering.sweep()
    assert store.settled == {A: 7}


def test_a_sweep_answers_only_what_waited_at_the_last_one():
    store = Store({A: 3})
    answering = answerer(store)
    answering.sweep()
    assert store.calls == []
    store.stored[A] = 9
    answering.sweep()
    assert store.calls == [({A: 3}, False)]
    answering.sweep()
    assert store.calls[1:] == [({A: 9}, False)]
    answering.sweep()
    assert len(store.calls) == 2
