"""Verdicts as pure functions, against the plainest statement of each rule."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.records import HistoryKey
from stream.verdicts import NEVER, OpenWindow, future_dated, running_max

times = st.integers(0, 60)
quick = settings(max_examples=60, deadline=None, derandomize=True)


def key(ts: int, off: int) -> HistoryKey:
    return HistoryKey(ts, 0, 0, off, displaced=False, off=off)


@quick
@given(st.lists(times), st.one_of(st.just(NEVER), times))
def test_the_running_maximum_leaves_the_record_itself_out(ts: list[int], start: int) -> None:
    found = running_max(np.array(ts, np.int64), start)
    assert found.tolist() == [max([start, *ts[:i]]) for i in range(len(ts))]


@quick
@given(
    st.lists(st.tuples(times, st.one_of(st.none(), times))),
    st.one_of(st.just(NEVER), times),
    st.integers(0, 8),
    st.integers(0, 8),
    st.integers(0, 8),
)
def test_a_refused_record_does_not_excuse_the_next_one(
    records: list[tuple[int, int | None]], start: int, lateness: int, ahead: int, jump: int
) -> None:
    newest, expected = start, []
    for ts, appended in records:
        if appended is not None:
            bad = ts > appended + ahead
        else:
            bad = newest != NEVER and ts > newest - lateness + jump
        expected.append(bad)
        newest = newest if bad else max(newest, ts)
    found = future_dated(
        np.array([ts for ts, _ in records], np.int64),
        np.array([NEVER if a is None else a for _, a in records], np.int64),
        max_event_ms=start,
        lateness_ms=lateness,
        ahead_ms=ahead,
        jump_ms=jump,
    )
    assert found.tolist() == expected


@quick
@given(st.lists(times), times, times)
def test_only_events_behind_a_due_segment_are_displaced(
    stored: list[int], ts: int, watermark: int
) -> None:
    """n 3, r_min 2: a segment is due when it and two newer events lie before the watermark."""
    window = OpenWindow(3, 2)
    for off, at in enumerate(stored):
        window.add(key(at, off))
    ordered = sorted(stored)
    before = sum(at < watermark for at in ordered)
    closed = max(0, before - 2) // 3 * 3
    own = key(ts, len(stored))
    placed = window.place(own, watermark)
    if closed and own <= window.keys[closed - 1]:
        assert placed.displaced
        assert window.keys[closed - 1] < placed
        assert closed == len(window.keys) or placed < window.keys[closed]
    else:
        assert placed == own


def test_displaced_events_keep_the_order_of_the_log() -> None:
    window = OpenWindow(1, 1)
    for off, at in enumerate([10, 20, 30]):
        window.add(key(at, off))
    placed = [window.place(key(ts, off), 31) for off, ts in ((3, 5), (4, 1))]
    for one in placed:
        window.add(one)
    assert [k.off for k in window.keys] == [0, 1, 3, 4, 2]


def test_a_repeat_is_a_duplicate_while_its_original_is_open_or_within_the_lateness_bound() -> None:
    window = OpenWindow(2, 1)
    for off, at in enumerate([10, 20, 30, 40, 50]):
        window.add(key(at, off))
        window.events[f"e{off}"] = (key(at, off), at)
    due = 51  # segments 10-20 and 30-40 are closed
    assert not window.is_duplicate("e1", due, 5)
    assert window.is_duplicate("e1", due, 31)
    assert window.is_duplicate("e4", due, 0)
    assert window.is_duplicate("e0", 25, 0)
    assert not window.is_duplicate("other", due, 100)
