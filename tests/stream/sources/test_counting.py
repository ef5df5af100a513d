"""Counting records for progress bars."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq

from stream.sources.counting import count_records


def test_lines_and_rows_are_added_up(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n" * 7)
    pq.write_table(pa.table({"x": [1, 2, 3]}), tmp_path / "b.parquet")
    assert count_records([tmp_path / "a.jsonl", tmp_path / "b.parquet"]) == 10


def test_compressed_and_damaged_files_are_not_guessed(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    assert count_records([tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"]) is None
    assert count_records([tmp_path / "c.parquet"]) is None
