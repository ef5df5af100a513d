"""Tokens are a function of the log; slates are a function of the log and the ticks, however a run was cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from infra.workers import WorkerCompressor
from model.checkpoint import save_checkpoint
from model.engine import Engine, SegmentJob, TokenBlock
from storage import positions
from storage.database import Tx
from stream.sinks.memory import MemorySink
from stream.slates import Slate, SlateLines
from tests.stream.support import (
    DAY_MS,
    HOUR_MS,
    START_MS,
    Event,
    Outcome,
    assert_same_slates,
    event,
    eventful,
    memory_source,
    opened,
    outcome,
    pipeline_config,
    random_log,
    replay,
    tiny_config,
    tiny_engine,
    tiny_model,
)

LATENESS_MS = 6 * HOUR_MS
ENGINE = tiny_engine()
LOG = random_log(np.random.default_rng(3), 44, users=2, step_ms=6 * HOUR_MS)
TICK_S = 3 * DAY_MS // 1000
NEVER_S = 10**8  # one tick at the first event, one at the end


class KilledError(Exception):
    """Stands for the process being killed."""


class Faults:
    """Kills the process at chosen places: each is (place, how many times it is passed before it kills)."""

    def __init__(self) -> None:
        self.place, self.left = "", 0
        self.fired = False

    def arm(self, place: str, times: int) -> None:
        self.place, self.left, self.fired = place, times, False

    def passed(self, place: str) -> None:
        if place != self.place or self.fired:
            return
        self.left -= 1
        if self.left < 0:
            self.fired = True
            raise KilledError


class FaultySink(MemorySink):
    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    def write(self, slates: SlateLines) -> None:
        self._faults.passed("before sink")
        super().write(slates)
        self._faults.passed("after sink")


class FaultyCompressor:
    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def compress(self, jobs: Sequence[SegmentJob]) -> list[TokenBlock]:
        self._faults.passed("compress")
        return ENGINE.compress(jobs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The log replayed in one go."""
    found = run(tmp_path_factory.mktemp("whole"))
    assert found.groups > 6
    assert len(found.slates) == len(LOG)
    assert {s.reason for s in found.slates} >= {"personal", "recent_only"}
    return found


def run(
    folder: Path, log: Sequence[Event] = LOG, engine: Engine = ENGINE, **changes: Any
) -> Outcome:
    settings = {"tick_interval_s": TICK_S} | changes
    return replay(folder / f"{len(list(folder.iterdir()))}.db", log, engine, **settings)


def assert_same(left: Outcome, right: Outcome) -> None:
    assert left.tokens == right.tokens
    assert left.interactions == right.interactions
    assert_same_slates(left.slates, right.slates)


@pytest.mark.parametrize("size", [1, 7])
def test_batch_size_changes_nothing(whole: Outcome, tmp_path: Path, size: int) -> None:
    assert_same(whole, run(tmp_path, max_batch_records=size))


def test_batch_size_changes_nothing_over_several_partitions(tmp_path: Path) -> None:
    assert_same(run(tmp_path, parts=2, max_batch_records=5), run(tmp_path, parts=2))


def test_eviction_rotation_and_merging_change_nothing(whole: Outcome, tmp_path: Path) -> None:
    found = run(tmp_path, max_users=1, max_batch_records=9, rotate_rows=1, max_runs=2)
    assert_same(whole, found)


