from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stream.config import EventType, FileConfig, LiveConfig, StreamConfig


@pytest.mark.parametrize(
    ("role", "in_history", "scores"),
    [
        ("history", True, False),
        ("scores", False, True),
        ("both", True, True),
        ("neither", False, False),
    ],
)
def test_a_role_says_what_a_type_does(role: Any, in_history: bool, scores: bool) -> None:  # noqa: FBT001
    kind = EventType(role=role)
    assert (kind.in_history, kind.scores) == (in_history, scores)


def test_unlisted_types_follow_one_rule() -> None:
    config = StreamConfig(event_types={"view": EventType(weight=0.1)}, unlisted="history")
    assert config.event_type("view") == EventType(weight=0.1)
    assert config.event_type("like") == EventType(role="history")
    assert StreamConfig(unlisted="reject").event_type("like") is None


def test_settings_are_made_from_plain_data() -> None:
    raw = {"event_types": {"view": {"role": "history", "weight": 0.5}}, "lateness_ms": 0}
    config = msgspec.convert(raw, StreamConfig)
    assert config.event_types == {"view": EventType(role="history", weight=0.5)}
    assert msgspec.convert(msgspec.to_builtins(config), StreamConfig) == config
    assert msgspec.convert({"kind": "item"}, FileConfig) == FileConfig(kind="item")


def test_a_poll_is_larger_where_nothing_is_scored_unless_its_size_is_set() -> None:
    free, fixed = StreamConfig(), StreamConfig(max_batch_records=7)
    assert free.batch_records(scoring=True) < free.batch_records(scoring=False)
    assert {fixed.batch_records(scoring=flag) for flag in (True, False)} == {7}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"lateness_ms": -1}, "lateness_ms"),
        ({"visit_gap_ms": -1}, "visit_gap_ms"),
        ({"max_dead_share": 1.5}, "max_dead_share"),
        ({"max_batch_records": -1}, "max_batch_records"),
        ({"event_types": {"view": {"weight": -1}}}, "weight"),
        ({"event_types": {"view": {"role": "sometimes"}}}, "role"),
        ({"unlisted": "maybe"}, "unlisted"),
    ],
)
def test_unusable_values_are_refused_by_name(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(raw, StreamConfig)


@pytest.mark.parametrize("raw", [{"ts_format": "ISO"}, {"delimiter": ";;"}, {"kind": "user"}])
def test_unusable_file_settings_are_refused_by_name(raw: dict[str, str]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(raw))):
        msgspec.convert(raw, FileConfig)


@pytest.mark.parametrize(
    ("name", "value"),
    [("take_max", 0), ("worker_deadline_s", 0.0), ("drain_s", float("nan")), ("shed_above", -1)],
)
def test_a_service_refuses_settings_it_cannot_run_with(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        LiveConfig(**{name: value})
