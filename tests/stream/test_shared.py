"""What users share: candidates and popularity change at ticks, availability at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.features import POPULARITY_DAYS
from storage import journal
from stream.config import EventType
from stream.sinks.memory import MemorySink
from tests.stream.support import (
    DAY_MS,
    HOUR_MS,
    START_MS,
    TYPES,
    event,
    eventful,
    memory_source,
    opened,
    pipeline_config,
    tiny_engine,
)

ENGINE = tiny_engine()


def counted(log: list[Any], cut: int, days: int | None, items: list[str]) -> list[float]:
    start = 0 if days is None else cut - days * DAY_MS
    weights = dict.fromkeys(items, 0.0)
    for row in log:
        if row["in_history"] and start <= row["ts_ms"] < cut:
            weights[items[row["item_idx"]]] += row["weight"]
    return list(weights.values())


def test_popularity_counts_what_was_stored_before_the_tick_and_happened_before_its_midnight(
    tmp_path: Path,
) -> None:
    """Late events, returns, repeats and silent types included; recomputed by hand at every tick."""
    log = eventful(np.random.default_rng(3), 50)
    for i, one in enumerate(log):
        if i % 7 == 0:
            one["event_type"] = "note"
    types = TYPES | {"note": EventType(role="neither")}
    config = pipeline_config(
        ENGINE, lateness_ms=HOUR_MS, tick_interval_s=2 * DAY_MS // 1000, event_types=types
    )
    checks = 0

    with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(log)) as pipeline:

        def check(first: Any, after: Any) -> None:
            nonlocal checks
            now = pipeline.shared.now()
            if now.cut_ms is None:
                return
            tick = journal.entries(pipeline.db, "popularity")[-1]
            below = max(tick.positions.values())
            rows = pipeline.db.query(
                "SELECT * FROM rows_ms WHERE off < ? ORDER BY off", [below]
            ).to_pylist()
            items = pipeline.identities.all_item_ids[: tick.detail["n_items"]]
            newest = max(row["ts_ms"] for row in rows) - HOUR_MS
            assert now.cut_ms == newest - newest % DAY_MS
            for window, days in enumerate(POPULARITY_DAYS):
                expected = counted(rows, now.cut_ms, days, items)
                np.testing.assert_allclose(now.popularity[window], expected)
            checks += 1

        pipeline.run(on_interval=check)
    assert checks > 2


def test_a_new_item_is_shown_from_the_next_tick_on(tmp_path: Path) -> None:
    log = [event("u", f"i{k}", START_MS + k * HOUR_MS) for k in range(5)]
    log += [event("u", "i7", START_MS + DAY_MS + k * HOUR_MS) for k in range(3)]
    sink = MemorySink()
    with opened(
        tmp_path / "a.db", ENGINE, pipeline_config(ENGINE), source=memory_source(log), sink=sink
    ) as pipeline:
        pipeline.run()
    shown = [{one.item_id for one in slate.items} for slate in sink.slates]
    assert shown[0] == set()
    assert shown[1:6] == [{"i0"}] * 5
    assert shown[6] == {"i0", "i1", "i2", "i3", "i4", "i7"}


def test_an_item_announced_for_later_is_not_shown_before(tmp_path: Path) -> None:
    announced = {"kind": "item", "item_id": "soon", "ts": START_MS + 2 * DAY_MS + HOUR_MS}
    log = [announced, *(event("u", "i1", START_MS + k * DAY_MS + 2 * HOUR_MS) for k in range(5))]
    sink = MemorySink()
    with opened(
        tmp_path / "a.db", ENGINE, pipeline_config(ENGINE), source=memory_source(log), sink=sink
    ) as pipeline:
        pipeline.run()
    shown = ["soon" in {one.item_id for one in slate.items} for slate in sink.slates]
    assert shown == [False, False, False, True, True]


@pytest.mark.parametrize("restart", [False, True])
def test_what_a_tick_fixed_holds_until_the_next_one(tmp_path: Path, *, restart: bool) -> None:
    """Popularity and candidates between two ticks do not move with the events, nor with a restart."""
    log = [event("u", f"i{k % 4}", START_MS + k * 5 * HOUR_MS) for k in range(14)]
    config = pipeline_config(ENGINE, tick_interval_s=2 * DAY_MS // 1000)
    path = tmp_path / "a.db"
    with opened(path, ENGINE, config, source=memory_source(log)) as pipeline:
        pipeline.run(max_records=12)
        before = pipeline.shared.now()
        if not restart:
            pipeline.run(max_records=1)
            after = pipeline.shared.now()
    if restart:
        with opened(path, ENGINE, config, source=memory_source(log)) as pipeline:
            pipeline.run(max_records=1)
            after = pipeline.shared.now()
    assert before.cut_ms == after.cut_ms
    np.testing.assert_array_equal(before.popularity, after.popularity)
    np.testing.assert_array_equal(before.known, after.known)
