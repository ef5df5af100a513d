"""Canonical records, their columns, and the batch every source returns.

A record is one message of the log at its position (topic, partition, offset). It becomes a row of
`INTERACTION_SCHEMA`, a row of `ITEM_SCHEMA`, or a dead letter; blank lines of text files hold an
offset and become nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Reason = Literal[
    "malformed",  # not a record at all: broken JSON, wrong number of cells, not UTF-8
    "too_large",  # longer than MAX_RECORD_BYTES
    "unsupported",  # in a form that is not read: framed Avro or Protobuf, a batch of CloudEvents
    "not_single",  # an envelope around none or several interactions
    "unknown_kind",  # a "kind" other than interaction or item
    "missing_field",  # a required field is absent or null
    "empty_field",  # an id or event type is the empty string
    "bad_type",  # a field holds another type
    "non_finite",  # value is NaN or infinite
    "out_of_range",  # a time outside 1970..2199, or an integer beyond 64 bits
    "unknown_event_type",  # judged at ingest: unlisted = "reject"
    "future_dated",  # judged at ingest, from the log alone
]

Headers: TypeAlias = "Sequence[tuple[str, bytes | None]]"
"""Headers of a record in order; a name may repeat, a value may be absent."""

MAX_RECORD_BYTES = 1 << 20
MAX_RAW_BYTES = 1 << 16
MIN_TS_MS = 0
MAX_TS_MS = 7_258_118_400_000  # 2200-01-01, exclusive

INTERACTION_SCHEMA = pa.schema([
    pa.field("user_id", pa.string(), nullable=False),
    pa.field("item_id", pa.string(), nullable=False),
    pa.field("event_type", pa.string(), nullable=False),
    pa.field("ts", pa.int64(), nullable=False),  # event time, ms since the epoch, UTC
    pa.field("seq", pa.int64(), nullable=False),
    pa.field("value", pa.float64(), nullable=False),
    pa.field("event_id", pa.string()),
    pa.field("session_id", pa.string()),
    pa.field("recommendation_id", pa.string()),
    pa.field("props", pa.string()),  # raw JSON
    pa.field("topic", pa.string(), nullable=False),
    pa.field("part", pa.int32(), nullable=False),
    pa.field("off", pa.int64(), nullable=False),
    pa.field("append_ts", pa.int64()),  # when the log took the record, ms; null for plain files
])

ITEM_SCHEMA = pa.schema([
    pa.field("item_id", pa.string(), nullable=False),
    pa.field("text", pa.string()),
    pa.field("available", pa.bool_(), nullable=False),
    pa.field("ts", pa.int64()),  # first seen, ms since the epoch, UTC; null when not said
    pa.field("topic", pa.string(), nullable=False),
    pa.field("part", pa.int32(), nullable=False),
    pa.field("off", pa.int64(), nullable=False),
])


class Partition(NamedTuple):
    """One ordered sequence of records."""

    topic: str
    part: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.part}]"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that is no interaction and no item, kept with its position and the reason.

    Attributes:
        topic: of its position.
        part: of its position.
        off: of its position.
        reason: one of a closed set.
        detail: one line for a person, naming the field.
        raw: the record's bytes, cut to MAX_RAW_BYTES (columns: the row as JSON); None where the
            record has no value.
        key: the record's key, where logs know one.
        headers: the record's headers.
        append_ms: when the log took the record, ms since the epoch; None where logs do not know.
        size: length of the value before it was cut, bytes; None where it is not known.
    """

    topic: str
    part: int
    off: int
    reason: Reason
    detail: str
    raw: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    append_ms: int | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Originals:
    """Records of one partition as the log holds them: what a dead letter keeps of one.

    Attributes:
        partition: where they are from.
        offs: offset per record, ascending, int64[n].
        values: the records' bytes; None where a record has no value.
        keys: the records' keys; None where the log has none.
        headers: the records' headers; None where the log has none.
        append_ts: when the log took each, ms since the epoch; None where the log does not know.
    """

    partition: Partition
    offs: NDArray[np.int64]
    values: Sequence[bytes | None]
    keys: Sequence[bytes | None] | None = None
    headers: Sequence[Headers] | None = None
    append_ts: Sequence[int | None] | None = None

    def row_of(self, off: int) -> int | None:
        """Return the row that holds an offset, None if there is none."""
        row = int(np.searchsorted(self.offs, off))
        return row if row < len(self.offs) and self.offs[row] == off else None

    def letter(self, row: int, reason: Reason, detail: str) -> DeadLetter:
        """Return a dead letter for one record, its bytes cut to MAX_RAW_BYTES."""
        value = self.values[row]
        return DeadLetter(
            topic=self.partition.topic,
            part=self.partition.part,
            off=int(self.offs[row]),
            reason=reason,
            detail=detail,
            raw=None if value is None else value[:MAX_RAW_BYTES],
            key=self.keys[row] if self.keys is not None else None,
            headers=self.headers[row] if self.headers is not None else (),
            append_ms=self.append_ts[row] if self.append_ts is not None else None,
            size=0 if value is None else len(value),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """What one poll returned, complete: every offset in `ranges` is a row, a dead letter or blank.

    Attributes:
        interactions: rows of INTERACTION_SCHEMA, in delivery order; ordered by offset within a
            partition.
        items: rows of ITEM_SCHEMA, in the same order.
        dead: bad records.
        ranges: partition -> (first, next): offsets first..next-1 were read. Successive ranges of a
            partition touch.
        exhausted: the source has ended and will never return another record.
        originals: the records as the log holds them, where the source has them as bytes.
    """

    interactions: pa.Table
    items: pa.Table
    dead: list[DeadLetter] = field(default_factory=list)
    ranges: dict[Partition, tuple[int, int]] = field(default_factory=dict)
    exhausted: bool = False
    originals: Sequence[Originals] = ()

    def as_found(self, letter: DeadLetter) -> DeadLetter:
        """Return a dead letter made from a decoded row with what the log holds at its position."""
        partition = Partition(letter.topic, letter.part)
        for found in self.originals:
            row = found.row_of(letter.off) if found.partition == partition else None
            if row is not None:
                return found.letter(row, letter.reason, letter.detail)
        return letter

    @property
    def records(self) -> int:
        """Offsets covered, blank lines included."""
        return sum(after - first for first, after in self.ranges.values())

    @property
    def next_offsets(self) -> dict[Partition, int]:
        """Partition -> offset of the first record not in this batch."""
        return {partition: after for partition, (_, after) in self.ranges.items()}


def empty_batch(*, exhausted: bool) -> EventBatch:
    """Return a batch without records."""
    return EventBatch(
        interactions=INTERACTION_SCHEMA.empty_table(),
        items=ITEM_SCHEMA.empty_table(),
        exhausted=exhausted,
    )


def interactions_table(rows: Iterable[dict[str, object]]) -> pa.Table:
    """Return rows of INTERACTION_SCHEMA from dicts; absent optional fields are null."""
    return pa.Table.from_pylist(list(rows), schema=INTERACTION_SCHEMA)


def concat_batches(batches: Sequence[EventBatch], *, exhausted: bool) -> EventBatch:
    """Return one batch holding `batches` in order; a partition's ranges must touch.

    Raises:
        ValueError: two ranges of a partition leave a hole or overlap.
    """
    ranges: dict[Partition, tuple[int, int]] = {}
    for batch in batches:
        for partition, (first, after) in batch.ranges.items():
            begin, end = ranges.get(partition, (first, first))
            if end != first:
                raise ValueError(f"{partition}: range {first}..{after} does not follow {end}")
            ranges[partition] = (begin, after)
    return EventBatch(
        interactions=pa.concat_tables(
            [INTERACTION_SCHEMA.empty_table()] + [b.interactions for b in batches]
        ),
        items=pa.concat_tables([ITEM_SCHEMA.empty_table()] + [b.items for b in batches]),
        dead=[letter for batch in batches for letter in batch.dead],
        ranges=ranges,
        exhausted=exhausted,
        originals=[found for batch in batches for found in batch.originals],
    )
