"""States from storage: the same as states built from raw rows, for any user, offset and split of the work."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from stream.loading import LoadRequest
from stream.pipeline import Pipeline
from stream.score import Scorer
from stream.state import UserState
from tests.stream.support import (
    DAY_MS,
    HOUR_MS,
    eventful,
    line_features,
    memory_source,
    opened,
    pipeline_config,
    request_features,
    seen_items,
    tiny_engine,
)

ENGINE = tiny_engine()
LOG = eventful(np.random.default_rng(7), 60)
REF_MS = LOG[0]["ts"] // DAY_MS * DAY_MS


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A log with late events replayed append-only, rotated and merged on the way."""
    config = pipeline_config(
        ENGINE,
        score=False,
        lateness_ms=6 * HOUR_MS,
        rotate_rows=15,
        max_runs=2,
        tick_interval_s=DAY_MS // 1000,
        max_batch_records=9,
    )
    path = tmp_path_factory.mktemp("loading") / "a.db"
    with opened(path, ENGINE, config, source=memory_source(LOG)) as found:
        found.run()
        yield found


def load(pipeline: Pipeline, *requests: LoadRequest) -> list[UserState]:
    assert isinstance(pipeline.scorer, Scorer)
    return pipeline.scorer._loader.load(requests)


def assert_same(left: UserState, right: UserState) -> None:
    assert (left.user_idx, left.n_history) == (right.user_idx, right.n_history)
    assert (left.first_recent, left.left_out) == (right.first_recent, right.left_out)
    assert (left.groups, left.covered_through_ms) == (right.groups, right.covered_through_ms)
    assert left.last_key == right.last_key
    assert left.visit.items == right.visit.items
    assert left.last_visit.tolist() == right.last_visit.tolist()
    for at in (LOG[-1]["ts"], LOG[-1]["ts"] + 9 * DAY_MS):
        for one, other in (
            (line_features(left, at, REF_MS), line_features(right, at, REF_MS)),
            (request_features(left, at, REF_MS), request_features(right, at, REF_MS)),
        ):
            np.testing.assert_allclose(one.dense(24), other.dense(24), rtol=1e-6, atol=1e-9)
    if left.hidden is None or right.hidden is None:
        assert left.hidden is right.hidden
    else:
        np.testing.assert_allclose(left.hidden, right.hidden, atol=1e-4)


def test_loaded_alone_and_loaded_together_is_the_same(pipeline: Pipeline) -> None:
    requests = [
        LoadRequest(user, off) for off in (0, 3, 17, 18, 40, len(LOG), None) for user in (0, 1)
    ]
    together = load(pipeline, *requests)
    for request, state in zip(requests, together, strict=True):
        assert_same(load(pipeline, request)[0], state)
    assert load(pipeline) == []


def test_a_state_as_of_an_offset_holds_the_rows_below_it(pipeline: Pipeline) -> None:
    for off in (0, 5, 33, len(LOG)):
        for state in load(pipeline, LoadRequest(0, off), LoadRequest(1, off)):
            rows = pipeline.db.query(
                "SELECT item_idx FROM rows_ms WHERE in_history AND user_idx = ? AND off < ?",
                [state.user_idx, off],
            )
            assert state.n_history == rows.num_rows
            assert seen_items(state) == set(rows["item_idx"].to_pylist())
            covered = state.n_history - state.recents - state.left_out
            assert covered % 4 == 0
            assert state.groups == min(covered // 4, 3)  # the model reads at most 3


def test_a_user_without_history_has_an_empty_state(pipeline: Pipeline) -> None:
    state = load(pipeline, LoadRequest(-1))[0]
    assert (state.n_history, state.groups, state.recents, state.hidden) == (0, 0, 0, None)
    assert state.last_key is None
    features = request_features(state, LOG[-1]["ts"], REF_MS)
    assert features.item.shape == (0,)
    assert features.x.shape == (0, 8)


def test_another_users_tokens_stand_in_the_places_of_ones_own(pipeline: Pipeline) -> None:
    own, swapped, foreign = load(
        pipeline,
        LoadRequest(0),
        LoadRequest(0, mode="swap", swap_user_idx=1),
        LoadRequest(0, mode="swap", swap_user_idx=-1),
    )
    assert own.groups == swapped.groups > 0
    assert (own.n_history, own.first_recent) == (swapped.n_history, swapped.first_recent)
    assert not np.allclose(own.hidden, swapped.hidden, atol=1e-3)
    assert foreign.groups == 0


def test_recents_alone_are_the_same_window_without_tokens(pipeline: Pipeline) -> None:
    own, alone = load(pipeline, LoadRequest(0), LoadRequest(0, mode="recents"))
    assert alone.groups == 0
    assert alone.covered_through_ms is None
    assert (own.first_recent, own.recents) == (alone.first_recent, alone.recents)
    np.testing.assert_array_equal(own.counters.sums, alone.counters.sums)


def test_the_full_history_is_read_raw(pipeline: Pipeline) -> None:
    full = load(pipeline, LoadRequest(0, mode="full"))[0]
    assert (full.groups, full.first_recent, full.left_out) == (0, 0, 0)
    assert full.recents == full.n_history
