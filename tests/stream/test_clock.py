from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.clock import (
    DAY_MS,
    EventClock,
    ManualClock,
    WallClock,
    from_ms,
    midnight_ms,
    to_ms,
)
from tests.strategies import times_ms


@given(times_ms)
def test_milliseconds_survive_the_way_there_and_back(ms: int) -> None:
    assert to_ms(from_ms(ms)) == ms
    assert from_ms(ms).tzinfo is UTC


@given(times_ms, st.integers(0, 999))
def test_fractions_of_a_millisecond_are_cut(ms: int, us: int) -> None:
    assert to_ms(from_ms(ms) + timedelta(microseconds=us)) == ms


def test_a_zone_changes_nothing_and_a_missing_one_is_refused() -> None:
    paris = datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert to_ms(paris) == to_ms(datetime(2024, 1, 1, tzinfo=UTC))
    with pytest.raises(ValueError, match="time zone"):
        to_ms(datetime(2024, 1, 1))  # noqa: DTZ001


@given(times_ms)
def test_midnight_is_the_last_one_at_or_before(ms: int) -> None:
    midnight = midnight_ms(ms)
    assert midnight <= ms < midnight + DAY_MS
    assert from_ms(midnight).hour == from_ms(midnight).microsecond == 0


def test_the_wall_clock_is_aware_and_does_not_stand_still() -> None:
    first = WallClock().now()
    assert first.tzinfo is UTC
    assert WallClock().now() >= first


def test_a_manual_clock_stands_until_told() -> None:
    clock = ManualClock(datetime(2024, 1, 1, tzinfo=UTC))
    assert clock.now() == clock.now()
    clock.advance(90)
    assert clock.now() == datetime(2024, 1, 1, 0, 1, 30, tzinfo=UTC)
    clock.set(datetime(2023, 1, 1, tzinfo=UTC))
    assert clock.now() == datetime(2023, 1, 1, tzinfo=UTC)


@given(st.lists(times_ms))
def test_an_event_clock_shows_the_newest_event_and_never_goes_back(times: list[int]) -> None:
    clock = EventClock(5)
    shown = []
    for ms in times:
        clock.advance(ms)
        shown.append(clock.now_ms)
    assert shown == sorted(shown)
    assert clock.now() == from_ms(max([5, *times]))
