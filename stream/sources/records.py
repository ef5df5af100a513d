"""Decoded records of one partition, ready to be put into batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from stream.events import INTERACTION_SCHEMA, ITEM_SCHEMA, MAX_RAW_BYTES, DeadLetter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from stream.events import Headers, Originals, Partition, Reason


@dataclass(slots=True)
class Records:
    """Offsets first..after-1 of one partition, decoded.

    Attributes:
        first: first offset.
        after: offset after the last one.
        interactions: rows of INTERACTION_SCHEMA, by offset.
        items: rows of ITEM_SCHEMA, by offset.
        dead: bad records, by offset.
        originals: the records as the log holds them, where they are bytes.
    """

    first: int
    after: int
    interactions: pa.Table = field(default_factory=INTERACTION_SCHEMA.empty_table)
    items: pa.Table = field(default_factory=ITEM_SCHEMA.empty_table)
    dead: list[DeadLetter] = field(default_factory=list)
    originals: Originals | None = None


class Decode(Protocol):
    """Turns records of one partition into columns."""

    def __call__(
        self,
        partition: Partition,
        offsets: NDArray[np.int64],
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None],
        headers: Sequence[Headers],
        append_ts_ms: Sequence[int | None],
        /,
    ) -> Records:
        """Return a row or a dead letter for every record; all arguments have one entry per record."""
        ...


def shown(value: pa.Scalar) -> object:
    """Return a cell as a Python value, or its raw number where Python has no such value."""
    try:
        return value.as_py()
    except (ValueError, OverflowError, KeyError, pa.ArrowException):
        return value.value  # a time beyond Python's calendar, or of a zone unknown here


def dead_letter(
    partition: Partition, off: int, reason: Reason, detail: str, raw: bytes
) -> DeadLetter:
    """Return a dead letter, its raw bytes cut to MAX_RAW_BYTES."""
    return DeadLetter(*partition, off, reason, detail, raw=raw[:MAX_RAW_BYTES], size=len(raw))


def build_interactions(
    columns: Mapping[str, pa.Array], partition: Partition, offs: NDArray[np.int64]
) -> pa.Table:
    """Return a table of INTERACTION_SCHEMA; columns not given are null."""
    return _build(INTERACTION_SCHEMA, columns, partition, offs)


def build_items(
    columns: Mapping[str, pa.Array], partition: Partition, offs: NDArray[np.int64]
) -> pa.Table:
    """Return a table of ITEM_SCHEMA; columns not given are null."""
    return _build(ITEM_SCHEMA, columns, partition, offs)


def _build(
    schema: pa.Schema,
    columns: Mapping[str, pa.Array],
    partition: Partition,
    offs: NDArray[np.int64],
) -> pa.Table:
    count = len(offs)
    position = {
        "topic": pa.repeat(pa.scalar(partition.topic, pa.string()), count),
        "part": pa.repeat(pa.scalar(partition.part, pa.int32()), count),
        "off": pa.array(offs, pa.int64()),
    }
    arrays = []
    for name, dtype in zip(schema.names, schema.types, strict=True):
        array = position.get(name, columns.get(name))
        arrays.append(pa.nulls(count, dtype) if array is None else array)
    return pa.Table.from_arrays(arrays, schema=schema)
