"""When too many records are bad: the run stops at the record that passes a limit, with it and all before it stored.

A topic whose producer changed its records must not be drained into the dead letters. Records are counted one by one
in the order in which they are stored, so where a run stops does not depend on how the log was polled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from stream.errors import DeadShareError
from stream.events import DeadLetter, EventBatch, Partition
from stream.judge import partition_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from stream.config import StreamConfig

    _Ordered = tuple[Partition, NDArray[np.int64], NDArray[np.bool_]]

_NONE = np.empty(0, dtype=np.bool_)


class DeadLimits:
    """Counts good and bad records of a run against its limits. Pure.

    Args:
        config: `max_dead_share` of the last `dead_window` records, `max_dead_run` in a row, and
            `min_dead_records` for a log that ends before the window is full.
    """

    def __init__(self, config: StreamConfig) -> None:
        self._config = config
        self._tail = _NONE  # the last records, up to the window
        self._run = 0  # bad ones at the end of what was counted
        self.records = 0
        self.dead = 0

    def count(self, bad: NDArray[np.bool_]) -> int | None:
        """Count records in order, up to the first one that passes a limit.

        Args:
            bad: whether each record is bad, bool[n].

        Returns:
            How many of them were counted when a limit was passed, the last one included; None where all
            were counted and none was passed.
        """
        passed = self._first_passed(bad)
        taken = bad if passed is None else bad[:passed]
        self.records += len(taken)
        self.dead += int(taken.sum())
        good = np.flatnonzero(~taken)
        self._run = len(taken) - 1 - int(good[-1]) if len(good) else self._run + len(taken)
        self._tail = np.concatenate([self._tail, taken])[-self._config.dead_window :]
        return passed

    def short_log_is_bad(self) -> bool:
        """Return whether a log that ended before the window was full holds too many bad records."""
        config = self._config
        return (
            self.records < config.dead_window
            and self.dead >= config.min_dead_records
            and self.dead > config.max_dead_share * self.records
        )

    @property
    def in_window(self) -> tuple[int, int]:
        """Bad records among the last ones, and how many those are."""
        return int(self._tail.sum()), len(self._tail)

    @property
    def share_passed(self) -> bool:
        """Whether the last records hold too many bad ones."""
        return bool(self._tail.sum() > self._config.max_dead_share * self._config.dead_window)

    @property
    def run(self) -> int:
        """Bad records since the last good one."""
        return self._run

    def _first_passed(self, bad: NDArray[np.bool_]) -> int | None:
        """Return the number of records up to the first at which a limit is passed."""
        window, share = self._config.dead_window, self._config.max_dead_share
        known = np.concatenate([self._tail, bad])
        sums = np.concatenate([[0], np.cumsum(known)])
        ends = np.arange(len(self._tail) + 1, len(known) + 1)
        held = sums[ends] - sums[np.maximum(ends - window, 0)]
        runs = _runs(bad, self._run)
        over = np.flatnonzero((held > share * window) | (bad & (runs >= self._config.max_dead_run)))
        return int(over[0]) + 1 if len(over) else None


@dataclass(frozen=True, slots=True)
class Admitted:
    """What of a batch may be stored.

    Attributes:
        batch: the batch, cut after the record that passed a limit.
        rows: its good interactions.
        dead: its bad records.
        excess: why the run has to stop once these are stored; None where it goes on.
    """

    batch: EventBatch
    rows: pa.Table
    dead: list[DeadLetter]
    excess: DeadShareError | None = None


def admit(
    limits: DeadLimits, batch: EventBatch, rows: pa.Table, dead: Sequence[DeadLetter]
) -> Admitted:
    """Count a batch's records and return what of it may be stored.

    Records are taken partition by partition in the order of the batch's ranges, by offset in each.

    Args:
        limits: of the run.
        batch: as polled, without what was stored before.
        rows: its interactions that are good.
        dead: its bad records, those refused by verdict among them.
    """
    if not dead:
        limits.count(np.zeros(rows.num_rows + batch.items.num_rows, dtype=np.bool_))
        return Admitted(batch, rows, [])
    ordered = _in_order(batch, rows, dead)
    passed = limits.count(np.concatenate([bad for _, _, bad in ordered] or [_NONE]))
    if passed is None:
        return Admitted(batch, rows, list(dead))
    last, off = _place(ordered, passed - 1)
    ends: dict[Partition, int] = {}
    for partition, (_, after) in batch.ranges.items():
        ends[partition] = off + 1 if partition == last else after
        if partition == last:
            break
    kept = [d for d in dead if d.off < ends.get(Partition(d.topic, d.part), 0)]
    cut = replace(
        batch,
        interactions=_before(batch.interactions, ends),
        items=_before(batch.items, ends),
        dead=[d for d in batch.dead if d.off < ends.get(Partition(d.topic, d.part), 0)],
        ranges={p: (first, ends[p]) for p, (first, _) in batch.ranges.items() if p in ends},
        exhausted=False,
    )
    final = max(kept, key=lambda d: (d.topic, d.part) == (last.topic, last.part) and d.off)
    return Admitted(cut, _before(rows, ends), kept, _excess(limits, final))


def short_log_excess(limits: DeadLimits) -> DeadShareError | None:
    """Return why a log that has ended can not be accepted, None where it can."""
    if not limits.short_log_is_bad():
        return None
    return _error(limits, f"{limits.dead:,} of {limits.records:,} records of the log are bad")


def _excess(limits: DeadLimits, last: DeadLetter) -> DeadShareError:
    bad, held = limits.in_window
    place = f"{last.topic}[{last.part}]@{last.off} ({last.reason}: {last.detail})"
    if limits.share_passed:
        return _error(limits, f"{bad:,} of the last {held:,} records are bad, up to {place}")
    return _error(limits, f"{limits.run:,} records in a row are bad, up to {place}")


def _error(limits: DeadLimits, what: str) -> DeadShareError:
    return DeadShareError(
        f"{what}; they are stored: `freshet dlq list` shows them with reasons; correct producer or format, or raise"
        " stream.max_dead_share or stream.max_dead_run",
        dead=limits.dead,
        records=limits.records,
    )


def _runs(bad: NDArray[np.bool_], before: int) -> NDArray[np.int64]:
    """Return per record how many bad ones end there, `before` of them earlier."""
    at = np.arange(len(bad))
    last_good = np.maximum.accumulate(np.where(bad, -1 - before, at)) if len(bad) else at
    return np.asarray(at - last_good, dtype=np.int64)


def _in_order(batch: EventBatch, rows: pa.Table, dead: Sequence[DeadLetter]) -> list[_Ordered]:
    """Return per partition the offsets of its records in order, and which of them are bad."""
    good = [
        {Partition(*key): table["off"].to_numpy()[where] for key, where in partition_rows(table)}
        for table in (rows, batch.items)
    ]
    wrong: dict[Partition, list[int]] = {}
    for letter in dead:
        wrong.setdefault(Partition(letter.topic, letter.part), []).append(letter.off)
    ordered = []
    for partition in batch.ranges:
        fine = [found[partition] for found in good if partition in found]
        off = np.concatenate([*fine, np.asarray(wrong.get(partition, []), dtype=np.int64)])
        order = np.argsort(off, kind="stable")
        bad = np.arange(len(off)) >= sum(map(len, fine))
        ordered.append((partition, off[order], bad[order]))
    return ordered


def _place(ordered: list[_Ordered], index: int) -> tuple[Partition, int]:
    """Return partition and offset of one record of a batch, counted in order."""
    for partition, off, _ in ordered:
        if index < len(off):
            return partition, int(off[index])
        index -= len(off)
    raise IndexError(index)


def _before(table: pa.Table, ends: dict[Partition, int]) -> pa.Table:
    """Return the rows below their partition's end; partitions without one are left out."""
    keep = np.zeros(table.num_rows, dtype=np.bool_)
    off = table["off"].to_numpy()
    for key, where in partition_rows(table):
        keep[where] = off[where] < ends.get(Partition(*key), 0)
    return table.filter(pa.array(keep))
