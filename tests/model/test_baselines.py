from datetime import UTC, datetime

import numpy as np
import pytest

from model.baselines.counting import (
    DailyPopularity,
    Fallback,
    MostFrequent,
    MostRecent,
    Popularity,
    history_counts,
)
from model.baselines.log import DAY_MS, States, build_log, ranges
from model.baselines.mix import (
    LINE_FEATURES,
    VISIT_FEATURES,
    MixFeatures,
    fit_mix,
    maximum_likelihood,
)
from model.baselines.sequence import CoOccurrence, Markov

START = int(datetime(2024, 1, 1, 10, tzinfo=UTC).timestamp() * 1000)


def day(n, hour=0):
    return START + n * DAY_MS + hour * 3_600_000


def log_of(rows, n_items=6, **more):
    """Rows are (user, item, time)."""
    users, items, times = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return build_log(users, items, times, n_items=n_items, **more)


def state(log, user, row, time_ms, visit_row=None):
    return States(
        user=np.array([user]),
        row=np.array([row]),
        time_ms=np.array([time_ms]),
        visit_row=np.array([row if visit_row is None else visit_row]),
    )


def best(scores):
    return int(np.argmax(scores[0]))


def test_histories_are_sorted_by_user_time_seq_and_log_order():
    log = build_log(
        np.array([1, 0, 1, 0, 0]),
        np.array([0, 1, 2, 3, 4]),
        np.array([5, 7, 4, 7, 7]),
        n_items=5,
        seq=np.array([0, 2, 0, 1, 2]),
    )
    assert log.item.tolist() == [3, 1, 4, 2, 0]
    assert log.start.tolist() == [0, 3, 5]
    assert log.source_row.tolist() == [3, 1, 4, 2, 0]


def test_visits_go_by_session_and_else_by_gap():
    times = [0, 10, 100, 105, 300, 302]
    log = log_of(
        [(0, 0, t) for t in times], session=np.array([-1, -1, 7, 7, 7, 8]), visit_gap_ms=10
    )
    assert log.visit.tolist() == [0, 0, 1, 1, 1, 2]
    assert log.visit_first_row().tolist() == [0, 0, 2, 2, 2, 5]


def test_ranges_spell_out_rows():
    owner, row = ranges(np.array([3, 5, 0]), np.array([5, 5, 2]))
    assert owner.tolist() == [0, 0, 2, 2]
    assert row.tolist() == [3, 4, 0, 1]


def test_popularity_counts_whole_days_strictly_before():
    log = log_of([(0, 0, day(0)), (0, 1, day(3)), (0, 2, day(9)), (0, 3, day(10)), (0, 3, day(11))])
    popularity = DailyPopularity(log)
    asked = np.array([day(10, 5)])
    assert popularity.counts(asked, None)[0].tolist() == [1, 1, 1, 0, 0, 0]
    assert popularity.counts(asked, 7)[0].tolist() == [0, 1, 1, 0, 0, 0]
    assert popularity.counts(asked, 6)[0].tolist() == [0, 0, 1, 0, 0, 0]


def test_popularity_is_weighted():
    log = build_log(
        np.array([0, 0]),
        np.array([0, 1]),
        np.array([day(0), day(0)]),
        n_items=2,
        weight=np.array([0.5, 2.0]),
    )
    assert DailyPopularity(log).counts(np.array([day(1)]), 30)[0].tolist() == [0.5, 2.0]


def test_decayed_counts_follow_the_formula():
    log = log_of([(0, 0, day(0)), (0, 0, day(10)), (0, 1, day(10)), (1, 2, day(1))])
    asked = state(log, 0, 3, day(20))
    counts = history_counts(log, asked, asked.row, 365.0)[0]
    assert counts[0] == pytest.approx(np.exp(-20 / 365) + np.exp(-10 / 365))
    assert counts[1] == pytest.approx(np.exp(-10 / 365))
    assert counts[2:].sum() == 0


@pytest.fixture
def small():
    return log_of([
        (0, 0, day(0)), (0, 0, day(1)), (0, 1, day(2)), (0, 2, day(3)),
        (1, 4, day(2)), (1, 4, day(3)), (1, 4, day(4)), (1, 3, day(4)),
    ])  # fmt: skip


def test_user_baselines_put_the_users_own_items_first(small):
    fallback = Fallback(DailyPopularity(small))
    asked = state(small, 0, 4, day(10))
    recent = MostRecent(small, fallback).scores(asked)
    frequent = MostFrequent(small, fallback, None, "frequent").scores(asked)
    assert np.argsort(-recent[0])[:3].tolist() == [2, 1, 0]
    assert best(frequent) == 0
    assert np.argsort(-frequent[0])[3] == 4  # what the user never had goes by popularity


def test_fallback_never_passes_a_difference_of_the_user(small):
    fallback = Fallback(DailyPopularity(small))
    asked = state(small, 0, 4, day(10))
    scores = np.array([[0.1, 0.1 + 1e-6, 0.0, 0.0, 0.0, 0.0]])
    ordered = fallback.under(scores, asked)
    assert np.argsort(-ordered[0]).tolist()[:3] == [1, 0, 4]


