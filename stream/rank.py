"""Top items of one score row under hard filters. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stream.slates import ScoredItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def top_items(
    scores: NDArray[np.float32],
    allowed: NDArray[np.bool_],
    seen: NDArray[np.int64] | None,
    item_ids: Sequence[str],
    k: int,
) -> tuple[ScoredItem, ...]:
    """The k best items, best first; equal scores go by internal id, so a slate is a function of its scores.

    Args:
        scores: one row, [V].
        allowed: items no filter excludes, [V].
        seen: internal ids to leave out, or None.
        item_ids: external id per column.
        k: at most this many.
    """
    mask = allowed
    if seen is not None and len(seen):
        mask = allowed.copy()
        mask[seen[seen < len(mask)]] = False
    columns = np.flatnonzero(mask)
    if not len(columns):
        return ()
    values = scores[columns]
    if k < len(columns):
        threshold = np.partition(values, len(values) - k)[len(values) - k]
        kept = values >= threshold
        columns, values = columns[kept], values[kept]
    order = np.lexsort((columns, -values))[:k]
    return tuple(ScoredItem(item_id=item_ids[columns[i]], score=float(values[i])) for i in order)
