"""Top items of many score rows, exactly. Pure."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from stream.slates import ScoredItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_BLOCKS = 32
"""Columns whose maximum stands for all of them in the first look."""
_LEAST = np.finfo(np.float32).min


def top_items(
    scores: NDArray[np.float32], item_ids: Sequence[str], k: int
) -> list[tuple[ScoredItem, ...]]:
    """The k best items per row, best first; equal scores go by internal id, so a slate is a function of its scores.

    Args:
        scores: [R, V]; -inf leaves an item out.
        item_ids: external id per column.
        k: at most this many.
    """
    if not scores.size:
        return [() for _ in range(len(scores))]
    rows, columns, values = best(scores, k)
    names = map(item_ids.__getitem__, columns.tolist())
    items = tuple(map(ScoredItem, names, values.tolist()))
    ends = np.searchsorted(rows, np.arange(len(scores) + 1)).tolist()
    return [items[lo:hi] for lo, hi in pairwise(ends)]


def best(
    scores: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return rows, columns and values of the k best per row, by row, value and column.

    Args:
        scores: [R, V]; -inf leaves an item out.
        k: at most this many.
    """
    width = scores.shape[1]
    floor = _kth_block(scores, k)
    place = np.flatnonzero(scores >= np.maximum(floor, _LEAST)[:, None])
    rows, columns = place // width, place % width
    values = scores.reshape(-1)[place]
    order = np.lexsort((columns, -values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = rank < k
    return rows[kept], columns[kept], values[kept]


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
