"""Shedding: under overload every row still moves its user's state, but only each user's newest is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from storage.journal import Draft
from stream.judge import partition_rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from numpy.typing import NDArray

    from storage.records import PartitionKey

    Ints = NDArray[np.int64]

REASON = "overload"


class Unanswered:
    """Scored rows that get no slate: all but each user's newest of a micro-batch."""

    def __init__(self) -> None:
        self._offsets: dict[PartitionKey, Ints] = {}

    def add(self, rows: pa.Table) -> dict[PartitionKey, int]:
        """Leave out what is not the newest scored row of its user among these; returns the number per partition."""
        scored = np.flatnonzero(rows["scores"].to_numpy(zero_copy_only=False))
        users = rows["user_idx"].to_numpy()[scored]
        _, newest = np.unique(users[::-1], return_index=True)
        left_out = np.delete(scored, len(scored) - 1 - newest)
        table = rows.select(["topic", "part", "off"]).take(pa.array(left_out))
        counts = {}
        for key, where in partition_rows(table):
            found = table["off"].to_numpy()[where]
            counts[key] = len(found)
            self._offsets[key] = np.concatenate([self._offsets.get(key, found[:0]), found])
        return counts

    def cleared(self, rows: pa.Table) -> pa.Table:
        """The rows with those that get no slate no longer scored."""
        if not self._offsets:
            return rows
        scores = rows["scores"].to_numpy(zero_copy_only=False).copy()
        off = rows["off"].to_numpy()
        for key, where in partition_rows(rows):
            if key in self._offsets:
                scores[where[np.isin(off[where], self._offsets[key])]] = False
        place = rows.schema.get_field_index("scores")
        return rows.set_column(place, rows.schema.field("scores"), pa.array(scores))


def shed_drafts(
    counts: Mapping[PartitionKey, int],
    start: Mapping[PartitionKey, int],
    ends: Mapping[PartitionKey, int],
    at: datetime,
) -> list[Draft]:
    """Journal entries of what a micro-batch from `start` to `ends` did not answer, one per partition."""
    return [
        Draft(
            kind="shed",
            ref=f"{topic}/{part}",
            detail={
                "from": start.get((topic, part), 0),
                "to": ends[topic, part],
                "count": count,
                "reason": REASON,
            },
            positions=dict(start),
            at=at,
        )
        for (topic, part), count in sorted(counts.items())
    ]
