"""Windows of histories: which rows a step reads, how they are cut, which rows carry a loss.

Every draw comes from a generator made from (seed, phase, epoch or step), so a resumed run repeats
the interrupted one without stored generator states.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model.asof import Histories
from model.segments import UserSlots
from model.training.options import PartitionOptions, TrainOptions

__all__ = ["Cut", "Window", "cut_window", "epoch_batches", "window_slots"]

Ints = NDArray[np.int64]

_ALL_GROUPS = 1 << 30


@dataclass(frozen=True, slots=True)
class Window:
    """History rows ``[begin, end)`` of one user."""

    user: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Cut:
    """One way to read a window.

    Attributes:
        rows: int64 [n], history rows that are read, ascending; a gap leaves some out.
        closed: int64 [m], lengths of the closed segments; the rest of ``rows`` is the open one.
        hide_newest: newest groups that the open segment does not read.
    """

    rows: Ints
    closed: Ints
    hide_newest: int


def epoch_batches(
    ptr: Ints, stop: Ints, options: TrainOptions, rng: np.random.Generator
) -> list[list[Window]]:
    """All training rows once, in batches of windows of similar length, shuffled.

    Args:
        ptr: int64 [U], first row of each user.
        stop: int64 [U], row after the user's last training row.
        options: window and batch sizes.
        rng: source of window borders and order.
    """
    windows: list[Window] = []
    for user in np.flatnonzero(stop - ptr >= 2):
        windows.extend(_user_windows(int(user), int(ptr[user]), int(stop[user]), options, rng))
    length = np.array([window.end - window.begin for window in windows], np.float64)
    order = np.argsort(length * rng.uniform(0.8, 1.25, length.shape[0]), kind="stable")
    batches: list[list[Window]] = []
    filled = options.batch_events
    for index in order:
        if filled + length[index] / 2 >= options.batch_events:
            batches.append([])
            filled = 0
        batches[-1].append(windows[index])
        filled += int(length[index])
    return [batches[index] for index in rng.permutation(len(batches))]


def _user_windows(
    user: int, begin: int, end: int, options: TrainOptions, rng: np.random.Generator
) -> list[Window]:
    size = options.window_events
    if end - begin <= size:
        return [Window(user, begin, end)]
    first = begin + int(rng.integers(size // 4, size + 1))
    borders = [begin, *range(first, end, size), end]
    return [Window(user, a, b) for a, b in pairwise(borders) if b - a >= 2]


def cut_window(
    window: Window, options: PartitionOptions, *, full: bool, rng: np.random.Generator
) -> Cut:
    """Draw recents, segments, hidden groups and a gap for one window.

    Args:
        window: the rows.
        options: the shares to draw with.
        full: read everything raw.
        rng: source of the draws.
    """
    rows = np.arange(window.begin, window.end)
    if full:
        return Cut(rows, np.zeros(0, np.int64), 0)
    size = int(rng.choice(options.segment_lens))
    wide = rng.random() < options.wide_share
    recents = int(rng.integers(1, (options.recents_wide if wide else options.recents_max) + 1))
    hidden, gap, gap_len = rng.random(), rng.random(), int(rng.integers(1, size + 1))
    older = rows.shape[0] - recents
    if older <= 0:
        return Cut(rows, np.zeros(0, np.int64), 0)
    if gap < options.gap and older > gap_len:
        older -= gap_len
        rows = np.concatenate([rows[:older], rows[older + gap_len :]])
    first = [older % size] if older % size else []
    closed = np.array(first + [size] * (older // size), np.int64)
    if hidden < options.no_tokens:
        return Cut(rows, closed, _ALL_GROUPS)
    return Cut(rows, closed, int(hidden < options.no_tokens + options.hide_newest))


def window_slots(
    histories: Histories, item_row: Ints, user: int, cut: Cut, visits: Ints
) -> UserSlots:
    """Hand a cut window to the model's layout.

    Args:
        histories: all rows.
        item_row: int64 [V], model row of each candidate column.
        user: the window's user.
        cut: how to read it.
        visits: rows that start a visit; each is asked for just before it, at its own time.
    """
    rows = cut.rows
    return UserSlots(
        item_row=item_row[histories.item[rows]],
        type_row=histories.type_row[rows],
        time_ms=histories.ts[rows],
        ordinal=rows - histories.ptr[user],
        closed=cut.closed,
        request_time_ms=histories.ts[visits],
        request_at=np.searchsorted(rows, visits).astype(np.int64),
        hide_newest=cut.hide_newest,
    )
