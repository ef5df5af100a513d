"""What serving scores is what training scores: counters, visits, popularity, hidden rows, final scores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.asof import AsOf, Popularity
from model.data import prepare_log
from model.engine import Engine
from model.features import SparseFeatures, log_popularity
from stream.loading import LoadRequest
from stream.pipeline import Pipeline
from stream.score import Scorer, StateRequest
from stream.sinks.memory import MemorySink
from stream.slates import Slate
from stream.sources.file import FileSource
from tests.stream.reference import Reference
from tests.stream.support import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    eventful,
    features_of,
    line_features,
    memory_source,
    opened,
    pipeline_config,
    random_log,
    request_features,
    tiny_engine,
)

EXACT = {"compute_dtype": "float64", "state_dtype": "float64"}
ENGINE = tiny_engine(**EXACT)
SAME_TIME = tiny_engine(visit_gap_ms=0, **EXACT)
EVENTS = Path(__file__).parents[2] / "infra/data/online_retail_ii/events.parquet"


def check(pipeline: Pipeline, slates: list[Slate], gap_ms: int) -> None:
    """Every slate against the trainer's features, SQL over raw rows, and the masked forward pass."""
    assert pipeline.engine is not None
    reference = Reference(pipeline.db, pipeline.engine, gap_ms)
    width = reference.items.num_rows
    for slate, served in zip(slates, _served(pipeline, slates), strict=True):
        upto = _upto(slate)
        trained = reference.features(slate, upto).dense(width)[0]
        np.testing.assert_allclose(reference.sql(slate, upto), trained, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(served.dense(width)[0], trained, rtol=1e-6)
        if not slate.items:
            continue  # before the first tick nothing is known
        expected = reference.scores(slate, upto)
        found = {one.item_id: one.score for one in slate.items}
        assert found.keys() <= expected.keys()  # an item is shown once the watermark has passed it
        gaps = [abs(found[name] - expected[name]) for name in found]
        scale = max(abs(score) for score in expected.values())
        assert max(gaps) <= 1e-6 * scale, (slate.readout, slate.coverage)


def _upto(slate: Slate) -> int:
    return slate.cause.offset + 1 if slate.cause else 1 << 60


def _served(pipeline: Pipeline, slates: list[Slate]) -> list[SparseFeatures]:
    """Features of each slate's row, from states loaded as of its position."""
    assert isinstance(pipeline.scorer, Scorer)
    users = [pipeline.identities.find_user(slate.user_id) for slate in slates]
    states = pipeline.scorer._loader.load([
        LoadRequest(-1 if user is None else user, _upto(slate))
        for user, slate in zip(users, slates, strict=True)
    ])
    ref_ms = pipeline.scorer._loader.ref_ms()
    return [
        line_features(state, slate.at_ms, ref_ms)
        if slate.readout == "line"
        else request_features(state, slate.at_ms, ref_ms)
        for state, slate in zip(states, slates, strict=True)
    ]


@pytest.mark.parametrize("engine", [ENGINE, SAME_TIME], ids=["gap 30 min", "same time"])
def test_every_served_score_is_the_trained_one(tmp_path: Path, engine: Any) -> None:
    log = random_log(np.random.default_rng(1), 44, users=2, step_ms=6 * HOUR_MS)
    sink, config = MemorySink(), pipeline_config(engine, top_k=99)
    with opened(
        tmp_path / "a.db", engine, config, source=memory_source(log), sink=sink
    ) as pipeline:
        pipeline.run()
        check(pipeline, sink.slates, engine.config.visit_gap_ms)
        newest = log[-1]["ts"]
        asked = [
            pipeline.recommend(user, at_ms=newest + wait, top_k=99)
            for user in ("u0", "u1")
            for wait in (0, DAY_MS)
        ]
        assert {slate.readout for slate in asked} == {"line", "visit"}
        check(pipeline, asked, engine.config.visit_gap_ms)
        assert {slate.reason for slate in sink.slates} >= {"personal", "recent_only"}


def test_also_after_late_events_eviction_restarts_rotation_and_merging(tmp_path: Path) -> None:
    log = eventful(np.random.default_rng(0), 56)
    config = pipeline_config(
        ENGINE,
        top_k=99,
        lateness_ms=12 * HOUR_MS,
        max_users=1,
        max_batch_records=7,
        rotate_rows=8,
        max_runs=1,
        tick_interval_s=2 * DAY_MS // 1000,
        visible_delay_s=3600,
    )
    slates: list[Slate] = []
    for limit in (20, None):
        sink = MemorySink()
        with opened(
            tmp_path / "a.db", ENGINE, config, source=memory_source(log), sink=sink
        ) as pipeline:
            pipeline.run(max_records=limit)
            slates += sink.slates
            if limit is None:
                flags = pipeline.db.query(
                    "SELECT sum(late::INT) late, sum(displaced::INT) displaced, "
                    "sum(duplicate::INT) duplicate FROM rows_ms"
                ).to_pylist()[0]
                assert min(flags.values()) > 0
                check(pipeline, slates, 30 * MINUTE_MS)
    assert "personal" in {slate.reason for slate in slates}


def test_the_trainers_own_reading_of_the_log_gives_these_histories(tmp_path: Path) -> None:
    """`prepare_log` over the raw log = the reference above over stored rows, without displaced events."""
    log = random_log(np.random.default_rng(2), 40, users=2)
    log = [one | {"session_id": f"s{i // 3}"} if i % 5 < 3 else one for i, one in enumerate(log)]
    config = pipeline_config(ENGINE, score=False, tick_interval_s=10**8)
    with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(log)) as pipeline:
        pipeline.run()
        reference = Reference(pipeline.db, ENGINE, 30 * MINUTE_MS)
        stored = reference.histories(reference._rows)
        names = reference.items["item_id"].to_pylist()
        users = list(reference.users)
    table = pa.Table.from_pylist([one | {"session_id": one.get("session_id")} for one in log])
    trained = prepare_log(
        table,
        None,
        event_types=ENGINE.config.event_types,
        event_weights={"view": 1.0, "buy": 2.5},
        visit_gap_ms=30 * MINUTE_MS,
        known_until_ms=1 << 60,
    )
    order = [trained.user_ids.index(user) for user in users]
    ptr = trained.histories.ptr
    rows = np.concatenate([np.arange(ptr[u], ptr[u + 1]) for u in order])
    assert [names[i] for i in stored.item] == [
        trained.item_ids[i] for i in trained.histories.item[rows]
    ]
    for name in ("ts", "type_row", "weight"):
        assert (getattr(stored, name) == getattr(trained.histories, name)[rows]).all()
    again = trained.histories.visit[rows]
    assert (np.diff(stored.visit) != 0).tolist() == (np.diff(again) != 0).tolist()


