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
from stream.sources.fingerprints import Fingerprint, fingerprint
from tests.contracts.source_contract import found, read_all
from tests.contracts.source_logs import csv_bytes, jsonl_bytes, make_records, write

LOG = Partition("log", 0)


def event_ids(source: FileSource, *, size: int = 50) -> list[str]:
    batches = read_all(source, size=size, polls=10_000)
    return [what for _, _, what in found(batches) if what != "dead"]


def daily(folder: Path) -> list[Fingerprint]:
    """Write three files of ten records; return the fingerprints of reading them."""
    folder.mkdir(exist_ok=True)
    for day in range(3):
        write(folder / f"{day}.jsonl", make_records(10, tag=f"{day}-"))
    source = FileSource(folder, FileConfig(topic="log"))
    assert source.poll(100).exhausted
    return source.fingerprints()


def rehashed(kept: list[Fingerprint], folder: Path) -> list[Fingerprint]:
    return [fingerprint(folder / mark.name, mark.name, mark.first) for mark in kept]


def until_failure(source: FileSource, *, size: int) -> tuple[list[EventBatch], str]:
    """Poll until the source fails; return what came before, and the message."""
    batches = []
    while True:
        try:
            batches.append(source.poll(size))
        except SourceError as err:
            return batches, str(err)
        assert not batches[-1].exhausted, "the damage went unnoticed"


def test_the_topic_is_the_base_name_and_several_files_are_one_partition(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv", "c.parquet"):
        write(tmp_path / name, make_records(3, tag=name[0]))
    (tmp_path / "notes.txt").write_text("not a log")
    assert FileSource(tmp_path / "b.jsonl").partitions() == (Partition("b.jsonl", 0),)
    assert FileSource(str(tmp_path / "?.*")).partitions() == (Partition("?.*", 0),)
    listed = FileSource(tmp_path, FileConfig(topic="shop"))
    assert listed.partitions() == (Partition("shop", 0),)
    several = FileSource([tmp_path / "c.parquet", tmp_path / "a.csv"])
    assert several.partitions() == (Partition("c.parquet", 0),)
    assert [path.name for path in several.paths] == ["a.csv", "c.parquet"]


def test_files_are_read_in_path_order_whatever_their_times(tmp_path: Path) -> None:
    for day, start in enumerate((2_000_000, 1_000_000, 3_000_000)):
        records = [r for r in make_records(10, tag=f"{day}-", start=start) if r["user_id"]]
        write(tmp_path / f"{day}.jsonl", records)
    days = [name.split("-")[0] for name in event_ids(FileSource(tmp_path))]
    assert days == sorted(days)


def test_the_row_as_sequence_number_runs_on_over_the_files(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.csv", "c.parquet"):
        write(tmp_path / name, make_records(3, tag=name[0]))
    source = FileSource(tmp_path, FileConfig(columns={"seq": "@row"}))
    assert source.poll(100).interactions["seq"].to_pylist() == list(range(9))


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


def test_reading_goes_on_in_a_later_file_without_reading_the_earlier_ones(tmp_path: Path) -> None:
    kept = daily(tmp_path)
    for day in "01":
        path = tmp_path / f"{day}.jsonl"
        path.write_bytes(path.read_bytes().replace(b"\n", b" "))  # as many bytes, one line
    source = FileSource(tmp_path, FileConfig(topic="log"))
    source.guard(rehashed(kept, tmp_path), 25)
    source.seek({LOG: 25})
    assert source.poll(100).ranges == {LOG: (25, 30)}


def test_fingerprints_say_where_each_file_begins(tmp_path: Path) -> None:
    assert [(mark.name, mark.first) for mark in daily(tmp_path)] == [
        ("0.jsonl", 0),
        ("1.jsonl", 10),
        ("2.jsonl", 20),
    ]


def test_fingerprints_are_kept_before_a_further_file_is_handed_out(tmp_path: Path) -> None:
    daily(tmp_path)
    source = FileSource(tmp_path, FileConfig(topic="log"))
    seen: list[int] = []
    source.guard([], 0, lambda marks: seen.append(len(marks)))
    for wanted in (1, 1, 2, 2, 3, 3):
        source.poll(6)
        assert max(seen) >= wanted
    assert source.poll(6).exhausted


def test_files_may_be_added_at_the_end_and_the_last_one_may_grow(tmp_path: Path) -> None:
    kept = daily(tmp_path)
    write(tmp_path / "2.jsonl", make_records(12, tag="2-"))
    write(tmp_path / "3.jsonl", make_records(5, tag="3-"))
    source = FileSource(tmp_path, FileConfig(topic="log"))
    source.guard(kept, 30)
    source.seek({LOG: 30})
    assert sorted(what for _, _, what in found([source.poll(100)]) if what != "dead") == [
        "2-11", "3-0", "3-1", "3-2", "3-4",
    ]  # fmt: skip


def test_the_moved_folder_of_a_log_is_the_same_log(tmp_path: Path) -> None:
    kept = daily(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    FileSource(str(tmp_path / "th*" / "*.jsonl"), FileConfig(topic="log"))
    FileSource(tmp_path / "there", FileConfig(topic="log")).guard(kept, 30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("grow 0", r"0\.jsonl: grew after a later file was read"),
        ("replace 1", r"1\.jsonl: not the file read before"),
        ("shorten 2", r"2\.jsonl: not the file read before"),
        ("remove 1", r"1\.jsonl: read before, and not in the log any more"),
        ("insert 0a", r"0a\.jsonl: comes before 1\.jsonl, which was read already"),
    ],
)
def test_a_change_that_moves_positions_is_refused(
    tmp_path: Path, change: str, message: str
) -> None:
    kept = daily(tmp_path)
    what, name = change.split()
    path = tmp_path / f"{name}.jsonl"
    match what:
        case "grow":
            write(path, make_records(12, tag=f"{name}-"))
        case "shorten":
            write(path, make_records(9, tag=f"{name}-"))
        case "remove":
            path.unlink()
        case _:
            write(path, make_records(10, tag="other"))
    source = FileSource(tmp_path, FileConfig(topic="log"))
    with pytest.raises(GapError, match=message) as caught:
        source.guard(kept, 30)
    assert "another database" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["grow 0", "replace 1", "remove 1", "insert 0a"])
def test_files_nothing_is_stored_of_may_change(tmp_path: Path, change: str) -> None:
    """The run stopped at the end of the first file: it may grow, and anything may follow it."""
    kept = daily(tmp_path)
    what, name = change.split()
    path = tmp_path / f"{name}.jsonl"
    if what == "remove":
        path.unlink()
    else:
        write(path, make_records(12, tag=f"{name}-" if what == "grow" else "other"))
    source = FileSource(tmp_path, FileConfig(topic="log"))
    source.guard(kept, 10)
    source.seek({LOG: 10})
    ids = event_ids(source)
    assert len(ids) == len(set(ids)) > 8


def test_a_file_that_changes_while_it_is_passed_again_is_noticed(tmp_path: Path) -> None:
    daily(tmp_path)
    source = FileSource(tmp_path, FileConfig(topic="log"))
    source.poll(100)
    write(tmp_path / "0.jsonl", make_records(12, tag="0-"))
    source.seek({LOG: 0})
    batches, message = until_failure(source, size=100)
    assert sum(batch.records for batch in batches) == 12
    assert "ends at offset 12, but at 10 before" in message


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
