from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.config import FormatsConfig, TopicFormat
from stream.events import INTERACTION_SCHEMA, MAX_RAW_BYTES, MAX_RECORD_BYTES, Partition
from stream.formats.decoder import Decoder, TopicDecoder
from tests.strategies import FAULT_REASONS, FAULTS, interactions
from tests.stream.formats.encodings import (
    APPEND_MS,
    CE_HEADERS,
    ENCODINGS,
    PART,
    STRUCTURED,
    as_json,
    decode,
    fault,
    framed,
    structured,
)

GOOD: dict[str, Any] = {"user_id": "u", "item_id": "i", "ts": 1_700_000_000_000}
ITEMS = TopicFormat(kind="item")
MSGPACK = TopicFormat(encoding="msgpack")
TIMED = {name: what for name, what in FAULTS.items() if name != "no time"}
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


def row(value: bytes, headers: Any = (), config: TopicFormat | None = None) -> dict[str, Any]:
    found = decode((value, headers), config=config)
    assert not found.dead, found.dead[0].detail
    [only] = found.interactions.to_pylist()
    return only


@given(interactions(), st.none() | json_values)
def test_an_event_gives_the_same_row_in_every_encoding(record: dict[str, Any], props: Any) -> None:
    record = {"event_id": "e", "event_type": "view", **record}
    if props is not None:
        record["props"] = json.loads(json.dumps(props))
    rows = {}
    for name, encode in ENCODINGS.items():
        found = row(*encode(record))
        if found["props"] is not None:
            found["props"] = json.loads(found["props"])
        rows[name] = found
    assert all(found == rows["json"] for found in rows.values()), rows


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", TIMED)
def test_a_fault_has_the_same_reason_in_every_encoding(encoding: str, name: str) -> None:
    field, holds = TIMED[name]
    value, headers = ENCODINGS[encoding]({**GOOD, field: holds})
    if holds == math.inf and b"Infinity" in value:
        value = value.replace(b"Infinity", b"1e999")
    reason, detail = fault(value, headers)
    assert reason == FAULT_REASONS[name]
    assert field in detail or "out of range" in detail or "Number" in detail


@given(
    st.binary(max_size=60) | st.none(),
    st.lists(
        st.tuples(
            st.sampled_from([
                "ce_id",
                "ce_type",
                "ce_source",
                "ce_specversion",
                "ce_time",
                "content-type",
                "x",
            ]),
            st.none()
            | st.sampled_from([
                b"application/cloudevents+json",
                b"application/msgpack",
                b"avro",
                b"",
                b"\xff",
                b"1",
            ]),
        ),
        max_size=6,
    ),
    st.sampled_from(["auto", "json", "msgpack", "cloudevents", "confluent"]),
    st.sampled_from(["", "personalize", "metarank", "gorse"]),
    st.sampled_from(["interaction", "item"]),
    st.none() | st.binary(max_size=4),
)
def test_any_bytes_are_a_row_or_a_dead_letter(
    value: bytes | None, headers: Any, encoding: Any, table: str, kind: Any, key: bytes | None
) -> None:
    if table in {"personalize", "gorse"}:
        kind = "interaction"
    config = TopicFormat(encoding=encoding, table=table, kind=kind)
    found = decode((value, headers), config=config, key=key)
    assert len(found.interactions) + len(found.items) + len(found.dead) == 1
    assert all("\n" not in letter.detail for letter in found.dead)


@given(json_values, st.sampled_from(["", "personalize", "metarank", "gorse"]))
def test_any_json_is_a_row_or_a_dead_letter(tree: Any, table: str) -> None:
    for value, headers in (
        (as_json(tree), ()),
        (msgspec.msgpack.encode(tree), [("content-type", b"application/msgpack")]),
        (structured(tree), STRUCTURED),
    ):
        found = decode((value, headers), config=TopicFormat(table=table))
        assert len(found.interactions) + len(found.items) + len(found.dead) == 1


