"""Rows of Parquet and CSV files, checked a column at a time for the same faults as JSON lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream.errors import SourceError
from stream.sources.fields import columns_of, fields_of, seq_is_row
from stream.sources.records import Records, build_interactions, build_items, dead_letter, shown
from stream.sources.times import (
    numbers_to_ms,
    numpy_filled,
    texts_to_ms,
    time_detail,
    time_fault,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from stream.config import FileConfig
    from stream.events import DeadLetter, Partition, Reason
    from stream.sources.fields import Field, FieldType

_TYPE_NAMES: dict[FieldType, str] = {
    "id": "text or whole numbers",
    "name": "text",
    "text": "text or whole numbers",
    "json": "text",
    "time": "a time, whole numbers or text",
    "int": "whole numbers or text",
    "float": "numbers or text",
    "bool": "booleans or text",
}
_TRUE = pa.array(["true", "True", "TRUE", "1", "yes"])
_FALSE = pa.array(["false", "False", "FALSE", "0", "no"])


def check_column_types(types: Mapping[str, pa.DataType], config: FileConfig, where: str) -> None:
    """Refuse a file whose columns are missing or of a type no row of which could be read.

    Args:
        types: the file's columns.
        config: column map, kind and time unit.
        where: the file, for messages.

    Raises:
        SourceError: naming the column and the remedy.
    """
    wanted = columns_of(config, config.kind)
    for field in fields_of(config.kind):
        for column in wanted.get(field.name, ()):
            if column in types:
                _check_type(field, column, types[column], config, where)
            elif field.required or field.name in config.columns:
                raise SourceError(
                    f"{where}: no column {column!r} for {field.name}; it has "
                    f"{', '.join(types) or 'none'}: map it with {field.name}=COLUMN"
                )


def _check_type(
    field: Field, column: str, dtype: pa.DataType, config: FileConfig, where: str
) -> None:
    """Raise SourceError unless `dtype` can hold values of the field."""
    t = pa.types
    dtype = dtype.value_type if t.is_dictionary(dtype) else dtype
    text = t.is_string(dtype) or t.is_large_string(dtype) or t.is_string_view(dtype)
    whole = t.is_integer(dtype)
    number = whole or t.is_floating(dtype) or t.is_decimal(dtype)
    fits = {
        "id": whole,
        "text": whole,
        "time": whole
        or t.is_timestamp(dtype)
        or t.is_date(dtype)
        or (t.is_floating(dtype) and config.ts_unit == "s"),
        "int": number,
        "float": number,
        "bool": t.is_boolean(dtype) or whole,
    }
    if text or t.is_null(dtype) or fits.get(field.type, False):
        return
    raise SourceError(
        f"{where}: column {column!r} for {field.name} is {dtype}, not "
        f"{_TYPE_NAMES[field.type]}; convert it, or map another column"
    )


class ColumnChecker:
    """Turns a file's columns into canonical ones and dead letters.

    Args:
        config: column map, kind, defaults and time format.
        partition: where the rows are from.
    """

    def __init__(self, config: FileConfig, partition: Partition) -> None:
        self._config = config
        self._partition = partition
        self._columns = columns_of(config, config.kind)
        self._seq_is_row = seq_is_row(config)

    def check(
        self,
        columns: Mapping[str, pa.Array],
        offs: NDArray[np.int64],
        raw: Callable[[int], bytes],
    ) -> Records:
        """Return the rows at `offs`, int64[n], as records.

        Args:
            columns: the file's columns, n values each; absent ones take their defaults.
            offs: offset per row, ascending.
            raw: the bytes of a row as they stand in the file.
        """
        work = _Check(self._partition, offs, raw)
        found: dict[str, pa.Array] = {}
        for field in fields_of(self._config.kind):
            names = [name for name in self._columns.get(field.name, ()) if name in columns]
            if names:
                found[field.name] = self._field(field, names, columns, work)
        keep = ~work.bad
        if not keep.all():
            mask = pa.array(keep)
            found = {name: column.filter(mask) for name, column in found.items()}
        return self._records(found, offs, offs[keep], work.dead())

    def _field(
        self, field: Field, names: list[str], columns: Mapping[str, pa.Array], work: _Check
    ) -> pa.Array:
        """Return one canonical column, its faults noted in `work`."""
        if len(names) > 1:
            return _joined([_plain_text(columns[name]) for name in names])
        array = columns[names[0]]
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        given = array.is_valid().to_numpy(zero_copy_only=False)
        if field.required:
            work.reject(~given, "missing_field", f"Object missing required field `{names[0]}`")
        place = f" - at `$.{names[0]}`"
        if field.type == "time":
            times = _times(array, self._config)
            for row, reason in time_fault(times, given):
                detail = time_detail(reason, shown(array[row]), self._config.ts_format)
                work.reject_row(row, reason, detail + place)
            return times
        values = _converted(array, field.type)
        unread = given & values.is_null().to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(unread).tolist():
            got = str(shown(array[row]))[:60]
            work.reject_row(row, "bad_type", f"Expected `{field.type}`, got {got!r}{place}")
        if field.type in {"id", "name"}:
            empty = pc.equal(values, "").fill_null(fill_value=False).to_numpy(zero_copy_only=False)
            work.reject(empty, "empty_field", f"Expected `str` of length >= 1{place}")
        if field.type == "float":
            wild = pc.is_finite(values).fill_null(fill_value=True).to_numpy(zero_copy_only=False)
            work.reject(~wild, "non_finite", f"Number out of range{place}")
        return values

    def _records(
        self,
        found: dict[str, pa.Array],
        offs: NDArray[np.int64],
        kept: NDArray[np.int64],
        dead: list[DeadLetter],
    ) -> Records:
        first, after = (int(offs[0]), int(offs[-1]) + 1) if len(offs) else (0, 0)
        result = Records(first, after, dead=dead)
        if self._config.kind == "item":
            available = found.get("available", pa.nulls(len(kept), pa.bool_()))
            first_seen = found.get("first_seen", pa.nulls(len(kept), pa.int64()))
            columns = {
                "item_id": found["item_id"],
                "text": found.get("text"),
                "available": available.fill_null(fill_value=True),
                "ts": pc.coalesce(first_seen, found.get("ts", first_seen)),
            }
            result.items = build_items(columns, self._partition, kept)
            return result
        defaults = {"event_type": self._config.event_type, "seq": 0, "value": 1.0}
        types = {"event_type": pa.string(), "seq": pa.int64(), "value": pa.float64()}
        for name, default in defaults.items():
            found[name] = found.get(name, pa.nulls(len(kept), types[name])).fill_null(default)
        if self._seq_is_row:
            found["seq"] = pa.array(kept, pa.int64())
        result.interactions = build_interactions(found, self._partition, kept)
        return result


class _Check:
    """Collects what is wrong with a chunk's rows: the first fault of a row counts."""

    def __init__(
        self, partition: Partition, offs: NDArray[np.int64], raw: Callable[[int], bytes]
    ) -> None:
        self.bad = np.zeros(len(offs), dtype=bool)
        self._partition = partition
        self._offs = offs
        self._raw = raw
        self._dead: list[DeadLetter] = []

    def reject(self, rows: NDArray[np.bool_], reason: Reason, detail: str) -> None:
        for row in np.flatnonzero(rows):
            self.reject_row(int(row), reason, detail)

    def reject_row(self, row: int, reason: Reason, detail: str) -> None:
        if not self.bad[row]:
            self.bad[row] = True
            off = int(self._offs[row])
            self._dead.append(dead_letter(self._partition, off, reason, detail, self._raw(row)))

    def dead(self) -> list[DeadLetter]:
        return sorted(self._dead, key=lambda letter: letter.off)


