"""Late, out-of-order, repeated, returned and future-dated events: what they do to tokens, states and slates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from storage.tokens import load_groups
from stream.loading import LoadRequest
from stream.pipeline import Pipeline
from stream.score import Scorer
from stream.sinks.memory import MemorySink
from stream.slates import Slate
from tests.stream.support import (
    DAY_MS,
    HOUR_MS,
    START_MS,
    Event,
    event,
    history,
    memory_source,
    opened,
    pipeline_config,
    request_features,
    tiny_engine,
)

ENGINE = tiny_engine()
SETTINGS: dict[str, Any] = {"tick_interval_s": DAY_MS // 1000, "top_k": 99}
STEADY = [event("u", f"i{k % 9}", START_MS + k * 4 * HOUR_MS, seq=k) for k in range(16)]
NEWEST = STEADY[-1]["ts"]


class Run:
    """What a replay left: slates, groups, history, and the state it kept in memory."""

    def __init__(self, path: Path, log: list[Event], **changes: Any) -> None:
        sink = MemorySink()
        config = pipeline_config(ENGINE, **(SETTINGS | changes))
        with opened(path, ENGINE, config, source=memory_source(log), sink=sink) as pipeline:
            pipeline.run()
            self.slates: list[Slate] = sink.slates
            self.ticks = pipeline.summary.ticks
            self.history = history(pipeline, "u")
            self.groups = [group.kv for group in load_groups(pipeline.db, [0], "tiny")]
            self.dead = pipeline.db.query("SELECT off, reason FROM dead_letters").to_pylist()
            self._states(pipeline)
            pipeline.finish()
            self.popularity = pipeline.shared.now().popularity[-1].tolist()

    def _states(self, pipeline: Pipeline) -> None:
        """The state kept while replaying equals the one loaded from storage."""
        assert isinstance(pipeline.scorer, Scorer)
        kept = pipeline.scorer._states[0]
        loaded = pipeline.scorer._loader.load([LoadRequest(0)])[0]
        assert (kept.n_history, kept.recents) == (loaded.n_history, loaded.recents)
        assert kept.hidden is not None
        assert loaded.hidden is not None
        np.testing.assert_allclose(kept.hidden, loaded.hidden, atol=1e-4)
        ref_ms = pipeline.scorer._loader.ref_ms()
        self.features = request_features(kept, NEWEST + DAY_MS, ref_ms).dense(24)[0]
        loaded_features = request_features(loaded, NEWEST + DAY_MS, ref_ms).dense(24)[0]
        np.testing.assert_allclose(self.features, loaded_features, rtol=1e-6)
        self.hidden = kept.hidden


def test_an_event_behind_a_compressed_segment_is_kept_without_touching_it(tmp_path: Path) -> None:
    late = event("u", "i20", START_MS + HOUR_MS)
    plain = Run(tmp_path / "a.db", STEADY)
    found = Run(tmp_path / "b.db", [*STEADY, late])
    assert len(plain.groups) == 2
    assert found.groups[:2] == plain.groups
    place = [row["displaced"] for row in found.history].index(True)
    assert place == 8  # right after the two closed segments
    assert found.history[place]["h_ts_ms"] == STEADY[7]["ts"]
    assert found.history[place]["ts_ms"] == late["ts"]
    assert len(found.slates) == len(STEADY) + 1
    assert found.slates[-1].at_ms == NEWEST  # times the model sees never run backwards
    item = 9  # ninth item first seen
    age = (NEWEST + DAY_MS - late["ts"]) / DAY_MS
    np.testing.assert_allclose(found.features[item, 2], np.log1p(np.exp(-age / 7)), rtol=1e-6)
    assert plain.popularity == found.popularity[:9]
    assert found.popularity[9] == 1


def test_an_event_out_of_order_within_the_bound_takes_its_place(tmp_path: Path) -> None:
    """Order of arrival changes neither tokens, nor state, nor the slates from there on."""
    settings = {"lateness_ms": 9 * HOUR_MS}
    swapped = [*STEADY[:12], STEADY[13], STEADY[12], *STEADY[14:]]
    straight = Run(tmp_path / "a.db", STEADY, **settings)
    mixed = Run(tmp_path / "b.db", swapped, **settings)
    assert [row["ts_ms"] for row in mixed.history] == [one["ts"] for one in STEADY]
    assert mixed.groups == straight.groups
    np.testing.assert_allclose(mixed.hidden, straight.hidden, atol=1e-4)
    for one, other in zip(mixed.slates[13:], straight.slates[13:], strict=True):
        assert one.coverage == other.coverage
        scores = {item.item_id: item.score for item in other.items}
        assert scores.keys() == {item.item_id for item in one.items}
        assert all(abs(item.score - scores[item.item_id]) < 1e-4 for item in one.items)


def test_a_repeated_event_is_stored_and_otherwise_nothing(tmp_path: Path) -> None:
    log = [one | {"event_id": f"e{k}"} for k, one in enumerate(STEADY)]
    plain = Run(tmp_path / "a.db", log)
    found = Run(tmp_path / "b.db", [*log[:14], log[13], log[9], *log[14:]])
    assert len(found.slates) == len(plain.slates)
    assert [row["event_id"] for row in found.history] == [one["event_id"] for one in log]
    np.testing.assert_allclose(found.features, plain.features, rtol=1e-6)
    np.testing.assert_allclose(found.hidden, plain.hidden, atol=1e-4)
    assert found.popularity == plain.popularity


def test_an_id_used_again_after_its_segment_was_closed_is_a_new_event(tmp_path: Path) -> None:
    log = [one | {"event_id": f"e{k}"} for k, one in enumerate(STEADY)]
    found = Run(tmp_path / "a.db", [*log, log[0] | {"ts": NEWEST + HOUR_MS}])
    assert len(found.history) == len(log) + 1


def test_a_return_gets_no_slate_and_counts_nowhere(tmp_path: Path) -> None:
    back = event("u", "i1", NEWEST, value=-1)
    plain = Run(tmp_path / "a.db", STEADY)
    found = Run(tmp_path / "b.db", [*STEADY, back, *[back] * 3])
    assert len(found.slates) == len(plain.slates)
    assert len(found.history) == len(plain.history)
    np.testing.assert_allclose(found.features, plain.features, rtol=1e-6)
    assert found.popularity == plain.popularity


def test_a_future_dated_event_is_a_dead_letter_and_moves_no_clock(tmp_path: Path) -> None:
    ahead = event("u", "i1", NEWEST + 400 * DAY_MS)
    plain = Run(tmp_path / "a.db", STEADY)
    found = Run(tmp_path / "b.db", [*STEADY[:6], ahead, *STEADY[6:]])
    assert found.dead == [{"off": 6, "reason": "future_dated"}]
    assert found.ticks == plain.ticks
    assert found.groups == plain.groups
    for one, other in zip(found.slates, plain.slates, strict=True):
        assert one.coverage == other.coverage
        assert {item.item_id for item in one.items} == {item.item_id for item in other.items}
