"""What every source promises: one function per invariant, so that each can be seen to fail.

A check takes a `Case` and raises AssertionError when its invariant is broken. `SourceContract` runs
all of them: subclass it and give it a `case` fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stream.errors import GapError
from stream.events import INTERACTION_SCHEMA, ITEM_SCHEMA, EventBatch, Partition

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream.sources import Source
    from tests.contracts.source_logs import Case

    Found = tuple[Partition, int, str]

_POLL_SIZES = (1, 3, 10_000)


def limit(case: Case) -> int:
    """Return a number of polls that reads any log twice, so that a broken source cannot hang us."""
    return 2 * sum(map(len, case.log.values())) + 10


def read_all(source: Source, *, polls: int, size: int = 16) -> list[EventBatch]:
    """Poll until the source is exhausted, or `polls` times."""
    batches = []
    for _ in range(polls):
        batches.append(source.poll(size))
        if batches[-1].exhausted:
            return batches
    return batches


def found(batches: list[EventBatch]) -> list[Found]:
    """Return (partition, offset, event_id or "dead") in delivery order, dead letters of a batch last."""
    rows: list[Found] = []
    for batch in batches:
        table = batch.interactions.select(["topic", "part", "off", "event_id"]).to_pylist()
        rows += [(Partition(r["topic"], r["part"]), r["off"], r["event_id"]) for r in table]
        rows += [(Partition(d.topic, d.part), d.off, "dead") for d in batch.dead]
    return rows


def delivered(case: Case, batches: list[EventBatch]) -> list[Found]:
    """Return the interactions in the order that the case promises: of delivery, or per partition."""
    rows = [row for row in found(batches) if row[2] != "dead"]
    return rows if case.one_order else sorted(rows, key=lambda row: row[0])


def wanted(case: Case, after: dict[Partition, int] | None = None) -> set[Found]:
    """Return what must be found from the positions on."""
    after = after or {}
    return {
        (partition, off, what)
        for partition, log in case.log.items()
        for off, what in enumerate(log)
        if what is not None and off >= after.get(partition, 0)
    }


def drained(case: Case, *, size: int = 16) -> list[EventBatch]:
    """Return all batches of a fresh source; reading has to come to an end."""
    batches = read_all(case.open(), size=size, polls=limit(case))
    assert batches[-1].exhausted, "the source never says that it is exhausted"
    return batches


def no_record_is_lost(case: Case) -> None:
    """Every record of the log arrives as an interaction or a dead letter."""
    missing = wanted(case) - set(found(drained(case)))
    assert not missing, f"lost: {sorted(missing)[:3]}"


def no_record_is_repeated(case: Case) -> None:
    """No position is delivered twice."""
    positions = [(partition, off) for partition, off, _ in found(drained(case))]
    assert len(positions) == len(set(positions)), "a position was delivered twice"


def every_record_stands_at_its_position(case: Case) -> None:
    """What is delivered for a position is what the log holds there."""
    wrong = set(found(drained(case))) - wanted(case)
    assert not wrong, f"not in the log like this: {sorted(wrong)[:3]}"


def order_within_a_partition_is_kept(case: Case) -> None:
    """Offsets of a partition only grow, within a batch and from batch to batch."""
    last: dict[Partition, int] = {}
    for batch in drained(case):
        rows = [row for row in found([batch]) if row[2] != "dead"]
        for partition, off, _ in rows:
            assert off > last.get(partition, -1), f"{partition}: {off} after {last[partition]}"
            last[partition] = off


def delivery_order_does_not_depend_on_the_batch_size(case: Case) -> None:
    """The interactions of a log come in one order, however they are polled."""
    orders = [delivered(case, drained(case, size=size)) for size in _POLL_SIZES]
    assert all(order == orders[0] for order in orders), "the order depends on the batch size"


def ranges_touch(case: Case) -> None:
    """Each range begins where the partition's last one ended, the first at the start of the log."""
    ends: dict[Partition, int] = {}
    for batch in drained(case):
        for partition, (first, after) in batch.ranges.items():
            assert first == ends.get(partition, 0), f"{partition}: {first} after {ends}"
            assert after > first, f"{partition}: an empty range at {first}"
            ends[partition] = after
    assert ends == {p: len(log) for p, log in case.log.items() if log}, f"ends: {ends}"


def ranges_cover_their_records(case: Case) -> None:
    """Every record of a batch lies in one of the batch's ranges."""
    for batch in drained(case):
        for partition, off, _ in found([batch]):
            first, after = batch.ranges.get(partition, (0, 0))
            assert first <= off < after, f"{partition}@{off} outside {first}..{after}"


def poll_never_exceeds_the_maximum(case: Case) -> None:
    """A poll returns at most as many records as asked for; offsets that hold none come on top."""
    for size in _POLL_SIZES:
        for batch in drained(case, size=size):
            count = len(found([batch]))
            assert count <= size, f"{count} records for a poll of {size}"