def test_stopped_at_any_record_and_resumed_it_ends_the_same(whole: Outcome, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    config = pipeline_config(ENGINE, max_batch_records=11, tick_interval_s=TICK_S)
    slates: list[Slate] = []
    for limit in (1, 14, 6, None):
        sink = MemorySink()
        with opened(path, ENGINE, config, source=memory_source(LOG), sink=sink) as pipeline:
            pipeline.run(max_records=limit)
            slates += sink.slates
            if limit is None:
                pipeline.finish()
                assert_same(whole, outcome(pipeline, slates))
    assert len(slates) == len(whole.slates)


KILLS = {
    "outside a transaction": [("before sink", 0), ("compress", 1), ("after sink", 1)],
    "storing events": [("users", 0), ("interactions_hot", 1), ("position_ranges", 2)],
    "storing tokens and progress": [
        ("refresh_runs", 0),
        ("token_groups", 1),
        ("scored_positions", 0),
        ("journal_positions", 0),
    ],
}


@pytest.mark.parametrize("when", KILLS)
def test_killed_at_any_point_and_resumed_it_ends_the_same(
    whole: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """One database, killed again and again: nothing is lost, repeated slates are the same."""
    faults = Faults()
    insert, set_scored = Tx.insert, positions.set_scored

    def dying(self: Tx, name: str, data: pa.Table) -> int:
        rows = insert(self, name, data)
        faults.passed(name)
        return rows

    def dying_scored(tx: Tx, offsets: Mapping[tuple[str, int], int], at: datetime) -> None:
        set_scored(tx, offsets, at)
        faults.passed("scored_positions")

    monkeypatch.setattr(Tx, "insert", dying)
    monkeypatch.setattr(positions, "set_scored", dying_scored)
    path = tmp_path / "a.db"
    config = pipeline_config(ENGINE, max_batch_records=13, tick_interval_s=TICK_S, batch_users=1)
    slates: list[Slate] = []
    for place, times in [*KILLS[when], ("nowhere", 0)]:
        faults.arm(place, times)
        sink = FaultySink(faults)
        compressor = FaultyCompressor(faults)
        source = memory_source(LOG)
        with (
            suppress(KilledError),
            opened(
                path, ENGINE, config, source=source, sink=sink, compressor=compressor
            ) as pipeline,
        ):
            pipeline.run()
            pipeline.finish()
        slates += sink.slates
        assert faults.fired == (place != "nowhere")
    with opened(path, ENGINE, config) as pipeline:
        found = outcome(pipeline, slates)
    assert_same(whole, found)
    if when == "outside a transaction":
        assert len(slates) > len(whole.slates)


def shuffled(log: Sequence[Event], rng: np.random.Generator, bound_ms: int) -> list[Event]:
    """Events moved around by less than the lateness bound, some delivered twice within it."""
    delayed = [(one["ts"] + int(rng.integers(0, bound_ms)), one) for one in log]
    repeats = [one for one in log if rng.random() < 0.15]
    delayed += [(one["ts"] + int(rng.integers(0, bound_ms)), one) for one in repeats]
    order = sorted(range(len(delayed)), key=lambda i: (delayed[i][0], i))
    return [delayed[i][1] for i in order]


def test_a_shuffled_log_with_duplicates_gives_the_same_tokens(tmp_path: Path) -> None:
    settings = {"lateness_ms": LATENESS_MS, "score": False}
    straight = run(tmp_path, **settings)
    assert straight.groups > 6
    for seed in range(2):
        log = shuffled(LOG, np.random.default_rng(seed), LATENESS_MS)
        mixed = run(tmp_path, log, **settings)
        assert len(log) > len(LOG)
        assert [one["ts"] for one in log] != sorted(one["ts"] for one in log)
        assert not any(row["displaced"] for row in mixed.rows)
        assert sum(row["duplicate"] for row in mixed.rows) == len(log) - len(LOG)
        assert mixed.tokens == straight.tokens


def test_batch_size_does_not_matter_for_a_log_with_late_events_either(tmp_path: Path) -> None:
    log = eventful(np.random.default_rng(0), 44)
    settings = {"lateness_ms": HOUR_MS}
    few = run(tmp_path, log, max_batch_records=6, **settings)
    many = run(tmp_path, log, **settings)
    assert any(row["displaced"] for row in few.rows)
    assert_same(few, many)


@pytest.mark.parametrize(
    "changes",
    [{"tick_interval_s": 24 * 3600, "batch_users": 1}, {"tick_interval_s": NEVER_S}],
    ids=str,
)
def test_tokens_do_not_depend_on_when_and_with_whom_they_were_compressed(
    whole: Outcome, tmp_path: Path, changes: dict[str, int]
) -> None:
    assert run(tmp_path, score=False, **changes).tokens == whole.tokens


def test_half_precision_tokens_do_not_depend_on_ticks_either(tmp_path: Path) -> None:
    engine = tiny_engine(state_dtype="float16")
    often = run(tmp_path, engine=engine, score=False)
    once = run(tmp_path, engine=engine, score=False, tick_interval_s=NEVER_S)
    assert often.tokens == once.tokens
    assert often.groups > 6


def test_item_records_apply_from_their_position_however_batches_are_cut(tmp_path: Path) -> None:
    """Availability flips and new texts between events: the slates are the same."""
    log: list[Event] = []
    for i, one in enumerate(LOG[:40]):
        log.append(one)
        if i % 5 == 4:
            record = {"kind": "item", "text": f"Blue lamp {i}", "ts": START_MS - DAY_MS}
            log.append(record | {"item_id": f"i{i % 24}", "available": i % 10 == 4})
            log.append(record | {"item_id": f"i{19 + i % 5}", "available": True})
    small, large = (run(tmp_path, log, max_batch_records=size) for size in (3, 99))
    assert_same(small, large)
    assert len(small.slates) == 40


def test_a_spawned_worker_makes_the_same_tokens(tmp_path: Path) -> None:
    model, readout = tiny_model(tiny_config())
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model=model, readout=readout, trained_through_ms=START_MS)
    engine = Engine.load(path)
    settings = {"score": False, "tick_interval_s": NEVER_S}
    inline = run(tmp_path, engine=engine, **settings)
    with closing(WorkerCompressor(path)) as worker:
        spawned = run(tmp_path, engine=engine, compressor=worker, **settings)
    assert inline.tokens == spawned.tokens
    assert inline.groups > 6


def test_an_event_of_another_user_changes_no_token(whole: Outcome, tmp_path: Path) -> None:
    log = [*LOG, event("stranger", "i1", LOG[-1]["ts"])]
    assert run(tmp_path, log, score=False).tokens == whole.tokens
