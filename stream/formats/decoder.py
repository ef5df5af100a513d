"""Records of topics into columns and dead letters: every accepted encoding ends in the same structs.

Native JSON takes one msgspec call per record. Everything else is opened (`wire`), read as a tree of values,
renamed (`tables`) and checked against the same structs, so that a fault has the same reason in every encoding.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from stream.clock import to_ms
from stream.config import FileConfig, FormatsConfig, TopicFormat
from stream.events import MAX_TS_MS, MIN_TS_MS, Originals
from stream.formats.tables import load_table
from stream.formats.wire import is_plain, open_record
from stream.sources.json_records import JsonReading, too_large, unknown_kind
from stream.sources.record_columns import (
    DECODE_ERRORS,
    KINDS,
    Bad,
    Decoded,
    RecordColumns,
    bad_of,
)
from stream.sources.times import UNITS_PER_SECOND, text_to_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from stream.config import RecordKind
    from stream.events import Headers, Partition
    from stream.formats.wire import CloudEvent, Opened
    from stream.sources.records import Records

    Found = tuple[RecordKind, Any]

_TREE_ERRORS = (*DECODE_ERRORS, TypeError, ValueError, OverflowError)
_FIELD = re.compile(r"`\$\.(\w+)`|required field `(\w+)`")
_TOMBSTONE = "no value (a tombstone); only records of items may have none"


class _Kind(msgspec.Struct):
    kind: str | None = None


class Decoder:
    """Decodes the records of one topic.

    Args:
        config: how they are read.

    Raises:
        ConfigError: its rename table can not be used.
    """

    def __init__(self, config: TopicFormat | None = None) -> None:
        config = config or TopicFormat()
        self._config = config
        self._table = load_table(config.table) if config.table else None
        plain = FileConfig(
            kind=config.kind,
            event_type=config.event_type,
            ts_unit=config.ts_unit,
            ts_format=config.ts_format,
        )
        plain = self._table.timed(plain) if self._table else plain
        self._unit = plain.ts_unit
        self._native = JsonReading(plain, timed=False)
        self._columns = RecordColumns(plain)
        self._tree = msgspec.json.Decoder()

    def decode(
        self,
        partition: Partition,
        offsets: NDArray[np.int64],
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[Headers] | None = None,
        append_ts_ms: Iterable[int | None] | None = None,
    ) -> Records:
        """Return the decoded records at `offsets`; every record is a row or a dead letter.

        Args:
            partition: where the records are from.
            offsets: offset per record, ascending, int64[n]; holes are legal.
            values: the records' bytes; None is a tombstone.
            keys: the records' keys.
            headers: the records' headers.
            append_ts_ms: when the log took each, ms since the epoch; None or a time outside
                1970..2199 where it does not know.
        """
        times = None if append_ts_ms is None else _known(list(append_ts_ms))
        found = Originals(
            partition=partition,
            offs=offsets,
            values=values,
            keys=keys,
            headers=headers,
            append_ts=times,
        )
        known = times if self._config.append_time and times is not None else [None] * len(values)
        work = _Work(found, list(known))
        decoded = self._decoded(work)
        return self._columns.build(found, decoded, work.fallback)

    def _decoded(self, work: _Work) -> Decoded:
        values, headers = work.originals.values, work.originals.headers
        if self._table is None and self._config.encoding in {"auto", "json"}:
            if headers is not None and self._config.encoding == "auto":
                pairs = zip(values, headers, strict=True)
                values = [value if not h or is_plain(h) else None for value, h in pairs]
            return self._native.read_all(values, lambda row: self._slowly(work, row))
        decoded = Decoded()
        for row in range(len(values)):
            decoded.add(row, self._slowly(work, row))
        return decoded

    def _slowly(self, work: _Work, row: int) -> Bad | Found:
        """Return kind and record of a row, or what is wrong with it."""
        value, headers = work.originals.values[row], work.originals.headers
        if value is None:
            return self._tombstone(work.originals.keys[row] if work.originals.keys else None)
        wrong = too_large(value) if value.strip() else Bad("malformed", "an empty value")
        if wrong is not None:
            return wrong
        opened = open_record(value, headers[row] if headers else (), self._config.encoding)
        if isinstance(opened, Bad):
            return opened
        outcome = self._read(opened)
        if isinstance(outcome, Bad):
            return _moved(outcome, opened.place)
        if opened.event is not None:
            return self._completed(outcome, opened.event, work, row)
        return outcome

    def _read(self, opened: Opened) -> Bad | Found:
        try:
            if opened.encoding == "msgpack":
                tree = msgspec.msgpack.decode(opened.payload)
            elif self._table is None:
                return self._native.read(opened.payload)
            else:
                tree = self._tree.decode(opened.payload)
            return self._native_tree(tree) if self._table is None else self._renamed(tree)
        except _TREE_ERRORS as err:
            return bad_of(err)

    def _native_tree(self, tree: object) -> Bad | Found:
        kind = msgspec.convert(tree, _Kind).kind or self._native.default
        for known in KINDS:
            if kind == known and isinstance(tree, dict):
                return self._checked(known, dict(tree))
        return unknown_kind(kind)

    def _renamed(self, tree: object) -> Bad | Found:
        table = self._table
        if table is None or not isinstance(tree, dict):
            msgspec.convert(tree, dict[str, Any])  # says what it is instead
            return Bad("malformed", "not an object")
        kind = table.kind_of(tree, self._native.default)
        if isinstance(kind, Bad):
            return kind
        fields = table.fields(tree, kind)
        if isinstance(fields, Bad):
            return fields
        outcome = self._checked(kind, fields)
        if not isinstance(outcome, Bad):
            return outcome
        return Bad(
            outcome.reason, _FIELD.sub(lambda m: _place(m, table.place, kind), outcome.detail)
        )

    def _checked(self, kind: RecordKind, fields: dict[str, object]) -> Bad | Found:
        """Return a record made from values by canonical name."""
        for name, value in fields.items():
            if name == "props":
                fields[name] = msgspec.Raw(msgspec.json.encode(value))
            elif isinstance(value, datetime):
                fields[name] = _number(value, self._unit)
            elif isinstance(value, float) and not math.isfinite(value):
                return Bad("non_finite", f"Number out of range - at `$.{name}`")
        try:
            return kind, msgspec.convert(fields, self._native.types[kind])
        except DECODE_ERRORS as err:
            return bad_of(err)

    def _completed(self, found: Found, event: CloudEvent, work: _Work, row: int) -> Bad | Found:
        """Return a record with what its envelope says where its data says nothing."""
        kind, record = found
        if kind == "interaction":
            record.event_id = record.event_id or event.id
            record.event_type = record.event_type or self._event_type(event.type)
        if record.ts is None and event.time is not None:
            ms = text_to_ms(event.time, "ms")
            if ms is None:
                return Bad("bad_type", f"Expected a time, got {event.time[:60]!r} - at `time`")
            if not MIN_TS_MS <= ms < MAX_TS_MS:
                return Bad("out_of_range", f"time {event.time[:60]!r} is outside 1970..2199")
            work.fallback[row] = ms
        return found

    def _event_type(self, given: str) -> str:
        rules = self._table.rules.get("interaction", ()) if self._table else ()
        maps = (rule.values for rule in rules if rule.field.name == "event_type")
        return str(next(maps, {}).get(given, given))

    def _tombstone(self, key: bytes | None) -> Bad | Found:
        if self._config.kind != "item":
            return Bad("malformed", _TOMBSTONE)
        if key is None:
            return Bad("missing_field", "neither a value nor a key that names the item")
        try:
            fields: dict[str, object] = {"item_id": key.decode(), "available": False}
        except UnicodeDecodeError as err:
            return bad_of(err)
        return self._checked("item", fields)


class _Work:
    """One call's records, and the times that stand in for missing ones."""

    __slots__ = ("fallback", "originals")

    def __init__(self, originals: Originals, fallback: list[int | None]) -> None:
        self.originals = originals
        self.fallback = fallback


