"""A log becomes histories: order, visits, columns, what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from model.data import HistoryLog, prepare_log
from model.errors import TrainingError


def make_table(rows: list[dict[str, Any]]) -> pa.Table:
    base = {"event_type": "buy"}
    return pa.Table.from_pylist([base | row for row in rows])


def prepare(table: pa.Table, **changes: Any) -> HistoryLog:
    options: dict[str, Any] = {
        "event_types": ("buy", "view"),
        "event_weights": {"view": 0.2},
        "visit_gap_ms": 0,
        "known_until_ms": 1_000,
    }
    return prepare_log(table, changes.pop("items", None), **(options | changes))


def test_history_order_is_user_time_seq_then_log_row() -> None:
    table = make_table([
        {"user_id": "b", "item_id": "x", "ts": 5, "seq": 0},
        {"user_id": "a", "item_id": "y", "ts": 7, "seq": 1},
        {"user_id": "a", "item_id": "z", "ts": 7, "seq": 0},
        {"user_id": "a", "item_id": "x", "ts": 2, "seq": 0},
        {"user_id": "a", "item_id": "x", "ts": 7, "seq": 1},
    ])
    log = prepare(table)
    assert log.user_ids == ["b", "a"]
    assert log.source_row.tolist() == [0, 3, 2, 1, 4]
    assert log.histories.ptr.tolist() == [0, 1, 5]


def test_items_known_at_the_cut_come_first_and_catalogue_items_last() -> None:
    rows = [
        {"user_id": "a", "item_id": "new", "ts": 1_500},
        {"user_id": "a", "item_id": "b", "ts": 10},
        {"user_id": "a", "item_id": "a", "ts": 20},
    ]
    items = pa.table({"item_id": ["never", "b"], "text": ["words", None]})
    log = prepare(make_table(rows), items=items)
    assert log.item_ids == ["a", "b", "new", "never"]
    assert log.n_known == 2
    assert log.texts == ["", "", "", "words"]


def test_returns_other_types_and_late_rows_are_left_out() -> None:
    rows: list[dict[str, Any]] = [
        {"user_id": "a", "item_id": "x", "ts": 1, "value": -2.0},
        {"user_id": "a", "item_id": "x", "ts": 2, "value": None},
        {"user_id": "a", "item_id": "x", "ts": 3, "value": 1.0, "event_type": "other"},
        {"user_id": "a", "item_id": "x", "ts": 9, "value": 1.0},
        {"user_id": "a", "item_id": "x", "ts": 4, "value": 1.0, "event_type": "view"},
    ]
    log = prepare(make_table(rows), until_ms=9)
    assert log.source_row.tolist() == [1, 4]
    assert log.histories.type_row.tolist() == [1, 2]
    assert log.histories.weight.tolist() == [1.0, 0.2]


def test_visits_follow_the_gap_and_the_session_id_wins() -> None:
    rows: list[dict[str, Any]] = [
        {"user_id": "a", "item_id": "x", "ts": 0, "session_id": None},
        {"user_id": "a", "item_id": "x", "ts": 50, "session_id": None},
        {"user_id": "a", "item_id": "x", "ts": 151, "session_id": None},
        {"user_id": "a", "item_id": "x", "ts": 160, "session_id": "s"},
        {"user_id": "a", "item_id": "x", "ts": 900, "session_id": "s"},
        {"user_id": "a", "item_id": "x", "ts": 901, "session_id": "t"},
        {"user_id": "b", "item_id": "x", "ts": 901, "session_id": "t"},
    ]
    log = prepare(make_table(rows), visit_gap_ms=100)
    assert log.histories.visit.tolist() == [0, 0, 1, 1, 1, 2, 3]


def test_timestamps_are_read_as_milliseconds() -> None:
    table = make_table([{"user_id": "a", "item_id": "x", "ts": 1_234}])
    ts = pa.array([1_234_567], pa.timestamp("us"))
    table = table.set_column(table.column_names.index("ts"), "ts", ts)
    assert prepare(table, known_until_ms=2_000).histories.ts.tolist() == [1_234]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(TrainingError, match="item_id"):
        prepare(pa.table({"user_id": ["a"], "event_type": ["buy"], "ts": [1]}))


def test_a_log_of_other_types_is_refused_with_the_remedy() -> None:
    rows = [{"user_id": "a", "item_id": "x", "ts": 1, "event_type": "other"}]
    with pytest.raises(TrainingError, match="configuration"):
        prepare(make_table(rows))


def test_columns_do_not_depend_on_the_order_of_the_log() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": f"u{rng.integers(5)}", "item_id": f"i{rng.integers(9)}", "ts": int(ts)}
        for ts in range(60)
    ]
    first, second = prepare(make_table(rows)), prepare(make_table(rows[::-1]))
    assert first.item_ids == second.item_ids
