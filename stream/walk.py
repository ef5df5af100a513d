"""The walk over stored rows: rows pass in order, and what the journal says begins to apply at its place among them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import pyarrow as pa

    from storage.records import PartitionKey
    from stream.ahead import Ahead
    from stream.cuts import Cut
    from stream.ticks import Plan, Ticks


class Entry(Protocol):
    """What begins to apply at a cut."""

    @property
    def positions(self) -> Mapping[PartitionKey, int]:
        """Per partition the offset of the first event it applies to; 0 where there is none."""
        ...


_E = TypeVar("_E", bound=Entry)


class Walk(Generic[_E]):
    """Passes stored rows, those before an entry before it applies, all others after it.

    Args:
        ahead: rows that are stored.
        cut: where the walk stands.
        apply: makes an entry apply.
    """

    def __init__(self, ahead: Ahead, cut: Cut, apply: Callable[[_E], None]) -> None:
        self._ahead = ahead
        self._cut = cut
        self._apply = apply
        self._entries: deque[_E] = deque()

    def announce(self, entries: Iterable[_E]) -> None:
        """Take in entries, each at or after all before it."""
        self._entries.extend(entries)

    def by_clock(self, ticks: Ticks, tick: Callable[[Plan], None]) -> Iterator[pa.Table]:
        """Pass everything stored, in the order of storing, and tick where event time reaches a tick.

        Args:
            ticks: says where.
            tick: carries one out.
        """
        while True:
            entry = self._next()
            if entry is not None and not self._ahead.waits_below(entry.positions, {}):
                yield from self._reach(entry)
                continue
            front = self._ahead.front()
            if front is None:
                return
            before = front.rows_before(ticks.next_threshold(self._cut.clock_ms))
            if (
                entry is not None
                and int(front.below(entry.positions).sum()) <= before
                and not self._ahead.waits_below(entry.positions, front.ends)
            ):
                yield from self._reach(entry)
            elif before < len(front.left):
                yield from self._ahead.take(front.ends_after(before + 1))
                plan = ticks.due(self._cut)
                if plan is not None:
                    tick(plan)
            else:
                yield from self._ahead.take(front.ends)

    def by_entries(
        self, ends: Mapping[PartitionKey, int], given: Mapping[PartitionKey, int]
    ) -> Iterator[pa.Table]:
        """Pass rows below exclusive offsets, and those of other partitions that an entry between them comes after.

        Args:
            ends: how far at least.
            given: how far the log is there; rows behind an entry beyond that wait for it.
        """
        while (entry := self._next()) is not None:
            start = entry.positions
            if any(off > given.get(key, off) for key, off in start.items()):
                ends = {key: min(off, start.get(key, 0)) for key, off in ends.items()}
                break
            asked = any(off > start.get(key, 0) for key, off in ends.items())
            if not asked and self._ahead.waits_below(start, ends):
                break
            yield from self._reach(entry)
        yield from self._ahead.take(ends)
        entry = self._next()
        self._ahead.settle(None if entry is None else entry.positions)

    def reach(self, ends: Mapping[PartitionKey, int]) -> dict[PartitionKey, int]:
        """How far `by_entries` passes rows when asked for `ends`."""
        far = dict(ends)
        for entry in list(self._entries):
            if not any(off > entry.positions.get(key, 0) for key, off in far.items()):
                break
            far |= {key: max(off, far.get(key, 0)) for key, off in entry.positions.items()}
        return far

    def _next(self) -> _E | None:
        return self._entries[0] if self._entries else None

    def _reach(self, entry: _E) -> Iterator[pa.Table]:
        """Pass what comes before an entry, then let it apply."""
        yield from self._ahead.take(entry.positions)
        self._entries.popleft()
        self._apply(entry)
