from __future__ import annotations

import pytest

from stream.check.sample import Column
from stream.check.times import guess_time, looks_like_times, shown_as

SECONDS = 1_700_000_000


def whole(*values: int) -> Column:
    return Column("t", "whole", list(values), len(values))


def text(*values: str) -> Column:
    return Column("t", "text", list(values), len(values))


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_the_unit_is_the_one_that_makes_dates(unit: str, scale: int) -> None:
    numbers = whole(*(SECONDS * scale + i for i in range(10)))
    assert (guess_time(numbers).form, guess_time(numbers).unit) == ("numbers", unit)
    digits = text(*(str(SECONDS * scale + i) for i in range(10)))
    assert (guess_time(digits).form, guess_time(digits).unit) == ("digits", unit)
    assert not guess_time(numbers).problem


def test_a_few_zeros_do_not_change_the_unit() -> None:
    guess = guess_time(whole(*([SECONDS] * 999), 0))
    assert (guess.unit, guess.problem) == ("s", "")


def test_units_mixed_in_a_column_are_a_problem() -> None:
    guess = guess_time(whole(*([SECONDS * 1_000] * 60), *([SECONDS] * 40)))
    assert guess.unit == "ms"
    assert "milliseconds and seconds are mixed" in guess.problem


def test_numbers_that_are_dates_in_no_unit_are_a_problem() -> None:
    guess = guess_time(whole(*range(1_000)))
    assert guess.unit is None
    assert "dates in no unit" in guess.problem
    assert not looks_like_times(whole(*range(1_000)))


def test_a_date_written_as_a_number_is_named() -> None:
    assert "'2023-11-14'" in guess_time(whole(20231114, 20231115)).problem
    assert guess_time(text("20231114", "20231115")).format == "%Y%m%d"


def test_fractions_are_read_as_seconds_only() -> None:
    seconds = Column("t", "number", [SECONDS + 0.5], 1)
    assert guess_time(seconds).unit == "s"
    assert "whole numbers" in guess_time(Column("t", "number", [SECONDS * 1e3 + 0.5], 1)).problem


@pytest.mark.parametrize("value", ["2023-11-14", "2023-11-14 08:26", "2023-11-14T08:26:00.5Z"])
def test_iso_texts_need_no_format(value: str) -> None:
    assert (guess_time(text(value)).form, guess_time(text(value)).format) == ("ISO 8601", "")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("12/1/2010 8:26", "12/13/2010 9:00"), "%m/%d/%Y %H:%M"),
        (("1.12.2010 08:26", "13.12.2010 09:00"), "%d.%m.%Y %H:%M"),
        (("2019-10-01 00:00:00 UTC",), "%Y-%m-%d %H:%M:%S UTC"),
        (("13/12/2010", "14/12/2010"), "%d/%m/%Y"),
    ],
)
def test_other_texts_get_a_format(values: tuple[str, ...], expected: str) -> None:
    assert guess_time(text(*values)).format == expected


def test_between_day_and_month_first_the_one_that_goes_back_less_is_taken() -> None:
    # 1, 2, 3 February read month first are the 2nd of January, February, March.
    assert guess_time(text("01/02/2010", "02/02/2010", "03/02/2010", "01/03/2010")).format == (
        "%d/%m/%Y"
    )
    assert guess_time(text("02/01/2010", "02/02/2010", "02/03/2010", "03/01/2010")).format == (
        "%m/%d/%Y"
    )


def test_texts_in_no_known_form_are_a_problem() -> None:
    assert "log.ts_format" in guess_time(text("soon", "later")).problem


def test_texts_with_a_fraction_are_a_problem() -> None:
    assert "whole numbers" in guess_time(text("1700000000.5")).problem


def test_without_records_there_is_nothing_to_guess() -> None:
    assert not guess_time(Column("t", "whole", [], 0)).problem


def test_a_time_type_of_the_file_needs_nothing() -> None:
    assert guess_time(Column("t", "time", [], 1)).form == "native"


def test_a_number_is_shown_as_the_unit_would_have_it() -> None:
    assert shown_as(whole(SECONDS), "ms") == SECONDS
    assert shown_as(whole(SECONDS), "s") == SECONDS * 1_000