def test_markov_follows_the_newest_line_of_the_visit():
    rows = [(0, item, day(0)) for item in (0, 1, 2)] + [(1, item, day(1)) for item in (0, 1, 2)]
    log = log_of([*rows, (2, 0, day(5)), (2, 1, day(5))])
    fallback = Fallback(DailyPopularity(log))
    markov = Markov(log, fallback, until_ms=day(4))
    inside = state(log, 2, 8, day(5), visit_row=6)
    assert best(markov.scores(inside)) == 2
    outside = state(log, 2, 8, day(9))
    assert markov.raw(outside).sum() == 0.0


def test_item_tables_do_not_look_past_their_cut():
    log = log_of([(0, 0, day(0)), (0, 1, day(0)), (1, 0, day(6)), (1, 2, day(6)), (2, 0, day(7))])
    fallback = Fallback(DailyPopularity(log))
    asked = state(log, 2, 5, day(7), visit_row=4)
    for table in (
        Markov(log, fallback, until_ms=day(5)),
        CoOccurrence(log, fallback, until_ms=day(5)),
    ):
        raw = table.raw(asked)[0]
        assert raw[1] > 0
        assert raw[2] == 0


def test_co_occurrence_reads_the_last_visit_before_a_new_one():
    log = log_of([(0, 0, day(0)), (0, 1, day(0)), (1, 3, day(1)), (1, 0, day(2))])
    together = CoOccurrence(log, Fallback(DailyPopularity(log)), until_ms=day(9))
    assert best(together.scores(state(log, 1, 4, day(5)))) == 1


def mix_features(log, kind="next_visit"):
    popularity = DailyPopularity(log)
    fallback = Fallback(popularity)
    markov = Markov(log, fallback, until_ms=day(99))
    together = CoOccurrence(log, fallback, until_ms=day(99))
    return MixFeatures(log, popularity, markov, together, kind=kind)


def test_mix_features_keep_the_current_visit_out_of_the_counters(small):
    features = mix_features(small, "next_line")
    made = features(state(small, 0, 4, day(3), visit_row=3))[0]
    names = dict(zip(LINE_FEATURES, made.T, strict=True))
    assert names["bought before"].tolist() == [1, 1, 0, 0, 0, 0]
    assert names["log count"][0] == pytest.approx(np.log(3))
    assert names["in last visit"].tolist() == [0, 1, 0, 0, 0, 0]
    assert names["in this visit"].tolist() == [0, 0, 1, 0, 0, 0]
    assert len(VISIT_FEATURES) == 10


def test_likelihood_finds_the_weights_that_made_the_choices():
    generator = np.random.default_rng(0)
    wanted = np.array([1.5, -0.7, 0.3])
    features = generator.normal(size=(4000, 8, 3)).astype(np.float32)
    logits = features @ wanted + generator.gumbel(size=(4000, 8))
    owner, chosen = np.arange(4000), logits.argmax(axis=1)
    weights = maximum_likelihood(lambda: iter([(features, owner, chosen)]), 3)
    assert weights == pytest.approx(wanted, abs=0.12)


def test_likelihood_survives_a_constant_feature():
    features = np.ones((5, 4, 2), dtype=np.float32)
    features[:, 0, 0] = 2.0
    weights = maximum_likelihood(
        lambda: iter([(features, np.arange(5), np.array([0, 0, 0, 0, 1]))]), 2
    )
    assert np.isfinite(weights).all()
    assert weights[0] > 0


def test_likelihood_without_data_is_zero():
    assert maximum_likelihood(lambda: iter([]), 3).tolist() == [0.0, 0.0, 0.0]


def test_a_fitted_mix_ranks_like_its_data(small):
    features = mix_features(small)
    states = States(
        user=np.array([0, 0, 1]),
        row=np.array([2, 3, 7]),
        time_ms=np.array([day(2), day(3), day(4)]),
        visit_row=np.array([2, 3, 6]),
    )
    mix = fit_mix(features, states, np.array([0, 1, 2]), np.array([0, 0, 4]))
    assert mix.scores(states).shape == (3, 6)
    assert best(mix.scores(states.take(np.array([2])))) == 4


def test_sampling_states_for_the_mix_is_the_same_every_time(small):
    features = mix_features(small)
    rows = np.array([1, 2, 3])
    states = States(
        user=np.zeros(3, dtype=np.int64), row=rows, time_ms=small.time_ms[rows], visit_row=rows
    )
    one, other = (
        fit_mix(features, states, np.arange(3), np.array([0, 1, 2]), max_states=2) for _ in range(2)
    )
    assert one.weights.tolist() == other.weights.tolist()


def test_popularity_baseline_names_itself(small):
    method = Popularity(DailyPopularity(small), 30, "popularity, 30 d")
    assert method.name == "popularity, 30 d"
    assert best(method.scores(state(small, 0, 4, day(10)))) == 4
