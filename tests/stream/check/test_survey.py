"""Whole checks of small files in every format, good and broken."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream.check.reading import log_files
from stream.check.report import CheckReport
from stream.check.survey import CheckOptions, check_log
from stream.clock import DAY_MS
from stream.config import EventType, FileConfig, StreamConfig
from stream.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

START_S = 1_700_000_000
HOUR_S = 3_600


def event(i: int, **more: Any) -> dict[str, Any]:
    return {
        "user_id": f"u{i % 5}", "item_id": f"i{i % 11}", "event_type": "view",
        "ts": (START_S + i * HOUR_S) * 1_000, **more,
    }  # fmt: skip


def lines(path: Path, *records: dict[str, Any] | str) -> Path:
    text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in records)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def check(*paths: Path, **changes: Any) -> CheckReport:
    return check_log([str(path) for path in paths], CheckOptions(**changes))


def settings(report: CheckReport) -> dict[str, object]:
    return {one.key: one.value for one in report.proposals}


def said(report: CheckReport, level: str) -> str:
    return "\n".join(f"{a.what}: {a.remedy}" for a in report.advice if a.level == level)


def test_a_good_log_has_no_problem(tmp_path: Path) -> None:
    report = check(lines(tmp_path / "a.jsonl", *(event(i) for i in range(1_000))))
    assert (report.records, report.interactions, report.bad_records) == (1_000, 1_000, 0)
    assert (report.lengths.users, report.items.items, report.distinct_types) == (5, 11, 1)
    assert report.lengths.quantiles[1.0] == 200
    assert report.time.first_ms == START_S * 1_000
    assert report.sampled == 1
    assert not report.problems
    assert not said(report, "warning")
    assert settings(report)["refresh.segment_len"] == 64


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("us", 10**6), ("ns", 10**9)])
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.csv"])
def test_other_units_are_recognized_and_the_default_is_warned_of(
    tmp_path: Path, name: str, unit: str, scale: int
) -> None:
    path = tmp_path / name
    rows = [event(i, ts=(START_S + i) * scale) for i in range(200)]
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name == "a.csv":
        cells = [",".join(str(value) for value in row.values()) for row in rows]
        lines(path, ",".join(rows[0]), *cells)
    else:
        lines(path, *rows)
    report = check(path)
    assert settings(report)["log.ts_unit"] == unit
    assert (report.time.first_ms, report.bad_records) == (START_S * 1_000, 0)
    assert f'log.ts_unit = "{unit}"' in said(report, "warning")


def test_a_configured_unit_that_is_wrong_is_a_problem(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *(event(i, ts=START_S + i) for i in range(50)))
    report = check(path, log=FileConfig(ts_unit="ms"), given={"log.ts_unit": "ms"})
    assert "would make them 1970-01-20" in said(report, "problem")


def test_columns_of_other_names_are_renamed_and_the_delimiter_is_found(tmp_path: Path) -> None:
    rows = [
        f"{13_000 + i % 5};P{i % 3};{i % 28 + 1:02}.02.2023 10:00;{1 - 2 * (i == 0)}"
        for i in range(100)
    ]
    report = check(lines(tmp_path / "a.csv", "CustomerID;SKU;Order Date;Qty", *sorted(rows)))
    assert report.interactions == 100
    found = settings(report)
    assert found["log.delimiter"] == ";"
    assert found["log.columns.user_id"] == "CustomerID"
    assert found["log.columns.item_id"] == "SKU"
    assert found["log.columns.ts"] == "Order Date"
    assert found["log.ts_format"] == "%d.%m.%Y %H:%M"
    assert report.returns == 1


def test_a_name_that_says_no_format_is_looked_into(tmp_path: Path) -> None:
    rows = [event(i) for i in range(20)]
    assert settings(check(lines(tmp_path / "a.log", *rows)))["log.format"] == "jsonl"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.dat")
    assert settings(check(tmp_path / "b.dat"))["log.format"] == "parquet"


def test_bad_records_are_counted_by_reason_with_the_first_place(tmp_path: Path) -> None:
    bad = ['{"user_id"', event(1, ts="soon"), {"user_id": "u", "ts": 1_700_000_000_000}, "{"]
    path = lines(tmp_path / "a.jsonl", *(event(i) for i in range(30)), *bad, "", event(31))
    report = check(path)
    assert (report.records, report.interactions, report.bad_records, report.blank) == (36, 31, 4, 1)
    assert [(b.reason, b.records, b.first_row) for b in report.bad] == [
        ("malformed", 2, 31),
        ("bad_type", 1, 32),
        ("missing_field", 1, 33),
    ]
    assert "missing_field" in said(report, "warning")
    assert not report.problems


def test_a_last_line_cut_off_is_a_problem(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *(event(i) for i in range(30)))
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    report = check(path)
    assert report.bad_records == 1
    assert "its last record is cut off" in said(report, "problem")


def test_more_bad_records_than_a_replay_takes_are_a_problem(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *(event(i) for i in range(300)), *(["{"] * 150), event(1))
    assert "a replay stops above 20 %" in said(check(path), "problem")
    free = StreamConfig(max_dead_share=0.5)
    assert "a replay stops" not in said(check(path, stream=free), "problem")


def test_numbers_as_json_ids_are_explained(tmp_path: Path) -> None:
    report = check(lines(tmp_path / "a.jsonl", *(event(i, item_id=i) for i in range(10))))
    assert "JSON ids must be text" in said(report, "warning")
    assert "no record is an event" in said(report, "problem")


def test_damage_on_the_way_keeps_what_came_before(tmp_path: Path) -> None:
    data = gzip.compress("\n".join(json.dumps(event(i * 7919)) for i in range(5_000)).encode())
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(data[: len(data) // 2])
    report = check(path)
    assert 0 < report.interactions < 5_000
    assert "compressed data" in report.damage
    assert report.damage in said(report, "problem")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "who,bought,day\nx,y,2023-01-01\n", "user_id and item_id.*--map user_id=COLUMN"),
        ("a.csv", "user,item,x,y\nu,i,2023-01-01,2023-01-02\n", r"\(x, y look like times\)"),
        ("a.csv", "", "empty"),
        ("a.parquet", "PAR1 and then nothing", "not a whole Parquet file"),
        ("a.json", '[{"user_id": "u"}]', "one object per line"),
        ("a.json", '[\n{"user_id": "u"}\n]', "one object per line"),
        ("a.jsonl", "hello\n", "is it JSON lines"),
        ("a.csv", "u\0s\0e\0r\0\n", "convert it to UTF-8"),
    ],
)
def test_a_file_that_can_not_be_read_is_refused_in_one_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=message):
        check(tmp_path / name)


def test_files_named_against_time_are_told_from_unsorted_ones(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", *(event(i) for i in range(400, 800)))
    lines(tmp_path / "b.jsonl", *(event(i) for i in range(400)))
    report = check(tmp_path)
    assert [path[-7:] for path in report.files] == ["a.jsonl", "b.jsonl"]
    assert (report.order.out_of_order, report.order.in_file) == (0.5, 0.0)
    assert "name them by time" in said(report, "problem")


def test_event_types_get_a_role_and_a_weight_by_name(tmp_path: Path) -> None:
    names = ("page_view", "AddToCart", "order", "remove_from_cart", "impression")
    path = lines(tmp_path / "a.jsonl", *(event(i, event_type=names[i % 5]) for i in range(100)))
    found = {one.name: (one.role, one.weight) for one in check(path).types}
    assert found == {
        "page_view": ("both", 1.0),
        "AddToCart": ("both", 2.0),
        "order": ("both", 4.0),
        "remove_from_cart": ("neither", 1.0),
        "impression": ("neither", 1.0),
    }
    assert check(path).lengths.events == 60
    mine = StreamConfig(event_types={"order": EventType(weight=9.0)})
    proposed = settings(check(path, stream=mine))
    assert proposed["stream.event_types.order.weight"] == 9.0
    assert proposed["stream.event_types.AddToCart.weight"] == 2.0


def test_second_copies_are_found_and_ids_that_are_none_too(tmp_path: Path) -> None:
    copies = [event(i, event_id=f"e{i}") for i in range(100)]
    report = check(lines(tmp_path / "a.jsonl", *copies, *copies[:5]))
    assert report.histories.duplicates == pytest.approx(5 / 105)
    shared = [event(i, event_id=f"e{i // 40}") for i in range(0, 1_000, 5)]
    assert "no ids of events" in said(check(lines(tmp_path / "b.jsonl", *shared)), "problem")


def test_a_column_that_is_no_user_is_noticed(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *(event(i, user_id=f"u{i}") for i in range(300)))
    assert "nearly every event has its own user" in said(check(path), "problem")


def test_events_in_1970_and_far_ahead_are_warned_of(tmp_path: Path) -> None:
    rows = [event(i) for i in range(3_000)]
    rows[5]["ts"] = 0
    rows[2_000]["ts"] += 9_000 * DAY_MS
    report = check(lines(tmp_path / "a.jsonl", *rows))
    assert "1 events (0.03 %) are dated before 1980" in said(report, "warning")
    assert "far ahead of all others, up to 2048-" in said(report, "warning")
    assert report.order.strays == 1


def test_sampled_users_are_said_and_the_rest_stays_exact(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *(event(i, user_id=f"u{i % 200}") for i in range(4_000)))
    report = check(path, keep_events=1_000)
    assert report.sampled >= 4
    assert report.lengths.users == 200
    assert report.histories.users < 100


def test_a_pattern_that_means_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        log_files([str(tmp_path / "*.csv")])
