"""Decoded records into columns: the half that JSON lines and every wire format share."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream.sources.fields import columns_of, fields_of, seq_is_row
from stream.sources.json_structs import NOTHING
from stream.sources.records import Records, build_interactions, build_items
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
    from stream.events import Originals, Reason

KINDS: tuple[RecordKind, ...] = ("interaction", "item")
DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_REASONS: tuple[tuple[re.Pattern[str], Reason], ...] = (
    (re.compile("missing required field|got `null`"), "missing_field"),
    (re.compile("of length >= 1"), "empty_field"),
    (re.compile("^Number out of range"), "non_finite"),
    (re.compile(r"^Expected `(int|float)` [<>]"), "out_of_range"),
)
_NO_TIME = "Object missing required field `ts`"


class Bad(NamedTuple):
    """Why a record is none: reason and one line of detail."""

    reason: Reason
    detail: str


def bad_of(error: Exception) -> Bad:
    """Return what an error of decoding says about the record."""
    if isinstance(error, msgspec.ValidationError):
        text = str(error)
        found = (reason for pattern, reason in _REASONS if pattern.search(text))
        return Bad(next(found, "bad_type"), text)
    if isinstance(error, RecursionError):
        return Bad("malformed", "nested too deeply")
    return Bad("malformed", str(error))


@dataclass(slots=True)
class Decoded:
    """A run of records, decoded: row numbers and structs by kind, and the bad rows."""

    rows: dict[RecordKind, list[int]] = field(default_factory=lambda: {k: [] for k in KINDS})
    records: dict[RecordKind, list[Any]] = field(default_factory=lambda: {k: [] for k in KINDS})
    bad: list[tuple[int, Bad]] = field(default_factory=list)

    def add(self, row: int, outcome: Bad | tuple[RecordKind, Any] | None) -> None:
        """Take one row's outcome: a bad record, kind and struct, or None for a blank one."""
        if isinstance(outcome, Bad):
            self.bad.append((row, outcome))
        elif outcome is not None:
            kind, record = outcome
            self.rows[kind].append(row)
            self.records[kind].append(record)


class RecordColumns:
    """Turns structs of `record_type` into the columns of a batch.

    Args:
        config: column map, defaults and time format.

    Raises:
        ConfigError: the column map is wrong.
    """

    def __init__(self, config: FileConfig) -> None:
        self._config = config
        self._seq_is_row = seq_is_row(config)
        texts = columns_of(config, "item")["text"]
        self._text_names = tuple(f"text_{i}" for i in range(len(texts)))

    def build(
        self,
        originals: Originals,
        decoded: Decoded,
        fallback_ts: Sequence[int | None] | None = None,
    ) -> Records:
        """Return the records at the originals' offsets.

        Args:
            originals: the records as the log holds them; their append times stand in `append_ts`.
            decoded: their rows; blank ones are in none of its lists.
            fallback_ts: ms since the epoch per row, for records without a time of their own.
        """
        offs, append_ts = originals.offs, originals.append_ts
        found = Records(int(offs[0]) if len(offs) else 0, int(offs[-1]) + 1 if len(offs) else 0)
        bad = list(decoded.bad)
        for kind in KINDS:
            rows, records = decoded.rows[kind], decoded.records[kind]
            if not rows:
                continue
            times, wrong = self._times(kind, rows, records, fallback_ts)
            bad += [(rows[at], why) for at, why in wrong.items()]
            keep = np.setdiff1d(np.arange(len(rows)), list(wrong))
            at_offs = offs[np.asarray(rows)[keep]]
            if wrong:
                records = [records[i] for i in keep]
                times = {name: array.take(pa.array(keep)) for name, array in times.items()}
            if kind == "item":
                columns = self._item_columns(records, times)
                found.items = build_items(columns, originals.partition, at_offs)
                continue
            if append_ts is not None:
                times["append_ts"] = pa.array([append_ts[rows[i]] for i in keep], pa.int64())
            columns = self._interaction_columns(records, times, at_offs)
            found.interactions = build_interactions(columns, originals.partition, at_offs)
        found.dead = [originals.letter(row, *why) for row, why in sorted(bad)]
        found.originals = originals
        return found

    def _times(
        self,
        kind: RecordKind,
        rows: list[int],
        records: list[Any],
        fallback_ts: Sequence[int | None] | None,
    ) -> tuple[dict[str, pa.Array], dict[int, Bad]]:
        """Return int64 ms per time field, and what is wrong with which of the records."""
        times: dict[str, pa.Array] = {}
        bad: dict[int, Bad] = {}
        config = self._config
        for known in fields_of(kind):
            if known.type != "time":
                continue
            values = [getattr(record, known.name) for record in records]
            array = _times_to_ms(values, config.ts_unit, config.ts_format)
            given = np.array([value is not None for value in values])
            for row, reason in time_fault(array, given):
                key = config.columns.get(known.name, known.name)
                detail = f"{time_detail(reason, values[row], config.ts_format)} - at `$.{key}`"
                bad.setdefault(row, Bad(reason, detail))
            if known.name == "ts" and not given.all():
                if fallback_ts is not None:
                    array = pc.coalesce(
                        array, pa.array([fallback_ts[row] for row in rows], pa.int64())
                    )
                if known.required:
                    for row in np.flatnonzero(array.is_null()).tolist():
                        bad.setdefault(row, Bad("missing_field", _NO_TIME))
            times[known.name] = array
        return times, bad

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
