"""A source that ends where event time reaches a bound: the log up to a date."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stream.cuts import cut
from stream.events import EventBatch, Partition, empty_batch

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        head, _ = cut(batch, int(reached[0]))
        return EventBatch(
            interactions=head.interactions,
            items=head.items,
            dead=head.dead,
            ranges=head.ranges,
            exhausted=True,
        )

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
