from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stream.config import TopicFormat
from stream.errors import ConfigError
from stream.formats.decoder import Decoder
from stream.formats.tables import load_table, shipped
from tests.stream.formats.encodings import APPEND_MS, CE_HEADERS, as_json, decode, fault

PERSONALIZE = TopicFormat(table="personalize")
METARANK = TopicFormat(table="metarank")
GORSE = TopicFormat(table="gorse")
NOW = 1_700_000_000_000


def envelope(*events: dict[str, Any], **changes: Any) -> bytes:
    return as_json({
        "trackingId": "t",
        "userId": "u",
        "sessionId": "s",
        "eventList": list(events),
        **changes,
    })


EVENT = {
    "eventType": "click",
    "itemId": "i",
    "sentAt": 1_700_000_000.25,
    "eventId": "e",
    "eventValue": 2.5,
}


def one(value: bytes, config: TopicFormat, headers: Any = ()) -> dict[str, Any]:
    found = decode((value, headers), config=config)
    assert not found.dead, found.dead[0].detail
    [row] = [*found.interactions.to_pylist(), *found.items.to_pylist()]
    return row


def test_the_shipped_tables_are_these() -> None:
    assert shipped() == ["gorse", "metarank", "personalize"]


def test_a_personalize_envelope_of_one_event_is_an_interaction() -> None:
    event = {**EVENT, "recommendationId": "r", "properties": '{"a": "1"}'}
    row = one(envelope(event), PERSONALIZE)
    assert (row["user_id"], row["item_id"], row["event_type"]) == ("u", "i", "click")
    assert (row["ts"], row["value"], row["event_id"]) == (NOW + 250, 2.5, "e")
    assert (row["session_id"], row["recommendation_id"]) == ("s", "r")
    assert row["props"] == '"{\\"a\\": \\"1\\"}"'


def test_a_personalize_envelope_of_several_events_says_so() -> None:
    reason, detail = fault(envelope(EVENT, EVENT, EVENT), config=PERSONALIZE)
    assert reason == "not_single"
    assert detail == "holds 3 interactions where one record is one - at `$.eventList`"
    assert fault(envelope(), config=PERSONALIZE)[0] == "not_single"


@pytest.mark.parametrize(
    ("value", "reason", "says"),
    [
        (envelope(EVENT, userId=None), "missing_field", "`userId`"),
        (envelope({**EVENT, "itemId": None}), "missing_field", "`eventList[].itemId`"),
        (envelope({**EVENT, "itemId": ["i"]}), "bad_type", "$.eventList[].itemId"),
        (envelope({**EVENT, "eventValue": "2"}), "bad_type", "$.eventList[].eventValue"),
        (envelope({**EVENT, "sentAt": "soon"}), "bad_type", "soon"),
        (envelope({**EVENT, "sentAt": NOW}), "out_of_range", "$.eventList[].sentAt"),
        (envelope(eventList={"itemId": "i"}), "bad_type", "got `object` - at `$.eventList`"),
        (envelope(eventList=["i"]), "bad_type", "got `str` - at `$.eventList[0]`"),
        (b"[]", "bad_type", "got `array`"),
        (b"{", "malformed", "truncated"),
    ],
)
def test_a_bad_personalize_record_names_its_own_fields(
    value: bytes, reason: str, says: str
) -> None:
    found = fault(value, config=PERSONALIZE)
    assert found[0] == reason
    assert says in found[1]


def test_a_metarank_interaction() -> None:
    fields = [{"name": "count", "value": 1}]
    event = {
        "event": "interaction", "id": "e", "timestamp": str(NOW), "user": "u", "session": "s",
        "type": "purchase", "item": "i", "ranking": "r", "fields": fields,
    }  # fmt: skip
    row = one(as_json(event), METARANK)
    assert (row["user_id"], row["item_id"], row["event_type"], row["ts"]) == (
        "u",
        "i",
        "purchase",
        NOW,
    )
    assert (row["event_id"], row["session_id"], row["recommendation_id"]) == ("e", "s", "r")
    assert row["props"] == '[{"name":"count","value":1}]'


