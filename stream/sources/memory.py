"""A log in memory: records are appended by the program, for tests and tutorials."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from stream.config import FileConfig
from stream.errors import GapError
from stream.events import INTERACTION_SCHEMA, ITEM_SCHEMA, EventBatch, Partition, empty_batch
from stream.sources.json_records import JsonDecoder
from stream.sources.records import Records

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class MemorySource:
    """Partitions of JSON records in memory, delivered in the order they were appended.

    Args:
        records: (partition, JSON object) in order of arrival.
        config: how to read them.
        ended: whether the log is complete; otherwise it ends with `end()`.
        first: offset of the first record a partition still holds, where it is not 0.
    """

    def __init__(
        self,
        records: Iterable[tuple[Partition, bytes]] = (),
        *,
        config: FileConfig | None = None,
        ended: bool = False,
        first: Mapping[Partition, int] | None = None,
    ) -> None:
        self._decoder = JsonDecoder(config or FileConfig())
        self._begin = dict(first or {})
        self._logs: dict[Partition, list[tuple[int, bytes, int | None]]] = {}
        self._next = dict(self._begin)
        self._arrived = 0
        self._ended = False
        self.committed: dict[Partition, int] = {}
        for partition in self._begin:
            self._logs[partition] = []
        for partition, raw in records:
            self.append(partition, raw)
        self._ended = ended

    def append(self, partition: Partition, raw: bytes, *, append_ms: int | None = None) -> int:
        """Add a record; return its offset.

        Args:
            partition: created on first use.
            raw: one JSON object.
            append_ms: when the log took it, ms since the epoch; None where logs do not know.
        """
        if self._ended:
            raise ValueError("the log has ended")
        log = self._logs.setdefault(partition, [])
        self._begin.setdefault(partition, 0)
        self._next.setdefault(partition, 0)
        log.append((self._arrived, raw, append_ms))
        self._arrived += 1
        return self._begin[partition] + len(log) - 1

    def end(self) -> None:
        """Declare the log complete: once read it is exhausted."""
        self._ended = True

    def partitions(self) -> tuple[Partition, ...]:
        """Return the partitions known so far, sorted."""
        return tuple(sorted(self._logs))

    def poll(self, max_records: int, timeout_s: float = 0.0) -> EventBatch:  # noqa: ARG002
        """Return the next records, at most `max_records`; it never waits.

        Raises:
            ValueError: `max_records` is below 1.
        """
        if max_records < 1:
            raise ValueError(f"max_records must be at least 1, not {max_records}")
        counts = dict.fromkeys(self._logs, 0)
        waiting = sorted(
            (arrival, partition)
            for partition, log in self._logs.items()
            for arrival, _, _ in self._slice(partition, log, max_records)
        )
        for _, partition in waiting[:max_records]:
            counts[partition] += 1
        parts = {p: self._take(p, count) for p, count in counts.items() if count}
        exhausted = self._ended and all(
            self._next[p] == self._begin[p] + len(log) for p, log in self._logs.items()
        )
        if not parts:
            return empty_batch(exhausted=exhausted)
        order = [partition for _, partition in waiting[:max_records]]
        return _batch(parts, order, exhausted=exhausted)

    def seek(self, next_offsets: Mapping[Partition, int]) -> None:
        """Continue the named partitions at these offsets; the others stay where they are.

        Raises:
            GapError: a partition is unknown, or does not hold the offset (yet or any more).
        """
        for partition, offset in next_offsets.items():
            if partition not in self._logs:
                raise GapError(f"{partition}: no such partition; use another database")
            begin = self._begin[partition]
            end = begin + len(self._logs[partition])
            if not begin <= offset <= end:
                raise GapError(f"{partition}: offset {offset} is outside {begin}..{end}")
        self._next.update(next_offsets)

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """Remember `next_offsets` in `committed`."""
        self.committed.update(next_offsets)

    def close(self) -> None:
        """Do nothing."""

    def _slice(
        self, partition: Partition, log: list[tuple[int, bytes, int | None]], count: int
    ) -> list[tuple[int, bytes, int | None]]:
        at = self._next[partition] - self._begin[partition]
        return log[at : at + count]

    def _take(self, partition: Partition, count: int) -> Records:
        rows = self._slice(partition, self._logs[partition], count)
        first = self._next[partition]
        self._next[partition] = first + count
        offs = np.arange(first, first + count, dtype=np.int64)
        return self._decoder.decode(
            partition, offs, [raw for _, raw, _ in rows], [ms for _, _, ms in rows]
        )


def _batch(
    parts: Mapping[Partition, Records], order: list[Partition], *, exhausted: bool
) -> EventBatch:
    """Return one batch, rows in order of arrival."""
    rank: dict[tuple[str, int, int], int] = {}
    upcoming = {partition: records.first for partition, records in parts.items()}
    for position, partition in enumerate(order):
        rank[(*partition, upcoming[partition])] = position
        upcoming[partition] += 1

    def arrange(tables: list[pa.Table]) -> pa.Table:
        table = pa.concat_tables(tables)
        keys = zip(*(table[name].to_pylist() for name in ("topic", "part", "off")), strict=True)
        return table.take(pa.array(np.argsort([rank[key] for key in keys]), pa.int64()))

    return EventBatch(
        interactions=arrange([r.interactions for r in parts.values()]).cast(INTERACTION_SCHEMA),
        items=arrange([r.items for r in parts.values()]).cast(ITEM_SCHEMA),
        dead=[letter for records in parts.values() for letter in records.dead],
        ranges={partition: (r.first, r.after) for partition, r in parts.items()},
        exhausted=exhausted,
        originals=[r.originals for r in parts.values() if r.originals is not None],
    )
