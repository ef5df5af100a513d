from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.config import FileConfig
from stream.events import Partition
from stream.sources.json_records import JsonDecoder
from stream.sources.merge import FilePart, batch_of, merge
from stream.sources.records import Records
from tests.strategies import time_logs

DECODER = JsonDecoder(FileConfig())


class ListReader:
    """Reads a list of lines."""

    def __init__(self, lines: list[bytes], partition: Partition) -> None:
        self.lines = lines
        self.partition = partition
        self.at = 0

    def read(self, max_records: int) -> Records | None:
        lines = self.lines[self.at : self.at + max_records]
        offs = np.arange(self.at, self.at + len(lines))
        self.at += len(lines)
        return DECODER.decode(self.partition, offs, lines) if lines else None

    def skip(self, count: int) -> int:
        skipped = min(count, len(self.lines) - self.at)
        self.at += skipped
        return skipped

    def close(self) -> None:
        pass


def parts_of(logs: list[list[int | None]], *, chunk: int) -> list[FilePart]:
    lines = [
        [
            b"null"
            if ts is None
            else json.dumps({"user_id": "u", "item_id": "i", "ts": ts}).encode()
            for ts in log
        ]
        for log in logs
    ]

    def open_reader(path: Path, partition: Partition) -> ListReader:
        return ListReader(lines[partition.part], partition)

    return [FilePart(Path(f"{n}"), Partition("t", n), open_reader, chunk) for n in range(len(logs))]


def heads_order(logs: list[list[int | None]]) -> list[tuple[int, int]]:
    """The rule as stated: whichever part's next record is oldest goes next, ties by part."""
    at = [0] * len(logs)
    order = []
    while any(at[n] < len(log) for n, log in enumerate(logs)):
        heads = [
            (-1 if (ts := log[at[n]]) is None else ts, n)
            for n, log in enumerate(logs)
            if at[n] < len(log)
        ]
        _, n = min(heads)
        order.append((n, at[n]))
        at[n] += 1
    return order


def delivered(parts: list[FilePart], size: int) -> list[tuple[int, int]]:
    order: list[tuple[int, int]] = []
    while True:
        taken = merge(parts, size)
        if not taken:
            return order
        batch = batch_of(taken, exhausted=False)
        assert batch.records <= size
        rows = batch.interactions.select(["part", "off"]).to_pylist()
        order += [(row["part"], row["off"]) for row in rows]


def timed(order: list[tuple[int, int]], logs: list[list[int | None]]) -> list[tuple[int, int]]:
    return [(n, off) for n, off in order if logs[n][off] is not None]


@given(time_logs(), st.integers(1, 7), st.integers(1, 9))
def test_files_are_merged_by_their_oldest_next_record(
    logs: list[list[int | None]], size: int, chunk: int
) -> None:
    assert delivered(parts_of(logs, chunk=chunk), size) == timed(heads_order(logs), logs)


@given(time_logs(), st.integers(1, 7), st.integers(1, 9), st.integers(0, 40))
def test_the_order_does_not_depend_on_where_reading_started(
    logs: list[list[int | None]], size: int, chunk: int, stop: int
) -> None:
    whole = heads_order(logs)
    before, rest = whole[:stop], whole[stop:]
    parts = parts_of(logs, chunk=chunk)
    for part in parts:
        part.seek(sum(n == part.partition.part for n, _ in before))
    assert delivered(parts, size) == timed(rest, logs)


@given(time_logs(), st.integers(1, 7))
def test_closing_a_part_between_polls_changes_nothing(
    logs: list[list[int | None]], size: int
) -> None:
    parts = parts_of(logs, chunk=4)
    order: list[tuple[int, int]] = []
    while taken := merge(parts, size):
        rows = batch_of(taken, exhausted=False).interactions.select(["part", "off"]).to_pylist()
        order += [(row["part"], row["off"]) for row in rows]
        for part in parts:
            if not part.finished:
                part.unload()
    assert order == timed(heads_order(logs), logs)