N_REAL = 30_000
FINAL_SCORES = int(os.environ.get("FRESHET_FINAL_SCORES", "100"))
"""States of the real log whose final scores are held against a masked forward pass; 1000 are all of them."""
REAL = {"segment_len": 16, "r_min": 16, "r_max": 64, "visit_gap_ms": 0}


def _asked(pipeline: Pipeline, n: int) -> list[dict[str, Any]]:
    """Random rows of the log that are not their user's first: the state before each, at its time."""
    rows: pa.Table = pipeline.db.query(
        """
        SELECT user_idx, off, ts_ms, place - 1 AS position, is_first FROM (
            SELECT *, row_number() OVER (ORDER BY user_idx, h_ts_ms, off) AS place,
                row_number() OVER (PARTITION BY user_idx ORDER BY h_ts_ms, off) = 1 AS is_first
            FROM rows_ms WHERE in_history)
        ORDER BY place
        """
    )
    picked = np.random.default_rng(0).permutation(np.flatnonzero(~rows["is_first"].to_numpy()))[:n]
    found: list[dict[str, Any]] = rows.take(np.sort(picked)).to_pylist()
    return found


_COUNTERS = """
WITH earlier AS (
    SELECT a.position, a.ts_ms AS asked_ms, r.item_idx, r.ts_ms, r.weight
    FROM asked a JOIN rows_ms r
        ON r.user_idx = a.user_idx AND r.in_history AND r.off < a.off
    WHERE r.ts_ms < a.ts_ms
)
SELECT position, item_idx, sum(weight) AS n,
    sum(weight * exp((ts_ms - asked_ms) / 86400000.0 / 7)) AS d7,
    sum(weight * exp((ts_ms - asked_ms) / 86400000.0 / 30)) AS d30,
    sum(weight * exp((ts_ms - asked_ms) / 86400000.0 / 90)) AS d90,
    sum(weight * exp((ts_ms - asked_ms) / 86400000.0 / 365)) AS d365,
    (max(ts_ms) = any_value(newest))::INTEGER AS in_last_visit
FROM earlier JOIN (SELECT position, max(ts_ms) AS newest FROM earlier GROUP BY position) n
    USING (position)
GROUP BY position, item_idx
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_random_states_of_a_real_log(tmp_path: Path) -> None:
    """Requests at random (user, position), loaded in bulk as of their offset, after weekly ticks."""
    table = pq.read_table(EVENTS).slice(0, N_REAL)
    pq.write_table(table, tmp_path / "log.parquet")
    items = sorted(set(table["item_id"].to_pylist()))
    engine = tiny_engine(items=items, event_types=("purchase",), event_weights=(), **REAL, **EXACT)
    config = pipeline_config(
        engine, score=False, tick_interval_s=7 * 86_400, event_types={}, rotate_rows=12_000
    )
    with opened(
        tmp_path / "a.db", engine, config, source=FileSource(tmp_path / "log.parquet")
    ) as pipeline:
        pipeline.run()
        pipeline.finish()
        _check_states(pipeline, engine, table)


def _check_states(pipeline: Pipeline, engine: Engine, table: pa.Table) -> None:
    assert isinstance(pipeline.scorer, Scorer)
    asked = _asked(pipeline, 1000)
    requests = [StateRequest(r["user_idx"], r["ts_ms"], r["off"]) for r in asked]
    found = pipeline.scorer.score_states(requests)
    groups = [coverage.groups for coverage in found.coverage]
    assert sum(n > 0 for n in groups) > 100
    reference = Reference(pipeline.db, engine, 0)
    histories = reference.histories(reference._rows)
    width = len(found.item_ids)
    asof = AsOf(histories, width)
    position = np.array([r["position"] for r in asked])
    line = histories.ts[position - 1] == histories.ts[position]
    assert 0 < line.sum() < 1000
    users = np.array([r["user_idx"] for r in asked])
    times = histories.ts[position]
    sparse = {
        "line": asof.line(position[line] - 1),
        "visit": asof.request(users[~line], position[~line], times[~line]),
    }
    loader = pipeline.scorer._loader
    states = loader.load([LoadRequest(r["user_idx"], r["off"]) for r in asked])
    facts = [
        state.line_facts() if inside else state.request_facts(loader.ref_ms())
        for state, inside in zip(states, line, strict=True)
    ]
    sums = pipeline.db.query(_COUNTERS, tables={"asked": pa.Table.from_pylist(asked)})
    plain = _dense(sums, position, width)
    for kind, rows in (("line", np.flatnonzero(line)), ("visit", np.flatnonzero(~line))):
        trained = sparse[kind].dense(width)
        served = features_of([facts[i] for i in rows], times[rows].tolist(), loader.ref_ms())
        ours = served.dense(width)
        np.testing.assert_allclose(ours, trained, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(plain[rows], trained[..., :7], rtol=1e-6, atol=1e-12)
    cut = pipeline.shared.now().cut_ms
    assert cut is not None
    log_pop = Popularity(histories, width).at(cut)
    np.testing.assert_allclose(log_popularity(pipeline.shared.now().popularity), log_pop, rtol=1e-6)
    some = np.random.default_rng(1).permutation(1000)[:FINAL_SCORES]
    for i in some.tolist():
        kind = "line" if line[i] else "visit"
        slate = Slate(
            id="",
            user_id=pipeline.identities.user_id(asked[i]["user_idx"]),
            at_ms=asked[i]["ts_ms"],
            cause=None,
            items=(),
            model_version="",
            coverage=found.coverage[i],
            reason="personal",
            readout=kind,  # type: ignore[arg-type]
            popularity_cut_ms=cut,
        )
        expected = np.array(list(reference.scores(slate, asked[i]["off"], log_pop).values()))
        gap = np.abs(found.scores[i] - expected).max()
        assert gap <= 1e-6 * np.abs(expected).max(), found.coverage[i]


def _dense(sums: pa.Table, position: np.ndarray, width: int) -> np.ndarray:
    """Features [R, V, 7] without the visit's own items, which plain SQL leaves to its time."""
    out = np.zeros((len(position), width, 7), np.float32)
    row = {at: i for i, at in enumerate(position.tolist())}
    rows = np.array([row[at] for at in sums["position"].to_pylist()])
    items = sums["item_idx"].to_numpy()
    out[rows, items, 0] = 1
    for column, name in enumerate(("n", "d7", "d30", "d90", "d365"), start=1):
        out[rows, items, column] = np.log1p(sums[name].to_numpy())
    out[rows, items, 6] = sums["in_last_visit"].to_numpy()
    return out
