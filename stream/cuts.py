"""A cut of the log: how far each partition is taken, and what follows from that alone.

Storing runs ahead; ticks, journal entries and slates belong to cuts. Cuts of one shard follow one another: each takes
every partition at least as far as the one before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from storage import items, journal, positions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.records import PartitionKey, Reader

NOWHERE = -(1 << 62)
"""An event time before every other."""


@dataclass(slots=True)
class Cut:
    """How far the log is taken.

    Attributes:
        lateness_ms: what a watermark lies behind the newest event time.
        next_offsets: exclusive upper offset per partition; one that is not named was not read.
        newest_ms: newest event time per partition, ms since the epoch.
        n_items: items known, 1 + the largest internal id.
    """

    lateness_ms: int
    next_offsets: dict[PartitionKey, int] = field(default_factory=dict)
    newest_ms: dict[PartitionKey, int] = field(default_factory=dict)
    n_items: int = 0

    @property
    def clock_ms(self) -> int | None:
        """The event clock: newest event time of all partitions, milliseconds; None before the first event."""
        return max(self.newest_ms.values(), default=None)

    def watermarks(self) -> dict[PartitionKey, int]:
        """Watermark per partition: newest event time less the allowed lateness, milliseconds."""
        return {key: ms - self.lateness_ms for key, ms in self.newest_ms.items()}

    def copy(self) -> Cut:
        """Return a cut that stays where this one is now."""
        return Cut(self.lateness_ms, dict(self.next_offsets), dict(self.newest_ms), self.n_items)

    def rise(self, ends: Mapping[PartitionKey, int]) -> None:
        """Take partitions up to exclusive offsets, never back."""
        for key, end in ends.items():
            if end > self.next_offsets.get(key, 0):
                self.next_offsets[key] = end

    def see(self, key: PartitionKey, newest_ms: int, items: int) -> None:
        """Take in what rows of a partition say: their newest event time, 1 + their largest internal item id."""
        self.newest_ms[key] = max(newest_ms, self.newest_ms.get(key, NOWHERE))
        self.n_items = max(self.n_items, items)


def read_cut(reader: Reader, below: Mapping[PartitionKey, int], lateness_ms: int) -> Cut:
    """Return the cut of stored records at exclusive upper offsets."""
    tick = journal.latest(reader, "popularity", below)
    at_tick = 0 if tick is None else int(tick.detail["n_items"])
    return Cut(
        lateness_ms,
        dict(below),
        positions.newest_below(reader, below),
        max(at_tick, items.count_below(reader, below)),
    )
