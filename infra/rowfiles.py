"""Files of rows, written batch by batch: Parquet, CSV, Arrow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow.csv import CSVWriter
from pyarrow.parquet import ParquetWriter

from infra.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_GROUP_ROWS = 65_536
_GROUP_BYTES = 1 << 26
_WRITERS: dict[str, Callable[[str, pa.Schema], pa.ipc.RecordBatchWriter]] = {
    ".parquet": ParquetWriter,
    ".csv": CSVWriter,
    ".arrow": pa.ipc.new_file,
}


def write_rows(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write batches to a file whose suffix says its kind; it has its name only when it is whole.

    Raises:
        InputError: the suffix is not .parquet, .csv or .arrow, or the rows do not fit that kind.
        OSError: the file can not be written.
    """
    make = _WRITERS.get(path.suffix)
    if make is None:
        raise InputError(f"{path}: of no kind that is written here; use {', '.join(_WRITERS)}")
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with make(str(part), schema) as writer:
            for group in _groups(batches, schema):
                writer.write_table(group)
        part.replace(path)
    except pa.ArrowException as err:
        raise InputError(
            f"{path}: {err}; choose another kind of file, or cast in the query"
        ) from err
    finally:
        part.unlink(missing_ok=True)


def _groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield batches joined to groups worth writing at once."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        held.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield pa.Table.from_batches(held, schema=schema)
            held, rows, size = [], 0, 0
    yield pa.Table.from_batches(held, schema=schema)
