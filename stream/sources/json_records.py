"""JSON records into columns: msgspec checks each one and says what is wrong where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from stream.events import MAX_RECORD_BYTES, Originals
from stream.sources.json_structs import record_type
from stream.sources.record_columns import DECODE_ERRORS, KINDS, Bad, Decoded, RecordColumns, bad_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from stream.config import FileConfig, RecordKind
    from stream.events import Partition
    from stream.sources.records import Records

    Outcome = Bad | tuple[RecordKind, Any] | None


class _Kind(msgspec.Struct):
    kind: str | None = None


class JsonReading:
    """Reads native JSON objects: one decoder per kind, and a slow way that says what is wrong.

    Args:
        config: column map, kind and time unit.
        timed: whether a record without a time is bad.

    Raises:
        ConfigError: two fields would be read from one key, or the map is wrong.
    """

    def __init__(self, config: FileConfig, *, timed: bool = True) -> None:
        self.default: RecordKind = config.kind
        self.types: dict[RecordKind, type[Any]] = {
            kind: record_type(config, kind, timed=timed) for kind in KINDS
        }
        self._decoders = {kind: msgspec.json.Decoder(self.types[kind]) for kind in KINDS}
        self._kind_of = msgspec.json.Decoder(_Kind)

    def read_all(self, values: Sequence[bytes | None], slowly: Callable[[int], Outcome]) -> Decoded:
        """Return the records, decoded: those that are plain JSON of the default kind at once.

        Args:
            values: one record each; None goes the slow way.
            slowly: the outcome of a row that is anything else, bad records among them.
        """
        decoded = Decoded()
        decode = self._decoders[self.default].decode
        rows, records = decoded.rows[self.default], decoded.records[self.default]
        as_default = (None, self.default)
        for row, value in enumerate(values):
            try:
                record = decode(value)  # type: ignore[arg-type]  # None is a TypeError, met below
            except (*DECODE_ERRORS, TypeError):
                record = None
            if (
                record is not None and record.kind in as_default and len(value) <= MAX_RECORD_BYTES  # type: ignore[arg-type]
            ):
                rows.append(row)
                records.append(record)
            else:
                decoded.add(row, slowly(row))
        return decoded

    def read(self, value: bytes) -> Bad | tuple[RecordKind, Any]:
        """Return kind and record, or what is wrong."""
        try:
            record = self._decoders[self.default].decode(value)
            if record.kind is None or record.kind == self.default:
                return self.default, record
        except DECODE_ERRORS:
            pass  # of another kind, or bad: said below
        try:
            kind = self._kind_of.decode(value).kind or self.default
            if kind not in self._decoders:
                return unknown_kind(kind)
            return kind, self._decoders[kind].decode(value)
        except DECODE_ERRORS as err:
            return bad_of(err)


class JsonDecoder:
    """Decodes JSON records into columns and dead letters.

    Args:
        config: column map, kind, defaults and time format.

    Raises:
        ConfigError: two fields would be read from one key, or the map is wrong.
    """

    def __init__(self, config: FileConfig) -> None:
        self._reading = JsonReading(config)
        self._columns = RecordColumns(config)

    def decode(
        self,
        partition: Partition,
        offs: NDArray[np.int64],
        lines: Sequence[bytes],
        append_ts: Sequence[int | None] | None = None,
    ) -> Records:
        """Return the decoded records at `offs`, int64[n], one per line; blank lines vanish.

        Args:
            partition: where the records are from.
            offs: offset per line, ascending.
            lines: one JSON object each.
            append_ts: ms since the epoch per line, for logs that know it; overrides the record's own.
        """
        decoded = self._reading.read_all(lines, lambda row: self._slowly(lines[row]))
        found = Originals(partition=partition, offs=offs, values=lines, append_ts=append_ts)
        return self._columns.build(found, decoded)

    def _slowly(self, line: bytes) -> Outcome:
        """Return kind and record, what is wrong, or None for a blank line."""
        return (too_large(line) or self._reading.read(line)) if line.strip() else None


def too_large(value: bytes) -> Bad | None:
    """Return what is wrong with a record that is too long, None where nothing is."""
    if len(value) <= MAX_RECORD_BYTES:
        return None
    return Bad("too_large", f"longer than {MAX_RECORD_BYTES} bytes")


def unknown_kind(kind: object, place: str = "kind") -> Bad:
    """Return what is wrong with a record of another kind."""
    return Bad("unknown_kind", f"{kind!r} is neither interaction nor item - at `$.{place}`")
