"""Where a batch is cut: every record lands in one part, and rows never share a part with item records."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.cuts import cut, rows_before_item, rows_until
from stream.events import DeadLetter, EventBatch, Partition
from stream.sources.memory import MemorySource
from tests.stream.support import START_MS, TOPIC, encode, event

kinds = st.lists(
    st.tuples(st.sampled_from(["event", "event", "item", "bad"]), st.integers(0, 1)), max_size=14
)


def batch_of(records: list[tuple[str, int]]) -> EventBatch:
    source = MemorySource()
    for number, (kind, part) in enumerate(records):
        raw = {
            "event": encode(event("u", f"i{number}", START_MS + number)),
            "item": b'{"kind":"item","item_id":"i%d"}' % number,
            "bad": b"{",
        }[kind]
        source.append(Partition(TOPIC, part), raw)
    source.end()
    return source.poll(100)


def offsets(batch: EventBatch) -> dict[Partition, list[int]]:
    """Offsets of everything in a batch, in order."""
    found: dict[Partition, list[int]] = {partition: [] for partition in batch.ranges}
    for table in (batch.interactions, batch.items):
        for row in table.select(["topic", "part", "off"]).to_pylist():
            found[Partition(row["topic"], row["part"])].append(row["off"])
    for letter in batch.dead:
        found[Partition(letter.topic, letter.part)].append(letter.off)
    return {partition: sorted(offs) for partition, offs in found.items()}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(kinds, st.integers(0, 14))
def test_a_cut_loses_and_repeats_nothing(records: list[tuple[str, int]], at: int) -> None:
    batch = batch_of(records)
    parts, rest = [], batch
    wanted = min(at, rows_before_item(batch))
    head, rest = cut(batch, wanted)
    parts = [head, rest]
    assert head.interactions.num_rows == wanted
    assert rest.exhausted == batch.exhausted
    assert not head.exhausted
    for partition, (first, after) in batch.ranges.items():
        covered = [part.ranges[partition] for part in parts if partition in part.ranges]
        assert covered[0][0] == first
        assert covered[-1][1] == after
        assert all(a[1] == b[0] for a, b in pairwise(covered))
    for part in parts:
        for partition, offs in offsets(part).items():
            assert offs == list(range(*part.ranges[partition]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(kinds)
def test_rows_before_an_item_record_of_their_partition_are_cut_off_from_it(
    records: list[tuple[str, int]],
) -> None:
    """Taking parts until nothing is left: each holds rows or item records, and it always ends."""
    rest = batch_of(records)
    for _ in range(len(records) + 1):
        wanted = rows_before_item(rest)
        if not rest.items.num_rows or not rest.interactions.num_rows:
            return
        head, rest = cut(rest, wanted)
        assert head.ranges
        assert not (head.items.num_rows and head.interactions.num_rows)
    raise AssertionError("still rows and item records together")


def test_the_row_that_reaches_a_threshold_is_the_last_before_it_applies() -> None:
    ts = np.array([1, 5, 3, 9], np.int64)
    assert [rows_until(ts, at) for at in (0, 1, 2, 5, 6, 10)] == [1, 1, 2, 2, 4, 4]
    assert rows_until(ts[:0], 3) == 0


def test_a_dead_letter_after_the_cut_goes_with_the_rest() -> None:
    head, rest = cut(batch_of([("event", 0), ("bad", 0), ("event", 0)]), 1)
    assert head.dead == []
    assert [letter.off for letter in rest.dead] == [1]
    assert isinstance(rest.dead[0], DeadLetter)
