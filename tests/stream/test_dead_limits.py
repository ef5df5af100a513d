from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.config import StreamConfig
from stream.dead_limits import DeadLimits, admit, short_log_excess
from stream.events import EventBatch, Partition, concat_batches
from stream.sources.memory import MemorySource

A, B = Partition("clicks", 0), Partition("clicks", 1)


def limits(**changes: Any) -> DeadLimits:
    return DeadLimits(StreamConfig(**changes))


def counted(found: DeadLimits, text: str) -> int | None:
    """Count records written as text: x is a bad one."""
    return found.count(np.array([char == "x" for char in text], dtype=bool))


def first_passed(flags: list[bool], window: int, share: float, run: int) -> int | None:
    """The rule, record by record."""
    streak = 0
    for at, bad in enumerate(flags):
        streak = streak + 1 if bad else 0
        if sum(flags[max(0, at + 1 - window) : at + 1]) > share * window or streak >= run:
            return at + 1
    return None


@given(
    st.lists(st.booleans(), max_size=60),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    st.integers(1, 6),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_the_limit_is_passed_at_one_record_however_the_log_is_cut(
    flags: list[bool], window: int, share: float, run: int, cuts: list[int]
) -> None:
    found = limits(dead_window=window, max_dead_share=share, max_dead_run=run)
    wanted = first_passed(flags, window, share, run)
    before, passed = 0, None
    for piece in np.split(np.array(flags, dtype=bool), sorted(cuts)):
        at = found.count(piece)
        if at is not None:
            passed = before + at
            break
        before += len(piece)
    assert passed == wanted
    assert found.records == (len(flags) if wanted is None else wanted)
    assert found.dead == sum(flags[: found.records])


def test_the_defaults_are_a_fifth_of_ten_thousand_and_a_thousand_in_a_row() -> None:
    found = limits()
    assert counted(found, "x" * 999 + "." + "x" * 999 + "." + "x" * 2) is None
    assert (found.dead, found.records) == (2000, 2002)
    assert counted(found, "..x..") == 3
    assert counted(limits(), "x" * 1200) == 1000


def test_records_leave_the_window() -> None:
    found = limits(dead_window=5, max_dead_share=0.4)
    assert counted(found, "xx...x.x") is None
    assert counted(found, "x") == 1


def test_a_share_of_one_and_a_long_run_let_everything_pass() -> None:
    assert counted(limits(dead_window=3, max_dead_share=1.0, max_dead_run=10**9), "x" * 100) is None


def test_a_log_shorter_than_the_window_is_judged_as_a_whole() -> None:
    found = limits(min_dead_records=3)
    counted(found, "xx..")
    assert short_log_excess(found) is None
    counted(found, "x")
    assert "3 of 5 records of the log are bad" in str(short_log_excess(found))
    counted(found, "." * 10)
    assert short_log_excess(found) is None


def polled(*records: tuple[Partition, str]) -> EventBatch:
    """One batch of records: x bad, i an item, anything else an interaction."""
    source = MemorySource(ended=True)
    shapes = {"x": b"{", "i": b'{"kind":"item","item_id":"i"}', " ": b""}
    good = b'{"user_id":"u","item_id":"i","ts":1}'
    log = [(part, shapes.get(char, good)) for part, text in records for char in text]
    source = MemorySource(log, ended=True)
    return concat_batches([source.poll(10_000)], exhausted=True)


def test_a_batch_is_cut_after_the_record_that_passed_the_limit() -> None:
    batch = polled((A, "..xix.xx..i"), (B, "...i"))
    found = admit(limits(max_dead_run=2), batch, batch.interactions, batch.dead)
    assert found.batch.ranges == {A: (0, 8)}
    assert found.rows["off"].to_pylist() == found.batch.interactions["off"].to_pylist() == [0, 1, 5]
    assert found.batch.items["off"].to_pylist() == [3]
    assert [letter.off for letter in found.dead] == [2, 4, 6, 7]
    assert not found.batch.exhausted
    assert found.excess is not None
    assert (found.excess.dead, found.excess.records) == (4, 8)
    message = str(found.excess)
    assert message.startswith("2 records in a row are bad, up to clicks[0]@7 (malformed: ")
    assert "freshet dlq list" in message
    assert "\n" not in message


def test_the_share_is_named_where_it_was_passed() -> None:
    batch = polled((A, "x.x.x."))
    found = admit(limits(dead_window=6, max_dead_share=0.4), batch, batch.interactions, batch.dead)
    assert str(found.excess).startswith("3 of the last 5 records are bad, up to clicks[0]@4 (")


def test_a_batch_within_the_limits_is_stored_whole() -> None:
    batch = polled((A, "..x"), (B, " .i"))
    found = admit(limits(), batch, batch.interactions, batch.dead)
    assert found.batch is batch
    assert found.excess is None


@pytest.mark.parametrize("name", ["dead_window", "max_dead_run", "min_dead_records"])
def test_limits_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        StreamConfig(**{name: 0})  # type: ignore[arg-type]
