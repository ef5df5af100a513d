from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from stream.config import FileConfig
from stream.errors import GapError, SourceError
from stream.events import EventBatch, Partition
from stream.sources.file import FileSource
from tests.contracts.source_contract import found, read_all
from tests.contracts.source_logs import csv_bytes, jsonl_bytes, make_records, write


def event_ids(source: FileSource, *, size: int = 50) -> list[str]:
    batches = read_all(source, size=size, polls=10_000)
    return [what for _, _, what in found(batches) if what != "dead"]


def until_failure(source: FileSource, *, size: int) -> tuple[list[EventBatch], str]:
    """Poll until the source fails; return what came before, and the message."""
    batches = []
    while True:
        try:
            batches.append(source.poll(size))
        except SourceError as err:
            return batches, str(err)
        assert not batches[-1].exhausted, "the damage went unnoticed"


def test_the_topic_is_the_base_name_and_the_part_the_place_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv", "c.parquet", "notes.txt"):
        write(tmp_path / name, make_records(3)) if name != "notes.txt" else None
    (tmp_path / "notes.txt").write_text("not a log")
    assert FileSource(tmp_path / "b.jsonl").partitions() == (Partition("b.jsonl", 0),)
    globbed = FileSource(str(tmp_path / "?.*"))
    assert globbed.partitions() == tuple(Partition("?.*", n) for n in range(3))
    listed = FileSource(tmp_path, FileConfig(topic="shop"))
    assert listed.partitions() == tuple(Partition("shop", n) for n in range(3))
    several = FileSource([tmp_path / "c.parquet", tmp_path / "a.csv"])
    assert several.partitions() == (Partition("c.parquet", 0), Partition("c.parquet", 1))


def test_daily_files_replay_in_time_order(tmp_path: Path) -> None:
    for day, start in enumerate((2_000_000, 1_000_000, 3_000_000)):
        records = [r for r in make_records(10, tag=f"{day}-", start=start) if r["user_id"]]
        write(tmp_path / f"{day}.jsonl", records)
    days = [name.split("-")[0] for name in event_ids(FileSource(tmp_path))]
    assert days == sorted(days, key="102".index)


@pytest.mark.parametrize("name", ["absent.jsonl", "absent-*.jsonl"])
def test_a_missing_file_is_one_line_with_a_remedy(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match=r"absent.*no such file; check the path"):
        FileSource(tmp_path / name)


def test_a_column_that_appears_twice_is_refused(tmp_path: Path) -> None:
    column = pa.array(["x"])
    table = pa.Table.from_arrays([column, column], names=["user_id", "user_id"])
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(SourceError, match="'user_id' appears twice"):
        FileSource(tmp_path / "log.parquet")


def test_the_directory_one_is_in_has_a_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.jsonl", make_records(1))
    monkeypatch.chdir(tmp_path)
    assert FileSource(".").partitions() == (Partition(tmp_path.name, 0),)


def test_an_unknown_suffix_needs_a_format(tmp_path: Path) -> None:
    path = tmp_path / "log.dat"
    path.write_bytes(jsonl_bytes(make_records(2)))
    with pytest.raises(SourceError, match="parquet, jsonl or csv"):
        FileSource(path)
    assert event_ids(FileSource(path, FileConfig(format="jsonl"))) == ["e0", "e1"]


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_parquet_file_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "log.parquet"
    write(path, make_records(100))
    data = path.read_bytes()
    path.write_bytes(data[:-40] if damage == "cut" else b"PAR1" + b"\0" * len(data))
    with pytest.raises(SourceError, match=r"log\.parquet: not a whole Parquet file") as caught:
        FileSource(path)
    assert "\n" not in str(caught.value)


def test_parquet_damaged_inside_gives_what_comes_before_and_then_says_so(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    table = pa.Table.from_pylist(make_records(400))
    pq.write_table(table, path, row_group_size=100, compression="gzip", use_dictionary=False)
    offset = pq.ParquetFile(path).metadata.row_group(2).column(1).data_page_offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 200] = b"\xff" * 200
    path.write_bytes(bytes(data))
    source = FileSource(path)
    batches, message = until_failure(source, size=30)
    assert sum(batch.records for batch in batches) == 200
    assert "damaged after row 200" in message
    with pytest.raises(SourceError, match=r"damaged after row 200 .*restore"):
        source.poll(1)


