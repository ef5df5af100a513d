"""One polled batch into one transaction: interactions, dead letters, positions. Nothing half-written.

Verdicts (late, future-dated, duplicate, displaced) are made here, at each record's own log position.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from storage import epochs, interactions, positions, rotation
from storage.faults import reach
from storage.positions import RangeRow
from stream.appendable import appendable, store_dead
from stream.cuts import Cut
from stream.dead_limits import DeadLimits, admit, short_log_excess
from stream.errors import GapError, PartitionMovedError
from stream.events import Partition
from stream.item_records import ItemRecords
from stream.judge import Judge, SegmentRule, partition_rows
from stream.verdicts import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from storage.database import Database, Tx
    from storage.identities import Identities
    from storage.journal import JournalEntry
    from storage.records import PartitionKey
    from stream.config import StreamConfig
    from stream.errors import DeadShareError
    from stream.events import DeadLetter, EventBatch

_NAMED_USERS = 3


@dataclass(slots=True)
class IngestCounts:
    """Records by outcome since the process started."""

    records: int = 0
    interactions: int = 0
    items: int = 0
    dead: int = 0
    late: int = 0
    displaced: int = 0
    duplicates: int = 0
    moved: int = 0  # interactions from another partition than their user's first

    def add(self, other: IngestCounts) -> None:
        """Add another batch's counts."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class Stored:
    """What one transaction wrote.

    Attributes:
        rows: interactions as appended, in the order in which they were delivered.
        items: item records.
        counts: records by outcome.
        ends: exclusive end per partition of what is stored now.
        entries: journal entries written with them, in order.
    """

    rows: pa.Table
    items: pa.Table
    counts: IngestCounts
    ends: dict[PartitionKey, int]
    entries: list[JournalEntry]


