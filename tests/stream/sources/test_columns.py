from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.config import FileConfig
from stream.errors import SourceError
from stream.events import Partition
from stream.sources.columns import ColumnChecker, check_column_types
from stream.sources.file import FileSource
from stream.sources.json_records import JsonDecoder
from stream.sources.records import Records
from tests.strategies import FAULT_REASONS, FAULTS, START_MS

if TYPE_CHECKING:
    from pathlib import Path

PART = Partition("log", 0)


def check(columns: dict[str, Any], config: FileConfig | None = None) -> Records:
    arrays = {name: pa.array(v) if isinstance(v, list) else v for name, v in columns.items()}
    count = len(next(iter(arrays.values())))
    config = config or FileConfig()
    check_column_types({n: a.type for n, a in arrays.items()}, config, "log")
    offs = np.arange(count, dtype=np.int64)
    return ColumnChecker(config, PART).check(arrays, offs, lambda row: b"row %d" % row)


def log(count: int = 3, **columns: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "user_id": [f"u{i}" for i in range(count)],
        "item_id": [f"i{i}" for i in range(count)],
        "ts": [START_MS + i for i in range(count)],
    }
    return {**base, **columns}


@given(st.lists(st.sampled_from(["good", *FAULTS]), min_size=1, max_size=12))
def test_columns_are_refused_for_the_reasons_json_lines_are(kinds: list[str]) -> None:
    """The same faults in JSON lines and in columns of text (as CSV has) give the same verdicts."""
    rows = []
    for i, kind in enumerate(kinds):
        row: dict[str, Any] = {
            "user_id": "u",
            "item_id": "i",
            "ts": START_MS + i,
            "value": 2.0,
            "seq": i,
        }
        if kind in FAULTS:
            field, value = FAULTS[kind]
            row[field] = value
        rows.append(row)
    texts = {
        name: pa.array([None if r[name] is None else str(r[name]) for r in rows], pa.string())
        for name in rows[0]
    }
    by_column = check(texts)
    lines = [json.dumps(r).replace("Infinity", "1e999").encode() for r in rows]
    by_line = JsonDecoder(FileConfig()).decode(PART, np.arange(len(rows)), lines)
    assert by_column.interactions.equals(by_line.interactions)
    assert [(d.off, d.reason) for d in by_column.dead] == [(d.off, d.reason) for d in by_line.dead]
    assert [d.reason for d in by_line.dead] == [FAULT_REASONS[k] for k in kinds if k in FAULTS]


def test_defaults_fill_absent_columns_and_nulls() -> None:
    rows = check(log(2, value=[None, 3]), FileConfig(event_type="view")).interactions.to_pylist()
    assert [(r["event_type"], r["seq"], r["value"], r["event_id"]) for r in rows] == [
        ("view", 0, 1.0, None),
        ("view", 0, 3.0, None),
    ]


def test_empty_ids_and_infinite_values_are_refused_by_row() -> None:
    found = check(log(4, item_id=["i", "", "i", "i"], value=[1.0, 1.0, math.nan, -2.0]))
    assert found.interactions["off"].to_pylist() == [0, 3]
    assert [(d.off, d.reason, d.raw) for d in found.dead] == [
        (1, "empty_field", b"row 1"),
        (2, "non_finite", b"row 2"),
    ]


def test_the_first_fault_of_a_row_counts() -> None:
    [letter] = check(log(1, user_id=pa.array([None], pa.string()), ts=[-1])).dead
    assert letter.reason == "missing_field"


@pytest.mark.parametrize(
    "stamps",
    [
        pa.array([datetime(2023, 11, 14, 22, 13, 20, 5_999, UTC)], pa.timestamp("us", "UTC")),
        pa.array([datetime(2023, 11, 14, 22, 13, 20, 5_999)], pa.timestamp("us")),  # noqa: DTZ001
        pa.array([1_700_000_000_005_999], pa.timestamp("us", "America/New_York")),
        pa.array(["2023-11-14 22:13:20.005"]),
        pa.array(["2023-11-14T23:13:20.005+01:00"]),
        pa.array([1_700_000_000_005], pa.uint64()),
        pa.array(["1700000000005"]).dictionary_encode(),
    ],
    ids=lambda array: str(array.type),
)
def test_a_time_means_the_same_in_every_type(stamps: pa.Array) -> None:
    assert check(log(1, ts=stamps)).interactions["ts"].to_pylist() == [1_700_000_000_005]


