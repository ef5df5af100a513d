"""One log, written in every form a source reads, with what a reader must find at each position."""

from __future__ import annotations

import csv
import gzip
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from stream.events import Partition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stream.sources import Source

FIELDS = ("user_id", "item_id", "event_type", "ts", "event_id")


@dataclass(frozen=True)
class Case:
    """A source and what is in it.

    Attributes:
        open: a fresh source at the beginning of the log.
        log: per partition what each offset holds: the event_id of an interaction, "dead" for a bad
            record, None for a blank one.
        one_order: whether partitions are delivered in one order, however they are polled. A broker
            promises an order within each partition only.
    """

    open: Callable[[], Source]
    log: dict[Partition, list[str | None]]
    one_order: bool = True


def make_records(
    count: int, *, tag: str = "e", start: int = 1_700_000_000_000
) -> list[dict[str, Any]]:
    """Return records nearly in time order, every seventh without a user."""
    records = []
    for i in range(count):
        record: dict[str, Any] = {
            "user_id": f"u{i % 5}",
            "item_id": f"i{i % 11}",
            "event_type": "view",
            "ts": start + 1_000 * i - (5_000 if i % 6 == 5 else 0),
            "event_id": f"{tag}{i}",
        }
        if i % 7 == 3:
            record["user_id"] = None
        records.append(record)
    return records


def expected(records: Sequence[dict[str, Any] | None]) -> list[str | None]:
    """Return what a reader must find at each offset; a None record is a blank line."""
    return [
        None if r is None else "dead" if r["user_id"] is None else r["event_id"] for r in records
    ]


def jsonl_bytes(records: Sequence[dict[str, Any] | None]) -> bytes:
    """Return one JSON object per line, a blank line per None."""
    lines = [
        "" if r is None else json.dumps({k: v for k, v in r.items() if v is not None})
        for r in records
    ]
    return "".join(line + "\n" for line in lines).encode()


def csv_bytes(records: Sequence[dict[str, Any] | None]) -> bytes:
    """Return a header and one row per record, a blank row per None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for record in records:
        writer.writerow(
            [] if record is None else ["" if record[k] is None else record[k] for k in FIELDS]
        )
    return text.getvalue().encode()


def write_parquet(
    path: Path, records: Sequence[dict[str, Any]], *, row_group_size: int = 37
) -> None:
    """Write the records as Parquet in small row groups."""
    table = pa.Table.from_pylist(list(records))
    pq.write_table(table, path, row_group_size=row_group_size)


def write(path: Path, records: Sequence[dict[str, Any] | None]) -> None:
    """Write the records in the form the file's name asks for."""
    if path.suffix == ".parquet":
        write_parquet(path, [r for r in records if r is not None])
        return
    data = csv_bytes(records) if ".csv" in path.suffixes else jsonl_bytes(records)
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    if path.suffix == ".zst":
        data = zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)


def with_blanks(records: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """Return the records with blank lines among them."""
    mixed: list[dict[str, Any] | None] = list(records)
    for at in (4, 5, 40):
        mixed.insert(at, None)
    return mixed


def file_case(
    path: Path, records: Sequence[dict[str, Any] | None], open_source: Callable[[], Source]
) -> Case:
    """Return the case of one written file."""
    write(path, records)
    return Case(open_source, {Partition(path.name, 0): expected(records)})
