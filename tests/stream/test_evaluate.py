"""The evaluation asks what production would have been asked, when it would have been asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream.errors import EvaluationError, LeakageError
from stream.evaluate import EvaluationPlan, admit, count, figures, measure, prepare
from stream.evaluation.counted import MIX
from stream.evaluation.figures import _joined, figures_of
from stream.evaluation.log import EvaluationLog, evaluation_log
from stream.evaluation.production import FULL, RECENTS, SWAPPED, TOKENS, IntervalScorer
from stream.evaluation.ranks import RankBook
from stream.evaluation.targets import Cuts, TargetOptions, load_targets, sample_targets
from stream.log import read_log
from stream.score import StateRequest, StateScores
from tests.stream.support import (
    DAY_MS,
    HOUR_MS,
    START_MS,
    event,
    memory_source,
    opened,
    pipeline_config,
    random_log,
    tiny_engine,
)

ENGINE = tiny_engine()
LOG = random_log(np.random.default_rng(5), 160, users=4, step_ms=6 * HOUR_MS)
TIMES = [one["ts"] for one in LOG]
CUTS = Cuts(train_end=TIMES[80], validation_end=TIMES[110], test_end=TIMES[-1] + 1)
OPTIONS = TargetOptions(min_events=8, max_visit_targets=12, max_line_targets=10)
PLAN = EvaluationPlan(
    cuts=CUTS, options=OPTIONS, variants=(TOKENS, RECENTS, SWAPPED, replace(FULL, every=1))
)
CONFIG = pipeline_config(ENGINE, score=False, tick_interval_s=4 * DAY_MS // 1000)


def log_of(events) -> EvaluationLog:
    config = pipeline_config(ENGINE).stream
    return evaluation_log(read_log(memory_source(events), config), config)


@pytest.fixture(scope="module")
def log() -> EvaluationLog:
    return log_of(LOG)


@pytest.fixture(scope="module")
def measured(log, tmp_path_factory):
    measurement = prepare(log, PLAN)
    path = tmp_path_factory.mktemp("measured") / "x.duckdb"
    with opened(path, ENGINE, CONFIG, source=memory_source(LOG)) as p:
        measure([measurement], p)
    count(measurement)
    return measurement


def basket_log():
    """One user; visits of 2, 3 and 2 lines a day apart, an item twice in the second."""
    day = [START_MS + n * DAY_MS for n in range(3)]
    items = [("i0", 0), ("i1", 0), ("i2", 1), ("i0", 1), ("i2", 1), ("i3", 2), ("i1", 2)]
    return [event("u", item, day[n]) for item, n in items], day


def targets_of(events, protocol, cuts, **options):
    found = log_of(events)
    chosen = TargetOptions(**({"min_events": 1} | options))
    return found, sample_targets(found, cuts, protocol, "test", chosen)


def names(log, targets):
    return [log.item_ids[column] for column in targets.column]


def test_next_visit_targets_are_the_distinct_items_of_a_visit():
    events, day = basket_log()
    cuts = Cuts(train_end=day[0] + 1, validation_end=day[1], test_end=day[2])
    log, targets = targets_of(events, "next_visit", cuts)
    assert sorted(names(log, targets)) == ["i0", "i2"]
    assert targets.states.row.tolist() == [2]
    assert targets.states.time_ms.tolist() == [day[1]]
    novel = dict(zip(names(log, targets), targets.novel.tolist(), strict=True))
    assert novel == {"i0": False, "i2": True}


def test_next_line_states_stand_just_before_their_line():
    events, day = basket_log()
    cuts = Cuts(train_end=day[0] + 1, validation_end=day[1], test_end=day[2])
    log, targets = targets_of(events, "next_line", cuts)
    assert names(log, targets) == ["i2", "i0", "i2"]
    assert targets.states.row.tolist() == [2, 3, 4]
    assert targets.states.visit_row.tolist() == [2, 2, 2]
    assert targets.novel.tolist() == [True, False, False]


def test_after_a_visit_the_state_is_asked_at_its_last_line_for_the_next_visit():
    events, day = basket_log()
    cuts = Cuts(train_end=day[0] + 1, validation_end=day[1], test_end=day[2] + 1)
    log, targets = targets_of(events, "after_visit", cuts)
    assert targets.states.time_ms.tolist() == [day[0], day[1]]
    assert targets.states.visit_row.tolist() == [0, 2]
    assert sorted(names(log, targets)) == ["i0", "i1", "i2", "i3"]


def test_a_user_gives_at_most_so_many_targets_and_the_same_ones_every_time(log):
    few = replace(OPTIONS, max_line_targets=3)
    one, other = (sample_targets(log, CUTS, "next_line", "test", few) for _ in range(2))
    assert np.bincount(one.user).max() <= 3
    assert one.column.tolist() == other.column.tolist()
    different = sample_targets(log, CUTS, "next_line", "test", replace(few, seed=1))
    assert one.states.row.tolist() != different.states.row.tolist()


def test_users_with_little_history_are_not_measured(log):
    with pytest.raises(EvaluationError, match="at least 9999 events"):
        sample_targets(log, CUTS, "next_visit", "test", replace(OPTIONS, min_events=9999))


def test_returns_and_types_outside_the_history_are_no_targets():
    events, day = basket_log()
    events.append(event("u", "i9", day[2], value=-1.0))
    cuts = Cuts(train_end=day[0] + 1, validation_end=day[1], test_end=day[2] + 1)
    log, targets = targets_of(events, "next_line", cuts)
    assert "i9" not in names(log, targets)


def test_cuts_must_grow():
    with pytest.raises(EvaluationError, match="must grow"):
        Cuts(train_end=5, validation_end=5, test_end=9)


def test_targets_of_a_file_are_those_written(log, tmp_path):
    drawn = sample_targets(log, CUTS, "next_visit", "test", OPTIONS)
    rows = drawn.states.row[drawn.state]
    table = pa.table({
        "split": ["test"] * len(drawn),
        "protocol": ["next_visit"] * len(drawn),
        "user_id": [log.user_ids[user] for user in drawn.user],
        "row": log.offset[rows],
        "ts": log.events.time_ms[rows],
        "item_id": names(log, drawn),
    })
    path = tmp_path / "targets.parquet"
    pq.write_table(table, path)
    loaded = load_targets(path, log, "next_visit", "test")
    assert loaded.column.tolist() == drawn.column.tolist()
    assert loaded.states.row.tolist() == drawn.states.row.tolist()
    assert loaded.novel.tolist() == drawn.novel.tolist()


def test_a_target_file_of_another_log_is_refused(log, tmp_path):
    path = tmp_path / "targets.parquet"
    wrong = {"split": ["test"], "protocol": ["next_visit"], "user_id": ["nobody"], "row": [3]}
    pq.write_table(pa.table({**wrong, "ts": [1], "item_id": ["i0"]}), path)
    with pytest.raises(EvaluationError, match="do not fit this log"):
        load_targets(path, log, "next_visit", "test")


class Recorder:
    """Passes questions on and keeps them with the answers."""

    def __init__(self, scorer):
        self._scorer = scorer
        self.asked: list[tuple[StateRequest, np.ndarray]] = []

    def score_states(self, requests) -> StateScores:
        answer = self._scorer.score_states(requests)
        self.asked += list(zip(requests, answer.scores.copy(), strict=True))
        return answer


def test_a_state_scores_as_if_the_log_ended_there(log, tmp_path):
    books = [
        RankBook(log.events, sample_targets(log, CUTS, p, "test", OPTIONS))
        for p in ("next_visit", "next_line")
    ]
    with opened(tmp_path / "whole.duckdb", ENGINE, CONFIG, source=memory_source(LOG)) as pipeline:
        recorder = Recorder(pipeline.scorer)
        hook = IntervalScorer(
            recorder, pipeline.identities.find_user, log, books, (TOKENS, RECENTS)
        )
        pipeline.run(on_interval=hook)
        users = {n: pipeline.identities.user_id(n) for n in range(4)}
    assert hook.done == hook.total
    picked = recorder.asked[:: max(1, len(recorder.asked) // 4)]
    for number, (request, scores) in enumerate(picked):
        source = memory_source(LOG[: request.as_of])
        with opened(tmp_path / f"{number}.duckdb", ENGINE, CONFIG, source=source) as pipeline:
            pipeline.run()
            found = pipeline.identities.find_user(users[request.user_idx])
            again = replace(request, user_idx=found, as_of=None)
            direct = pipeline.scorer.score_states([again]).scores[0]
        assert scores == pytest.approx(direct, abs=1e-4), request


def test_every_target_is_ranked_by_every_method(measured):
    for book in measured.books[:2]:
        assert (book.candidate_of >= 0).all()
        for method, ranks in book.ranks.items():
            assert not np.isnan(ranks[0].everything).any(), method
            assert not np.isnan(ranks[0].novel[book.targets.novel]).any(), method


def test_all_methods_miss_the_same_unlisted_targets(measured):
    book = measured.books[0]
    missed = book.missed()
    for ranks in book.ranks.values():
        assert np.array_equal(np.isinf(ranks[0].everything), missed)


def test_tokens_recents_and_swapped_tokens_are_different_states(measured):
    ranks = {name: book[0].everything for name, book in measured.books[0].ranks.items()}
    assert not np.array_equal(ranks[TOKENS.name], ranks[RECENTS.name])
    assert not np.array_equal(ranks[TOKENS.name], ranks[SWAPPED.name])


def test_coverage_is_noted_for_states_that_read_tokens(measured):
    book = measured.books[0]
    assert (book.groups >= 0).all()
    assert (book.age_ms[book.groups > 0] > 0).all()


def test_figures_hold_methods_differences_and_conditions(measured):
    found = figures(measured)
    visit = found.protocol("next_visit")
    assert visit.figure(TOKENS.name).kind == "ours"
    assert visit.figure(MIX).kind == "baseline"
    difference = visit.difference(TOKENS.name, RECENTS.name).everything["recall@50"]
    expected = (
        visit.figure(TOKENS.name).everything["recall@50"].value
        - visit.figure(RECENTS.name).everything["recall@50"].value
    )
    assert difference.value == pytest.approx(expected)
    assert found.protocol("next_line").figure("Markov, last 3 lines")
    assert found.after_visit is not None
    assert not found.leaking
    assert found.model_versions == ("tiny",)


def test_a_second_model_is_averaged_per_target(measured, tmp_path):
    book = measured.books[0]
    path = tmp_path / "ranks.npz"
    book.save(path, [TOKENS.name])
    both = RankBook(book.events, book.targets)
    both.add_saved(path)
    both.add_saved(path)
    assert len(both.ranks[TOKENS.name]) == 2
    assert both.values(TOKENS.name, "mrr") == pytest.approx(book.values(TOKENS.name, "mrr"))
    other = RankBook(measured.books[1].events, measured.books[1].targets)
    with pytest.raises(EvaluationError, match="other targets"):
        other.add_saved(path)


def test_events_the_model_was_fitted_on_are_refused_unless_allowed(log):
    fitted = tiny_engine()
    fitted.trained_through_ms = CUTS.test_end
    with pytest.raises(LeakageError, match="--allow-leakage"):
        admit(prepare(log, PLAN), fitted)
    allowed = prepare(log, replace(PLAN, allow_leakage=True))
    admit(allowed, fitted)
    assert allowed.leaking


def test_baselines_alone_rank_the_whole_catalogue(log):
    measurement = prepare(log, replace(PLAN, after_visit=False, protocols=("next_visit",)))
    count(measurement)
    found = figures(measurement).protocol("next_visit")
    assert found.missed_share == 0.0
    assert {one.kind for one in found.figures} == {"baseline"}


def test_a_database_behind_the_period_is_refused(log, tmp_path):
    path = tmp_path / "x.duckdb"
    with opened(path, ENGINE, CONFIG, source=memory_source(LOG)) as pipeline:
        pipeline.run()
    measurement = prepare(log, PLAN)
    with opened(path, ENGINE, CONFIG, source=memory_source(LOG)) as pipeline:
        measure([measurement], pipeline)
    with pytest.raises(EvaluationError, match="stands behind"):
        figures(measurement)


def test_a_replay_in_two_parts_measures_the_same(log, measured, tmp_path):
    path = tmp_path / "x.duckdb"
    measurement = prepare(log, PLAN)
    for end in (125, len(LOG)):
        with opened(path, ENGINE, CONFIG, source=memory_source(LOG[:end])) as pipeline:
            measure([measurement], pipeline)
    one, other = measured.books[1], measurement.books[1]
    assert np.isnan(other.ranks[TOKENS.name][0].everything).sum() == 0
    agree = one.ranks[TOKENS.name][0].everything == other.ranks[TOKENS.name][0].everything
    assert agree.mean() > 0.95  # the pause closes an interval early, nothing else


def test_states_can_be_thinned_and_shared_by_protocols(log):
    thin = prepare(log, replace(PLAN, max_states=5))
    rows = {book.targets.protocol: set(book.targets.states.row.tolist()) for book in thin.books}
    assert [len(rows[name]) for name in ("next_visit", "next_line")] == [5, 5]
    assert rows["after_visit"] == rows["next_visit"]  # so the two figures can be compared


@pytest.mark.parametrize(
    ("lengths", "buckets"),
    [
        ([50] * 120 + [200] * 110, [(0, 128), (128, 256)]),
        ([50] * 120 + [300] * 110, [(0, 128), (128, None)]),
        ([50] * 120 + [200] * 20, [(0, None)]),
        ([50] * 20 + [200] * 90, [(0, 256)]),
        ([50] * 20 + [200] * 20, []),
    ],
)
def test_bins_with_too_few_users_join_their_neighbors(lengths, buckets):
    values = np.array(lengths)
    everyone = np.ones(len(values), dtype=bool)
    assert _joined(np.arange(len(values)), values, everyone, (0, 128, 256)) == [
        (first, last) for first, last in buckets
    ]


def figures_by_history(lengths):
    events = [
        event(f"u{user:03d}", f"i{n % 7}", START_MS + n * DAY_MS)
        for user, length in enumerate(lengths)
        for n in range(length)
    ]
    found = log_of(sorted(events, key=lambda one: one["ts"]))
    cuts = Cuts(
        train_end=START_MS + 1, validation_end=START_MS + 2, test_end=START_MS + 999 * DAY_MS
    )
    targets = sample_targets(found, cuts, "next_visit", "test", TargetOptions(min_events=1))
    book = RankBook(found.events, targets)
    states = np.arange(len(targets.states))
    book.stood(states, np.ones(found.events.n_items, dtype=bool))
    book.put("flat", states, np.zeros((len(states), found.events.n_items), dtype=np.float32))
    return figures_of(book, ours=[], pairs=[], shown=["flat"], cold_before_ms=cuts.train_end)


def test_figures_are_broken_down_by_the_history_before_the_state():
    made = figures_by_history([3] * 20 + [140] * 110)
    assert [(one.label, one.user_count) for one in made.by_history] == [
        ("0 to 127", 130),
        ("128 to 255", 110),
    ]
    assert made.by_age == ()


def test_one_bucket_is_no_breakdown():
    assert figures_by_history([3] * 120).by_history == ()
