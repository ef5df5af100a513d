"""Parquet files, a slice of a row group at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stream.errors import SourceError
from stream.sources.columns import ColumnChecker, check_column_types
from stream.sources.fields import columns_of
from stream.sources.records import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stream.config import FileConfig
    from stream.events import Partition
    from stream.sources.records import Records

_BATCH_ROWS = 1 << 14
_BUFFER_BYTES = 1 << 20


class ParquetReader:
    """Reads Parquet; a row holds an offset.

    Only the columns in use are read, and never a whole row group at once.

    Args:
        path: the file.
        partition: of the records.
        config: how to read them.
        first: offset of the file's first row.

    Raises:
        SourceError: not a whole Parquet file, or a column is missing or of an unusable type.
    """

    def __init__(
        self, path: Path, partition: Partition, config: FileConfig, first: int = 0
    ) -> None:
        self._path = path
        self._first = first
        self._row = 0
        try:
            self._file = pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        except (pa.ArrowException, OSError) as err:
            raise SourceError(
                f"{path}: not a whole Parquet file ({_line(err)}); restore or rewrite it"
            ) from err
        schema = self._file.schema_arrow
        twice = {name for name in schema.names if schema.names.count(name) > 1}
        if twice:
            raise SourceError(f"{path}: column {min(twice)!r} appears twice; rename one")
        types = dict(zip(schema.names, schema.types, strict=True))
        check_column_types(types, config, str(path))
        wanted = {name for names in columns_of(config, config.kind).values() for name in names}
        self._columns = [name for name in schema.names if name in wanted]
        self._checker = ColumnChecker(config, partition)
        self._batches = self._iterate(0, 0)
        self._pending: pa.RecordBatch | None = None

    def _iterate(self, group: int, rows_in: int) -> Iterator[pa.RecordBatch]:
        """Yield batches from row `rows_in` of row group `group` on."""
        for number in range(group, self._file.num_row_groups):
            # One group at a time: a batch over two would be lost with damage in the second.
            batches = self._file.iter_batches(
                batch_size=_BATCH_ROWS,
                row_groups=[number],
                columns=self._columns,
                use_threads=False,
            )
            for batch in batches:
                if rows_in < len(batch):
                    yield batch.slice(rows_in)
                rows_in = max(0, rows_in - len(batch))

    def read(self, max_records: int) -> Records | None:
        """Return the next rows checked; None at the end."""
        batch = self._pending or self._advance()
        if batch is None:
            return None
        part, rest = batch.slice(0, max_records), batch.slice(max_records)
        self._pending = rest if len(rest) else None
        begin = self._first + self._row
        offs = np.arange(begin, begin + len(part), dtype=np.int64)
        self._row += len(part)
        columns = dict(zip(self._columns, part.columns, strict=True))
        return self._checker.check(columns, offs, lambda row: _row_json(part, row))

    def skip(self, count: int) -> int:
        """Pass over up to `count` rows, reading no more than one row group to get there."""
        target = min(self._row + count, int(self._file.metadata.num_rows))
        skipped, self._row, self._pending = target - self._row, target, None
        group, before = 0, 0
        while group < self._file.num_row_groups:
            rows = self._file.metadata.row_group(group).num_rows
            if before + rows > target:
                break
            before += rows
            group += 1
        self._batches = self._iterate(group, target - before)
        return skipped

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _advance(self) -> pa.RecordBatch | None:
        try:
            return next(self._batches, None)
        except (pa.ArrowException, OSError) as err:
            raise SourceError(
                f"{self._path}: damaged after row {self._row} ({_line(err)}); restore the file"
            ) from err


def _row_json(batch: pa.RecordBatch, row: int) -> bytes:
    """Return one row as JSON, for a person to read."""
    values = {name: shown(batch.column(name)[row]) for name in batch.schema.names}
    return msgspec.json.encode(values, enc_hook=str)


def _line(err: Exception) -> str:
    """Return an Arrow message as one line."""
    return str(err).splitlines()[0][:200] if str(err) else type(err).__name__