def test_a_time_far_beyond_any_calendar_is_refused(tmp_path: Path) -> None:
    far = pa.array([2**62], pa.int64()).cast(pa.timestamp("s"))
    assert len(check(log(1, ts=far)).dead) == 1
    assert len(check(log(1, ts=[2**62]), FileConfig(ts_unit="s")).dead) == 1
    pq.write_table(
        pa.table(log(1, ts=pa.array([2**62]).cast(pa.timestamp("us")))), tmp_path / "a.pq"
    )
    [letter] = FileSource(tmp_path / "a.pq").poll(5).dead
    assert letter.reason == "out_of_range"
    assert str(2**62).encode() in letter.raw


def test_dictionaries_are_read_like_plain_columns() -> None:
    plain = log(4, event_type=["a", "b", "a", None], value=["1", "2", "x", None])
    packed = {name: pa.array(v).dictionary_encode() for name, v in plain.items()}
    assert check(packed).interactions.equals(check(plain).interactions)


def test_a_date_is_its_midnight_and_seconds_may_have_fractions() -> None:
    date = pa.array([datetime(2023, 11, 14, tzinfo=UTC).date()])
    assert check(log(1, ts=date)).interactions["ts"].to_pylist() == [1_699_920_000_000]
    found = check(log(2, ts=[1_700_000_000.25, math.nan]), FileConfig(ts_unit="s"))
    assert found.interactions["ts"].to_pylist() == [1_700_000_000_250]
    assert [d.reason for d in found.dead] == ["bad_type"]


def test_a_time_format_of_the_files_own() -> None:
    config = FileConfig(ts_format="%m/%d/%Y %H:%M")
    found = check(log(2, ts=["12/1/2010 8:26", "2010-12-01"]), config)
    assert found.interactions["ts"].to_pylist() == [1_291_191_960_000]
    assert "%m/%d/%Y" in found.dead[0].detail


@given(st.lists(st.sampled_from(["1700000000000", "2023-11-14 22:13:20", "2023-11-14", "x", ""])))
def test_what_a_time_means_does_not_depend_on_its_neighbors(texts: list[str]) -> None:
    together = check(log(len(texts), ts=pa.array(texts, pa.string()))) if texts else Records(0, 0)
    alone = [check(log(1, ts=[text])).interactions["ts"].to_pylist() for text in texts]
    assert together.interactions["ts"].to_pylist() == [ms for one in alone for ms in one]


def test_whole_number_ids_become_text() -> None:
    found = check(log(2, user_id=[12346, 7])).interactions
    assert found["user_id"].to_pylist() == ["12346", "7"]


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        (log(1, user_id=[12346.0]), "user_id"),
        (log(1, ts=[1.5]), "ts"),
        (log(1, value=[[1]]), "value"),
        (log(1, event_type=[5]), "event_type"),
    ],
)
def test_a_column_of_an_unusable_type_is_refused_whole(columns: dict[str, Any], named: str) -> None:
    with pytest.raises(SourceError, match=f"column '{named}' for {named} is .*convert it"):
        check(columns)


def test_a_missing_column_is_named_with_those_there_are() -> None:
    columns = log(1)
    columns["CustomerID"] = columns.pop("user_id")
    with pytest.raises(SourceError, match=r"no column 'user_id'.*CustomerID.*user_id=COLUMN"):
        check(columns)
    with pytest.raises(SourceError, match="no column 'qty' for value"):
        check(log(1), FileConfig(columns={"value": "qty"}))


def test_item_columns(tmp_path: Path) -> None:
    table = pa.table({
        "sku": ["a", "b", None, "d"],
        "title": ["lamp", None, "x", ""],
        "brand": ["Lux", "Mono", "x", None],
        "available": ["yes", "0", "true", "maybe"],
        "first_seen": [1_000, None, 1, 1],
    })
    pq.write_table(table, tmp_path / "items.parquet")
    config = FileConfig(kind="item", columns={"item_id": "sku", "text": "title+brand"})
    batch = FileSource(tmp_path / "items.parquet", config).poll(100)
    assert batch.interactions.num_rows == 0
    assert [tuple(row.values())[:4] for row in batch.items.to_pylist()] == [
        ("a", "lamp Lux", True, 1_000),
        ("b", "Mono", False, None),
    ]
    assert [(d.off, d.reason) for d in batch.dead] == [(2, "missing_field"), (3, "bad_type")]
    assert json.loads(batch.dead[1].raw)["available"] == "maybe"
