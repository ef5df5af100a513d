"""The state in memory: counters add up, visits close, features follow."""

from __future__ import annotations

import numpy as np
import pytest

from model.asof import AsOf, Histories
from model.features import DECAY_DAYS, stack_rows
from storage.records import HistoryKey
from stream.state import Counters, HistoryRow, UserState, Visit
from tests.stream.support import DAY_MS, HOUR_MS, MINUTE_MS, START_MS, tiny_engine

ENGINE = tiny_engine()
GAP_MS = 30 * MINUTE_MS


def row(ts: int, item: int, session: str | None = None, weight: float = 1.0) -> HistoryRow:
    key = HistoryKey(ts, 0, 0, ts, displaced=False, off=ts)
    return HistoryRow(key, item, "view", ts, weight, session)


def fresh_state() -> UserState:
    return UserState(
        user_idx=0,
        cache=ENGINE.new_cache([]),
        counters=Counters(START_MS),
        visit=Visit(),
        last_visit=frozenset(),
        last_key=None,
        n_history=0,
        first_recent=0,
        left_out=0,
        groups=0,
        covered_through_ms=None,
    )


def test_counters_added_one_by_one_and_at_once_agree() -> None:
    rng = np.random.default_rng(0)
    items = rng.integers(0, 30, 200)
    times = START_MS + rng.integers(-DAY_MS, 40 * DAY_MS, 200)
    weights = rng.uniform(0, 3, 200)
    one, many = Counters(START_MS), Counters(START_MS)
    for values in zip(items.tolist(), times.tolist(), weights.tolist(), strict=True):
        one.add(*values)
    many.add_many(items[:90], times[:90], weights[:90])
    many.add_many(items[90:], times[90:], weights[90:])
    order = np.argsort(one.items), np.argsort(many.items)
    np.testing.assert_array_equal(one.items[order[0]], many.items[order[1]])
    np.testing.assert_allclose(one.sums[order[0]], many.sums[order[1]], rtol=1e-12)


def test_counters_decay_to_the_time_asked_from_any_reference() -> None:
    at = START_MS + 50 * DAY_MS
    for ref in (START_MS, START_MS - 900 * DAY_MS):
        counters = Counters(ref)
        counters.add(3, START_MS, 2.0)
        counters.add(3, START_MS + 20 * DAY_MS, 1.0)
        expected = [2 * np.exp(-50 / tau) + np.exp(-30 / tau) for tau in DECAY_DAYS]
        features = counters.features(at)[0]
        np.testing.assert_allclose(features[:2], [1, np.log1p(3)], rtol=1e-6)
        np.testing.assert_allclose(features[2:], np.log1p(expected), rtol=1e-6)


def test_counters_stay_finite_decades_after_their_reference() -> None:
    counters = Counters(0)
    counters.add(1, START_MS, 1.0)
    counters.add_many(np.array([2]), np.array([START_MS]), np.array([1.0]))
    assert np.isfinite(counters.features(START_MS + DAY_MS)).all()


def test_a_copy_of_counters_is_independent() -> None:
    counters = Counters(START_MS)
    counters.add(1, START_MS, 1.0)
    copy = counters.copy()
    copy.add(1, START_MS, 1.0)
    copy.add(2, START_MS, 1.0)
    assert counters.sums[:, 0].tolist() == [1.0]


@pytest.mark.parametrize(
    ("before", "after", "gap_ms", "same"),
    [
        (None, None, GAP_MS, True),
        (None, None, GAP_MS + 1, False),
        ("a", "a", 9 * DAY_MS, True),
        ("a", "b", 0, False),
        ("a", None, GAP_MS, True),
        (None, "a", GAP_MS + 1, False),
    ],
)
def test_a_visit_goes_on_within_its_session_or_without_one_within_the_gap(
    before: str | None, after: str | None, gap_ms: int, *, same: bool
) -> None:
    visit = Visit()
    visit.add(row(START_MS, 1, before))
    assert visit.continues(START_MS + gap_ms, after, GAP_MS) is same


def test_features_of_a_growing_state_are_the_trainers() -> None:
    rng = np.random.default_rng(1)
    steps = rng.choice([0, 10 * MINUTE_MS, 5 * HOUR_MS, 3 * DAY_MS], 40)
    times = START_MS + np.cumsum(steps)
    items = rng.integers(0, 9, 40)
    visit = np.cumsum(steps > GAP_MS)
    weights = rng.choice([1.0, 2.5], 40)
    histories = Histories(np.array([0, 40]), items, np.ones(40, np.int64), times, weights, visit)
    asof, state = AsOf(histories, 9), fresh_state()
    for i in range(40):
        state.push(row(int(times[i]), int(items[i]), weight=float(weights[i])), GAP_MS)
        line = stack_rows([state.line_features(int(times[i]))]).dense(9)
        np.testing.assert_allclose(line, asof.line(np.array([i])).dense(9), rtol=1e-6)
        later = int(times[i]) + 2 * DAY_MS
        asked = stack_rows([state.request_features(later)]).dense(9)
        trained = asof.request(np.array([0]), np.array([i + 1]), np.array([later]))
        np.testing.assert_allclose(asked, trained.dense(9), rtol=1e-6)
        assert set(state.seen().tolist()) == set(items[: i + 1].tolist())
    assert state.n_history == 40
