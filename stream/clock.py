"""Clocks: the only place that asks the system for the time.

Live code gets a `WallClock`, a replay an `EventClock` that follows the log, tests a `ManualClock`.
Datetimes are aware UTC everywhere; arrays carry int64 milliseconds since the epoch.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_MS = 86_400_000


def to_ms(at: datetime) -> int:
    """Return whole milliseconds since the epoch, rounded down.

    Raises:
        ValueError: `at` has no time zone.
    """
    if at.tzinfo is None:
        raise ValueError(f"datetime without a time zone: {at.isoformat()}; pass an aware one")
    return (at - EPOCH) // timedelta(milliseconds=1)


def from_ms(ms: int) -> datetime:
    """Return the aware UTC datetime of `ms` milliseconds since the epoch, exactly."""
    return EPOCH + timedelta(milliseconds=ms)


def midnight_ms(ms: int) -> int:
    """Return the last UTC midnight at or before `ms`, in milliseconds since the epoch."""
    return ms - ms % DAY_MS


class Clock(Protocol):
    """Tells the current time."""

    def now(self) -> datetime:
        """Return the current time, aware UTC."""
        ...


class WallClock:
    """The system's time: for live processes only."""

    def now(self) -> datetime:
        """Return the system's time, aware UTC."""
        return datetime.now(UTC)


class ManualClock:
    """A clock that stands still until told otherwise.

    Args:
        start: first time shown; must be aware.
    """

    def __init__(self, start: datetime = EPOCH) -> None:
        self._now = from_ms(0) + (start - EPOCH)

    def now(self) -> datetime:
        """Return the time last set, aware UTC."""
        return self._now

    def set(self, at: datetime) -> None:
        """Show `at` from now on; it may lie in the past."""
        self._now = EPOCH + (at - EPOCH)

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds`."""
        self._now += timedelta(seconds=seconds)


class EventClock:
    """The time of a replay: the newest event time seen, never moving back.

    Args:
        start_ms: time shown before the first event, milliseconds since the epoch.
    """

    def __init__(self, start_ms: int = 0) -> None:
        self._now_ms = start_ms

    def now(self) -> datetime:
        """Return the newest event time seen, aware UTC."""
        return from_ms(self._now_ms)

    @property
    def now_ms(self) -> int:
        """The newest event time seen, milliseconds since the epoch."""
        return self._now_ms

    def advance(self, event_ms: int) -> None:
        """Follow an event at `event_ms`; an earlier one changes nothing."""
        self._now_ms = max(self._now_ms, event_ms)
