"""Files of recorded logs: their columns, what they say of themselves, and reading them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stream.errors import SourceError
from stream.events import Partition
from stream.sources.file import find_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

RECORDED_SCHEMA = pa.schema([
    pa.field("topic", pa.string(), nullable=False),
    pa.field("partition", pa.int32(), nullable=False),
    pa.field("offset", pa.int64(), nullable=False),
    pa.field("append_ts", pa.int64()),  # when the log took the record, ms since the epoch, UTC
    pa.field("headers", pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))),
    pa.field("key", pa.binary()),
    pa.field("raw", pa.binary()),  # null where a record has no value
])
META_KEY = b"freshet.log"
POSITION = ["topic", "partition", "offset"]


class LogMeta(msgspec.Struct, frozen=True):
    """What a recorded log says about itself besides its records.

    Attributes:
        items_topic: the topic of items; empty where it is not known.
        ranges: (topic, partition, first, end): which offsets were read, holes at both ends included.
    """

    items_topic: str = ""
    ranges: tuple[tuple[str, int, int, int], ...] = ()


def is_recorded(path: str | Path) -> bool:
    """Return whether a path names recorded logs: Parquet files with positions and raw records."""
    try:
        found = sorted(find_files(Path(path)))
    except SourceError:
        return False
    if not found or found[0][0].suffix not in {".parquet", ".pq"}:
        return False
    try:
        names = set(pq.read_schema(found[0][0]).names)
    except (pa.ArrowException, OSError):
        return False  # reading it will say what is wrong
    return {*POSITION, "raw"} <= names


def log_meta(path: str | Path) -> LogMeta:
    """Return what recorded files say about the log; nothing known where they were written by others."""
    file = sorted(find_files(Path(path)))[0][0]
    text = (pq.read_schema(file).metadata or {}).get(META_KEY)
    return LogMeta() if text is None else msgspec.json.decode(text, type=LogMeta)


def by_partition(
    rows: pa.Table | pa.RecordBatch,
) -> Iterator[tuple[Partition, NDArray[np.int64]]]:
    """Yield (partition, row numbers) of rows with the columns topic and partition."""
    topics = rows["topic"].combine_chunks() if isinstance(rows, pa.Table) else rows["topic"]
    named = topics.dictionary_encode()
    codes, parts = named.indices.to_numpy(), rows["partition"].to_numpy()
    names = named.dictionary.to_pylist()
    for code, part in sorted({*zip(codes.tolist(), parts.tolist(), strict=True)}):
        yield Partition(names[code], part), np.flatnonzero((codes == code) & (parts == part))


def open_recorded(path: Path) -> pq.ParquetFile:
    """Return a recorded file, opened.

    Raises:
        SourceError: not a whole Parquet file, or a column is missing or of another type.
    """
    try:
        file = pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowException, OSError) as err:
        line = str(err).splitlines()[0][:200] if str(err) else type(err).__name__
        raise SourceError(
            f"{path}: not a whole Parquet file ({line}); restore or rewrite it"
        ) from err
    for field in RECORDED_SCHEMA:
        held = (
            file.schema_arrow.field(field.name).type
            if field.name in file.schema_arrow.names
            else None
        )
        if held != field.type:
            raise SourceError(
                f"{path}: a recorded log has the column {field.name} of type {field.type}, not"
                f" {held or 'without it'}; record it with `freshet export-log`"
            )
    return file


def read_positions(path: Path, file: pq.ParquetFile, number: int) -> pa.Table:
    """Return topic, partition and offset of the rows of one row group.

    Raises:
        SourceError: it is damaged.
    """
    try:
        return file.read_row_group(number, columns=POSITION)
    except (pa.ArrowException, OSError) as err:
        raise SourceError(f"{path}: damaged in row group {number}; restore the file") from err
