"""Counts in memory that tell a tick what is due, against what the store counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from storage import backlog as counted
from storage import tokens
from stream.backlog import Backlog
from tests.stream.support import (
    HOUR_MS,
    eventful,
    memory_source,
    opened,
    pipeline_config,
    tiny_engine,
)

if TYPE_CHECKING:
    from pathlib import Path

    from stream.pipeline import Pipeline

ENGINE = tiny_engine()
NEVER_S = 10**8


def due_in_store(pipeline: Pipeline, watermarks: dict[tuple[str, int], int]) -> list[list[int]]:
    """User, first and last due segment, counted by the store; n 4, r_min 4."""
    rows = counted.due_counts(pipeline.db, watermarks).to_pylist()
    have = tokens.group_counts(pipeline.db, "tiny")
    spans = [
        [row["user_idx"], have.get(row["user_idx"], 0), (row["n_before"] - 4) // 4 - 1]
        for row in rows
    ]
    return [span for span in spans if span[2] >= span[1]]


def tell(pipeline: Pipeline, backlog: Backlog) -> None:
    pipeline.ingest.tell(lambda stored: backlog.take(stored.rows))


def due_in(backlog: Backlog) -> list[list[int]]:
    return np.stack(backlog.due(), axis=1).tolist()


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("counts", ["kept", "loaded"])
def test_what_is_due_is_what_the_store_counts(tmp_path: Path, parts: int, counts: str) -> None:
    log = eventful(np.random.default_rng(parts), 120)
    config = pipeline_config(
        ENGINE, score=False, lateness_ms=6 * HOUR_MS, rotate_rows=20, max_batch_records=15
    )
    backlog = Backlog(4, 4)
    for limit in (30, 30, 30, None):
        source = memory_source(log, parts=parts)
        with opened(tmp_path / "a.db", ENGINE, config, source=source) as pipeline:
            if counts == "loaded":
                backlog = Backlog(4, 4)
                backlog.load(pipeline.db, "tiny", pipeline.ingest.cut())
            tell(pipeline, backlog)
            pipeline.run(max_records=limit)
            marks = pipeline.ingest.watermarks()
            have = tokens.group_counts(pipeline.db, "tiny")
            users = np.array(list(have), np.int64)
            backlog.compressed(users, np.array(list(have.values()), np.int64))
            backlog.settle(marks)
            assert due_in(backlog) == due_in_store(pipeline, marks)
    assert tokens_made(tmp_path, config) > 0


def tokens_made(tmp_path: Path, config: object) -> int:
    with opened(tmp_path / "a.db", ENGINE, config) as pipeline:
        return sum(tokens.group_counts(pipeline.db, "tiny").values())


def test_rows_are_due_once_the_watermark_has_passed_them(tmp_path: Path) -> None:
    log = eventful(np.random.default_rng(5), 40)
    config = pipeline_config(None, score=False, tick_interval_s=NEVER_S)
    backlog = Backlog(4, 4)
    with opened(tmp_path / "a.db", None, config, source=memory_source(log)) as pipeline:
        tell(pipeline, backlog)
        pipeline.run()
        times = pipeline.db.query("SELECT epoch_ms(h_ts) AS ms FROM rows_all ORDER BY 1")["ms"]
        (partition,) = pipeline.ingest.watermarks()
        found = []
        for at in times.to_pylist()[::4]:
            backlog.settle({partition: at})
            found.append(due_in(backlog))
            assert found[-1] == due_in_store(pipeline, {partition: at})
        assert found[0] == []
        assert found[-1] != []
