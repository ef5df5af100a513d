"""Writes generated columns as Parquet or JSON lines."""

from __future__ import annotations

import gzip
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    BinaryFile = BinaryIO | gzip.GzipFile
    Write = Callable[["Columns"], None]

EVENT_TYPES = ("view", "cart", "purchase")
# What a bad record is: each names the reason it is refused for.
BAD_FAULTS = ("malformed", "bad_type", "missing_field", "empty_field", "out_of_range")
_WORDS = [
    "amber",
    "birch",
    "cedar",
    "denim",
    "ebony",
    "flint",
    "glass",
    "hazel",
    "ivory",
    "jade",
    "khaki",
    "linen",
    "maple",
    "navy",
    "olive",
    "pearl",
]
_THINGS = [
    "lamp",
    "mug",
    "chair",
    "rug",
    "clock",
    "frame",
    "shelf",
    "vase",
    "bowl",
    "candle",
    "basket",
    "mirror",
    "tray",
    "stool",
    "box",
    "jar",
]
_SCHEMA = pa.schema([
    ("user_id", pa.string()),
    ("item_id", pa.string()),
    ("event_type", pa.string()),
    ("ts", pa.int64()),
    ("value", pa.float64()),
    ("event_id", pa.string()),
    ("session_id", pa.string()),
])
_ITEMS = pa.schema([
    ("item_id", pa.string()),
    ("text", pa.string()),
    ("available", pa.bool_()),
    ("first_seen", pa.int64()),
])


@dataclass(slots=True, kw_only=True)
class Columns:
    """Records to write, int64[n] each.

    Attributes:
        number: of the interaction, which makes its event_id.
        user: of it.
        item: of it.
        kind: index into EVENT_TYPES.
        ts: event time, ms since the epoch.
        session: visit number, -1 for none.
        arrival: order of writing, ms.
        copy: 0 the interaction, 1 a second copy, 2 a bad record.
        fault: index into BAD_FAULTS, -1 for none.
    """

    number: Ints
    user: Ints
    item: Ints
    kind: Ints
    ts: Ints
    session: Ints
    arrival: Ints
    copy: Ints
    fault: Ints

    def where(self, rows: NDArray[np.bool_] | Ints) -> Columns:
        """Return the rows chosen by a mask or by index."""
        return Columns(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def joined(self, other: Columns) -> Columns:
        """Return these rows followed by the other's."""
        return Columns(**{
            f.name: np.concatenate((getattr(self, f.name), getattr(other, f.name)))
            for f in fields(self)
        })


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Items to write, int64[n] each; first_seen in ms since the epoch."""

    item: Ints
    genre: Ints
    first_seen: Ints


@contextmanager
def open_writer(path: Path) -> Iterator[Write]:
    """Yield a function that appends columns to the file; it appears only when all is written.

    Raises:
        ConfigError: the file's suffix names no known format.
    """
    check_name(path)
    with _replacing(path) as unfinished:
        if path.suffix == ".parquet":
            with pq.ParquetWriter(unfinished, _SCHEMA, compression="zstd") as writer:
                yield lambda rows: writer.write_table(_table(rows))
        else:
            with _text_file(unfinished, packed=path.suffix == ".gz") as file:
                yield lambda rows: _write_lines(file, rows)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a file to write beside `path`; it takes the name when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _text_file(path: Path, *, packed: bool) -> Iterator[BinaryFile]:
    """Yield a binary file; gzip without a time stamp, so that equal logs are equal files."""
    with path.open("wb") as file:
        if not packed:
            yield file
            return
        with gzip.GzipFile("", "wb", 5, file, mtime=0) as stream:
            yield stream


def write_items(path: Path, items: Catalogue) -> None:
    """Write a catalogue with a made-up text per item.

    Raises:
        ConfigError: the file's suffix names no known format.
    """
    check_name(path)
    table = _item_table(items)
    with _replacing(path) as unfinished:
        if path.suffix == ".parquet":
            pq.write_table(table, unfinished, compression="zstd")
            return
        with _text_file(unfinished, packed=path.suffix == ".gz") as file:
            for row in table.to_pylist():
                file.write(msgspec.json.encode({"kind": "item", **row}) + b"\n")


def check_name(path: Path) -> None:
    """Refuse a file name that names no format.

    Raises:
        ConfigError: naming the suffixes that do.
    """
    if path.suffix not in {".parquet", ".jsonl"} and path.suffixes[-2:] != [".jsonl", ".gz"]:
        raise ConfigError(
            f"{path}: cannot tell the format; end the name in .parquet, .jsonl or .jsonl.gz"
        )


def _names(prefix: str, numbers: Ints) -> pa.Array:
    """Return "prefix" + number per row."""
    return pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")


def _masked(names: pa.Array, keep: NDArray[np.bool_]) -> pa.Array:
    return pc.if_else(pa.array(keep), names, pa.scalar(None, pa.string()))


def _table(rows: Columns) -> pa.Table:
    """Return the records as columns; a bad one has a null user, an empty item or a wild time."""
    bad = rows.fault >= 0
    fault = rows.fault % 3
    items = pc.if_else(pa.array(bad & (fault == 1)), "", _names("i", rows.item))
    return pa.Table.from_arrays(
        [
            _masked(_names("u", rows.user), ~(bad & (fault == 0))),
            items,
            pa.array(EVENT_TYPES).take(pa.array(rows.kind)),
            pa.array(np.where(bad & (fault == 2), -1, rows.ts)),
            pa.array(np.ones(len(rows.ts))),
            _names("e", rows.number),
            _masked(_names("s", rows.session), rows.session >= 0),
        ],
        schema=_SCHEMA,
    )


def _write_lines(file: BinaryFile, rows: Columns) -> None:
    lines: list[str] = []
    columns = (rows.user, rows.item, rows.kind, rows.ts, rows.number, rows.session, rows.fault)
    for user, item, kind, ts, number, session, fault in zip(
        *(c.tolist() for c in columns), strict=True
    ):
        line = (
            f'{{"user_id":"u{user}","item_id":"i{item}","event_type":"{EVENT_TYPES[kind]}",'
            f'"ts":{ts},"event_id":"e{number}"'
        )
        line += f',"session_id":"s{session}"}}' if session >= 0 else "}"
        lines.append(line if fault < 0 else _spoiled(line, fault, user, item, ts))
    lines.append("")
    file.write("\n".join(lines).encode())


def _spoiled(line: str, fault: int, user: int, item: int, ts: int) -> str:
    """Return the line with the fault named in BAD_FAULTS."""
    return (
        line[: len(line) // 2],
        line.replace(f'"item_id":"i{item}"', f'"item_id":{item}'),
        line.replace(f'"user_id":"u{user}",', ""),
        line.replace(f'"i{item}"', '""'),
        line.replace(f'"ts":{ts}', f'"ts":-{ts}'),
    )[fault]


def _item_table(items: Catalogue) -> pa.Table:
    words = pa.array(_WORDS).take(pa.array(items.genre % len(_WORDS)))
    things = pa.array(_THINGS).take(pa.array(items.item // len(_WORDS) % len(_THINGS)))
    text = pc.binary_join_element_wise(words, things, _names("no ", items.item), " ")
    return pa.Table.from_arrays(
        [
            _names("i", items.item),
            text,
            pa.array(np.ones(len(items.item), bool)),
            pa.array(items.first_seen),
        ],
        schema=_ITEMS,
    )
