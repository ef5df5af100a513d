"""Top items of many score rows, exactly. Pure."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stream.slates import ScoredItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_BLOCKS = 32
"""Columns whose maximum stands for all of them in the first look."""
_LEAST = np.finfo(np.float32).min


class Top(NamedTuple):
    """The best items of R rows, best first, one row after the other.

    Attributes:
        sizes: how many each row has, int64 [R].
        column: of the scores, int64 [sum of sizes].
        score: float32, as `column`.
    """

    sizes: NDArray[np.int64]
    column: NDArray[np.int64]
    score: NDArray[np.float32]


def top(scores: NDArray[np.float32], k: int) -> Top:
    """The k best items per row; equal scores go by internal id, so that a slate is a function of its scores.

    Args:
        scores: [R, V]; -inf leaves an item out.
        k: at most this many.
    """
    width = scores.shape[1]
    if not scores.size:
        nothing = np.empty(0, np.int64)
        return Top(np.zeros(len(scores), np.int64), nothing, np.empty(0, np.float32))
    floor = _kth_block(scores, k)
    place = np.flatnonzero(scores >= np.maximum(floor, _LEAST)[:, None])
    rows, columns = place // width, place % width
    values = scores.reshape(-1)[place]
    order = np.lexsort((columns, -values, rows))
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = order[rank < k]
    return Top(np.bincount(rows[kept], minlength=len(scores)), columns[kept], values[kept])


def named(tops: Sequence[Top], item_ids: Sequence[str]) -> list[tuple[ScoredItem, ...]]:
    """The items of every row of several tops, `item_ids` per column."""
    if not tops:
        return []
    sizes, columns, scores = (np.concatenate(part) for part in zip(*tops, strict=True))
    names = map(item_ids.__getitem__, columns.tolist())
    items = tuple(map(ScoredItem, names, scores.tolist()))
    ends = sizes.cumsum().tolist()
    return [items[lo:hi] for lo, hi in pairwise([0, *ends])]


def _kth_block(scores: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """A value per row that at least its k best reach: the k-th best of the maxima of blocks of columns."""
    width = scores.shape[1]
    even = width - width % _BLOCKS
    blocks = scores[:, :even].reshape(len(scores), _BLOCKS, -1)
    maxima = np.concatenate([blocks.max(axis=1), scores[:, even:]], axis=1) if even else scores
    if k >= maxima.shape[1]:
        return np.full(len(scores), -np.inf, np.float32)
    best = maxima.shape[1] - k
    return np.asarray(np.partition(maxima, best, axis=1)[:, best])
