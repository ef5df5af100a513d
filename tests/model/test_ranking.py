import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.ranking import (
    METRICS,
    MISSED,
    Resampler,
    metric_values,
    ndcg,
    recall,
    target_ranks,
)


def ranks_of(scores, state, column, **more):
    return target_ranks(
        np.array(scores, dtype=np.float32), np.array(state), np.array(column), **more
    ).tolist()


def test_the_best_score_has_rank_one():
    assert ranks_of([[0.1, 0.9, 0.5]], [0, 0, 0], [1, 2, 0]) == [1.0, 2.0, 3.0]


def test_equal_scores_share_the_mean_of_their_places():
    assert ranks_of([[1.0, 0.5, 0.5, 0.5, 0.0]], [0, 0], [1, 4]) == [3.0, 5.0]


def test_a_method_that_says_nothing_stands_in_the_middle():
    assert ranks_of([[0.0] * 101], [0], [17]) == [51.0]


def test_removed_items_leave_the_ranking():
    removed = np.array([[True, False, False]])
    assert ranks_of([[9.0, 1.0, 2.0]], [0, 0], [1, 0], removed=removed) == [2.0, MISSED]


def test_a_target_that_is_no_candidate_is_missed_by_every_metric():
    ranks = target_ranks(
        np.array([[0.0, -np.inf]], dtype=np.float32), np.array([0, 0]), np.array([-1, 1])
    )
    assert ranks.tolist() == [MISSED, MISSED]
    assert all(metric_values(ranks, metric).sum() == 0.0 for metric in METRICS)


def test_metrics_by_hand():
    ranks = np.array([1.0, 2.0, 10.5, 50.0, 51.0])
    assert recall(ranks, 10).tolist() == [1, 1, 0, 0, 0]
    assert metric_values(ranks, "recall@50").tolist() == [1, 1, 1, 1, 0]
    assert ndcg(ranks, 10) == pytest.approx([1.0, 1 / np.log2(3), 0, 0, 0])
    assert metric_values(ranks, "mrr") == pytest.approx(1 / ranks)


def test_scores_must_be_a_table():
    with pytest.raises(ValueError, match=r"\[states, items\]"):
        target_ranks(np.zeros(3, dtype=np.float32), np.array([0]), np.array([0]))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_ranks_equal_those_of_sorting(data):
    n_items = data.draw(st.integers(1, 12))
    rows = data.draw(
        st.lists(
            st.lists(st.integers(0, 3), min_size=n_items, max_size=n_items), min_size=1, max_size=4
        )
    )
    scores = np.array(rows, dtype=np.float32)
    state = np.repeat(np.arange(len(rows)), n_items)
    column = np.tile(np.arange(n_items), len(rows))
    ranks = target_ranks(scores, state, column).reshape(len(rows), n_items)
    for row, got in zip(scores, ranks, strict=True):
        places = np.empty(n_items)
        places[np.argsort(-row, kind="stable")] = np.arange(1, n_items + 1)
        expected = [places[row == value].mean() for value in row]
        assert got == pytest.approx(expected)


def test_the_interval_holds_the_mean_and_resamples_whole_users():
    users = np.repeat(np.arange(50), 4)
    values = (users % 2).astype(float)  # a user's targets agree: only users carry information
    estimate = Resampler(users, seed=1).estimate(values)
    assert (estimate.value, estimate.target_count, estimate.user_count) == (0.5, 200, 50)
    spread = 1.96 * np.sqrt(0.25 / 50)
    assert estimate.low == pytest.approx(0.5 - spread, abs=0.03)
    assert estimate.high == pytest.approx(0.5 + spread, abs=0.03)


def test_a_constant_difference_has_no_spread():
    users = np.arange(20)
    values = np.random.default_rng(0).random(20)
    estimate = Resampler(users).estimate((values + 0.25) - values)
    assert estimate.low == pytest.approx(0.25)
    assert estimate.high == pytest.approx(0.25)


def test_an_estimate_of_a_part_counts_that_part_only():
    users = np.array([0, 0, 1, 2])
    where = np.array([True, False, False, True])
    estimate = Resampler(users).estimate(np.array([1.0, 9.0, 9.0, 0.0]), where)
    assert (estimate.value, estimate.target_count, estimate.user_count) == (0.5, 2, 2)


def test_an_empty_part_is_not_a_number():
    estimate = Resampler(np.array([0, 1])).estimate(np.zeros(2), np.zeros(2, dtype=bool))
    assert np.isnan(estimate.value)
    assert estimate.target_count == 0


def test_the_same_seed_draws_the_same_users():
    users, values = np.arange(30), np.random.default_rng(3).random(30)
    assert Resampler(users, seed=5).estimate(values) == Resampler(users, seed=5).estimate(values)