def test_a_metarank_item() -> None:
    fields = [{"name": "color", "value": ["red"]}, {"name": "title", "value": "cat mug"}]
    row = one(
        as_json({"event": "item", "id": "e", "timestamp": NOW, "item": "i", "fields": fields}),
        METARANK,
    )
    assert (row["item_id"], row["text"], row["available"], row["ts"]) == ("i", "cat mug", True, NOW)


@pytest.mark.parametrize("kind", ["ranking", "user"])
def test_other_metarank_events_are_of_an_unknown_kind(kind: str) -> None:
    reason, detail = fault(as_json({"event": kind, "id": "e", "timestamp": NOW}), config=METARANK)
    assert reason == "unknown_kind"
    assert "$.event`" in detail


def test_gorse_feedback_and_items() -> None:
    feedback = {
        "FeedbackType": "star", "UserId": "u", "ItemId": "i", "Timestamp": "2023-11-14T22:13:20Z",
        "Comment": "",
    }  # fmt: skip
    row = one(as_json(feedback), GORSE)
    assert (row["user_id"], row["item_id"], row["event_type"], row["ts"]) == ("u", "i", "star", NOW)
    item = {"ItemId": "i", "IsHidden": True, "Categories": ["mugs", "red"], "Comment": "A mug"}
    row = one(as_json(item), TopicFormat(table="gorse", kind="item"))
    assert (row["text"], row["available"], row["ts"]) == ("A mug mugs red", False, APPEND_MS)


def own(tmp_path: Path, text: str) -> TopicFormat:
    path = tmp_path / "own.toml"
    path.write_text(text)
    return TopicFormat(table=str(path))


def test_a_table_for_any_topic(tmp_path: Path) -> None:
    config = own(
        tmp_path,
        """
        ts_format = "%d.%m.%Y %H:%M"
        [interaction]
        user_id = "properties.user"
        item_id = 'properties."item.id"'
        event_type = { path = "what", values = { buy = "purchase", 7 = "view" } }
        ts = "when"
        value = { constant = 2.0 }
        """,
    )
    record = {"properties": {"user": 42, "item.id": "i"}, "what": 7, "when": "14.11.2023 22:13"}
    row = one(as_json(record), config)
    assert (row["user_id"], row["item_id"], row["event_type"]) == ("42", "i", "view")
    assert (row["value"], row["ts"]) == (2.0, NOW - 20_000)
    assert one(as_json({**record, "what": "browse"}), config)["event_type"] == "browse"
    headers = [*CE_HEADERS[:3], ("ce_type", b"buy")]
    del record["what"]
    assert one(as_json(record), config, headers)["event_type"] == "purchase"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "neither"),
        ("[interaction", "not a rename table"),
        ("[person]", "person"),
        ("[interaction]\nuser_id = 'u'", "item_id"),
        ("[interaction]\nuser_id = 'u'\nitem_id = 'i'\nprice = 'p'", "'price'"),
        ("[interaction]\nuser_id = 'u'\nitem_id = 'i..x'", "interaction.item_id"),
        ("[interaction]\nuser_id = 'u'\nitem_id = '[]'", "no path"),
        ("[interaction]\nuser_id = 'u'\nitem_id = ''", "item_id"),
        ("[interaction]\nuser_id = 'u'\nitem_id = ['a', 'b']", "one path"),
        ("[interaction]\nuser_id = 'u'\nitem_id = { path = 'i', constant = 'x' }", "either"),
        ("[interaction]\nuser_id = 'u'\nitem_id = { way = 'i' }", "way"),
        ("ts_unit = 'h'\n[item]\nitem_id = 'i'", "h"),
    ],
)
def test_a_wrong_table_is_refused_with_file_and_field(tmp_path: Path, text: str, says: str) -> None:
    config = own(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        Decoder(config)
    assert "own.toml" in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_table_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="gorse, metarank, personalize"):
        load_table("personalise")