def exhausted_is_final(case: Case) -> None:
    """After the end there is nothing more, and it keeps being the end."""
    source = case.open()
    read_all(source, polls=limit(case))
    for _ in range(3):
        batch = source.poll(5)
        assert batch.exhausted, "exhausted was taken back"
        assert not batch.ranges, "records after the end"
        assert not found([batch]), "records after the end"


def seek_resumes_exactly(case: Case) -> None:
    """A fresh source put to the stored positions delivers the rest, in the same order."""
    whole = drained(case, size=7)
    for stop in range(0, len(whole), max(1, len(whole) // 8)):
        stored = dict.fromkeys(case.log, 0)
        for batch in whole[:stop]:
            stored.update(batch.next_offsets)
        source = case.open()
        source.seek(stored)
        rest = read_all(source, size=7, polls=limit(case))
        assert set(found(rest)) == wanted(case, stored), f"wrong rest from {stored}"
        assert delivered(case, rest) == delivered(case, whole[stop:]), (
            f"another order after resuming at {stored}"
        )


def seek_in_the_middle_of_reading_is_obeyed(case: Case) -> None:
    """Going back to the start after some polls delivers everything again."""
    source = case.open()
    read_all(source, size=9, polls=3)
    source.seek(dict.fromkeys(case.log, 0))
    assert set(found(read_all(source, polls=limit(case)))) == wanted(case)


def seek_leaves_other_partitions_where_they_are(case: Case) -> None:
    """Only the named partitions move."""
    source = case.open()
    read_before = dict.fromkeys(case.log, 0)
    for batch in read_all(source, size=9, polls=2):
        read_before.update(batch.next_offsets)
    named = min(read_before, key=lambda partition: read_before[partition])  # the others were read
    source.seek({named: 0})
    rest = set(found(read_all(source, polls=limit(case))))
    assert rest == wanted(case, {**read_before, named: 0})


def seek_past_the_end_is_refused(case: Case) -> None:
    """Positions the log does not reach mean that records are gone: GapError, never a reset."""
    for partition, log in (*list(case.log.items())[:2], list(case.log.items())[-1]):
        _assert_gap(case.open(), {partition: len(log) + 1})


def seek_to_an_unknown_partition_is_refused(case: Case) -> None:
    """Positions of a partition that is not there mean that records are gone."""
    _assert_gap(case.open(), {Partition("elsewhere", 0): 0})


def positions_of_bad_records_are_kept(case: Case) -> None:
    """A dead letter names the position of its record, a reason and a detail of one line."""
    letters = [letter for batch in drained(case) for letter in batch.dead]
    at = {(Partition(d.topic, d.part), d.off) for d in letters}
    assert at == {(p, off) for p, off, what in wanted(case) if what == "dead"}
    for letter in letters:
        assert letter.reason == "missing_field", letter
        assert "user_id" in letter.detail, letter
        assert "\n" not in letter.detail, letter
        assert letter.raw, letter


def batches_have_the_canonical_columns(case: Case) -> None:
    """Every batch has the same columns and types, empty ones too."""
    for batch in drained(case):
        assert batch.interactions.schema.equals(INTERACTION_SCHEMA)
        assert batch.items.schema.equals(ITEM_SCHEMA)


def partitions_are_those_of_the_log(case: Case) -> None:
    """The source names its partitions before it is read."""
    assert set(case.open().partitions()) == set(case.log)


def commit_changes_nothing(case: Case) -> None:
    """A commit is a signal: what is read does not depend on it."""
    source = case.open()
    batches = []
    for _ in range(limit(case)):
        batches.append(source.poll(11))
        source.commit(dict.fromkeys(case.log, 1))
        if batches[-1].exhausted:
            break
    assert delivered(case, batches) == delivered(case, drained(case, size=11))


def close_can_be_repeated(case: Case) -> None:
    """Closing twice, or before the end, is no error."""
    source = case.open()
    source.poll(1)
    source.close()
    source.close()


def _assert_gap(source: Source, positions: dict[Partition, int]) -> None:
    message = ""
    try:
        source.seek(positions)
    except GapError as err:
        message = str(err)
    assert message, f"seek to {positions} was accepted"
    assert "\n" not in message, "the message is more than one line"


CHECKS: tuple[Callable[[Case], None], ...] = (
    no_record_is_lost,
    no_record_is_repeated,
    every_record_stands_at_its_position,
    order_within_a_partition_is_kept,
    delivery_order_does_not_depend_on_the_batch_size,
    ranges_touch,
    ranges_cover_their_records,
    poll_never_exceeds_the_maximum,
    exhausted_is_final,
    seek_resumes_exactly,
    seek_in_the_middle_of_reading_is_obeyed,
    seek_leaves_other_partitions_where_they_are,
    seek_past_the_end_is_refused,
    seek_to_an_unknown_partition_is_refused,
    positions_of_bad_records_are_kept,
    batches_have_the_canonical_columns,
    partitions_are_those_of_the_log,
    commit_changes_nothing,
    close_can_be_repeated,
)


class SourceContract:
    """Runs every check against the `case` fixture of a subclass."""

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(self, check: Callable[[Case], None], case: Case) -> None:
        check(case)
