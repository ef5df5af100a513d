from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stream.config import FileConfig
from stream.errors import SourceError
from stream.events import MAX_RECORD_BYTES, Partition
from stream.sources.readers import CsvReader, JsonlReader

if TYPE_CHECKING:
    from pathlib import Path

    from stream.sources.records import Records

PART = Partition("log", 0)
HEADER = b"user_id,item_id,ts,event_id\n"


def read_csv(path: Path, data: bytes, config: FileConfig | None = None) -> Records:
    path.write_bytes(data)
    found = CsvReader(path, PART, config or FileConfig()).read(1_000)
    assert found is not None
    return found


def faults(found: Records) -> list[tuple[int, str]]:
    return [(letter.off, letter.reason) for letter in found.dead]


def test_quoted_cells_may_hold_delimiters_quotes_and_line_ends(tmp_path: Path) -> None:
    found = read_csv(tmp_path / "a.csv", HEADER + b'u,"a,""b""\nc",5,e0\r\nu,i,6,e1\n')
    assert found.interactions["item_id"].to_pylist() == ['a,"b"\nc', "i"]
    assert found.interactions["off"].to_pylist() == [0, 1]


def test_rows_of_another_width_are_malformed_and_keep_their_bytes(tmp_path: Path) -> None:
    found = read_csv(tmp_path / "a.csv", HEADER + b"u,i,5\nu,i,5,e1\nu,i,5,e2,x\n")
    assert faults(found) == [(0, "malformed"), (2, "malformed")]
    assert found.dead[0].detail == "expected 4 cells, got 3"
    assert found.dead[0].raw == b"u,i,5"
    assert found.interactions["event_id"].to_pylist() == ["e1"]


def test_broken_quoting_and_bad_bytes_are_malformed(tmp_path: Path) -> None:
    data = HEADER + b'u,"i"x,5,e0\nu,\xff,5,e1\nu,i,5,e2\nu,"i,5,e3\n'
    found = read_csv(tmp_path / "a.csv", data)
    assert faults(found) == [(0, "malformed"), (1, "malformed"), (3, "malformed")]
    assert found.dead[1].raw == b"u,\xff,5,e1"
    assert found.interactions["event_id"].to_pylist() == ["e2"]


def test_blank_rows_hold_an_offset(tmp_path: Path) -> None:
    found = read_csv(tmp_path / "a.csv", HEADER + b"\nu,i,5,e1\n\n")
    assert (found.first, found.after) == (0, 3)
    assert found.interactions["off"].to_pylist() == [1]
    assert not found.dead


def test_a_cell_over_the_limit_is_too_large(tmp_path: Path) -> None:
    long = b"x" * (MAX_RECORD_BYTES + 10)
    found = read_csv(tmp_path / "a.csv", HEADER + b"u,i,5," + long + b"\nu,i,5,e1\n")
    assert faults(found) == [(0, "too_large")]
    assert found.interactions["event_id"].to_pylist() == ["e1"]


def test_tabs_byte_order_marks_and_other_delimiters(tmp_path: Path) -> None:
    tabs = read_csv(tmp_path / "a.tsv", b"\xef\xbb\xbfuser_id\titem_id\tts\nu\ti\t5\n")
    assert tabs.interactions["user_id"].to_pylist() == ["u"]
    semicolons = read_csv(
        tmp_path / "b.csv", b"user_id;item_id;ts\nu;i;5\n", FileConfig(delimiter=";")
    )
    assert semicolons.interactions["item_id"].to_pylist() == ["i"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no header row"),
        (b"user_id,item_id,time\n", "no column 'ts' for ts"),
        (b"user_id,user_id,item_id,ts\n", "appears twice"),
        (b'"user_id"x,item_id\n', "unreadable header"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_csv(tmp_path / "a.csv", data)


def test_skipping_counts_what_reading_counts(tmp_path: Path) -> None:
    data = HEADER + b'u,i,5,e0\n\nu,"i"x,5,e2\nu,"a\nb",5,e3\nu,i,5\nu,i,5,e5\n'
    whole = read_csv(tmp_path / "a.csv", data)
    for start in range(7):
        reader = CsvReader(tmp_path / "a.csv", PART, FileConfig())
        assert reader.skip(start) == min(start, 6)
        rest = reader.read(1_000)
        offs = [] if rest is None else rest.interactions["off"].to_pylist()
        assert offs == [off for off in whole.interactions["off"].to_pylist() if off >= start]


def test_a_line_over_the_limit_keeps_its_neighbors(tmp_path: Path) -> None:
    good = b'{"user_id":"u","item_id":"i","ts":5}'
    long = b'{"user_id":"' + b"x" * (3 * MAX_RECORD_BYTES) + b'"}'
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([good, long, good, b"", long]))
    found = JsonlReader(tmp_path / "a.jsonl", PART, FileConfig()).read(10)
    assert found is not None
    assert found.interactions["off"].to_pylist() == [0, 2]
    assert faults(found) == [(1, "too_large"), (4, "too_large")]
    assert found.after == 5


def test_windows_line_ends_and_byte_order_marks_of_json_lines(tmp_path: Path) -> None:
    good = b'{"user_id":"u","item_id":"i","ts":5}'
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + good + b"\r\n" + good + b"\r\n\r\n")
    found = JsonlReader(tmp_path / "a.jsonl", PART, FileConfig()).read(10)
    assert found is not None
    assert found.interactions["off"].to_pylist() == [0, 1]
    assert found.after == 3
    assert not found.dead
