"""The filter that knows which event ids were stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from stream.seen import Keys, SeenIds, id_keys
from tests.stream.support import DAY_MS, START_MS, event, memory_source, opened, pipeline_config

if TYPE_CHECKING:
    from pathlib import Path


def keys(start: int, stop: int, user: int = 0) -> Keys:
    users = (np.arange(start, stop) + user) % 77
    return id_keys(users, pa.array([f"event-{n}" for n in range(start, stop)], pa.string()))


@pytest.mark.parametrize("at_once", [50_000, 800_000])
def test_an_id_that_was_added_is_always_known_and_hardly_any_other(at_once: int) -> None:
    seen = SeenIds(1 << 24)
    for start in range(0, 800_000, at_once):
        seen.add(keys(start, start + at_once))
    assert seen.maybe(keys(0, 800_000)).all()
    assert seen.maybe(keys(800_000, 1_600_000)).mean() < 1e-4
    assert seen.maybe(keys(0, 800_000, user=1)).mean() < 1e-4


def test_a_full_filter_forgets_nothing_and_grows_no_more() -> None:
    seen = SeenIds(3_000)
    for start in range(0, 20_000, 5_000):
        seen.add(keys(start, start + 5_000))
    assert seen.nbytes <= 3_000
    assert seen.maybe(keys(0, 20_000)).all()


def test_a_duplicate_of_an_event_stored_before_a_restart_is_found(tmp_path: Path) -> None:
    log = [event("u", "i1", START_MS + k, event_id=f"e{k}") for k in range(5)]
    log += [event("u", "i1", START_MS + 9, event_id=f"e{k}") for k in (3, 7)]
    config = pipeline_config(None, score=False, lateness_ms=DAY_MS)
    for limit in (5, None):
        with opened(tmp_path / "a.db", None, config, source=memory_source(log)) as pipeline:
            pipeline.run(max_records=limit)
            found = pipeline.db.query("SELECT off FROM rows_all WHERE duplicate ORDER BY off")
    assert found["off"].to_pylist() == [5]