def _times(array: pa.Array, config: FileConfig) -> pa.Array:
    """Return int64 ms, null where a value is no time."""
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), pa.int64())
    if pa.types.is_date(array.type):
        return _cast_each(array, pa.timestamp("ms")).cast(pa.int64())
    if pa.types.is_timestamp(array.type):
        stamp = pa.timestamp("ms", array.type.tz)
        if array.type.unit == "s":
            return _cast_each(array, stamp).cast(pa.int64())
        return array.cast(stamp, safe=False).cast(pa.int64())  # cuts to whole milliseconds
    if pa.types.is_floating(array.type):
        seconds = array.fill_null(np.nan).to_numpy(zero_copy_only=False)
        ms = np.rint(seconds * 1_000)
        fits = np.abs(ms) < 2**62
        return pa.array(np.where(fits, ms, 0).astype(np.int64), mask=~fits)
    if pa.types.is_integer(array.type):
        numbers = _cast_each(array, pa.int64())
        scaled = numbers_to_ms(numpy_filled(numbers), config.ts_unit)
        return pa.array(scaled, mask=numbers.is_null().to_numpy(zero_copy_only=False))
    return texts_to_ms(_plain_text(array), config.ts_unit, config.ts_format)


def _converted(array: pa.Array, kind: FieldType) -> pa.Array:
    """Return `array` as the field's own type, null where a value does not fit it."""
    if kind in {"id", "name", "text", "json"}:
        return _plain_text(array)
    if kind == "bool":
        if pa.types.is_boolean(array.type):
            return array
        texts = _plain_text(array)
        known = pc.or_kleene(pc.is_in(texts, _TRUE), pc.is_in(texts, _FALSE))
        return pc.if_else(known, pc.is_in(texts, _TRUE), pa.scalar(None, pa.bool_()))
    return _cast_each(array, pa.int64() if kind == "int" else pa.float64())


def _plain_text(array: pa.Array) -> pa.Array:
    """Return an array of `string`, made from integers where it holds those."""
    return array if pa.types.is_string(array.type) else array.cast(pa.string())


def _joined(texts: list[pa.Array]) -> pa.Array:
    """Return the texts of each row joined by blanks, nulls and empty ones left out."""
    # Not binary_join_element_wise(null_handling="skip"): in pyarrow 26 it loses all-null rows.
    rows = zip(*(text.to_pylist() for text in texts), strict=True)
    return pa.array([" ".join(filter(None, row)) or None for row in rows], pa.string())


def _cast_each(array: pa.Array, dtype: pa.DataType) -> pa.Array:
    """Return `array` cast, null where a value can not be: halves until the bad ones are alone."""
    try:
        return array.cast(dtype)
    except pa.ArrowInvalid:
        if len(array) == 1:
            return pa.nulls(1, dtype)
    middle = len(array) // 2
    halves: list[Any] = [_cast_each(array[:middle], dtype), _cast_each(array[middle:], dtype)]
    return pa.concat_arrays(halves)