class Ingest:
    """Writes batches; the only component that writes records, positions and identities."""

    def __init__(
        self,
        db: Database,
        identities: Identities,
        config: StreamConfig,
        rule: SegmentRule,
        *,
        refuse_moved: bool = False,
    ) -> None:
        self._db = db
        self._refuses_moved = refuse_moved
        self._epoch: int | None = None
        self._ids = identities
        self._config = config
        self._judge = Judge(config, rule)
        self._limits = DeadLimits(config)
        self.excess: DeadShareError | None = None  # set: raise it once what is stored is answered
        self.next_offsets: dict[tuple[str, int], int] = positions.next_offsets(db)
        self.max_event_ms: dict[tuple[str, int], int] = positions.max_event_ms(db)
        self.counts = IngestCounts()
        self.hot_rows = rotation.hot_rows(db)
        self._told: list[Callable[[Stored], None]] = []

    def tell(self, listener: Callable[[Stored], None]) -> None:
        """Call `listener` with every batch from now on: after its commit, before anything else can be written."""
        self._told.append(listener)

    def take_over(self) -> None:
        """Become the one that writes positions; whoever did so before gets FencedError from now on."""
        with self._db.transaction() as tx:
            self._epoch = epochs.take(tx)

    def fence(self, tx: Tx) -> None:
        """Let a transaction that moves positions go on only while nobody took over after us.

        Raises:
            FencedError: a later pipeline has; nothing of the transaction remains.
        """
        if self._epoch is not None:
            epochs.check(tx, self._epoch)

    def cut(self) -> Cut:
        """Where the log is stored to; inside a transaction nothing is stored meanwhile."""
        ends, newest = dict(self.next_offsets), dict(self.max_event_ms)
        return Cut(self._config.lateness_ms, ends, newest, self._ids.n_items)

    def watermarks(self) -> dict[tuple[str, int], int]:
        """Watermark per partition: newest event time less the allowed lateness, milliseconds."""
        return self.cut().watermarks()

    def moved(self, rows: int) -> None:
        """Rows left the hot table."""
        self.hot_rows -= rows

    def store(
        self, batch: EventBatch, *, now: datetime, scored: bool = False, announced: bool = False
    ) -> Stored:
        """Store one batch in one transaction.

        Args:
            batch: a poll's result.
            now: ingest time written beside the rows.
            scored: also move the scored positions, where nothing answers these records.
            announced: also journal the availability that item records set, from the positions after them on.

        Raises:
            GapError: the batch starts beyond the stored position.
            PartitionMovedError: an event comes from another partition than its user's earlier ones, and that is
                not to be counted only.
            FencedError: a later pipeline has taken over.
        """
        batch = self._fresh(batch)
        table, refused = self._judge.refuse(batch.interactions, self.max_event_ms)
        limits = copy(self._limits)  # counted once it is stored
        admitted = admit(limits, batch, table, [*batch.dead, *map(batch.as_found, refused)])
        batch, table, dead_rows = admitted.batch, admitted.rows, admitted.dead
        records = ItemRecords(table, batch.items)
        with self._db.transaction() as tx:
            self.fence(tx)
            rows = self._rows(tx, table, records, now)
            interactions.append(tx, rows, first=not self.max_event_ms)
            reach("ingest.rows")
            records.store(tx)
            store_dead(tx, dead_rows, now)
            ranges = self._ranges(batch, rows, dead_rows)
            positions.append(tx, ranges, at=now, ends=self.next_offsets)
            if scored:
                positions.set_scored(tx, {(r.topic, r.part): r.next_off for r in ranges}, now)
            entries = records.announce(tx, self.next_offsets, now) if announced else []
            reach("ingest.commit")
            ends = {(r.topic, r.part): r.next_off for r in ranges}
            counts = _count(ranges)
            counts.moved = int(self._moved(rows["user_idx"].to_numpy(), rows).sum())
            stored = Stored(rows, batch.items, counts, ends, entries)
            tx.on_commit(lambda: self._advance(ranges, stored))
        self._limits, self.excess = limits, admitted.excess
        return stored

    def end(self) -> None:
        """Judge a log that has ended: a short one may hold too many bad records for any window."""
        self.excess = self.excess or short_log_excess(self._limits)

    def _fresh(self, batch: EventBatch) -> EventBatch:
        """Leave out records already stored (a redelivery), refuse a gap."""
        repeated = False
        ranges: dict[Partition, tuple[int, int]] = {}
        for partition, (first, nxt) in batch.ranges.items():
            stored = self.next_offsets.get((partition.topic, partition.part))
            if stored is not None and first > stored:
                raise GapError(
                    f"{partition}: offsets {stored}..{first - 1} are missing before the polled records; "
                    "the log was cut or replaced since the last run: rebuild from the log, or use a new database"
                )
            repeated |= stored is not None and first < stored
            ranges[partition] = (max(first, stored if stored is not None else first), nxt)
        if not repeated:
            return batch
        return replace(
            batch,
            interactions=batch.interactions.filter(self._is_new(batch.interactions)),
            items=batch.items.filter(self._is_new(batch.items)),
            dead=[d for d in batch.dead if d.off >= self.next_offsets.get((d.topic, d.part), 0)],
            ranges={p: (first, nxt) for p, (first, nxt) in ranges.items() if nxt > first},
        )

    def _is_new(self, table: pa.Table) -> pa.Array:
        keep = np.ones(table.num_rows, dtype=bool)
        off = table["off"].to_numpy()
        for key, where in partition_rows(table):
            keep[where] = off[where] >= self.next_offsets.get(key, 0)
        return pa.array(keep)

    def _rows(self, tx: Tx, table: pa.Table, records: ItemRecords, now: datetime) -> pa.Table:
        """The rows to append, with internal ids and verdicts."""
        ts = table["ts"]
        users = self._ids.assign_users(tx, table["user_id"], table["topic"], table["part"], ts)
        if self._refuses_moved:
            self._refuse_moved(table, users)
        item_idx = records.assign(tx, self._ids)
        verdicts = self._judge.rows(tx, table, users, self.max_event_ms)
        return appendable(table, users, item_idx, verdicts, now)

    def _moved(self, users: NDArray[np.int64], table: pa.Table) -> NDArray[np.bool_]:
        """Which rows come from another partition than their user's first."""
        return self._ids.foreign(users, table["topic"], table["part"])

    def _refuse_moved(self, table: pa.Table, users: NDArray[np.int64]) -> None:
        """Raise PartitionMovedError where a user's events come from a second partition."""
        foreign = self._moved(users, table)
        if not foreign.any():
            return
        moved, rows = np.unique(users[foreign], return_index=True)
        where = np.flatnonzero(foreign)[rows]
        order = np.argsort(where)[:_NAMED_USERS]
        named = [
            f"{self._ids.user_id(user)!r} ({Partition(*self._ids.partition(user))}, now"
            f" {Partition(table['topic'][row].as_py(), table['part'][row].as_py())})"
            for user, row in zip(moved[order].tolist(), where[order].tolist(), strict=True)
        ]
        more = f" and {len(moved) - len(named):,} more" if len(moved) > len(named) else ""
        raise PartitionMovedError(
            f"events of {', '.join(named)}{more} come from a second partition, so they have no one order"
            " and another shard may hold the rest; key the topic by user, or run one shard"
        )

    def _ranges(
        self, batch: EventBatch, rows: pa.Table, dead: Sequence[DeadLetter]
    ) -> list[RangeRow]:
        out = []
        per_row = dict(partition_rows(rows))
        per_item = dict(partition_rows(batch.items))
        empty = np.empty(0, dtype=np.int64)
        ts = rows["ts_ms"].to_numpy()
        flags = {
            n: rows[n].to_numpy(zero_copy_only=False) for n in ("late", "duplicate", "displaced")
        }
        for partition, (first, nxt) in batch.ranges.items():
            key = (partition.topic, partition.part)
            where = per_row.get(key, empty)
            n_items = len(per_item.get(key, empty))
            n_dead = sum((d.topic, d.part) == key for d in dead)
            newest = max(self.max_event_ms.get(key, NEVER), int(ts[where].max(initial=NEVER)))
            out.append(
                RangeRow(
                    topic=partition.topic,
                    part=partition.part,
                    first=first,
                    next_off=nxt,
                    records=len(where) + n_items + n_dead,  # a blank line is none
                    interactions=len(where),
                    items=n_items,
                    dead=n_dead,
                    late=int(flags["late"][where].sum()),
                    duplicates=int(flags["duplicate"][where].sum()),
                    displaced=int(flags["displaced"][where].sum()),
                    max_event_ms=None if newest == NEVER else newest,
                )
            )
        return out

    def _advance(self, ranges: Sequence[RangeRow], stored: Stored) -> None:
        """Take note of a commit; called before the next transaction can begin."""
        newest = {(r.topic, r.part): r.max_event_ms for r in ranges if r.max_event_ms is not None}
        self.next_offsets = self.next_offsets | stored.ends
        self.max_event_ms = self.max_event_ms | newest
        self.hot_rows += stored.rows.num_rows
        self.counts.add(stored.counts)
        for listener in self._told:
            listener(stored)


def _count(ranges: Sequence[RangeRow]) -> IngestCounts:
    return IngestCounts(
        records=sum(r.records for r in ranges),
        interactions=sum(r.interactions for r in ranges),
        items=sum(r.items for r in ranges),
        dead=sum(r.dead for r in ranges),
        late=sum(r.late for r in ranges),
        displaced=sum(r.displaced for r in ranges),
        duplicates=sum(r.duplicates for r in ranges),
    )
