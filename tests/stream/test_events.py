from __future__ import annotations

import pytest

from stream.events import (
    INTERACTION_SCHEMA,
    DeadLetter,
    EventBatch,
    Partition,
    concat_batches,
    empty_batch,
    interactions_table,
)

A, B = Partition("a", 0), Partition("a", 1)


def batch(partition: Partition, first: int, after: int) -> EventBatch:
    rows = interactions_table(
        {
            "user_id": "u",
            "item_id": "i",
            "event_type": "view",
            "ts": off,
            "seq": 0,
            "value": 1.0,
            "topic": partition.topic,
            "part": partition.part,
            "off": off,
        }
        for off in range(first, after - 1)
    )
    dead = [DeadLetter(*partition, after - 1, "malformed", "not JSON", b"{")]
    return EventBatch(
        interactions=rows,
        items=empty_batch(exhausted=False).items,
        dead=dead,
        ranges={partition: (first, after)},
    )


def test_a_batch_knows_what_it_covers() -> None:
    found = batch(A, 3, 7)
    assert found.records == 4
    assert found.next_offsets == {A: 7}
    assert found.interactions.schema.equals(INTERACTION_SCHEMA)


def test_batches_join_when_their_ranges_touch() -> None:
    joined = concat_batches([batch(A, 0, 4), batch(B, 5, 6), batch(A, 4, 6)], exhausted=True)
    assert joined.ranges == {A: (0, 6), B: (5, 6)}
    assert joined.interactions["off"].to_pylist() == [0, 1, 2, 4]
    assert [letter.off for letter in joined.dead] == [3, 5, 5]
    assert joined.exhausted


@pytest.mark.parametrize("first", [3, 5])
def test_a_hole_or_an_overlap_is_refused(first: int) -> None:
    with pytest.raises(ValueError, match="does not follow 4"):
        concat_batches([batch(A, 0, 4), batch(A, first, 8)], exhausted=False)


def test_no_batches_are_an_empty_one() -> None:
    joined = concat_batches([], exhausted=False)
    assert joined.records == len(joined.interactions) == 0
    assert not joined.exhausted


def test_a_partition_is_shown_as_topic_and_number() -> None:
    assert str(Partition("clicks", 3)) == "clicks[3]"
