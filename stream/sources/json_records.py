"""JSON records into columns: msgspec checks each one and says what is wrong where."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream.events import MAX_RECORD_BYTES
from stream.sources.fields import columns_of, fields_of, seq_is_row
from stream.sources.json_structs import NOTHING, line_decoder
from stream.sources.records import Records, build_interactions, build_items, dead_letter
from stream.sources.times import (
    number_to_ms,
    numbers_to_ms,
    numpy_filled,
    texts_to_ms,
    time_detail,
    time_fault,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from stream.config import FileConfig, RecordKind, TimeUnit
    from stream.events import DeadLetter, Partition, Reason

_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_REASONS: tuple[tuple[re.Pattern[str], Reason], ...] = (
    (re.compile("missing required field|got `null`"), "missing_field"),
    (re.compile("of length >= 1"), "empty_field"),
    (re.compile("^Number out of range"), "non_finite"),
    (re.compile(r"^Expected `(int|float)` [<>]"), "out_of_range"),
)


class _Kind(msgspec.Struct):
    kind: str | None = None


class JsonDecoder:
    """Decodes JSON records into columns and dead letters.

    Args:
        config: column map, kind, defaults and time format.

    Raises:
        ConfigError: two fields would be read from one key, or the map is wrong.
    """

    def __init__(self, config: FileConfig) -> None:
        self._config = config
        self._default: RecordKind = config.kind
        self._decoders = {kind: line_decoder(config, kind) for kind in _kinds()}
        self._kind_of = msgspec.json.Decoder(_Kind)
        self._seq_is_row = seq_is_row(config)
        self._text_names = tuple(
            f"text_{i}" for i in range(len(columns_of(config, "item")["text"]))
        )

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
        good: dict[RecordKind, tuple[list[int], list[Any]]] = {kind: ([], []) for kind in _kinds()}
        dead: list[DeadLetter] = []
        decode = self._decoders[self._default].decode
        rows, records = good[self._default]
        as_default = (None, self._default)
        for row, line in enumerate(lines):
            try:
                record = decode(line)
            except _DECODE_ERRORS:
                record = None
            if record is not None and record.kind in as_default and len(line) <= MAX_RECORD_BYTES:
                rows.append(row)
                records.append(record)
                continue
            outcome = self._decode_slowly(line)
            if isinstance(outcome, _Bad):
                dead.append(dead_letter(partition, int(offs[row]), *outcome, line))
            elif outcome is not None:
                kind, record = outcome
                good[kind][0].append(row)
                good[kind][1].append(record)
        return self._columns(partition, offs, lines, append_ts, good, dead)

    def _decode_slowly(self, line: bytes) -> _Bad | tuple[RecordKind, Any] | None:
        """Return kind and record, what is wrong, or None for a blank line."""
        if not line.strip():
            return None
        if len(line) > MAX_RECORD_BYTES:
            return _Bad("too_large", f"longer than {MAX_RECORD_BYTES} bytes")
        try:
            kind = self._kind_of.decode(line).kind or self._default
            if kind not in self._decoders:
                return _Bad(
                    "unknown_kind", f"{kind!r} is neither interaction nor item - at `$.kind`"
                )
            return kind, self._decoders[kind].decode(line)
        except msgspec.ValidationError as err:
            return _Bad(_reason_of(str(err)), str(err))
        except (msgspec.DecodeError, UnicodeDecodeError) as err:
            return _Bad("malformed", str(err))
        except RecursionError:
            return _Bad("malformed", "nested too deeply")

    def _columns(
        self,
        partition: Partition,
        offs: NDArray[np.int64],
        lines: Sequence[bytes],
        append_ts: Sequence[int | None] | None,
        good: dict[RecordKind, tuple[list[int], list[Any]]],
        dead: list[DeadLetter],
    ) -> Records:
        found = Records(int(offs[0]) if len(offs) else 0, int(offs[-1]) + 1 if len(offs) else 0)
        for kind in _kinds():
            rows, records = good[kind]
            if not rows:
                continue
            times, bad = self._times(kind, records)
            for row, reason, detail in bad:
                at = rows[row]
                dead.append(dead_letter(partition, int(offs[at]), reason, detail, lines[at]))
            keep = np.setdiff1d(np.arange(len(rows)), [row for row, _, _ in bad])
            at_offs = offs[np.asarray(rows)[keep]]
            records = [records[i] for i in keep] if bad else records
            times = {name: array.take(pa.array(keep)) for name, array in times.items()}
            if kind == "item":
                found.items = build_items(self._item_columns(records, times), partition, at_offs)
                continue
            if append_ts is not None:
                times["append_ts"] = pa.array([append_ts[rows[i]] for i in keep], pa.int64())
            columns = self._interaction_columns(records, times, at_offs)
            found.interactions = build_interactions(columns, partition, at_offs)
        found.dead = sorted(dead, key=lambda letter: letter.off)
        return found

    def _times(
        self, kind: RecordKind, records: list[Any]
    ) -> tuple[dict[str, pa.Array], list[tuple[int, Reason, str]]]:
        """Return int64 ms per time field, and (row, reason, detail) of bad times."""
        times: dict[str, pa.Array] = {}
        bad: dict[int, tuple[int, Reason, str]] = {}
        config = self._config
        for field in fields_of(kind):
            if field.type != "time":
                continue
            values = [getattr(record, field.name) for record in records]
            times[field.name] = _times_to_ms(values, config.ts_unit, config.ts_format)
            given = np.array([value is not None for value in values])
            for row, reason in time_fault(times[field.name], given):
                key = self._key(field.name)
                detail = f"{time_detail(reason, values[row], config.ts_format)} - at `$.{key}`"
                bad.setdefault(row, (row, reason, detail))
        return times, list(bad.values())

    def _key(self, field: str) -> str:
        return self._config.columns.get(field, field)

    def _interaction_columns(
        self, records: list[Any], times: dict[str, pa.Array], offs: NDArray[np.int64]
    ) -> dict[str, pa.Array]:
        text = pa.string()
        kind = self._config.event_type
        seq = (
            pa.array(offs, pa.int64())
            if self._seq_is_row
            else pa.array([r.seq or 0 for r in records], pa.int64())
        )
        return {
            **times,
            "user_id": pa.array([r.user_id for r in records], text),
            "item_id": pa.array([r.item_id for r in records], text),
            "event_type": pa.array([r.event_type or kind for r in records], text),
            "seq": seq,
            "value": pa.array([1.0 if r.value is None else r.value for r in records], pa.float64()),
            "event_id": pa.array([r.event_id for r in records], text),
            "session_id": pa.array([r.session_id for r in records], text),
            "recommendation_id": pa.array([r.recommendation_id for r in records], text),
            "props": pa.array(
                [None if r.props is NOTHING else _raw_text(r.props) for r in records], text
            ),
        }

    def _item_columns(self, records: list[Any], times: dict[str, pa.Array]) -> dict[str, pa.Array]:
        texts = [
            " ".join(part for name in self._text_names if (part := getattr(r, name))) or None
            for r in records
        ]
        return {
            "item_id": pa.array([r.item_id for r in records], pa.string()),
            "text": pa.array(texts, pa.string()),
            "available": pa.array([r.available is not False for r in records], pa.bool_()),
            "ts": pc.coalesce(times["first_seen"], times["ts"]),
        }


class _Bad(NamedTuple):
    reason: Reason
    detail: str


def _kinds() -> tuple[RecordKind, ...]:
    return ("interaction", "item")


def _reason_of(message: str) -> Reason:
    for pattern, reason in _REASONS:
        if pattern.search(message):
            return reason
    return "bad_type"


def _raw_text(raw: msgspec.Raw) -> str | None:
    text = bytes(raw).decode()
    return None if text == "null" else text


def _times_to_ms(values: list[Any], unit: TimeUnit, text_format: str) -> pa.Array:
    try:
        # Arrow would cut fractions off silently.
        fractions = unit == "s" and any(type(value) is float for value in values)
        numbers = None if fractions else pa.array(values, pa.int64())
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        numbers = None
    if numbers is None:
        texts = pa.array([v if isinstance(v, str) else None for v in values], pa.string())
        numbers = pa.array(
            [None if v is None or isinstance(v, str) else number_to_ms(v, unit) for v in values],
            pa.int64(),
        )
        return pc.coalesce(numbers, texts_to_ms(texts, unit, text_format))
    if unit == "ms":
        return numbers
    scaled = numbers_to_ms(numpy_filled(numbers), unit)
    return pa.array(scaled, mask=numbers.is_null().to_numpy(zero_copy_only=False))
