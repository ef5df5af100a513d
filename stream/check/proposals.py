"""Settings that fit a log, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stream.check.histories import GAP_EDGES_MS, HOUR_MS
from stream.clock import DAY_MS
from stream.config import PipelineConfig, StreamConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from stream.check.histories import HistoryFigures
    from stream.check.order import Order
    from stream.check.tally import Tally

MINUTE_MS = 60_000
_DEFAULTS = PipelineConfig()
SEGMENT_LEN, R_MIN = _DEFAULTS.refresh.segment_len, _DEFAULTS.refresh.r_min
R_MAX = _DEFAULTS.serving.r_max
LARGEST_R_MAX = 1_024
"""Longest recent window proposed: its cost is paid by every event of a busy user."""
SORT_BEYOND_MS = 7 * DAY_MS
"""A log whose events are later than that is not late but unsorted."""
ROUND_MS = tuple(
    count * unit
    for unit, counts in (
        (1_000, (1, 2, 5, 10, 30)),
        (MINUTE_MS, (1, 2, 5, 10, 15, 30)),
        (HOUR_MS, (1, 2, 4, 8, 12)),
        (DAY_MS, (1, 2, 3, 7, 14, 30, 60, 90, 120, 180, 365, 730, 1_460, 3_650, 36_500)),
    )
    for count in counts
)
_LENGTHS = ((SEGMENT_LEN, R_MIN), (32, 32), (16, 16))
_WORTH = 0.25  # share of events that token groups should be able to reach
_STRAY = 0.001  # largest share of records taken for stray ones


@dataclass(frozen=True, slots=True)
class Proposal:
    """One setting.

    Attributes:
        key: dotted.
        value: that fits the log.
        reason: one line.
    """

    key: str
    value: object
    reason: str


@dataclass(frozen=True, slots=True)
class OrderVerdict:
    """Which reading of the order of events holds.

    Attributes:
        order: the figures of that reading.
        strays: records far ahead of all others, refused as future-dated.
        unsorted: the log is not late but unsorted.
    """

    order: Order
    strays: int
    unsorted: bool


def judge_order(tally: Tally) -> OrderVerdict:
    """Tell stray times in the future from a log with gaps, and late events from an unsorted log."""
    strays = _stray_records(tally.days)
    order = tally.guarded if strays else tally.plain
    return OrderVerdict(order, strays, order.quantile(0.99) > SORT_BEYOND_MS)


def _stray_records(days: NDArray[np.int64]) -> int:
    """Return how few records lie past the last empty stretch longer than the allowed jump, 0 if not few."""
    used = np.flatnonzero(days)
    if len(used) < 2:
        return 0
    empty = np.flatnonzero(np.diff(used) > StreamConfig().max_jump_ms // DAY_MS)
    # The earliest such stretch after which hardly anything is left.
    beyond = [int(days[used[at] + 1 :].sum()) for at in empty]
    few = [count for count in beyond if count <= _STRAY * days.sum()]
    return max(few, default=0)


def stream_proposals(
    tally: Tally, found: HistoryFigures, verdict: OrderVerdict, max_jump_ms: int
) -> list[Proposal]:
    """Return lateness, largest jump and visit gap."""
    lateness = _lateness(tally, verdict)
    needed = verdict.order.furthest_ms + int(lateness.value)  # type: ignore[call-overload]  # an int
    far = readable(verdict.order.furthest_ms)
    jump = Proposal("stream.max_jump_ms", max_jump_ms, f"the largest step ahead is {far}")
    if needed > max_jump_ms:
        jump = Proposal(
            "stream.max_jump_ms",
            rounded_up(needed),
            f"times go up to {far} ahead of all before; less would refuse good events",
        )
    elif verdict.strays:
        jump = Proposal(
            "stream.max_jump_ms",
            max_jump_ms,
            f"refuses the {verdict.strays:,} records that lie far ahead of all others",
        )
    return [lateness, jump, _visit_gap(tally, found)]


def _lateness(tally: Tally, verdict: OrderVerdict) -> Proposal:
    order, key = verdict.order, "stream.lateness_ms"
    if not order.late:
        return Proposal(key, 0, "event times never go back, so nothing is late")
    share = percent(order.late / max(1, tally.interactions))
    if verdict.unsorted:
        value = min(rounded_up(order.quantile(0.99)), 30 * DAY_MS)
        return Proposal(
            key, value, f"{share} of the events are out of order: sort the log, then check again"
        )
    if order.largest_ms <= DAY_MS:
        value = rounded_up(order.largest_ms)
        return Proposal(
            key,
            value,
            f"covers all of the {share} out of order, by {readable(order.largest_ms)} at most",
        )
    value = rounded_up(order.quantile(0.99))
    return Proposal(
        key,
        value,
        f"covers 99 % of the {share} out of order; all would take {readable(order.largest_ms)}",
    )


def _visit_gap(tally: Tally, found: HistoryFigures) -> Proposal:
    key, default = "stream.visit_gap_ms", StreamConfig().visit_gap_ms
    if not found.gaps:
        return Proposal(key, default, "no user has two events: nothing to go by")
    if tally.whole_days:
        return Proposal(key, 0, "times are dates: what a user does on one day is a visit")
    short = _share_of_gaps(found, default) * (1 - found.zero_gaps)
    if found.zero_gaps > 0.3 and found.zero_gaps > 5 * short:
        return Proposal(
            key,
            0,
            f"{percent(found.zero_gaps)} of a user's steps keep the time, {percent(short)} are up to"
            " 30 min: a basket has one time",
        )
    named = ", where there is no session id" if tally.with_session else ""
    valley = _valley(found.gap_bins)
    if valley is None:
        return Proposal(key, default, f"the usual gap{named}; the gaps show no clear one")
    return Proposal(
        key, valley, f"gaps around {readable(valley)} are rare: shorter ones are visits{named}"
    )


def _share_of_gaps(found: HistoryFigures, up_to_ms: int) -> float:
    below = sum(
        n for edge, n in zip(GAP_EDGES_MS[1:], found.gap_bins, strict=True) if edge <= up_to_ms
    )
    return below / max(1, sum(found.gap_bins))


def _valley(bins: tuple[int, ...]) -> int | None:
    """Return where gaps between a minute and 8 hours are clearly rarer than on both sides, ms."""
    inner = [at for at, edge in enumerate(GAP_EDGES_MS[:-1]) if MINUTE_MS <= edge <= 8 * HOUR_MS]
    sides = {at: min(max(bins[:at]), max(bins[at + 1 :])) for at in inner}
    deepest = max(inner, key=lambda at: sides[at] - bins[at])
    if bins[deepest] * 2 > sides[deepest] or sides[deepest] * 50 < sum(bins):
        return None
    usual = StreamConfig().visit_gap_ms
    near = max(at for at in inner if GAP_EDGES_MS[at] <= usual)
    if bins[near] * 2 <= sides[near] == sides[deepest]:
        return usual  # nearly as deep, and what people compare with
    return rounded_up(GAP_EDGES_MS[deepest])


def length_proposals(
    histories: NDArray[np.int64], found: HistoryFigures, lateness_ms: int, tick_ms: int
) -> list[Proposal]:
    """Return n, r_min and r_max, for training and for serving, and the tick if it must be shorter."""
    (n, r_min), why = _lengths(histories)
    tick, arriving = _tick(found, tick_ms, lateness_ms, n + r_min)
    needed = n + r_min + arriving
    r_max = min(max(4 * n, -(-needed // n) * n), max(LARGEST_R_MAX, 4 * n))
    name = readable(tick + lateness_ms)
    r_why = (
        f">= n + r_min + {arriving}, what 99 % of a user's active stretches of {name} bring at most"
    )
    if needed > r_max:
        r_why = f"busy users bring up to {arriving} in {name}: slates will say stale_tokens then"
    rows = [
        ("segment_len", "refresh.segment_len", n, why),
        ("r_min", "refresh.r_min", r_min, "as many stay raw as a segment holds"),
        ("r_max", "serving.r_max", r_max, r_why),
    ]
    proposals = [Proposal(key, value, reason) for _, key, value, reason in rows]
    if tick != tick_ms:
        shorter = f"in {readable(tick_ms)} busy users would bring more than a window holds"
        proposals.append(Proposal("refresh.tick_interval_s", tick // 1_000, shorter))
    return proposals + [
        Proposal(f"model.{name}", value, "the same, for training") for name, _, value, _ in rows
    ]


def _lengths(histories: NDArray[np.int64]) -> tuple[tuple[int, int], str]:
    """Return the longest n and r_min whose tokens reach enough of the events, and why."""
    total = max(1, int(histories.sum()))
    for n, r_min in _LENGTHS:
        share = int(histories[histories >= n + r_min].sum()) / total
        if share >= _WORTH:
            reach = f"{percent(share)} of the events are of users with {n + r_min} or more"
            return (n, r_min), reach
    return _LENGTHS[0], "histories are too short for tokens at any length; recents hold them"


def _tick(found: HistoryFigures, tick_ms: int, lateness_ms: int, raw: int) -> tuple[int, int]:
    """Return the longest tick whose arrivals fit a recent window, and those arrivals."""
    windows = sorted(found.busiest)
    choice = (tick_ms, 0)
    for tick in [tick_ms, *(window for window in reversed(windows) if window < tick_ms)]:
        stretch = tick + lateness_ms
        whole = next((window for window in windows if window >= stretch), windows[-1])
        arriving = found.busiest[whole] * -(-stretch // whole)
        if choice[1] == 0 or arriving < choice[1]:
            choice = (tick, arriving)
        if raw + arriving <= LARGEST_R_MAX:
            break
    return choice


def with_given(proposals: list[Proposal], given: Mapping[str, object]) -> list[Proposal]:
    """Return the proposals, configured values in place of the proposed ones."""
    kept = []
    for one in proposals:
        if one.key in given and given[one.key] != one.value:
            why = f"as configured; the log suggests {one.value}: {one.reason}"
            kept.append(Proposal(one.key, given[one.key], why))
        else:
            kept.append(one)
    return kept


def rounded_up(ms: int) -> int:
    """Return the next larger time of those that people use: 5 min, 2 h, 7 d."""
    return next((value for value in ROUND_MS if value >= ms), ROUND_MS[-1])


def readable(ms: float) -> str:
    """Return a span of time in its largest one or two units: 40 ms, 2.5 s, 3 h 20 min, 12 d."""
    if ms < 1_000:
        return f"{ms:.0f} ms"
    if ms < MINUTE_MS:
        return f"{ms / 1_000:.3g} s"
    rest, parts = int(ms), []
    for name, size in (("d", DAY_MS), ("h", HOUR_MS), ("min", MINUTE_MS), ("s", 1_000)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count:,} {name}")
        elif parts:
            break
    return " ".join(parts[:2])


def percent(share: float) -> str:
    """Return a share with as many digits as say something: 58.7 %, 0.02 %, 0 %."""
    if 0 < share < 0.0001:
        return "< 0.01 %"
    digits = 2 if share < 0.01 else 1
    return f"{100 * share:.{digits}f}".rstrip("0").rstrip(".") + " %" if share else "0 %"
