"""Scoring: memory, reasons, coverage, exactness through storage, and when groups become readable."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from model.engine import Engine
from stream.config import EventType
from stream.diff import diff
from stream.events import Partition
from stream.loading import LoadRequest, StateLoader
from stream.pipeline import Pipeline
from stream.score import Scorer, StateRequest
from stream.sinks.memory import MemorySink
from stream.slates import Coverage, Slate
from stream.sources.memory import MemorySource
from stream.state import UserState
from tests.stream.reference import Reference
from tests.stream.support import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    START_MS,
    TOPIC,
    Event,
    encode,
    event,
    eventful,
    memory_source,
    opened,
    pipeline_config,
    random_log,
    tiny_engine,
)

ENGINE = tiny_engine()
NEVER_S = 10**8


def steady(n: int, user: str = "u", step_ms: int = HOUR_MS) -> list[Event]:
    return [event(user, f"i{k % 9}", START_MS + k * step_ms) for k in range(n)]


def scorer_of(pipeline: Pipeline) -> Scorer:
    assert isinstance(pipeline.scorer, Scorer)
    return pipeline.scorer


def cosines(engine: Engine, hidden: np.ndarray) -> np.ndarray:
    vectors = engine.candidate_vectors(engine.vocabulary)
    rows = normalize(torch.from_numpy(np.asarray(hidden, np.float64)), dim=-1)
    return np.asarray((rows @ vectors.double().T).numpy())


@pytest.mark.parametrize(
    ("dtype", "limit"), [("float32", 1e-5), ("float16", 5e-3)], ids=["float32", "float16"]
)
def test_cached_scoring_is_one_masked_forward_pass(
    tmp_path: Path, dtype: str, limit: float
) -> None:
    """Rows out of order, displaced, repeated; hidden rows of the cache the replay kept extending."""
    engine = tiny_engine(state_dtype=dtype)
    log = eventful(np.random.default_rng(5), 60)
    config = pipeline_config(engine, lateness_ms=12 * HOUR_MS, tick_interval_s=2 * DAY_MS // 1000)
    with opened(tmp_path / "a.db", engine, config, source=memory_source(log)) as pipeline:
        pipeline.run()
        reference = Reference(pipeline.db, engine, 30 * MINUTE_MS)
        kept = scorer_of(pipeline)._states
        assert len(kept) == 2
        for state in kept.values():
            user = state.user_idx
            assert state.groups > 0
            assert state.hidden is not None
            slate = _slate(pipeline.identities.user_id(user), "line", state)
            whole = reference.hidden(slate, 1 << 60)
            gap = np.abs(cosines(engine, state.hidden) - cosines(engine, whole)).max()
            assert gap <= limit
            at = np.array([log[-1]["ts"] + DAY_MS])
            asked = np.asarray(engine.request([state.cache], at))[0]
            slate = _slate(slate.user_id, "visit", state, int(at[0]))
            whole = reference.hidden(slate, 1 << 60)
            assert np.abs(cosines(engine, asked) - cosines(engine, whole)).max() <= limit


def _slate(user: str, readout: str, state: UserState, at_ms: int = 0) -> Slate:
    return Slate(
        id="",
        user_id=user,
        at_ms=at_ms,
        cause=None,
        items=(),
        model_version="",
        coverage=Coverage(groups=0, recents=state.recents, left_out=state.left_out),
        reason="personal",
        readout=readout,  # type: ignore[arg-type]
    )


def test_memory_stays_within_its_limits(tmp_path: Path) -> None:
    log = random_log(np.random.default_rng(0), 40, users=8, step_ms=HOUR_MS)
    config = pipeline_config(ENGINE, max_users=3, max_batch_records=10, tick_interval_s=NEVER_S)
    seen = []
    with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(log)) as pipeline:
        scorer = scorer_of(pipeline)
        pipeline.run(on_progress=lambda _: seen.append(scorer.cache_use().users))
        states = scorer._states.values()
        assert scorer.cache_use().bytes == sum(state.nbytes for state in states) > 0
        assert scorer.cache_use().evictions > 0
        scorer.forget([state.user_idx for state in states])
        assert (scorer.cache_use().users, scorer.cache_use().bytes) == (0, 0)
    assert max(seen) == 3


def test_cached_states_take_in_new_groups_without_being_read_again(tmp_path: Path) -> None:
    log = steady(60)
    config = pipeline_config(ENGINE, max_batch_records=10, tick_interval_s=6 * HOUR_MS // 1000)
    with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(log)) as pipeline:
        pipeline.run()
        scorer = scorer_of(pipeline)
        assert scorer.cache_use().misses == 1  # its first event
        assert pipeline.summary.segments > 6
        kept = scorer._states.values()
        loaded = scorer._loader.load([LoadRequest(state.user_idx) for state in kept])
        for state, fresh in zip(kept, loaded, strict=True):
            assert (state.groups, state.first_recent) == (fresh.groups, fresh.first_recent)
            assert state.covered_through_ms == fresh.covered_through_ms
            assert state.hidden is not None
            np.testing.assert_allclose(state.hidden, fresh.hidden, atol=1e-4)


def test_rows_stored_without_being_scored_are_in_the_states(tmp_path: Path) -> None:
    """Users new to the process start empty without a read, unless some of their rows never passed the scorer."""
    log = steady(12)
    sink = MemorySink()
    source = memory_source(log)
    with opened(
        tmp_path / "a.db", ENGINE, pipeline_config(ENGINE), source=source, sink=sink
    ) as pipeline:
        pipeline.load(memory_source(log[:3]))
        pipeline.run()
    first = sink.slates[0]
    assert first.cause is not None
    assert first.cause.offset == 3
    assert (first.reason, first.coverage.recents) == ("recent_only", 4)


def test_the_byte_limit_alone_evicts_too(tmp_path: Path) -> None:
    log = random_log(np.random.default_rng(0), 30, users=6, step_ms=HOUR_MS)
    config = pipeline_config(ENGINE, max_bytes=9_000, max_batch_records=10, tick_interval_s=NEVER_S)
    with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(log)) as pipeline:
        scorer = scorer_of(pipeline)
        pipeline.run()
        assert 0 < scorer.cache_use().bytes <= 9_000
        assert scorer.cache_use().evictions > 0


def test_a_hidden_row_kept_does_not_keep_its_batch_alive(tmp_path: Path) -> None:
    """Memory is counted by what a state owns, so it must own no view of something larger."""
    config = pipeline_config(ENGINE, tick_interval_s=NEVER_S)
    log = steady(12)
    with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(log)) as pipeline:
        pipeline.run()
        state = scorer_of(pipeline)._states.values()[0]
        loaded = scorer_of(pipeline)._loader.load([LoadRequest(state.user_idx)])[0]
        for hidden in (state.hidden, loaded.hidden):
            assert hidden is not None
            assert hidden.base is None


def test_an_overlong_recent_window_leaves_out_a_segment_at_once(tmp_path: Path) -> None:
    """n 4, r_max 16, no refresh: at 17 rows the oldest 4 go, and so on; loading afresh says the same."""
    log = steady(27)
    config = pipeline_config(ENGINE, tick_interval_s=NEVER_S)
    sink = MemorySink()
    with opened(
        tmp_path / "a.db", ENGINE, config, source=memory_source(log), sink=sink
    ) as pipeline:
        pipeline.run()
        found = [(s.coverage.recents, s.coverage.left_out, s.reason) for s in sink.slates]
        for rows, (recents, left_out, reason) in enumerate(found, start=1):
            assert left_out == max(0, -(-(rows - 16) // 4) * 4)
            assert recents == rows - left_out
            assert reason == ("stale_tokens" if left_out else "recent_only")
        requests = [
            StateRequest(0, s.at_ms, s.cause.offset + 1, readout="line")
            for s in sink.slates
            if s.cause
        ]
        loaded = scorer_of(pipeline).score_states(requests)
    assert loaded.coverage == [slate.coverage for slate in sink.slates]
    columns = {name: i for i, name in enumerate(loaded.item_ids)}
    for slate, scores in list(zip(sink.slates, loaded.scores, strict=True))[1:]:
        for one in slate.items:
            assert one.score == pytest.approx(scores[columns[one.item_id]], abs=1e-4)


def test_a_state_that_left_rows_out_takes_groups_in_as_a_load_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """n 4, r_max 16, a tick each day: 24 rows, of which the oldest 8 or more are left out before their groups come."""
    log = steady(80)
    loads: list[int] = []
    load = StateLoader.load

    def counted(self: StateLoader, requests: Sequence[LoadRequest]) -> list[UserState]:
        loads.append(len(requests))
        return load(self, requests)

    def slates(name: str) -> list[Slate]:
        sink = MemorySink()
        source, config = memory_source(log), pipeline_config(ENGINE)
        with opened(tmp_path / name, ENGINE, config, source=source, sink=sink) as pipeline:
            pipeline.run()
        return sink.slates

    monkeypatch.setattr(StateLoader, "load", counted)
    taken_in = slates("a.db")
    assert sum(loads) == 0
    monkeypatch.setattr("stream.score._follow", lambda _state, _groups: False)
    loaded = slates("b.db")
    assert sum(loads) == 3
    assert diff(taken_in, loaded).equal
    stale = [slate.coverage.left_out > 0 for slate in taken_in]
    covered = [slate.coverage.covered_through_ms for slate in taken_in]
    grown = [before != after for before, after in pairwise(covered)]
    assert (np.array(grown) & stale[:-1]).sum() == 3, "groups came to states that had left rows out"


def test_groups_are_read_only_once_their_refresh_would_have_finished(tmp_path: Path) -> None:
    """A tick each day, its groups readable five hours of event time later."""
    log = steady(60)
    config = pipeline_config(ENGINE, visible_delay_s=5 * 3600)
    sink = MemorySink()
    with opened(
        tmp_path / "a.db", ENGINE, config, source=memory_source(log), sink=sink
    ) as pipeline:
        pipeline.run()
        as_loaded = [
            scorer_of(pipeline)._loader.load([LoadRequest(0, slate.cause.offset)])[0].groups
            for slate in sink.slates[::6]
            if slate.cause
        ]
    groups = [slate.coverage.groups for slate in sink.slates]
    assert groups == sorted(groups)
    assert groups[:30] == [0] * 30  # the tick came with row 24, its groups with row 29
    assert groups[30:54] == [3] * 24
    assert as_loaded == groups[::6]
    assert [s.coverage.age_s for s in sink.slates[:30]] == [None] * 30
    covered = sink.slates[30].coverage
    assert covered.covered_through_ms is not None
    assert covered.age_s == (sink.slates[30].at_ms - covered.covered_through_ms) / 1000
    assert (
        covered.recents + covered.left_out
        == 31 - (covered.covered_through_ms - START_MS) // HOUR_MS - 1
    )


def test_states_as_of_several_offsets_in_one_call_read_what_one_call_each_reads(
    tmp_path: Path,
) -> None:
    log = random_log(np.random.default_rng(2), 60, users=2, step_ms=5 * HOUR_MS)
    config = pipeline_config(ENGINE, score=False)
    with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(log)) as pipeline:
        pipeline.run()
        scorer = scorer_of(pipeline)
        requests = [
            StateRequest(user, log[off]["ts"], off) for off in (8, 30, 31, 59) for user in (0, 1)
        ]
        together = scorer.score_states(requests)
        apart = [scorer.score_states([request]) for request in requests]
    assert len({coverage.groups for coverage in together.coverage}) > 2
    assert together.coverage == [one.coverage[0] for one in apart]
    alone = np.concatenate([one.scores for one in apart])
    np.testing.assert_allclose(together.scores, alone, atol=1e-4)


def test_every_slate_says_why(tmp_path: Path) -> None:
    log = [*steady(9), *steady(1, "once"), *steady(12, "u", HOUR_MS)]
    log[10:] = [one | {"ts": one["ts"] + 30 * HOUR_MS} for one in log[10:]]
    config = pipeline_config(ENGINE)
    sink = MemorySink()
    with opened(
        tmp_path / "a.db", ENGINE, config, source=memory_source(log), sink=sink
    ) as pipeline:
        pipeline.run()
        pipeline.finish()
        now = log[-1]["ts"]
        reasons = {
            user: pipeline.recommend(user, at_ms=now).reason for user in ("u", "once", "nobody")
        }
    assert reasons == {"u": "personal", "once": "recent_only", "nobody": "cold_user"}
    assert all(slate.reason != "popular" for slate in sink.slates)


def test_an_event_that_only_scores_reads_the_state_without_joining_it(tmp_path: Path) -> None:
    types = {
        "view": EventType(),
        "ask": EventType(role="scores"),
        "note": EventType(role="history"),
    }
    at = START_MS + 10 * HOUR_MS
    log = [
        *steady(5),
        event("u", "i1", at, event_type="ask"),
        event("u", "i2", at + 1, event_type="note"),
        event("new", "i2", at + 2, event_type="ask"),
    ]
    sink = MemorySink()
    config = pipeline_config(ENGINE, event_types=types, tick_interval_s=NEVER_S)
    with opened(
        tmp_path / "a.db", ENGINE, config, source=memory_source(log), sink=sink
    ) as pipeline:
        pipeline.run()
    assert [slate.cause.offset for slate in sink.slates if slate.cause] == [0, 1, 2, 3, 4, 5, 7]
    assert sink.slates[5].coverage.recents == 5
    assert sink.slates[5].readout == "visit"
    assert (sink.slates[6].reason, sink.slates[6].coverage.recents) == ("cold_user", 0)


def test_a_request_inside_the_visit_reads_the_line_and_later_the_visit(tmp_path: Path) -> None:
    log = steady(5)
    config = pipeline_config(ENGINE, tick_interval_s=NEVER_S)
    with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(log)) as pipeline:
        pipeline.run()
        newest = log[-1]["ts"]
        kinds = [
            pipeline.recommend("u", at_ms=newest + wait).readout
            for wait in (0, 30 * MINUTE_MS, 30 * MINUTE_MS + 1)
        ]
    assert kinds == ["line", "line", "visit"]


def test_other_modes_change_what_is_read_and_nothing_stored(tmp_path: Path) -> None:
    log = random_log(np.random.default_rng(2), 60, users=2, step_ms=5 * HOUR_MS)
    config = pipeline_config(ENGINE, score=False)
    with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(log)) as pipeline:
        pipeline.run()
        scorer, at = scorer_of(pipeline), log[-1]["ts"] + DAY_MS
        found = scorer.score_states([
            StateRequest(0, at, mode="tokens"),
            StateRequest(0, at, mode="recents"),
            StateRequest(0, at, mode="swap", swap_user_idx=1),
            StateRequest(0, at, mode="full"),
        ])
    groups = [coverage.groups for coverage in found.coverage]
    assert groups[0] == groups[2] > 0
    assert groups[1] == groups[3] == 0
    recents = [coverage.recents for coverage in found.coverage]
    assert recents[0] == recents[1] == recents[2] < recents[3]
    assert len({scores.tobytes() for scores in found.scores}) == 4


@pytest.mark.parametrize("warm", [True, False], ids=["state in memory", "state read again"])
def test_an_event_from_another_partition_is_scored_with_the_whole_history(
    tmp_path: Path, *, warm: bool
) -> None:
    """Its offset is none of the own partition's: as a bound there it would hide most of the history."""
    source = MemorySource()
    for one in steady(5):
        source.append(Partition(TOPIC, 0), encode(one))
    source.append(Partition(TOPIC, 1), encode(event("u", "i3", START_MS + 6 * HOUR_MS)))
    source.end()
    sink = MemorySink()
    config = pipeline_config(ENGINE, tick_interval_s=NEVER_S)
    with opened(tmp_path / "a.db", ENGINE, config, source=source, sink=sink) as pipeline:
        pipeline.run(max_records=5)
        if not warm:
            scorer_of(pipeline).forget([0])
        pipeline.run()
        assert pipeline.ingest.counts.moved == 1
    assert sink.slates[-1].cause is not None
    assert (sink.slates[-1].cause.partition, sink.slates[-1].coverage.recents) == (1, 6)
