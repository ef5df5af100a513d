"""A source with a planted fault, to see the contract's checks fail."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pyarrow as pa

from stream.errors import GapError
from stream.events import EventBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stream.events import Partition
    from stream.sources import Source

Fault = Literal[
    "drop",
    "drop_with_its_range",
    "repeat_row",
    "repeat_batch",
    "reorder",
    "reorder_by_batch_size",
    "swap_contents",
    "silent_reset",
    "reset_in_the_middle",
    "reset_others",
    "accept_any_seek",
    "ignore_seek_when_reading",
    "too_many",
    "never_ends",
    "goes_on_after_the_end",
    "lose_dead_letter",
    "shift_dead_letter",
    "range_too_short",
    "other_columns",
    "hide_partition",
    "commit_moves",
    "close_once",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)


class FaultySource:
    """Passes a good source on, breaking one promise.

    Args:
        open_source: opens the good one.
        fault: the promise broken.
    """

    def __init__(self, open_source: Callable[[], Source], fault: Fault) -> None:
        self._open = open_source
        self._source = open_source()
        self._fault = fault
        self._polls = 0
        self._last: EventBatch | None = None
        self._closed = False

    def partitions(self) -> tuple[Partition, ...]:
        known = self._source.partitions()
        return known[1:] if self._fault == "hide_partition" else known

    def poll(self, max_records: int, timeout_s: float = 0.0) -> EventBatch:
        self._polls += 1
        if self._fault == "too_many":
            max_records += 1
        if self._fault == "reset_in_the_middle" and self._polls == 3:
            self._source = self._open()
        if self._fault == "repeat_batch" and self._polls == 3 and self._last is not None:
            return self._last
        batch = self._source.poll(max_records, timeout_s)
        if self._fault == "goes_on_after_the_end" and batch.exhausted:
            self._source = self._open()
        self._last = self._break(batch, max_records)
        return self._last

    def _break(self, batch: EventBatch, size: int) -> EventBatch:
        """Return the batch with the fault in it; small ones are left alone."""
        if len(batch.interactions) > 2:
            batch = self._break_rows(batch, size)
        match self._fault:
            case "never_ends":
                return replace(batch, exhausted=False)
            case "lose_dead_letter":
                return replace(batch, dead=batch.dead[1:])
            case "shift_dead_letter":
                return replace(batch, dead=[replace(d, off=d.off + 1) for d in batch.dead])
            case "range_too_short":
                cut = {p: (a, b - 1) for p, (a, b) in batch.ranges.items() if b - a > 1}
                return replace(batch, ranges=cut)
            case "other_columns":
                return replace(batch, items=batch.items.select(["item_id"]))
            case _:
                return batch

    def _break_rows(self, batch: EventBatch, size: int) -> EventBatch:
        rows = batch.interactions
        swapped = pa.array(_swapped(len(rows)))
        match self._fault:
            case "drop":
                return replace(batch, interactions=rows.slice(1))
            case "drop_with_its_range":
                return self._without_last(batch)
            case "repeat_row":
                return replace(batch, interactions=pa.concat_tables([rows, rows.slice(0, 1)]))
            case "reorder":
                return replace(batch, interactions=rows.take(swapped))
            case "reorder_by_batch_size" if size == 3:
                return replace(batch, interactions=rows.take(swapped))
            case "swap_contents":
                at = rows.schema.get_field_index("event_id")
                ids = rows["event_id"].take(swapped)
                return replace(batch, interactions=rows.set_column(at, rows.schema.field(at), ids))
            case _:
                return batch

    def _without_last(self, batch: EventBatch) -> EventBatch:
        """Lose the batch's last record, and with it the knowledge that it was there."""
        ranges = {p: (a, b - 1) for p, (a, b) in batch.ranges.items() if b - a > 1}
        keep = [
            off < ranges.get((topic, part), (0, 0))[1]
            for topic, part, off in zip(
                *(batch.interactions[name].to_pylist() for name in ("topic", "part", "off")),
                strict=True,
            )
        ]
        return replace(batch, interactions=batch.interactions.filter(pa.array(keep)), ranges=ranges)

    def seek(self, next_offsets: Mapping[Partition, int]) -> None:
        if self._fault == "silent_reset" or (
            self._polls and self._fault == "ignore_seek_when_reading"
        ):
            return
        if self._fault == "reset_others":
            self._source = self._open()
        try:
            self._source.seek(next_offsets)
        except GapError:
            if self._fault != "accept_any_seek":
                raise

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        if self._fault == "commit_moves":
            self._source.seek(next_offsets)
        self._source.commit(next_offsets)

    def close(self) -> None:
        if self._closed and self._fault == "close_once":
            raise AssertionError("closed twice")
        self._closed = True
        self._source.close()


def _swapped(count: int) -> np.ndarray:
    order = np.arange(count)
    order[[0, 1]] = order[[1, 0]]
    return order
