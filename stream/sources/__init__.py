"""Sources: logs that can be polled, positioned and resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from stream.events import EventBatch, Partition


class Source(Protocol):
    """A log of records in partitions, read from stored positions.

    Positions are offsets: the offset of a record never changes, and `seek` to a stored "next"
    offset continues with exactly the record after the last one stored.
    """

    def partitions(self) -> tuple[Partition, ...]:
        """Return the partitions this source reads, in a fixed order."""
        ...

    def poll(self, max_records: int, timeout_s: float = 0.0) -> EventBatch:
        """Return the next records, at most `max_records`, in order within each partition.

        Waits up to `timeout_s` for a first record where more may still arrive; a source that has
        ended returns at once with `exhausted` set, and keeps doing so.

        Raises:
            SourceError: the log cannot be read any further. Everything before the damage has been
                returned by then.
        """
        ...

    def seek(self, next_offsets: Mapping[Partition, int]) -> None:
        """Continue the named partitions at these offsets; the others stay where they are.

        Raises:
            GapError: a partition is not part of this source, or ends before the offset.
        """
        ...

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """Tell the log what is stored: a signal for lag displays, never the truth."""
        ...

    def close(self) -> None:
        """Release what the source holds; safe to call twice."""
        ...