@pytest.mark.parametrize(
    ("value", "headers", "reason", "says"),
    [
        (b"", (), "malformed", "an empty value"),
        (b"  \n", CE_HEADERS, "malformed", "an empty value"),
        (b"{", (), "malformed", "truncated"),
        (b"[]", (), "bad_type", "got `array`"),
        (b'{"kind":"user"}', (), "unknown_kind", "'user'"),
        (b'{"user_id":""}', (), "empty_field", "$.user_id"),
        (b'{"item_id":"i"}', (), "missing_field", "user_id"),
        (b"\xff\xfe", (), "malformed", "malformed"),
        (None, (), "malformed", "tombstone"),
        (b"x" * (MAX_RECORD_BYTES + 1), (), "too_large", "1048576"),
        (b"\0\0\0", (), "malformed", "3 bytes"),
        (framed(b"\x02u\x02i"), (), "unsupported", "schema id 7"),
        (framed(b""), (), "unsupported", "Avro or Protobuf"),
        (b"{}", [("content-type", b"application/vnd.apache.avro")], "unsupported", "avro"),
        (b"{}", [("content-type", b"application/x-protobuf")], "unsupported", "protobuf"),
        (b"\xc1", [("content-type", b"application/msgpack")], "malformed", "MessagePack"),
        (b"\xc0", [("content-type", b"application/msgpack")], "missing_field", "null"),
        (b"{}", [("content-type", b"application/cloudevents-batch+json")], "not_single", "batch"),
        (b"{}", [("content-type", b"application/cloudevents+avro")], "unsupported", "avro"),
        (b"{}", STRUCTURED, "missing_field", "specversion"),
        (b"no", STRUCTURED, "malformed", "truncated"),
        (structured({}).replace(b'"ce-1"', b'""'), STRUCTURED, "empty_field", "$.id"),
        (structured({}).replace(b', "data": {}', b""), STRUCTURED, "missing_field", "$.data"),
        (structured({"user_id": 1}), STRUCTURED, "bad_type", "$.data.user_id"),
        (structured({}, data_base64="?"), STRUCTURED, "malformed", "$.data_base64"),
        (structured("<x/>", datacontenttype="text/xml"), STRUCTURED, "unsupported", "text/xml"),
        (b"{}", CE_HEADERS[1:], "missing_field", "ce_specversion"),
        (b"{}", [*CE_HEADERS[:1], ("ce_id", b""), *CE_HEADERS[2:]], "missing_field", "ce_id"),
        (b"{}", [*CE_HEADERS[:3], ("ce_type", None)], "missing_field", "ce_type"),
        (b"{}", CE_HEADERS, "missing_field", "user_id"),
    ],
)
def test_a_malformed_record_says_what_is_wrong(
    value: bytes | None, headers: Any, reason: str, says: str
) -> None:
    if value is not None and len(value) > MAX_RAW_BYTES:
        [letter] = decode((value, headers)).dead
        assert (letter.raw, letter.size) == (value[:MAX_RAW_BYTES], len(value))
        found = letter.reason, letter.detail
    else:
        found = fault(value, headers)
    assert found[0] == reason
    assert says in found[1]


@pytest.mark.parametrize(
    ("encoding", "value", "headers", "reason"),
    [
        ("json", framed(as_json(GOOD)), (), "malformed"),
        (
            "json",
            msgspec.msgpack.encode(GOOD),
            [("content-type", b"application/msgpack")],
            "malformed",
        ),
        ("msgpack", as_json(GOOD), (), "malformed"),
        ("confluent", as_json(GOOD), (), "malformed"),
        ("cloudevents", as_json(GOOD), (), "missing_field"),
    ],
)
def test_a_fixed_encoding_is_the_only_one(
    encoding: Any, value: bytes, headers: Any, reason: str
) -> None:
    assert fault(value, headers, config=TopicFormat(encoding=encoding))[0] == reason


@pytest.mark.parametrize(
    ("encoding", "value", "headers"),
    [
        ("json", as_json(GOOD), [("content-type", b"application/msgpack")]),
        ("msgpack", msgspec.msgpack.encode(GOOD), ()),
        ("confluent", framed(as_json(GOOD)), ()),
        ("cloudevents", structured(GOOD), ()),
        ("cloudevents", as_json(GOOD), CE_HEADERS),
    ],
)
def test_a_fixed_encoding_needs_no_headers(encoding: Any, value: bytes, headers: Any) -> None:
    assert row(value, headers, TopicFormat(encoding=encoding))["user_id"] == "u"


def test_a_cloudevent_fills_what_its_data_does_not_say() -> None:
    headers = [*CE_HEADERS, ("ce_time", b"2023-11-14T22:13:20.5Z")]
    found = row(as_json({"user_id": "u", "item_id": "i"}), headers)
    assert (found["event_id"], found["event_type"]) == ("ce-1", "view")
    assert found["ts"] == 1_700_000_000_500
    assert found["append_ts"] == APPEND_MS


def test_data_wins_over_the_attributes_of_its_cloudevent() -> None:
    headers = [*CE_HEADERS, ("ce_time", b"not a time")]
    found = row(as_json({**GOOD, "event_id": "own", "event_type": "buy"}), headers)
    assert (found["event_id"], found["event_type"], found["ts"]) == ("own", "buy", GOOD["ts"])


