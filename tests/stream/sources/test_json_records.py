from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.config import FileConfig
from stream.errors import ConfigError
from stream.events import INTERACTION_SCHEMA, MAX_RAW_BYTES, MAX_RECORD_BYTES, Partition
from stream.sources.json_records import JsonDecoder
from stream.sources.records import Records
from tests.strategies import interactions

PART = Partition("clicks", 3)
GOOD: dict[str, Any] = {"user_id": "u", "item_id": "i", "ts": 1_700_000_000_000}


def decode(*lines: bytes, config: FileConfig | None = None) -> Records:
    offs = np.arange(100, 100 + len(lines), dtype=np.int64)
    return JsonDecoder(config or FileConfig()).decode(PART, offs, lines)


def line(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def fault(raw: bytes, config: FileConfig | None = None) -> tuple[str, str]:
    found = decode(raw, config=config)
    assert len(found.interactions) == len(found.items) == 0
    [letter] = found.dead
    assert (letter.topic, letter.part, letter.off) == (*PART, 100)
    assert letter.raw == raw[:MAX_RAW_BYTES]
    return letter.reason, letter.detail


def test_absent_and_null_optional_fields_take_the_same_defaults() -> None:
    names = ("event_type", "seq", "value", "event_id", "session_id", "recommendation_id", "props")
    rows = decode(line(), line(**dict.fromkeys(names))).interactions.to_pylist()
    assert {k: v for k, v in rows[0].items() if k != "off"} == {
        k: v for k, v in rows[1].items() if k != "off"
    }
    assert rows[0]["event_type"] == "interaction"
    assert (rows[0]["seq"], rows[0]["value"], rows[0]["event_id"]) == (0, 1.0, None)


@given(st.lists(interactions(), max_size=8))
def test_what_is_written_is_what_is_read(records: list[dict[str, Any]]) -> None:
    found = decode(*(json.dumps(record).encode() for record in records))
    assert found.interactions.schema.equals(INTERACTION_SCHEMA)
    assert not found.dead
    for row, record in zip(found.interactions.to_pylist(), records, strict=True):
        assert {key: row[key] for key in record} == record


@given(st.binary(max_size=60))
def test_any_bytes_are_a_row_a_dead_letter_or_blank(raw: bytes) -> None:
    found = decode(raw)
    assert len(found.interactions) + len(found.items) + len(found.dead) == (1 if raw.strip() else 0)


@pytest.mark.parametrize(
    ("raw", "reason", "place"),
    [
        (b"{", "malformed", "truncated"),
        (b'{"user_id":"\xff","item_id":"i","ts":1}', "malformed", "utf-8"),
        (b'{"props":' + b"[" * 200_000, "malformed", "deeply"),
        (b"[1]", "bad_type", "object"),
        (line(user_id=None), "missing_field", "$.user_id"),
        (json.dumps({"item_id": "i", "ts": 1}).encode(), "missing_field", "user_id"),
        (line(item_id=7), "bad_type", "$.item_id"),
        (line(item_id=""), "empty_field", "$.item_id"),
        (line(event_type=""), "empty_field", "$.event_type"),
        (line(ts=-1), "out_of_range", "$.ts"),
        (line(ts=10**30), "out_of_range", "$.ts"),
        (line(ts="2300-01-01"), "out_of_range", "$.ts"),
        (line(ts="tomorrow"), "bad_type", "$.ts"),
        (line(ts=1.5), "bad_type", "$.ts"),
        (line(seq=2**63), "out_of_range", "$.seq"),
        (line(value="x"), "bad_type", "$.value"),
        (line()[:-1] + b',"value":1e999}', "non_finite", "$.value"),
        (line(kind="basket"), "unknown_kind", "$.kind"),
        (line(kind="item", available=1), "bad_type", "$.available"),
    ],
)
def test_a_bad_record_says_what_is_wrong_where(raw: bytes, reason: str, place: str) -> None:
    got, detail = fault(raw)
    assert got == reason
    assert place in detail
    assert "\n" not in detail


def test_a_record_over_the_size_limit_is_refused_and_its_bytes_are_cut() -> None:
    reason, detail = fault(line(props={"x": "a" * MAX_RECORD_BYTES}))
    assert reason == "too_large"
    assert str(MAX_RECORD_BYTES) in detail


def test_details_name_the_files_own_key() -> None:
    config = FileConfig(columns={"user_id": "CustomerID"})
    raw = json.dumps({"CustomerID": 5, "item_id": "i", "ts": 1}).encode()
    assert fault(raw, config) == ("bad_type", "Expected `str`, got `int` - at `$.CustomerID`")


def test_items_come_in_the_same_stream() -> None:
    found = decode(
        line(),
        b'{"kind":"item","item_id":"i","text":"a lamp","available":false,"first_seen":5}',
        b'{"kind":"item","item_id":"j","ts":"1970-01-01T00:00:01Z"}',
        line(kind="interaction"),
    )
    assert found.interactions["off"].to_pylist() == [100, 103]
    assert [tuple(row.values())[:4] for row in found.items.to_pylist()] == [
        ("i", "a lamp", False, 5),
        ("j", None, True, 1_000),
    ]


def test_an_items_file_needs_no_kind_and_joins_text_columns() -> None:
    config = FileConfig(kind="item", columns={"text": "title+brand", "item_id": "sku"})
    found = decode(
        b'{"sku":"i","title":"lamp","brand":"Lux"}',
        b'{"sku":"j","title":"","brand":null}',
        config=config,
    )
    assert found.items["text"].to_pylist() == ["lamp Lux", None]


@pytest.mark.parametrize(
    ("unit", "given_ts", "ms"),
    [
        ("s", 1_700_000_000, 1_700_000_000_000),
        ("s", 1_700_000_000.123, 1_700_000_000_123),
        ("us", 1_700_000_000_123_456, 1_700_000_000_123),
        ("ns", 1_700_000_000_123_456_789, 1_700_000_000_123),
        ("ns", "7258118399999999999", 7_258_118_399_999),
        ("s", "2023-11-14T22:13:20+01:00", 1_699_996_400_000),
        ("ms", "2023-11-14 22:13:20", 1_700_000_000_000),
        ("s", "1700000000", 1_700_000_000_000),
    ],
)
def test_times_in_other_units_and_forms(unit: Any, given_ts: Any, ms: int) -> None:
    found = decode(line(ts=given_ts), config=FileConfig(ts_unit=unit))
    assert found.interactions["ts"].to_pylist() == [ms]


def test_seq_can_be_the_row_number() -> None:
    found = decode(line(seq=5), line(), config=FileConfig(columns={"seq": "@row"}))
    assert found.interactions["seq"].to_pylist() == [100, 101]


def test_append_times_of_the_log_override_the_records() -> None:
    decoder = JsonDecoder(FileConfig())
    found = decoder.decode(PART, np.arange(3), [line(append_ts=1), line(), b""], [7, None, 9])
    assert found.interactions["append_ts"].to_pylist() == [7, None]


@pytest.mark.parametrize(
    "columns",
    [{"user": "x"}, {"user_id": ""}, {"ts": "@row"}, {"user_id": "item_id"}],
)
def test_a_wrong_column_map_is_refused(columns: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="column map"):
        JsonDecoder(FileConfig(columns=columns))
