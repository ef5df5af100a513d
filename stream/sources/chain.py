"""Sources read one after another: an items file before the events, say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stream.errors import ConfigError, GapError
from stream.events import empty_batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stream.events import EventBatch, Partition
    from stream.sources import Source


class ChainSource:
    """Reads each source to its end before the next.

    Args:
        sources: with partitions of their own; all but the last must end.

    Raises:
        ConfigError: two sources have a partition in common.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        self._at = 0
        owned = [partition for source in sources for partition in source.partitions()]
        twice = sorted({str(partition) for partition in owned if owned.count(partition) > 1})
        if twice:
            raise ConfigError(f"{twice[0]} belongs to two sources; give one another topic")

    def partitions(self) -> tuple[Partition, ...]:
        """Return the partitions of all sources, in reading order."""
        return tuple(p for source in self._sources for p in source.partitions())

    def poll(self, max_records: int, timeout_s: float = 0.0) -> EventBatch:
        """Return the next records of the first source that has not ended."""
        while self._at < len(self._sources):
            batch = self._sources[self._at].poll(max_records, timeout_s)
            last = self._at == len(self._sources) - 1
            if not batch.exhausted or last:
                return batch
            self._at += 1
            if batch.records:
                return replace(batch, exhausted=False)
        return empty_batch(exhausted=True)

    def seek(self, next_offsets: Mapping[Partition, int]) -> None:
        """Continue the named partitions at these offsets; reading starts at the first source again.

        Raises:
            GapError: a partition belongs to no source, or does not reach its offset.
        """
        left = dict(next_offsets)
        for source in self._sources:
            own = {p: left.pop(p) for p in source.partitions() if p in left}
            if own:
                source.seek(own)
        if left:
            raise GapError(f"{next(iter(left))}: not in any source; restore it")
        self._at = 0

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """Pass each source its own positions."""
        for source in self._sources:
            own = {p: next_offsets[p] for p in source.partitions() if p in next_offsets}
            if own:
                source.commit(own)

    def close(self) -> None:
        """Close all sources."""
        for source in self._sources:
            source.close()
