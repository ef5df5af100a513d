from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.slates import (
    Cause,
    Coverage,
    ScoredItem,
    Slate,
    SlateLines,
    decode_slate,
    encode_slate,
    recommendation_id,
    request_id,
)
from tests.strategies import ids, times_ms


@st.composite
def slates(draw: st.DrawFn) -> Slate:
    cause = draw(
        st.none()
        | st.builds(Cause, topic=ids, partition=st.integers(0, 9), offset=times_ms, ts=times_ms)
    )
    score = st.floats(allow_nan=False, allow_infinity=False)
    items = draw(st.lists(st.builds(ScoredItem, item_id=ids, score=score), max_size=4))
    return Slate(
        id=draw(ids),
        user_id=draw(ids),
        at_ms=draw(times_ms),
        cause=cause,
        items=tuple(items),
        model_version=draw(st.sampled_from(["", "0123456789abcdef"])),
        coverage=Coverage(groups=draw(st.integers(0, 99)), recents=draw(st.integers(0, 99))),
        reason=draw(st.sampled_from(["personal", "recent_only", "cold_user"])),
        readout=draw(st.sampled_from(["visit", "line", "popular"])),
        popularity_cut_ms=draw(st.none() | times_ms),
    )


@given(slates())
def test_a_slate_is_one_line_and_comes_back_the_same(slate: Slate) -> None:
    line = encode_slate(slate)
    assert b"\n" not in line
    assert decode_slate(line) == slate


@given(st.lists(st.lists(slates(), max_size=3), max_size=4))
def test_lines_are_the_slates_in_their_order_however_they_were_added(
    batches: list[list[Slate]],
) -> None:
    found = SlateLines()
    for batch in batches:
        found.add(batch)
    every = [slate for batch in batches for slate in batch]
    assert list(found.lines()) == [encode_slate(slate) for slate in every]
    assert b"".join(found.parts) == b"".join(encode_slate(slate) + b"\n" for slate in every)
    assert found.users == [slate.user_id for slate in every]
    assert len(found) == len(every)


@pytest.mark.parametrize("line", [b"{", b"{}", b'{"id":5}'])
def test_what_is_no_slate_is_refused(line: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_slate(line)


def test_the_id_of_a_position_never_changes() -> None:
    assert recommendation_id("clicks", 3, 1042) == recommendation_id("clicks", 3, 1042)
    assert recommendation_id("clicks", 3, 1042) == "6cbd94af-99de-59b0-ae01-840db1e7e31d"


@given(st.tuples(ids, st.integers(0, 99), times_ms), st.tuples(ids, st.integers(0, 99), times_ms))
def test_two_positions_have_two_ids(
    first: tuple[str, int, int], second: tuple[str, int, int]
) -> None:
    assert (recommendation_id(*first) == recommendation_id(*second)) == (first == second)


def test_requests_have_ids_of_their_own() -> None:
    assert request_id("u", 5) == request_id("u", 5)
    assert len({request_id("u", 5), request_id("u", 6), request_id("v", 5)}) == 3
