"""The state in memory: counters add up, visits close, features follow."""

from __future__ import annotations

import numpy as np
import pytest

from model.asof import AsOf, Histories
from model.features import DECAY_DAYS
from stream.counters import Counters, terms
from stream.facts import Facts
from stream.state import UserState, Visit, close_visits
from tests.stream.support import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    START_MS,
    features_of,
    line_features,
    request_features,
    seen_items,
    tiny_engine,
)

ENGINE = tiny_engine()
GAP_MS = 30 * MINUTE_MS


def push(
    state: UserState, ts: int, item: int, session: str | None = None, weight: float = 1.0
) -> None:
    if not state.visit.continues(ts, session, GAP_MS) and state.visit.items:
        close_visits([state], START_MS)
    state.visit.add([item], [ts], [weight])
    state.visit.ends_with(ts, session)
    state.n_history += 1


def fresh_state() -> UserState:
    return UserState(
        user_idx=0,
        cache=ENGINE.new_cache([]),
        counters=Counters(),
        visit=Visit(),
        last_visit=np.empty(0, np.int64),
        last_key=None,
        n_history=0,
        first_recent=0,
        left_out=0,
        groups=0,
        covered_through_ms=None,
    )


def add(
    counters: Counters,
    items: list[int],
    times: list[int],
    weights: list[float],
    ref: int = START_MS,
) -> None:
    counters.add(np.array(items), terms(np.array(times), np.array(weights), ref))


def decayed(counters: Counters, at: int, ref: int) -> np.ndarray:
    none = np.empty(0, np.int64)
    facts = Facts(counters.items, counters.sums, none, none)
    return features_of([facts], [at], ref).x[:, :6]


def test_counters_added_one_by_one_and_at_once_agree() -> None:
    rng = np.random.default_rng(0)
    items = rng.integers(0, 30, 200).tolist()
    times = (START_MS + rng.integers(-DAY_MS, 40 * DAY_MS, 200)).tolist()
    weights = rng.uniform(0, 3, 200).tolist()
    one, many = Counters(), Counters()
    for item, ts, weight in zip(items, times, weights, strict=True):
        add(one, [item], [ts], [weight])
    add(many, items[:90], times[:90], weights[:90])
    add(many, items[90:], times[90:], weights[90:])
    assert many.items.tolist() == sorted(set(items))
    np.testing.assert_array_equal(one.items, many.items)
    np.testing.assert_allclose(one.sums, many.sums, rtol=1e-12)
    shuffled = Counters()
    distinct = list(dict.fromkeys(items))[::-1]
    add(shuffled, distinct, times[: len(distinct)], weights[: len(distinct)])
    place = [distinct.index(item) for item in shuffled.items.tolist()]
    assert shuffled.sums[:, 0].tolist() == [weights[i] for i in place]


def test_counters_decay_to_the_time_asked_from_any_reference() -> None:
    at = START_MS + 50 * DAY_MS
    for ref in (START_MS, START_MS - 900 * DAY_MS):
        counters = Counters()
        add(counters, [3], [START_MS], [2.0], ref)
        add(counters, [3], [START_MS + 20 * DAY_MS], [1.0], ref)
        expected = [2 * np.exp(-50 / tau) + np.exp(-30 / tau) for tau in DECAY_DAYS]
        features = decayed(counters, at, ref)[0]
        np.testing.assert_allclose(features[:2], [1, np.log1p(3)], rtol=1e-6)
        np.testing.assert_allclose(features[2:], np.log1p(expected), rtol=1e-6)


def test_counters_stay_finite_decades_after_their_reference() -> None:
    counters = Counters()
    add(counters, [1], [START_MS], [1.0], ref=0)
    add(counters, [2], [START_MS], [1.0], ref=0)
    assert np.isfinite(decayed(counters, START_MS + DAY_MS, 0)).all()


def test_a_copy_of_counters_is_independent() -> None:
    counters = Counters()
    add(counters, [1], [START_MS], [1.0])
    copy = counters.copy()
    add(copy, [1, 2], [START_MS, START_MS], [1.0, 1.0])
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
    visit.add([1], [START_MS], [1.0])
    visit.ends_with(START_MS, before)
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
        push(state, int(times[i]), int(items[i]), weight=float(weights[i]))
        line = line_features(state, int(times[i]), START_MS).dense(9)
        np.testing.assert_allclose(line, asof.line(np.array([i])).dense(9), rtol=1e-6)
        later = int(times[i]) + 2 * DAY_MS
        asked = request_features(state, later, START_MS).dense(9)
        trained = asof.request(np.array([0]), np.array([i + 1]), np.array([later]))
        np.testing.assert_allclose(asked, trained.dense(9), rtol=1e-6)
        assert seen_items(state) == set(items[: i + 1].tolist())
    assert state.n_history == 40
