from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stream.recording
from stream.errors import SinkError
from stream.events import Partition
from stream.recording import LogRecorder
from stream.sources.recorded_files import RECORDED_SCHEMA, is_recorded, log_meta
from tests.stream.recorded import Held, record

if TYPE_CHECKING:
    from pathlib import Path

A, B, C = Partition("clicks", 0), Partition("clicks", 1), Partition("items", 0)
times = st.none() | st.integers(0, 5)


def positions(path: Path) -> list[tuple[str, int, int]]:
    rows = pq.read_table(path).to_pylist()
    return [(row["topic"], row["partition"], row["offset"]) for row in rows]


def in_order(records: list[Held]) -> list[tuple[str, int, int]]:
    """The order, by its definition."""
    newest: dict[Partition, int] = {}
    keyed = []
    for held in records:
        known = -1 if held.append_ms is None else held.append_ms
        newest[held.partition] = max(newest.get(held.partition, -1), known)
        keyed.append((newest[held.partition], *held.partition, held.off))
    return [key[1:] for key in sorted(keyed)]


@given(
    logs=st.dictionaries(st.sampled_from([A, B, C]), st.lists(times, min_size=1, max_size=25)),
    piece=st.integers(1, 6),
)
def test_rows_are_ordered_by_append_time_with_every_partition_in_its_own_order(
    tmp_path_factory: pytest.TempPathFactory, logs: dict[Partition, list[int | None]], piece: int
) -> None:
    records = [
        Held(partition, 2 * at, b"{}", ms)
        for partition, log in logs.items()
        for at, ms in enumerate(log)
    ]
    path = record(tmp_path_factory.mktemp("x") / "log.parquet", records, piece=piece)
    assert positions(path) == in_order(records)


def test_a_record_is_kept_with_all_it_came_with(tmp_path: Path) -> None:
    headers = [("a", b"\xff"), ("a", None), ("b", b"")]
    held = [Held(A, 3, b"\xfe{", 7, b"\x00k", headers), Held(A, 9, None, None, None)]
    path = record(tmp_path / "log.parquet", held, {A: (1, 12), B: (0, 4)})
    first, second = pq.read_table(path).to_pylist()
    assert (first["raw"], first["key"], first["append_ts"]) == (b"\xfe{", b"\x00k", 7)
    assert [(h["name"], h["value"]) for h in first["headers"]] == headers
    assert (second["raw"], second["key"], second["append_ts"], second["headers"]) == (
        None,
        None,
        None,
        [],
    )
    assert is_recorded(path)
    assert log_meta(path).items_topic == "items"
    assert log_meta(path).ranges == (("clicks", 0, 1, 12), ("clicks", 1, 0, 4))
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.parquet"]


def test_a_folder_gets_files_of_so_many_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream.recording, "ROWS_PER_FILE", 4)
    held = [Held(A, at, b"{}", at) for at in range(10)]
    record(tmp_path / "out", held)
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"log-0000{n}.parquet" for n in range(3)]
    assert [pq.read_metadata(file).num_rows for file in files] == [4, 4, 2]
    assert all(log_meta(file).ranges == (("clicks", 0, 0, 10),) for file in files)


@pytest.mark.parametrize("name", ["out", "log.parquet"])
def test_an_empty_log_is_a_file_without_rows(tmp_path: Path, name: str) -> None:
    with LogRecorder(tmp_path / name) as recorder:
        done = recorder.finish({A: (5, 5)})
    [file] = done.files
    assert pq.read_table(file).num_rows == done.records == 0
    assert pq.read_schema(file).remove_metadata() == RECORDED_SCHEMA


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = record(tmp_path / "log.parquet", [Held(A, 0, b"{}")])
    with pytest.raises(SinkError, match="holds a recorded log already"):
        LogRecorder(path)
    with pytest.raises(SinkError, match="holds a recorded log already"):
        LogRecorder(tmp_path)


def test_a_recorder_that_is_left_early_leaves_nothing(tmp_path: Path) -> None:
    with LogRecorder(tmp_path / "log.parquet") as recorder:
        recorder.add(A, [0], [None], [()], [None], [b"{}"])
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=r"file/log\.parquet: can not be written"):
        LogRecorder(tmp_path / "file" / "log.parquet")
