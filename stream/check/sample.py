"""The first records of a file as they stand there, before any column has a meaning."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from stream.errors import SourceError
from stream.sources.file import format_by_name
from stream.sources.records import shown
from stream.sources.text import LineReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from stream.config import FileConfig

ColumnType = Literal["text", "whole", "number", "time", "other", "empty"]
FileKind = Literal["parquet", "jsonl", "csv"]

SAMPLE_ROWS = 2_000
_DELIMITERS = (",", ";", "\t", "|")
_PYTHON_TYPES: dict[type, ColumnType] = {str: "text", int: "whole", float: "number"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a file.

    Attributes:
        name: in the file.
        type: "time" is a type of the file's own, "whole" and "number" are numbers.
        values: the values of the first records, absent ones left out.
        rows: records the values were taken from.
    """

    name: str
    type: ColumnType
    values: list[Any] = field(default_factory=list)
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """What the first records of a file show.

    Attributes:
        path: the file.
        format: how it is written.
        named: whether the file's name says so too.
        delimiter: of CSV, else empty.
        columns: in the order of the file.
    """

    path: Path
    format: FileKind
    named: bool
    delimiter: str
    columns: list[Column]


def take_sample(path: Path, config: FileConfig) -> Sample:
    """Return the first records of a file.

    Args:
        path: Parquet, JSON lines or CSV; text may be compressed.
        config: a format or delimiter given there is used, else both are guessed.

    Raises:
        SourceError: the file can not be read, is empty, or holds one JSON array.
    """
    by_name = format_by_name(path)
    kind = by_name if config.format == "auto" else config.format
    named = kind is not None
    kind = kind or _format_by_content(path)
    if kind == "parquet":
        return Sample(path, "parquet", named, "", _parquet_columns(path))
    lines = _first_lines(path)
    if not lines:
        raise SourceError(f"{path}: empty; there is nothing to check")
    if b"\0" in lines[0]:
        raise SourceError(f"{path}: not UTF-8 text (UTF-16, perhaps); convert it to UTF-8")
    if kind == "jsonl":
        return Sample(path, "jsonl", named, "", _json_columns(path, lines))
    delimiter = config.delimiter or _delimiter(path, lines[0])
    return Sample(path, "csv", named, delimiter, _csv_columns(path, lines, delimiter))


def _format_by_content(path: Path) -> FileKind:
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PAR1":
                return "parquet"
    except OSError as err:
        raise SourceError(
            f"{path}: cannot be read ({err.strerror}); check path and rights"
        ) from err
    first = next(iter(_first_lines(path)), b"")
    return "jsonl" if first.lstrip()[:1] in {b"{", b"["} else "csv"


def _first_lines(path: Path) -> list[bytes]:
    """Return the first lines; of a file that is damaged further on, those before the damage."""
    reader = LineReader(path)
    try:
        return reader.read(SAMPLE_ROWS + 1)
    finally:
        reader.close()


def _parquet_columns(path: Path) -> list[Column]:
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            schema = file.schema_arrow
            batch = next(file.iter_batches(batch_size=SAMPLE_ROWS, use_threads=False), None)
    except (pa.ArrowException, OSError) as err:
        said = str(err).splitlines()[0][:200] if str(err) else type(err).__name__
        raise SourceError(
            f"{path}: not a whole Parquet file ({said}); restore or rewrite it"
        ) from err
    columns = []
    for at, name in enumerate(schema.names):
        array = pa.array([], schema.types[at]) if batch is None else batch.column(at)
        values = [shown(value) for value in array if value.is_valid]
        columns.append(Column(name, _arrow_type(schema.types[at]), values, len(array)))
    return columns


def _arrow_type(dtype: pa.DataType) -> ColumnType:
    t = pa.types
    dtype = dtype.value_type if t.is_dictionary(dtype) else dtype
    kinds: tuple[tuple[bool, ColumnType], ...] = (
        (t.is_null(dtype), "empty"),
        (t.is_timestamp(dtype) or t.is_date(dtype), "time"),
        (t.is_string(dtype) or t.is_large_string(dtype) or t.is_string_view(dtype), "text"),
        (t.is_integer(dtype), "whole"),
        (t.is_floating(dtype) or t.is_decimal(dtype), "number"),
    )
    return next((kind for fits, kind in kinds if fits), "other")


def _json_columns(path: Path, lines: list[bytes]) -> list[Column]:
    decode = msgspec.json.Decoder().decode
    found: dict[str, list[Any]] = {}
    rows = 0
    if lines[0].lstrip()[:1] == b"[":
        raise SourceError(f"{path}: holds a JSON array; write one object per line")
    for record in _decoded(lines, decode):
        if isinstance(record, dict):
            rows += 1
            for name, value in record.items():
                found.setdefault(name, []).append(value)
    if not found:
        raise SourceError(f"{path}: none of its first lines is a JSON object; is it JSON lines?")
    return [_plain_column(name, values, rows) for name, values in found.items()]


def _decoded(lines: Iterable[bytes], decode: Any) -> Iterator[Any]:  # noqa: ANN401 - whatever JSON holds
    for line in lines:
        try:
            yield decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue


def _plain_column(name: str, values: list[Any], rows: int) -> Column:
    given = [value for value in values if value is not None]
    kinds = Counter(_PYTHON_TYPES.get(type(value), "other") for value in given)
    # Numbers of which some have a fraction are numbers with fractions.
    if kinds["number"] and kinds["whole"]:
        kinds["number"] += kinds.pop("whole")
    return Column(name, kinds.most_common(1)[0][0] if kinds else "empty", given, rows)


def _delimiter(path: Path, header: bytes) -> str:
    usual = "\t" if ".tsv" in path.suffixes else ","
    text = header.decode("utf-8", "replace")
    return usual if usual in text else max(_DELIMITERS, key=text.count)


def _csv_columns(path: Path, lines: list[bytes], delimiter: str) -> list[Column]:
    texts = [line.decode("utf-8", "replace").rstrip("\r") + "\n" for line in lines]
    rows = csv.reader(texts, delimiter=delimiter)
    try:
        header = next(rows, [])
    except csv.Error as err:
        raise SourceError(f"{path}: unreadable header row ({err}); repair it") from err
    cells: list[list[str]] = [[] for _ in header]
    count = 0
    while True:
        try:
            row = next(rows, None)
        except csv.Error:
            continue
        if row is None:
            break
        if len(row) == len(header):
            count += 1
            for at, value in enumerate(row):
                cells[at].append(value)
    return [
        Column(name, "text" if any(column) else "empty", [v for v in column if v], count)
        for name, column in zip(header, cells, strict=True)
    ]
