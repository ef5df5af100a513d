"""What users' events look like side by side: ties, gaps, repeats, busy days."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stream.clock import DAY_MS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stream.check.tally import Kept

    Ints = NDArray[np.int64]
    Mask = NDArray[np.bool_]

HOUR_MS = 3_600_000
GAP_EDGES_MS = tuple(1_000 * 2**step for step in range(33))  # 1 s, 2 s, ... 136 years
WINDOWS_MS = (DAY_MS, 6 * HOUR_MS, HOUR_MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryFigures:
    """Shares and sizes over users' events, second copies left out of all but the first figure.

    Attributes:
        events: events looked at.
        users: their users.
        duplicates: share of events with an id that are a second copy (same user, same event_id).
        same_event: share that repeat user, time and item of another one.
        tied: share that have another event of their user at the same time.
        out_of_order: share older than one of their user that stands before them in the log.
        repeats: share whose user had the item before.
        gaps: gaps between successive events of a user.
        zero_gaps: share of gaps that are 0.
        gap_quantiles_ms: 10, 25, 50, 75, 90 % of the gaps that are not 0.
        gap_bins: gaps that are not 0, counted between `GAP_EDGES_MS`.
        busiest: window, ms -> events of a user within it that 99 % of the windows do not exceed.
    """

    events: int
    users: int
    duplicates: float
    same_event: float
    tied: float
    out_of_order: float
    repeats: float
    gaps: int
    zero_gaps: float
    gap_quantiles_ms: tuple[int, ...]
    gap_bins: tuple[int, ...]
    busiest: dict[int, int]


def history_figures(kept: Kept) -> HistoryFigures:
    """Return the figures of events kept in log order."""
    copies = _second_copies(kept)
    with_id = int((kept.event_id != 0).sum())
    duplicates = copies.sum() / with_id if with_id else 0.0
    user, item, ts = kept.user[~copies], kept.item[~copies], kept.ts[~copies]
    count = len(ts)
    if not count:
        return _nothing()
    times, rank = np.unique(ts, return_inverse=True)
    moment = user.astype(np.int64) * len(times) + rank.reshape(-1)
    out_of_order = _out_of_order(user, moment) / count
    del rank
    order = np.argsort(moment, kind="stable")
    moment, user, item, ts = moment[order], user[order], item[order], ts[order]
    del order
    same = moment[1:] == moment[:-1]
    tied = np.zeros(count, bool)
    tied[1:] |= same
    tied[:-1] |= same
    gaps = (ts[1:] - ts[:-1])[user[1:] == user[:-1]]
    apart = gaps[gaps > 0]
    shares = np.quantile(apart, (0.1, 0.25, 0.5, 0.75, 0.9)) if len(apart) else np.zeros(5)
    numbered = np.cumsum(np.concatenate(([True], ~same))) - 1
    return HistoryFigures(
        events=count,
        users=len(np.unique(user)),
        duplicates=float(duplicates),
        same_event=1 - _distinct(numbered, item) / count,
        tied=float(tied.mean()),
        out_of_order=out_of_order,
        repeats=1 - _distinct(user.astype(np.int64), item) / count,
        gaps=len(gaps),
        zero_gaps=1 - len(apart) / len(gaps) if len(gaps) else 0.0,
        gap_quantiles_ms=tuple(int(value) for value in shares),
        gap_bins=tuple(np.histogram(apart, GAP_EDGES_MS)[0].tolist()),
        busiest={window: _busiest(user, ts, window) for window in WINDOWS_MS},
    )


def _second_copies(kept: Kept) -> Mask:
    """Mask events whose user had their event_id before."""
    copies = np.zeros(len(kept.ts), bool)
    rows = np.flatnonzero(kept.event_id)
    # A hash of the pair: sorting two columns at once would take twice the memory.
    pair = kept.event_id[rows] ^ (kept.user[rows].astype(np.int64) * np.int64(0x9E3779B97F4A7C1))
    order = np.argsort(pair, kind="stable")
    again = pair[order][1:] == pair[order][:-1]
    copies[rows[order[1:][again]]] = True
    return copies


def _out_of_order(user: NDArray[np.int32], moment: Ints) -> int:
    """Count events older than an earlier one of their user; `moment` orders (user, time)."""
    order = np.argsort(user, kind="stable")
    in_log = moment[order]
    # Moments of later users are larger, so a running maximum never reaches over users.
    return int((in_log < np.maximum.accumulate(in_log)).sum())


def _distinct(major: Ints, minor: NDArray[np.int32]) -> int:
    pairs = np.sort(major * (int(minor.max()) + 1) + minor)
    return int((np.diff(pairs) != 0).sum()) + 1


def _busiest(user: NDArray[np.int32], ts: Ints, window_ms: int) -> int:
    """Return how many events a user has in a window, in 99 % of all windows with any."""
    window = ts // window_ms
    changed = np.flatnonzero((user[1:] != user[:-1]) | (window[1:] != window[:-1])) + 1
    ends = np.concatenate((changed, [len(ts)]))
    sizes = np.diff(ends, prepend=0)
    return int(np.quantile(sizes, 0.99, method="higher"))


def _nothing() -> HistoryFigures:
    return HistoryFigures(
        events=0, users=0, duplicates=0.0, same_event=0.0, tied=0.0, out_of_order=0.0, repeats=0.0,
        gaps=0, zero_gaps=0.0, gap_quantiles_ms=(0,) * 5, gap_bins=(0,) * (len(GAP_EDGES_MS) - 1),
        busiest=dict.fromkeys(WINDOWS_MS, 0),
    )  # fmt: skip