@pytest.mark.parametrize("suffix", ["jsonl.gz", "jsonl.zst", "csv.gz", "csv.zst"])
def test_a_cut_compressed_file_gives_its_whole_records_and_then_says_so(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"log.{suffix}"
    write(path, make_records(20_000))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    batches, message = until_failure(FileSource(path), size=1_000)
    assert "restore the whole file" in message
    assert "\n" not in message
    assert 1_000 < sum(batch.records for batch in batches) < 20_000
    malformed = [d for batch in batches for d in batch.dead if d.reason == "malformed"]
    assert not malformed, "half a line is no bad record: the rest of it is only not there yet"


def test_damaged_compressed_data_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl.gz"
    data = bytearray(gzip.compress(jsonl_bytes(make_records(2_000))))
    data[200:220] = b"\0" * 20
    path.write_bytes(bytes(data))
    with pytest.raises(SourceError, match="damaged compressed data"):
        event_ids(FileSource(path))


def test_several_compressed_frames_are_one_log(tmp_path: Path) -> None:
    first, second = jsonl_bytes(make_records(3)), jsonl_bytes(make_records(3, tag="f"))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(first) + gzip.compress(second))
    packer = zstandard.ZstdCompressor()
    (tmp_path / "b.jsonl.zst").write_bytes(packer.compress(first) + packer.compress(second))
    for name in ("a.jsonl.gz", "b.jsonl.zst"):
        assert event_ids(FileSource(tmp_path / name)) == ["e0", "e1", "e2", "f0", "f1", "f2"]


def test_half_a_last_line_is_a_dead_letter_and_a_whole_one_without_an_end_is_not(
    tmp_path: Path,
) -> None:
    data = jsonl_bytes(make_records(2))
    path = tmp_path / "log.jsonl"
    path.write_bytes(data[:-1])
    assert event_ids(FileSource(path)) == ["e0", "e1"]
    path.write_bytes(data[:-20])
    batch = FileSource(path).poll(10)
    assert [(d.off, d.reason) for d in batch.dead] == [(1, "malformed")]
    assert batch.ranges == {Partition("log.jsonl", 0): (0, 2)}


def test_an_empty_file_is_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b"")
    (tmp_path / "log.csv").write_bytes(b"user_id,item_id,ts\n")
    pq.write_table(pa.Table.from_pylist(make_records(1)).slice(0, 0), tmp_path / "log.parquet")
    for name in ("log.jsonl", "log.csv", "log.parquet"):
        assert FileSource(tmp_path / name).poll(5).exhausted


def test_a_file_that_became_shorter_is_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, make_records(10))
    source = FileSource(path)
    with pytest.raises(
        GapError, match=r"ends after 10 records, but 11 were read from log\.jsonl\[0\]"
    ):
        source.seek({Partition("log.jsonl", 0): 11})


def test_fingerprints_accept_growth_and_refuse_replacement(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, make_records(10))
    before = FileSource(path).fingerprints()
    write(path, make_records(12))
    FileSource(path).check_fingerprints(before)
    write(path, make_records(12, tag="other"))
    with pytest.raises(GapError, match="not the file read before"):
        FileSource(path).check_fingerprints(before)
    write(path, make_records(9))
    with pytest.raises(GapError, match="restore"):
        FileSource(path).check_fingerprints(before)
    with pytest.raises(GapError, match="not the file read before"):
        FileSource(path).check_fingerprints({Partition("log.jsonl", 1): "10 10 abc gone.jsonl"})


def test_negative_positions_and_empty_polls_are_the_callers_mistake(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl", make_records(3))
    source = FileSource(tmp_path / "log.jsonl")
    with pytest.raises(ValueError, match="negative"):
        source.seek({Partition("log.jsonl", 0): -1})
    with pytest.raises(ValueError, match="at least 1"):
        source.poll(0)
    source.close()
    with pytest.raises(ValueError, match="closed"):
        source.poll(1)


def test_a_long_log_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(csv_bytes(make_records(60_000))))
    source = FileSource(path)
    tracemalloc.start()
    try:
        while not source.poll(5_000).exhausted:
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
