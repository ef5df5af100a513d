"""What a hard filter excludes never leaves, whatever was evicted, restarted or rotated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.engine import Engine
from stream.rank import named, top
from stream.sinks.memory import MemorySink
from stream.slates import ScoredItem, Slate
from tests.stream.support import (
    DAY_MS,
    HOUR_MS,
    N_ITEMS,
    START_MS,
    Event,
    event,
    memory_source,
    opened,
    pipeline_config,
    random_log,
    tiny_engine,
)

ENGINE = tiny_engine()
CATALOGUE = [{"kind": "item", "item_id": f"i{k}", "text": f"Lamp {k}"} for k in range(N_ITEMS)]


def served(
    path: Path, log: list[Event], engine: Engine | None = ENGINE, **changes: Any
) -> tuple[list[Slate], Slate]:
    """The slates of a replay, and what the log's last user is shown after a restart."""
    sink = MemorySink()
    settings = {"tick_interval_s": 2 * DAY_MS // 1000, "top_k": 99, "max_users": 1} | changes
    config = pipeline_config(engine, **settings)
    with opened(path, engine, config, source=memory_source(log), sink=sink) as pipeline:
        pipeline.run()
        pipeline.finish()
    with opened(path, engine, config) as pipeline:
        return sink.slates, pipeline.recommend(log[-1]["user_id"])


def shown(slate: Slate) -> set[str]:
    return {one.item_id for one in slate.items}


@pytest.mark.parametrize("engine", [ENGINE, None], ids=["model", "no model"])
def test_a_seen_item_is_never_shown_again(tmp_path: Path, engine: Engine | None) -> None:
    log = [*CATALOGUE, *random_log(np.random.default_rng(0), 44, users=3, step_ms=6 * HOUR_MS)]
    slates, last = served(
        tmp_path / "a.db", log, engine, filter_seen=True, rotate_rows=10, max_batch_records=9
    )
    seen: dict[str, set[str]] = {}
    rows = iter(one for one in log if "user_id" in one)
    for slate in slates:
        one = next(rows)
        seen.setdefault(one["user_id"], set()).add(one["item_id"])
        assert not shown(slate) & seen[slate.user_id]
        assert (engine is None) == (slate.reason == "popular")
    assert any(slate.items for slate in slates[20:])
    assert shown(last) == {f"i{k}" for k in range(N_ITEMS)} - seen[log[-1]["user_id"]]


def test_an_item_of_3000_events_ago_never_returns(tmp_path: Path) -> None:
    """Append-only to be quick; then evicted, restarted and asked."""
    old = event("u", "old", START_MS)
    rest = [event("u", f"i{k % 20}", START_MS + k * HOUR_MS // 10) for k in range(1, 3001)]
    log = [*CATALOGUE, old, *rest, event("other", "i1", rest[-1]["ts"])]
    path = tmp_path / "a.db"
    settings: dict[str, Any] = {"score": False, "tick_interval_s": 10**8, "rotate_rows": 500}
    config = pipeline_config(ENGINE, filter_seen=True, top_k=99, max_users=1, **settings)
    with opened(path, ENGINE, config, source=memory_source(log)) as pipeline:
        pipeline.run()
        pipeline.finish()
        assert pipeline.recommend("u").coverage.groups == 3
    with opened(path, ENGINE, config) as pipeline:
        assert "old" in shown(pipeline.recommend("other"))
        for user in ("u", "other", "u"):
            slate = pipeline.recommend(user)
            assert ("old" in shown(slate)) == (user == "other")
        assert shown(slate) == {f"i{k}" for k in range(20, N_ITEMS)}


@pytest.mark.parametrize("engine", [ENGINE, None], ids=["model", "no model"])
def test_a_denied_item_is_never_shown(tmp_path: Path, engine: Engine | None) -> None:
    log = [*CATALOGUE, *random_log(np.random.default_rng(1), 20, users=2)]
    slates, last = served(tmp_path / "a.db", log, engine, deny=("i0", "i3", "no such item"))
    assert all(not shown(slate) & {"i0", "i3"} for slate in slates)
    assert shown(last) == {f"i{k}" for k in range(N_ITEMS)} - {"i0", "i3"}


def test_an_unavailable_item_is_not_shown_from_its_record_on_until_it_returns(
    tmp_path: Path,
) -> None:
    events = random_log(np.random.default_rng(1), 30, users=2, step_ms=HOUR_MS)
    record = {"kind": "item", "item_id": "i1"}
    gone, back = [record | {"available": flag} for flag in (False, True)]
    log = [*CATALOGUE, *events[:10], gone, *events[10:20], back, *events[20:]]
    for size in (4, 100):
        slates, last = served(tmp_path / f"{size}.db", log, max_batch_records=size)
        assert ["i1" in shown(slate) for slate in slates[1:]] == [True] * 9 + [False] * 10 + [
            True
        ] * 10
        assert "i1" in shown(last)


def test_an_item_file_says_what_is_unavailable_too(tmp_path: Path) -> None:
    log = random_log(np.random.default_rng(1), 20, users=2)
    config = pipeline_config(ENGINE, top_k=99)
    sink = MemorySink()
    source = memory_source([CATALOGUE[0] | {"available": False}, *CATALOGUE[1:]])
    source._logs = {key._replace(topic="items"): log for key, log in source._logs.items()}
    source._begin = {key._replace(topic="items"): at for key, at in source._begin.items()}
    source._next = dict(source._begin)
    with opened(
        tmp_path / "a.db", ENGINE, config, source=memory_source(log), sink=sink
    ) as pipeline:
        assert pipeline.load(source) == N_ITEMS
        pipeline.run()
    assert all("i0" not in shown(slate) for slate in sink.slates)
    assert len(shown(sink.slates[-1])) == N_ITEMS - 1


def items_of(scores: NDArray[np.float32], names: list[str], k: int) -> list[tuple[ScoredItem, ...]]:
    """The items of all rows, found in two portions."""
    half = len(scores) // 2
    return named([top(scores[:half], k), top(scores[half:], k)], names)


def test_the_best_items_come_first_and_ties_go_by_age() -> None:
    scores = np.array([[1.0, 3.0, 2.0, 3.0, 0.5]], np.float32)
    names = list("abcde")
    (found,) = items_of(scores, names, 3)
    assert [one.item_id for one in found] == ["b", "d", "c"]
    assert [one.score for one in found] == [3.0, 3.0, 2.0]
    assert [one.item_id for one in items_of(scores, names, 1)[0]] == ["b"]
    left_out = scores.copy()
    left_out[0, [1, 3]] = -np.inf
    assert [one.item_id for one in items_of(left_out, names, 9)[0]] == ["c", "a", "e"]
    assert items_of(np.full((2, 5), -np.inf, np.float32), names, 3) == [(), ()]
    assert items_of(np.zeros((2, 0), np.float32), [], 3) == [(), ()]


@given(
    st.integers(1, 6),
    st.integers(1, 200),
    st.integers(1, 12),
    st.integers(0, 3),
    st.integers(0, 99),
)
def test_top_items_are_those_of_a_full_sort(
    n_rows: int, width: int, k: int, spread: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(size=(n_rows, width)), spread).astype(np.float32)
    scores[rng.random(scores.shape) < 0.3] = -np.inf
    names = [f"i{column}" for column in range(width)]
    for row, found in zip(scores, items_of(scores, names, k), strict=True):
        order = [i for i in np.lexsort((np.arange(width), -row)) if row[i] > -np.inf][:k]
        assert [(one.item_id, one.score) for one in found] == [(names[i], row[i]) for i in order]


def test_a_slate_is_ordered_and_as_long_as_asked(tmp_path: Path) -> None:
    log = [*CATALOGUE, *random_log(np.random.default_rng(1), 12, users=2)]
    slates, last = served(tmp_path / "a.db", log, top_k=5)
    for slate in [*slates[1:], last]:
        scores = [one.score for one in slate.items]
        assert len(scores) == len(shown(slate)) == 5
        assert scores == sorted(scores, reverse=True)
