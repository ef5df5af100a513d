"""How times are written: the unit of numbers, the format of texts."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from stream.clock import from_ms
from stream.sources.times import UNITS_PER_SECOND, numbers_to_ms, texts_to_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream.check.sample import Column
    from stream.config import TimeUnit

TimeForm = Literal["native", "numbers", "digits", "ISO 8601", "format", "unreadable"]

EARLIEST_S = 631_152_000  # 1990-01-01: no event log is older
LATEST_S = 4_102_444_800  # 2100-01-01
_FRACTION = re.compile(r"-?\d+\.\d+")
_WHOLE = re.compile(r"-?\d{1,19}")
_DATE_AS_NUMBER = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
# Formats that are not ISO 8601; of those that fit, the one whose times go back least often is taken.
_DAYS = ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%m/%d/%y")
_WORDS = ("%d %b %Y", "%b %d, %Y", "%m %d, %Y", "%d-%b-%Y")
_FORMATS = (
    *(f"{day} {clock}" for day in (*_DAYS, *_WORDS) for clock in ("%H:%M", "%H:%M:%S")),
    *_DAYS,
    *_WORDS,
    "%Y-%m-%d %H:%M:%S UTC",
    "%d/%b/%Y:%H:%M:%S %z",
    "%a %b %d %H:%M:%S %Y",
)
_UNIT_NAMES: dict[TimeUnit, str] = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeGuess:
    """How a column writes times.

    Attributes:
        form: "native" is a time type of the file, "digits" numbers as text.
        unit: of numbers; None where none makes dates of them, or there is nothing to guess.
        format: strptime format of texts, empty for ISO 8601 and numbers.
        evidence: why, in a few words.
        problem: what is wrong and what to do; empty if nothing is.
    """

    form: TimeForm
    unit: TimeUnit | None = None
    format: str = ""
    evidence: str = ""
    problem: str = ""


def unit_name(unit: TimeUnit) -> str:
    """Return a unit in words."""
    return _UNIT_NAMES[unit]


def looks_like_times(column: Column) -> bool:
    """Return whether most values of a column are times between 1990 and 2100."""
    guess = guess_time(column)
    return guess.form == "native" or guess.unit is not None or bool(guess.format or _is_iso(guess))


def guess_time(column: Column) -> TimeGuess:
    """Return how the column writes times, from its first values."""
    if not column.rows:
        return TimeGuess(form="unreadable", evidence="no records")
    if column.type == "time":
        return TimeGuess(form="native", evidence="a time type of the file")
    if column.type in {"whole", "number"}:
        return _of_numbers(column)
    if column.type == "text" and column.values:
        return _of_texts([str(value).strip() for value in column.values])
    return TimeGuess(form="unreadable", problem="no time in it; map another column to ts")


def _is_iso(guess: TimeGuess) -> bool:
    return guess.form == "ISO 8601"


def _of_numbers(column: Column) -> TimeGuess:
    guess = _unit_of([float(v) for v in column.values if isinstance(v, int | float)], "numbers")
    if column.type == "number" and guess.unit not in {None, "s"}:
        return TimeGuess(
            form="unreadable",
            evidence=guess.evidence,
            problem="numbers with a fraction are read as seconds only; write whole numbers",
        )
    return guess


def _of_texts(texts: Sequence[str]) -> TimeGuess:
    if _share([bool(_DATE_AS_NUMBER.fullmatch(text)) for text in texts]) > 0.5:
        return TimeGuess(
            form="format", format="%Y%m%d", evidence=f"dates of eight digits, {texts[0]!r}"
        )
    digits = [text for text in texts if _WHOLE.fullmatch(text)]
    if len(digits) > 0.5 * len(texts):
        return _unit_of([float(text) for text in digits], "digits")
    if _share([bool(_FRACTION.fullmatch(text)) for text in texts]) > 0.5:
        return TimeGuess(
            form="unreadable",
            problem=f"texts like {texts[0]!r} have a fraction; write whole numbers, or ISO 8601",
        )
    known = _read_share(texts, "")
    if known > 0.5:
        return TimeGuess(form="ISO 8601", evidence=f"texts like {texts[0]!r}")
    fitting = [(text_format, _read_share(texts, text_format)) for text_format in _FORMATS]
    best = max(share for _, share in fitting)
    if best <= 0.5:
        return TimeGuess(
            form="unreadable",
            problem=f"texts like {texts[0]!r} are in no known form; set log.ts_format, or write ISO 8601",
        )
    chosen = [text_format for text_format, share in fitting if share == best]
    chosen.sort(key=lambda text_format: _steps_back(texts, text_format))
    also = f"; {chosen[1]} reads them too, with more steps back in time" if chosen[1:] else ""
    return TimeGuess(form="format", format=chosen[0], evidence=f"texts like {texts[0]!r}{also}")


def _unit_of(numbers: Sequence[float], form: TimeForm) -> TimeGuess:
    """Return the unit that makes dates between 1990 and 2100 of most of the numbers."""
    size = np.abs(np.asarray(numbers, dtype=np.float64))
    counts: Counter[TimeUnit] = Counter()
    for unit, per_second in UNITS_PER_SECOND.items():
        fits = (size >= EARLIEST_S * per_second) & (size < LATEST_S * per_second)
        counts[unit] = int(fits.sum())
    unit, count = counts.most_common(1)[0]
    middle = f"{np.median(size):.0f}" if len(size) else "none"
    if count * 2 <= len(size):
        dates = [str(int(n)) for n in size[:1] if _DATE_AS_NUMBER.fullmatch(str(int(n)))]
        problem = (
            f"{dates[0]} is a date written as a number; write it as text, '{_dashed(dates[0])}'"
            if dates
            else f"numbers around {middle} are dates in no unit; map another column to ts"
        )
        return TimeGuess(form=form, evidence=f"numbers around {middle}", problem=problem)
    others = [other for other, n in counts.items() if other != unit and n > 0.001 * len(size)]
    date = f"{from_ms(round(float(np.median(size)) * 1_000 / UNITS_PER_SECOND[unit])):%Y}"
    problem = ""
    if others:
        mixed = " and ".join(_UNIT_NAMES[one] for one in (unit, *others))
        problem = f"{mixed} are mixed in one column; write all of them in one unit"
    return TimeGuess(
        form=form, unit=unit, evidence=f"numbers like {middle} are times in {date}", problem=problem
    )


def shown_as(column: Column, unit: TimeUnit) -> int:
    """Return the middle number of a column in milliseconds, read as `unit`."""
    numbers = sorted(int(float(value)) for value in column.values if _WHOLE.match(str(value)))
    middle = np.array([numbers[len(numbers) // 2]], dtype=np.int64)
    return int(numbers_to_ms(middle, unit)[0])


def _dashed(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def _read(texts: Sequence[str], text_format: str) -> pa.Array:
    return texts_to_ms(pa.array(texts, pa.string()), "ms", text_format)


def _read_share(texts: Sequence[str], text_format: str) -> float:
    unread: int = _read(texts, text_format).null_count
    return 1 - unread / len(texts)


def _steps_back(texts: Sequence[str], text_format: str) -> int:
    return int((np.diff(_read(texts, text_format).drop_null().to_numpy()) < 0).sum())
