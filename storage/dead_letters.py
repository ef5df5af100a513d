"""Dead letters: records that could not be read as events, kept with reason, position and all they came with."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
import pyarrow as pa

from storage.database import Tx
from storage.errors import StorageError
from storage.records import Param, PartitionKey, Reader, partition_table, to_ms

DEAD_LETTER_SCHEMA = pa.schema([
    pa.field("topic", pa.string(), nullable=False),
    pa.field("part", pa.int32(), nullable=False),
    pa.field("off", pa.int64(), nullable=False),
    pa.field("reason", pa.string(), nullable=False),
    pa.field("detail", pa.string()),
    pa.field("raw", pa.binary()),
    pa.field("key", pa.binary()),
    pa.field("headers", pa.string()),
    pa.field("append_ts_ms", pa.int64()),
    pa.field("size", pa.int64()),
    pa.field("ingested_at_ms", pa.int64(), nullable=False),
])
"""One record that was refused; `headers` as `headers_text` writes them, `size` before `raw` was cut, bytes."""

_FOUND = (
    "SELECT topic, part, off, reason, detail, raw, key, headers, epoch_ms(append_ts) AS append_ts_ms, size,"
    " epoch_ms(ingested_at) AS ingested_at_ms, epoch_ms(replayed_at) AS replayed_at_ms FROM dead_letters"
)
_PAST_MARKS = " LEFT JOIN marks m USING (topic, part) WHERE off >= coalesce(m.next_off, 0)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which dead letters are meant; None means any.

    Attributes:
        topic: of this topic.
        part: of this partition.
        off: at this offset.
        reason: refused for this reason.
        replayed: produced again already, or not.
    """

    topic: str | None = None
    part: int | None = None
    off: int | None = None
    reason: str | None = None
    replayed: bool | None = None


def append(tx: Tx, table: pa.Table) -> int:
    """Append dead letters (`DEAD_LETTER_SCHEMA`) and return their number.

    Raises:
        StorageError: Columns are missing or of a wrong type.
    """
    try:
        rows = table.select(DEAD_LETTER_SCHEMA.names).cast(DEAD_LETTER_SCHEMA)
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise StorageError(f"dead letters do not fit the table: {error}") from error
    return tx.insert("dead_letters", rows)


def find(reader: Reader, wanted: Wanted | None = None, *, limit: int = 50) -> pa.Table:
    """Return dead letters (`DEAD_LETTER_SCHEMA` and replayed_at_ms), newest first; `limit` 0 returns all."""
    where, values = _where(wanted or Wanted())
    order = f"{_FOUND}{where} ORDER BY ingested_at DESC, topic, part, off DESC"
    return (
        reader.query(f"{order} LIMIT ?", [*values, limit]) if limit else reader.query(order, values)
    )


def following(
    reader: Reader, wanted: Wanted, after: tuple[str, int, int] | None, *, limit: int
) -> pa.Table:
    """Return dead letters, as `find` does, in the order of (topic, part, off), after one such position."""
    where, values = _where(wanted, ["(topic, part, off) > (?, ?, ?)"] if after else [])
    return reader.query(
        f"{_FOUND}{where} ORDER BY topic, part, off LIMIT ?", [*(after or ()), *values, limit]
    )


def beyond(reader: Reader, marks: Mapping[PartitionKey, int], *, limit: int) -> pa.Table:
    """Return the first dead letters at or past a mark per partition, in log order; all of an unmarked one."""
    return reader.query(
        f"{_FOUND}{_PAST_MARKS} ORDER BY topic, part, off LIMIT ?",
        [limit],
        tables={"marks": partition_table(marks, "next_off")},
    )


def counts(reader: Reader, wanted: Wanted | None = None) -> pa.Table:
    """Return (topic, part, reason, n), most frequent first."""
    where, values = _where(wanted or Wanted())
    return reader.query(
        f"SELECT topic, part, reason, count(*) AS n FROM dead_letters{where} "  # noqa: S608 names fixed below
        "GROUP BY topic, part, reason ORDER BY n DESC, topic, part, reason",
        values,
    )


def mark_replayed(tx: Tx, places: Iterable[tuple[str, int, int]], at: datetime) -> int:
    """Note that the records at these (topic, part, off) were produced again; returns how many there are."""
    topics, parts, offs = zip(*places, strict=True)
    table = pa.table({
        "topic": pa.array(topics, pa.string()),
        "part": pa.array(parts, pa.int32()),
        "off": pa.array(offs, pa.int64()),
    })
    return tx.execute(
        "UPDATE dead_letters SET replayed_at = make_timestamp(? * 1000) FROM chosen c"
        " WHERE c.topic = dead_letters.topic AND c.part = dead_letters.part AND c.off = dead_letters.off",
        [to_ms(at)],
        tables={"chosen": table},
    )


def headers_text(headers: Sequence[tuple[str, bytes | None]]) -> str | None:
    """Return headers as JSON, None for none: [name, value] pairs, a value that is no text as {"base64": ...}."""
    if not headers:
        return None
    return msgspec.json.encode([[name, _shown(value)] for name, value in headers]).decode()


def headers_of(text: str | None) -> list[tuple[str, bytes | None]]:
    """Return headers from what `headers_text` wrote."""
    return [] if text is None else [(n, _bytes(v)) for n, v in msgspec.json.decode(text)]


def _shown(value: bytes | None) -> str | dict[str, str] | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _bytes(value: str | dict[str, str] | None) -> bytes | None:
    if value is None or isinstance(value, str):
        return None if value is None else value.encode()
    return base64.b64decode(value["base64"])


def _where(wanted: Wanted, first: Sequence[str] = ()) -> tuple[str, list[Param]]:
    terms = list(first)
    values: list[Param] = []
    for name in ("topic", "part", "off", "reason"):
        value = getattr(wanted, name)
        if value is not None:
            terms.append(f"{name} = ?")
            values.append(value)
    if wanted.replayed is not None:
        terms.append(f"replayed_at IS {'NOT ' if wanted.replayed else ''}NULL")
    return (f" WHERE {' AND '.join(terms)}" if terms else ""), values
