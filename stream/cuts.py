"""Where a polled batch must be cut: at the record from which a tick, a visible run or an item record applies. Pure.

Cuts depend on the log alone, so a replay takes the same steps however large its batches are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream.events import EventBatch, Partition

if TYPE_CHECKING:
    from numpy.typing import NDArray


def rows_until(ts_ms: NDArray[np.int64], threshold_ms: int) -> int:
    """How many rows up to and including the first one at or past the threshold; all rows if none is."""
    reached = np.flatnonzero(ts_ms >= threshold_ms)
    return int(reached[0]) + 1 if len(reached) else len(ts_ms)


def rows_before_item(batch: EventBatch) -> int:
    """How many interactions come before the first item record of their partition; all if none does."""
    n: int = batch.interactions.num_rows
    if not batch.items.num_rows or not n:
        return n
    first: dict[Partition, int] = {}
    for row in batch.items.select(["topic", "part", "off"]).to_pylist():
        partition = Partition(row["topic"], row["part"])
        first[partition] = min(row["off"], first.get(partition, row["off"]))
    columns = batch.interactions.select(["topic", "part", "off"]).to_pylist()
    for i, row in enumerate(columns):
        if row["off"] > first.get(Partition(row["topic"], row["part"]), row["off"]):
            return i
    return n


def cut(batch: EventBatch, rows: int) -> tuple[EventBatch, EventBatch]:
    """Split a batch after its first `rows` interactions; dead letters and items go by their positions.

    With `rows` 0 the first part holds what comes before each partition's first interaction.
    """
    head_rows, tail_rows = batch.interactions.slice(0, rows), batch.interactions.slice(rows)
    ends = _ends(batch, head_rows, tail_rows)
    in_head = pa.array(
        [
            row["off"] < ends[Partition(row["topic"], row["part"])]
            for row in batch.items.select(["topic", "part", "off"]).to_pylist()
        ],
        pa.bool_(),
    )
    head_dead = [d for d in batch.dead if d.off < ends[Partition(d.topic, d.part)]]
    tail_dead = [d for d in batch.dead if d.off >= ends[Partition(d.topic, d.part)]]
    ranges = batch.ranges
    head = EventBatch(
        interactions=head_rows,
        items=batch.items.filter(in_head),
        dead=head_dead,
        ranges={p: (first, ends[p]) for p, (first, _) in ranges.items() if ends[p] > first},
        exhausted=False,
    )
    tail = EventBatch(
        interactions=tail_rows,
        items=batch.items.filter(pc.invert(in_head)),
        dead=tail_dead,
        ranges={p: (ends[p], nxt) for p, (_, nxt) in ranges.items() if nxt > ends[p]},
        exhausted=batch.exhausted,
    )
    return head, tail


def _ends(batch: EventBatch, head: pa.Table, tail: pa.Table) -> dict[Partition, int]:
    """Exclusive end of the first part per partition: right after its last row, or before the next part's first."""
    ends = {p: first for p, (first, _) in batch.ranges.items()}
    if not head.num_rows:
        return ends | _bounds(tail, "min")
    return ends | {p: off + 1 for p, off in _bounds(head, "max").items()}


def _bounds(table: pa.Table, which: Literal["min", "max"]) -> dict[Partition, int]:
    """Smallest or largest offset per partition."""
    found = table.group_by(["topic", "part"]).aggregate([("off", which)])
    keys = zip(found["topic"].to_pylist(), found["part"].to_pylist(), strict=True)
    offsets = found[f"off_{which}"].to_pylist()
    return {Partition(topic, part): off for (topic, part), off in zip(keys, offsets, strict=True)}
