"""Event times in whatever form a file has them, as int64 milliseconds since the epoch, UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream.clock import to_ms
from stream.events import MAX_TS_MS, MIN_TS_MS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stream.config import TimeUnit
    from stream.events import Reason

UNITS_PER_SECOND: dict[TimeUnit, int] = {
    "s": 1,
    "ms": 1_000,
    "us": 1_000_000,
    "ns": 1_000_000_000,
}
# Whole numbers that fit into 64 bits whatever their digits are: nanoseconds up to 2199 among them.
_NUMBER = re.compile(r"-?(\d{1,18}|[1-8]\d{18})")
_NUMBERS = r"^-?(\d{1,18}|[1-8]\d{18})$"
# The one shape Arrow and `datetime.fromisoformat` read alike; everything else goes value by value,
# so that what a text means never depends on its neighbors in a chunk.
_PLAIN_ISO = r"^\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}:\d{2}(\.\d{1,6})?$"


def numbers_to_ms(values: NDArray[np.int64], unit: TimeUnit) -> NDArray[np.int64]:
    """Return times given as integers of `unit` in milliseconds; far out-of-range ones saturate."""
    if unit == "ms":
        return values
    if unit == "s":
        return np.asarray(np.clip(values, -MAX_TS_MS, MAX_TS_MS) * 1_000, dtype=np.int64)
    return np.asarray(values // (UNITS_PER_SECOND[unit] // 1_000), dtype=np.int64)


def number_to_ms(value: float, unit: TimeUnit) -> int:
    """Return one numeric time of `unit` in milliseconds: fractions of a ms are rounded."""
    if isinstance(value, int):
        return value * 1_000 // UNITS_PER_SECOND[unit]
    return round(value * 1_000 / UNITS_PER_SECOND[unit])


def texts_to_ms(texts: pa.Array, unit: TimeUnit, text_format: str) -> pa.Array:
    """Return int64 milliseconds per text, null where a text is no time (or is null).

    Texts follow `text_format`; if that is empty, digits alone are a number of `unit` and everything
    else is ISO 8601. Without a zone a time is UTC.
    """
    if text_format:
        stamps = pc.strptime(texts, format=text_format, unit="us", error_is_null=True)
        return stamps.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    if _all_match(texts, _NUMBERS):
        numbers = texts.cast(pa.int64())
        filled = numpy_filled(numbers)
        return pa.array(
            numbers_to_ms(filled, unit), mask=numbers.is_null().to_numpy(zero_copy_only=False)
        )
    if _all_match(texts, _PLAIN_ISO):
        try:
            stamps = texts.cast(pa.timestamp("us"))
        except pa.ArrowInvalid:
            pass
        else:
            return stamps.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    return pa.array([text_to_ms(text, unit) for text in texts.to_pylist()], pa.int64())


def numpy_filled(numbers: pa.Array) -> NDArray[np.int64]:
    """Return an int64 array's values with 0 in place of nulls."""
    return np.asarray(numbers.fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)


def _all_match(texts: pa.Array, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(texts, pattern), min_count=0).as_py() is not False


def text_to_ms(text: str | None, unit: TimeUnit) -> int | None:
    """Return one textual time, digits of `unit` or ISO 8601, in milliseconds; None if it is no time."""
    if text is None:
        return None
    if _NUMBER.fullmatch(text):
        return number_to_ms(int(text), unit)
    try:
        at = datetime.fromisoformat(text)
        return to_ms(at if at.tzinfo else at.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None


def time_fault(times: pa.Array, given: NDArray[np.bool_]) -> list[tuple[int, Reason]]:
    """Return (row, reason) of every time that was given but is not one, or is out of range.

    Args:
        times: int64 ms, null where nothing could be read.
        given: bool[n], whether the record had a value there.
    """
    unread = given & times.is_null().to_numpy(zero_copy_only=False)
    ms = numpy_filled(times)
    wild = given & ~unread & ((ms < MIN_TS_MS) | (ms >= MAX_TS_MS))
    faults: list[tuple[int, Reason]] = [(int(row), "bad_type") for row in np.flatnonzero(unread)]
    faults += [(int(row), "out_of_range") for row in np.flatnonzero(wild)]
    return faults


def time_detail(reason: Reason, value: object, text_format: str) -> str:
    """Return one line on a bad time, without the place."""
    if reason == "out_of_range":
        return f"time {str(value)[:60]!r} is outside 1970..2199"
    wanted = f"a time like {text_format!r}" if text_format else "a time (ISO 8601 or a number)"
    return f"Expected {wanted}, got {str(value)[:60]!r}"
