"""Refresh: what is due is planned from the log, compressed once, and read only when published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from model.engine import SegmentJob, TokenBlock
from storage import interactions, journal, runs, tokens
from storage.tokens import load_groups
from stream.history import model_rows, rows_by_user
from stream.pipeline import Pipeline
from stream.refresh import Refresher
from stream.segments import Due
from tests.stream.support import (
    DAY_MS,
    HOUR_MS,
    START_MS,
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


class Recorder:
    """Compresses like the engine and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[SegmentJob]] = []

    def compress(self, jobs: Sequence[SegmentJob]) -> list[TokenBlock]:
        self.calls.append(list(jobs))
        return ENGINE.compress(jobs)


def refresher_of(pipeline: Pipeline) -> Refresher:
    assert pipeline._parts.refresher is not None
    return pipeline._parts.refresher


@pytest.mark.parametrize(("rows", "groups"), [(7, 0), (8, 0), (9, 1), (12, 1), (13, 2), (17, 3)])
def test_a_segment_is_due_when_it_and_r_min_newer_events_lie_before_the_watermark(
    tmp_path: Path, rows: int, groups: int
) -> None:
    """n 4, r_min 4; the newest event is never before its own watermark."""
    log = [event("u", "i1", START_MS + k * HOUR_MS) for k in range(rows)]
    config = pipeline_config(ENGINE, score=False, tick_interval_s=NEVER_S)
    with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(log)) as pipeline:
        pipeline.run()
        due = refresher_of(pipeline).plan(pipeline.ingest.watermarks())
        assert due == ([Due(0, 0, groups - 1)] if groups else [])
        pipeline.finish()
        assert tokens.group_counts(pipeline.db, "tiny") == ({0: groups} if groups else {})
        assert refresher_of(pipeline).plan(pipeline.ingest.watermarks()) == []


def test_chains_are_compressed_oldest_first_with_the_groups_the_window_allows(
    tmp_path: Path,
) -> None:
    log = [event(u, "i1", START_MS + k * HOUR_MS) for k in range(25) for u in ("a", "b")]
    recorder = Recorder()
    config = pipeline_config(ENGINE, score=False, tick_interval_s=NEVER_S)
    with opened(
        tmp_path / "a.db", ENGINE, config, source=memory_source(log), compressor=recorder
    ) as pipeline:
        pipeline.run()
        pipeline.finish()
    jobs = [[(job.segment, len(job.groups)) for job in call] for call in recorder.calls]
    assert jobs == [[(0, 0)] * 2, [(1, 1)] * 2, [(2, 2)] * 2, [(3, 3)] * 2, [(4, 3)] * 2]


def test_stored_groups_are_the_compression_of_their_segments_in_history_order(
    tmp_path: Path,
) -> None:
    """Recomputed from raw rows in one go, after late events, ticks, rotation and a restart."""
    log = eventful(np.random.default_rng(11), 60)
    config = pipeline_config(
        ENGINE, score=False, lateness_ms=6 * HOUR_MS, rotate_rows=20, max_batch_records=15
    )
    for limit in (30, None):
        with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(log)) as pipeline:
            pipeline.run(max_records=limit)
            if limit is None:
                pipeline.finish()
                _check_groups(pipeline)


def _check_groups(pipeline: Pipeline) -> None:
    histories = rows_by_user(interactions.load_history(pipeline.db, [0, 1]))
    stored = load_groups(pipeline.db, [0, 1], "tiny")
    assert len(stored) > 6
    chains: dict[int, list[TokenBlock]] = {0: [], 1: []}
    for group in stored:
        rows = histories[group.user_idx].slice(group.segment * 4, group.segment * 4 + 4)
        assert (group.first, group.last) == (rows.key(0), rows.key(3))
        chain = chains[group.user_idx]
        job = SegmentJob(
            group.segment, chain[-3:], model_rows(pipeline.shared.item_rows(), ENGINE, rows)
        )
        block = ENGINE.compress([job])[0]
        assert block.kv.tobytes() == group.kv
        chain.append(block)


def test_a_run_is_recorded_and_published_with_the_positions_from_which_it_counts(
    tmp_path: Path,
) -> None:
    log = random_log(np.random.default_rng(0), 40, users=2, step_ms=4 * HOUR_MS)
    config = pipeline_config(ENGINE, score=False, visible_delay_s=3 * 3600)
    with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(log)) as pipeline:
        pipeline.run()
        found = sorted(runs.list_runs(pipeline.db, limit=100), key=lambda run: run.run_id)
        shown = journal.entries(pipeline.db, "group_visible")
        assert sum(run.segments for run in found) == sum(
            tokens.group_counts(pipeline.db, "tiny").values()
        )
    assert len(found) > 1
    assert all(run.status == "done" for run in found)
    for run, entry in zip(found, shown, strict=False):
        assert entry.ref == str(run.run_id)
        assert run.visible_from_ms == run.at_ms + 3 * HOUR_MS
        applies = entry.positions["log", 0]
        assert log[applies - 1]["ts"] >= run.visible_from_ms
        assert max(one["ts"] for one in log[: applies - 1]) < run.visible_from_ms


def test_a_failing_compressor_leaves_the_tick_to_be_done_again(tmp_path: Path) -> None:
    class Broken:
        def compress(self, jobs: Sequence[SegmentJob]) -> list[TokenBlock]:
            raise OSError(f"worker gone with {len(jobs)} segments")

    log = [event("u", "i1", START_MS + k * DAY_MS // 4) for k in range(20)]
    config = pipeline_config(ENGINE, score=False)
    with (
        opened(
            tmp_path / "a.db", ENGINE, config, source=memory_source(log), compressor=Broken()
        ) as pipeline,
        pytest.raises(OSError, match="worker gone"),
    ):
        pipeline.run()
    with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(log)) as pipeline:
        pipeline.run()
        pipeline.finish()
        assert tokens.group_counts(pipeline.db, "tiny") == {0: 3}
        assert refresher_of(pipeline).unpublished() == []
