"""A source that ends where event time reaches a bound: the log up to a date."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from stream.events import Partition, empty_batch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stream.events import EventBatch
    from stream.sources import Source


class BoundedSource:
    """The records before the first one whose event time is at or past a bound.

    The bound cuts the log at one place: what comes after it is not read, not even an earlier event
    that arrives late. So positions stay whole, and a later run without the bound goes on from there.

    Args:
        source: the log.
        until_ms: the bound, ms since the epoch.
    """

    def __init__(self, source: Source, until_ms: int) -> None:
        self._source = source
        self._until_ms = until_ms
        self._ended = False

    def partitions(self) -> tuple[Partition, ...]:
        """Return the partitions of the log."""
        return self._source.partitions()

    def poll(self, max_records: int, timeout_s: float = 0.0) -> EventBatch:
        """Return the next records before the bound, at most `max_records`.

        Raises:
            SourceError: the log cannot be read any further.
        """
        if self._ended:
            return empty_batch(exhausted=True)
        batch = self._source.poll(max_records, timeout_s)
        reached = np.flatnonzero(batch.interactions["ts"].to_numpy() >= self._until_ms)
        if not len(reached):
            return batch
        self._ended = True
        return _before(batch, int(reached[0]))

    def seek(self, next_offsets: Mapping[Partition, int]) -> None:
        """Continue the named partitions at these offsets.

        Raises:
            GapError: as the log's own `seek`.
        """
        self._ended = False
        self._source.seek(next_offsets)

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """Tell the log what is stored."""
        self._source.commit(next_offsets)

    def close(self) -> None:
        """Close the log."""
        self._source.close()


def _before(batch: EventBatch, rows: int) -> EventBatch:
    """Return what each partition holds before its first interaction past the first `rows` ones.

    What lies between, bad records and items, has no time of its own and goes with what precedes it.
    """
    ends = batch.next_offsets
    later = batch.interactions.slice(rows).group_by(["topic", "part"]).aggregate([("off", "min")])
    for row in later.to_pylist():
        ends[Partition(row["topic"], row["part"])] = row["off_min"]
    places = batch.items.select(["topic", "part", "off"]).to_pylist()
    kept = [row["off"] < ends[Partition(row["topic"], row["part"])] for row in places]
    return replace(
        batch,
        interactions=batch.interactions.slice(0, rows),
        items=batch.items.filter(pa.array(kept, pa.bool_())),
        dead=[
            letter
            for letter in batch.dead
            if letter.off < ends[Partition(letter.topic, letter.part)]
        ],
        ranges={p: (first, ends[p]) for p, (first, _) in batch.ranges.items() if ends[p] > first},
        exhausted=True,
    )
