from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream.errors import GapError, SourceError
from stream.events import Partition
from stream.sources.recorded_files import is_recorded
from tests.contracts import source_contract as contract
from tests.contracts.source_logs import Case, expected, make_records
from tests.stream.recorded import Held, open_recorded_log, record

if TYPE_CHECKING:
    from pathlib import Path

A, B, ITEMS = Partition("clicks", 0), Partition("clicks", 3), Partition("items", 0)


def encode(one: dict[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in one.items() if value is not None}).encode()


class TestRecorded(contract.SourceContract):
    """Two partitions, mixed by append time, with offsets that hold no record."""

    @pytest.fixture(params=["log.parquet", "folder"])
    def case(self, tmp_path: Path, request: pytest.FixtureRequest) -> Case:
        held: list[Held] = []
        log: dict[Partition, list[str | None]] = {A: [None], B: []}
        for number, one in enumerate(make_records(90)):
            partition = B if number % 3 == 0 else A
            if number % 10 == 7:
                log[partition].append(None)  # a transaction marker
            held.append(
                Held(partition, len(log[partition]), encode(one), 1_700_000_000_000 + number // 4)
            )
            log[partition] += expected([one])
        log[A] += [None, None]
        ranges = {p: (0, len(entries)) for p, entries in log.items()}
        path = record(tmp_path / request.param, held, ranges, piece=11)
        return Case(lambda: open_recorded_log(path), log)


def good(user: str = "u", **changes: Any) -> bytes:
    return encode({"user_id": user, "item_id": "i", "ts": 1_700_000_000_000, **changes})


def test_records_keep_their_positions_and_dead_letters_all_they_came_with(tmp_path: Path) -> None:
    headers = [("content-type", b"application/json")]
    path = record(
        tmp_path / "log.parquet",
        [
            Held(A, 5, good(), 1_700_000_000_005, b"u"),
            Held(A, 8, b"{", 1_700_000_000_006, b"k", headers),
            Held(ITEMS, 2, None, 1_700_000_000_001, b"gone"),
        ],
        {A: (4, 11), ITEMS: (0, 3)},
    )
    source = open_recorded_log(path)
    assert source.partitions() == (A, ITEMS)
    batch = source.poll(100)
    assert batch.ranges == {A: (4, 11), ITEMS: (0, 3)}
    assert batch.exhausted
    assert batch.interactions.select(["off", "append_ts"]).to_pylist() == [
        {"off": 5, "append_ts": 1_700_000_000_005}
    ]
    assert batch.items.select(["item_id", "available"]).to_pylist() == [
        {"item_id": "gone", "available": False}
    ]
    [letter] = batch.dead
    assert (letter.off, letter.raw, letter.key, letter.headers) == (8, b"{", b"k", headers)
    assert (letter.append_ms, letter.size) == (1_700_000_000_006, 1)


def test_a_partition_without_records_is_read_to_its_end(tmp_path: Path) -> None:
    path = record(tmp_path / "log.parquet", [Held(A, 0, good())], {B: (7, 9)})
    batch = open_recorded_log(path).poll(10)
    assert batch.ranges == {A: (0, 1), B: (7, 9)}
    resumed = open_recorded_log(path)
    resumed.seek(batch.next_offsets)
    again = resumed.poll(10)
    assert again.exhausted
    assert not again.ranges


def test_a_partition_begins_where_the_recording_did(tmp_path: Path) -> None:
    path = record(tmp_path / "log.parquet", [Held(A, 40, good())])
    source = open_recorded_log(path)
    for offset in (39, 42):
        with pytest.raises(GapError, match=r"clicks\[0\].*40\.\.41"):
            source.seek({A: offset})


def test_files_of_others_need_no_metadata(tmp_path: Path) -> None:
    path = record(tmp_path / "log.parquet", [Held(A, 3, good()), Held(B, 1, good("v"))])
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    batch = open_recorded_log(path).poll(10)
    assert batch.ranges == {A: (3, 4), B: (1, 2)}


def test_what_is_no_recorded_log_is_told_apart(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": ["u"], "offset": [1]}), tmp_path / "plain.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    (tmp_path / "log.jsonl").write_text("{}")
    names = ("plain.parquet", "torn.parquet", "log.jsonl", "absent.parquet", "no-*.parquet")
    assert not any(is_recorded(tmp_path / name) for name in names)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: t.set_column(2, "offset", pa.array([1, 1], pa.int64())), "do not grow"),
        (lambda t: t.set_column(2, "offset", pa.array([1, 2], pa.int32())), "offset of type int64"),
        (lambda t: t.drop_columns(["key"]), "key of type binary"),
    ],
)
def test_a_wrong_recorded_log_is_refused_at_once(tmp_path: Path, spoil: Any, says: str) -> None:
    path = record(tmp_path / "log.parquet", [Held(A, 0, good()), Held(A, 1, good())])
    pq.write_table(spoil(pq.read_table(path)), path)
    with pytest.raises(SourceError, match=says) as caught:
        open_recorded_log(path)
    assert "log.parquet" in str(caught.value)


def test_a_damaged_file_is_read_up_to_the_damage(tmp_path: Path) -> None:
    held = [Held(A, at, good(props={"x": "y" * 200, "n": at})) for at in range(3_000)]
    path = record(tmp_path / "log.parquet", held, piece=1_000)
    table = pq.read_table(path)
    pq.write_table(table, path, row_group_size=500, compression="none", use_dictionary=False)
    chunk = pq.read_metadata(path).row_group(3).column(len(table.schema.names) + 0)
    data = bytearray(path.read_bytes())
    for at in range(chunk.data_page_offset, chunk.data_page_offset + 40):
        data[at] = 0xFF
    path.write_bytes(bytes(data))
    source = open_recorded_log(path)
    batches = [source.poll(400) for _ in range(4)]
    assert [batch.records for batch in batches] == [400, 400, 400, 300]
    assert not batches[-1].exhausted
    for _ in range(2):
        with pytest.raises(SourceError, match="damaged"):
            source.poll(400)


def test_append_times_order_partitions_and_never_their_own_records(tmp_path: Path) -> None:
    base = 1_700_000_000_000
    held = [
        Held(A, 0, good("a0"), base + 5),
        Held(A, 1, good("a1"), base + 1),
        Held(B, 0, good("b0"), base + 3),
        replace(Held(B, 1, good("b1"), base + 9)),
    ]
    batch = open_recorded_log(record(tmp_path / "log.parquet", held)).poll(10)
    assert batch.interactions["user_id"].to_pylist() == ["b0", "a0", "a1", "b1"]