class TopicDecoder:
    """Decodes the records of all topics of a log, each as its topic's.

    Args:
        formats: how the topics are read.
        items_topic: the topic of items; every other one is of interactions.

    Raises:
        ConfigError: a rename table can not be used.
    """

    def __init__(self, formats: FormatsConfig, items_topic: str) -> None:
        self._items_topic = items_topic
        self._items = Decoder(formats.items)
        self._interactions = Decoder(formats.interactions)

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
        """Return a row or a dead letter for every record; see `Decoder.decode`."""
        decoder = self._items if partition.topic == self._items_topic else self._interactions
        return decoder.decode(partition, offsets, values, keys, headers, append_ts_ms)


def _known(append_ts_ms: list[int | None]) -> list[int | None]:
    """Return append times, None for what a table can not hold: producers may set any number, brokers -1."""
    given = [ms for ms in append_ts_ms if ms is not None]
    if not given or (min(given) >= MIN_TS_MS and max(given) < MAX_TS_MS):
        return append_ts_ms
    return [ms if ms is not None and MIN_TS_MS <= ms < MAX_TS_MS else None for ms in append_ts_ms]


def _number(value: datetime, unit: str) -> int:
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    return to_ms(aware) * UNITS_PER_SECOND[unit] // 1_000  # type: ignore[index]  # a TimeUnit


def _place(found: re.Match[str], place: Callable[[RecordKind, str], str], kind: RecordKind) -> str:
    """Return a message's mention of a canonical field as one of the record's own."""
    if found[1]:
        return f"`$.{place(kind, found[1])}`"
    return f"required field `{place(kind, found[2])}`"


def _moved(bad: Bad, place: str) -> Bad:
    """Return what is wrong with a payload, its places as they are in the whole record."""
    return Bad(bad.reason, bad.detail.replace("`$", f"`{place}")) if place != "$" else bad
