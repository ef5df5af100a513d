"""Made-up logs: users whose tastes drift, with the faults real logs have.

Every visit is drawn from the user's tastes at its time: a slow one that changes over months, a fast
one that changes over weeks, favorites that come back, and noise. All of it is hashed from (seed,
user, period), so nothing is kept per user and a log of any length takes the same memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stream.clock import DAY_MS
from stream.errors import ConfigError
from stream.logwriter import BAD_FAULTS, Catalogue, Columns, open_writer, write_items

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Hashes = NDArray[np.uint64]

GENRES = 16
_SLICE_EVENTS = 100_000
_VISIT_EVENTS = 4.0  # mean interactions per visit
_STEP_MS = 40_000  # mean time between interactions of a visit
_SLOW_DAYS, _FAST_DAYS = 120, 20
_FAVORITES = 6
_ROOM = 4  # least milliseconds per interaction, so that distinct times fit


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedLog:
    """What was written.

    Attributes:
        records: lines or rows in all.
        interactions: distinct good interactions.
        duplicates: second copies, same event_id.
        late: interactions written after a newer one because of a delay.
        bad: records that are no interaction.
        first_ms: event time of the first interaction.
        last_ms: event time of the last one.
    """

    records: int
    interactions: int
    duplicates: int
    late: int
    bad: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogShape:
    """How the log looks.

    Attributes:
        items: size of the catalogue; items appear over the first 90 % of the time.
        start_ms: event time the log starts at.
        days: time it covers.
        late_share: share of interactions written late.
        duplicate_share: share of interactions written twice.
        bad_share: bad records per interaction.
        max_delay_ms: how late a late or second copy is at most.
        sessions: whether interactions carry a session_id.
    """

    items: int = 2_000
    start_ms: int = 1_704_067_200_000
    days: int = 365
    late_share: float = 0.0
    duplicate_share: float = 0.0
    bad_share: float = 0.0
    max_delay_ms: int = 300_000
    sessions: bool = False

    def __post_init__(self) -> None:
        """Refuse shapes that no log can have."""
        for name in ("late_share", "duplicate_share", "bad_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        if self.items < GENRES or self.days < 1 or self.max_delay_ms < 1:
            raise ConfigError(f"items must be >= {GENRES}, days and max_delay_ms >= 1")


def generate(
    path: Path,
    *,
    users: int,
    events: int,
    seed: int = 0,
    shape: LogShape | None = None,
    items_path: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GeneratedLog:
    """Write a log and return what is in it; the same arguments give the same records.

    Args:
        path: .parquet, .jsonl or .jsonl.gz; replaced if it exists.
        users: how many there are; the busiest have many times the events of the rest.
        events: distinct good interactions; duplicates and bad records come on top.
        seed: of everything drawn.
        shape: how the log looks.
        items_path: also write the catalogue there, with text and first_seen, in the same formats.
        progress: called with (events written, events).

    Raises:
        ConfigError: an unusable number or file name, or too many events for the time covered.
    """
    shape = shape or LogShape()
    if users < 1 or events < 1:
        raise ConfigError(f"users and events must be at least 1, not {users} and {events}")
    if shape.days * DAY_MS < events * _ROOM:
        raise ConfigError(f"{events} events do not fit into {shape.days} days; give more days")
    maker = _Maker(users, events, seed, shape)
    with open_writer(path) as write:
        for rows, done in maker.chunks():
            write(rows)
            if progress is not None:
                progress(done, events)
    if items_path is not None:
        write_items(items_path, maker.catalogue())
    return maker.summary()


class _Maker:
    """Draws the log slice by slice of time; only delayed records wait for a later slice."""

    def __init__(self, users: int, events: int, seed: int, shape: LogShape) -> None:
        self._events = events
        self._shape = shape
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        activity = 1.0 / (np.arange(users) + 10.0) ** 0.8
        self._user_cdf = np.cumsum(activity) / activity.sum()
        per_genre = shape.items // GENRES
        popularity = 1.0 / (np.arange(per_genre) + 3.0)
        self._rank_cdf = np.cumsum(popularity) / popularity.sum()
        self._counts = dict.fromkeys(("records", "duplicates", "late", "bad"), 0)
        self._newest = 0
        self._bad = 0
        self._times = (0, 0)

    def summary(self) -> GeneratedLog:
        first, last = self._times
        return GeneratedLog(interactions=self._events, first_ms=first, last_ms=last, **self._counts)

    def chunks(self) -> Iterator[tuple[Columns, int]]:
        """Yield records in the order of writing, and how many interactions they complete."""
        shape, span = self._shape, self._shape.days * DAY_MS
        slices = -(-self._events // _SLICE_EVENTS)
        edges = np.linspace(0, self._events, slices + 1).astype(np.int64)
        pending = None
        for number in range(slices):
            begin = shape.start_ms + span * number // slices
            end = shape.start_ms + span * (number + 1) // slices
            rows = self._slice(int(edges[number]), int(edges[number + 1]), begin, end)
            rows = rows if pending is None else pending.joined(rows)
            ready = rows.arrival < (end if number < slices - 1 else np.iinfo(np.int64).max)
            pending = rows.where(~ready)
            out = rows.where(ready)
            out = out.where(np.lexsort((out.copy, out.arrival)))
            self._count(out)
            yield out, int(edges[number + 1])

    def _slice(self, first: int, after: int, begin: int, end: int) -> Columns:
        """Return interactions first..after-1, all between two times, with copies and faults."""
        count = after - first
        users, times, visits = self._visits(count, begin, end)
        items = self._items(users, times, visits)
        kinds = self._kinds(visits)
        arrival = times.copy()
        late = self._rng.random(count) < self._shape.late_share
        arrival[late] += self._delays(int(late.sum()))
        if first == 0:
            self._times = (int(times[0]), 0)
        self._times = (self._times[0], int(times[-1]))
        session = np.where(self._shape.sessions, visits + first, -1)
        rows = Columns(
            number=np.arange(first, after),
            user=users,
            item=items,
            kind=kinds,
            ts=times,
            session=session,
            arrival=arrival,
            copy=np.zeros(count, np.int64),
            fault=np.full(count, -1),
        )
        copies = rows.where(self._rng.random(count) < self._shape.duplicate_share)
        later = copies.ts + self._delays(len(copies.ts))
        copies.arrival = np.maximum(copies.arrival, later)
        copies.copy = np.ones(len(copies.arrival), np.int64)
        bad = rows.where(self._rng.random(count) < self._shape.bad_share)
        bad.copy = np.full(len(bad.arrival), 2)
        bad.fault = (self._bad + np.arange(len(bad.arrival))) % len(BAD_FAULTS)
        self._bad += len(bad.arrival)
        return rows.joined(copies).joined(bad)

    def _delays(self, count: int) -> Ints:
        return self._rng.integers(1, self._shape.max_delay_ms + 1, count)

    def _visits(self, count: int, begin: int, end: int) -> tuple[Ints, Ints, Ints]:
        """Return user, distinct ascending time and visit number of `count` interactions."""
        rng = self._rng
        new = rng.random(count) < 1.0 / _VISIT_EVENTS
        new[0] = True
        visit = np.cumsum(new) - 1
        starts = rng.integers(begin, end, int(visit[-1]) + 1)
        visitors = np.searchsorted(self._user_cdf, rng.random(int(visit[-1]) + 1))
        steps = rng.exponential(_STEP_MS, count).astype(np.int64) + 1_000
        since = np.cumsum(steps)
        since -= since[new][visit]
        ts = np.minimum(starts[visit] + since, end - 1)
        order = np.argsort(ts, kind="stable")
        ramp = np.arange(count)
        ts = np.maximum.accumulate(ts[order] - ramp) + ramp  # distinct: each at least 1 ms on
        ts = np.minimum(ts, end - count + ramp)  # and still inside the slice
        users = np.minimum(visitors[visit[order]], len(self._user_cdf) - 1)
        return users, ts, visit[order]

    def _items(self, users: Ints, times: Ints, visits: Ints) -> Ints:
        """Return an item per interaction, by the user's tastes at its time."""
        rng, count = self._rng, len(users)
        day = (times - self._shape.start_ms) // DAY_MS
        mood = rng.random(int(visits.max()) + 1)[visits]
        period = np.where(mood < 0.55, day // _SLOW_DAYS, day // _FAST_DAYS + 10_000)
        tastes = self._hash(users, period)
        random = rng.integers(0, GENRES, count)
        genre = np.where(mood < 0.85, (tastes % GENRES).astype(np.int64), random)
        rank = np.searchsorted(self._rank_cdf, rng.random(count))
        rank = np.minimum(rank, len(self._rank_cdf) - 1)
        slot = rng.integers(0, _FAVORITES, count)
        favorite = (self._hash(users, genre * 100 + slot + 1_000_000) % len(self._rank_cdf)).astype(
            np.int64
        )
        rank = np.where(rng.random(count) < 0.35, favorite, rank)
        return self._already_there(rank * GENRES + genre, times)

    def _already_there(self, items: Ints, times: Ints) -> Ints:
        """Return the items, those not yet on sale replaced by an older one of their genre."""
        seen = self._first_seen(items)
        old = items % GENRES + GENRES * ((items // GENRES) % max(1, len(self._rank_cdf) // 4))
        return np.where(
            seen <= times, items, np.where(self._first_seen(old) <= times, old, items % GENRES)
        )

    def _first_seen(self, items: Ints) -> Ints:
        """Return when an item goes on sale: the first quarter of each genre at the start."""
        quarter = max(1, len(self._rank_cdf) // 4)
        spread = self._hash(items, np.zeros_like(items)) % np.uint64(900)
        later = self._shape.start_ms + spread.astype(np.int64) * self._shape.days * DAY_MS // 1_000
        return np.where(items // GENRES < quarter, self._shape.start_ms, later)

    def _kinds(self, visits: Ints) -> Ints:
        """Return an event type per interaction: visits that buy put into the cart before."""
        draw = self._rng.random(len(visits))
        buys = self._rng.random(int(visits.max()) + 1)[visits] < 0.3
        kinds = np.where(draw < 0.85, 0, 1)
        return np.where(buys, np.where(draw < 0.5, 0, np.where(draw < 0.75, 1, 2)), kinds)

    def _hash(self, a: Ints, b: Ints) -> Hashes:
        """Return a well mixed uint64 per pair (splitmix64)."""
        x = a.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x += b.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03) + np.uint64(self._seed % 2**63)
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

    def _count(self, rows: Columns) -> None:
        self._counts["records"] += len(rows.ts)
        self._counts["duplicates"] += int((rows.copy == 1).sum())
        self._counts["bad"] += int((rows.copy == 2).sum())
        own = rows.ts[rows.copy == 0]
        if len(own):
            newest = np.maximum.accumulate(np.maximum(own, self._newest))
            self._counts["late"] += int((own < newest).sum())
            self._newest = int(newest[-1])

    def catalogue(self) -> Catalogue:
        """Return the items that exist."""
        items = np.arange(len(self._rank_cdf) * GENRES)
        return Catalogue(item=items, genre=items % GENRES, first_seen=self._first_seen(items))