@pytest.mark.parametrize(
    ("time", "reason"), [("soon", "bad_type"), ("1960-01-01T00:00:00Z", "out_of_range")]
)
def test_a_bad_time_of_a_cloudevent_counts_where_it_is_needed(time: str, reason: str) -> None:
    value = structured({"user_id": "u", "item_id": "i"}, time=time)
    assert fault(value, STRUCTURED)[0] == reason


def test_a_record_without_a_time_takes_the_time_it_was_appended() -> None:
    found = row(as_json({"user_id": "u", "item_id": "i"}))
    assert (found["ts"], found["append_ts"]) == (APPEND_MS, APPEND_MS)
    strict = TopicFormat(append_time=False)
    assert fault(as_json({"user_id": "u", "item_id": "i"}), config=strict)[0] == "missing_field"
    assert fault(as_json({"user_id": "u", "item_id": "i"}), append_ms=None)[0] == "missing_field"


@pytest.mark.parametrize("append_ms", [-1, 2**62])
def test_an_append_time_no_table_can_hold_is_none(append_ms: int) -> None:
    found = decode((as_json(GOOD), ()), append_ms=append_ms)
    assert found.interactions["append_ts"].to_pylist() == [None]


def test_offsets_may_have_holes() -> None:
    found = decode((as_json(GOOD), ()), (b"{", ()), (as_json(GOOD), ()))
    assert found.interactions["off"].to_pylist() == [100, 104]
    assert [letter.off for letter in found.dead] == [102]
    assert (found.first, found.after) == (100, 105)


def test_a_tombstone_makes_its_item_unavailable() -> None:
    found = decode((None, ()), config=ITEMS, key="größe".encode())
    [item] = found.items.to_pylist()
    assert (item["item_id"], item["available"], item["text"]) == ("größe", False, None)
    assert item["ts"] == APPEND_MS


@pytest.mark.parametrize(
    ("key", "reason"), [(None, "missing_field"), (b"", "empty_field"), (b"\xff", "malformed")]
)
def test_a_tombstone_needs_a_key_that_names_an_item(key: bytes | None, reason: str) -> None:
    assert fault(None, config=ITEMS, key=key)[0] == reason


def test_items_come_in_every_encoding() -> None:
    record = {"item_id": "i", "text": "red mug", "available": True, "first_seen": 1_700_000_000_000}
    for value, headers in (encode(record) for encode in ENCODINGS.values()):
        found = decode((value, headers), config=ITEMS)
        [item] = found.items.to_pylist()
        assert (item["item_id"], item["text"], item["available"]) == ("i", "red mug", True)
        assert item["ts"] == 1_700_000_000_000


def test_a_record_says_its_kind_itself() -> None:
    found = decode(
        (as_json({"kind": "item", "item_id": "i"}), ()),
        (msgspec.msgpack.encode({**GOOD, "kind": "interaction"}), [("content-type", b"msgpack")]),
    )
    assert (len(found.items), len(found.interactions)) == (1, 1)


def test_messagepack_values_that_json_does_not_have() -> None:
    at = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert (
        row(msgspec.msgpack.encode({**GOOD, "ts": at}), config=MSGPACK)["ts"] == 1_700_000_000_000
    )
    wrong = {
        "non_finite": {**GOOD, "value": math.nan},
        "bad_type": {**GOOD, "user_id": b"u"},
        "out_of_range": {**GOOD, "seq": 2**64 - 1},
    }
    for reason, record in wrong.items():
        assert fault(msgspec.msgpack.encode(record), config=MSGPACK)[0] == reason
    extension = {**GOOD, "props": msgspec.msgpack.Ext(3, b"x")}
    assert fault(msgspec.msgpack.encode(extension), config=MSGPACK)[0] == "malformed"


def test_a_value_nested_beyond_reason_is_a_dead_letter() -> None:
    deep = b"\x91" * 100_000 + b"\xc0"
    assert fault(b"[" * 60_000, config=TopicFormat(table="gorse"))[0] == "malformed"
    [letter] = decode((deep, ()), config=MSGPACK).dead
    assert (letter.reason, letter.detail) == ("malformed", "nested too deeply")


def test_columns_are_the_canonical_ones_without_any_record() -> None:
    found = Decoder().decode(PART, np.empty(0, np.int64), [], [], [], [])
    assert found.interactions.schema.equals(INTERACTION_SCHEMA)
    assert not found.dead


def test_each_topic_is_read_as_its_own() -> None:
    decode_topic = TopicDecoder(FormatsConfig(), "items")
    offs = np.arange(1, dtype=np.int64)
    record = [b'{"item_id":"i"}']
    found = decode_topic(Partition("items", 0), offs, record, [b"i"], [()], [None])
    assert len(found.items) == 1
    found = decode_topic(Partition("clicks", 0), offs, record, [b"i"], [()], [None])
    assert [letter.reason for letter in found.dead] == ["missing_field"]
