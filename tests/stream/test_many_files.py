"""A log over several files is the log it would be as one file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream.config import FileConfig
from stream.sinks.memory import MemorySink
from stream.slates import Slate
from stream.sources.file import FileSource
from tests.contracts.source_logs import write
from tests.stream.support import (
    DAY_MS,
    HOUR_MS,
    Outcome,
    assert_same_slates,
    eventful,
    opened,
    outcome,
    pipeline_config,
    tiny_engine,
)

ENGINE = tiny_engine()
LOG = eventful(np.random.default_rng(5), 44)
CONFIG = pipeline_config(
    ENGINE, tick_interval_s=3 * DAY_MS // 1000, lateness_ms=HOUR_MS, max_batch_records=11
)
CUTS = (0, 9, 9, 23, 40, len(LOG))


def replayed(folder: Path, limits: tuple[int | None, ...] = (None,)) -> Outcome:
    """Replay a folder into a new database, with a new process after each limit."""
    slates: list[Slate] = []
    for limit in limits:
        source, sink = FileSource(folder, FileConfig(topic="log")), MemorySink()
        path = folder.with_suffix(".db")
        with opened(path, ENGINE, CONFIG, source=source, sink=sink) as pipeline:
            pipeline.run(max_records=limit)
            slates += sink.slates
            if limit is None:
                pipeline.finish()
                found = outcome(pipeline, slates)
        source.close()
    return found


def written(folder: Path, suffix: str, cuts: tuple[int, ...]) -> Path:
    """Write the log into files that are cut at the given rows."""
    folder.mkdir()
    names = {name for one in LOG for name in one}
    table = pa.Table.from_pylist([{name: one.get(name) for name in names} for one in LOG])
    for number, (first, end) in enumerate(pairwise(cuts)):
        path = folder / f"{number}.{suffix}"
        if suffix == "parquet":
            pq.write_table(table.slice(first, end - first), path, row_group_size=5)
        else:
            write(path, LOG[first:end])
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("one")
    found = replayed(written(folder / "whole", "jsonl", (0, len(LOG))))
    assert found.groups > 3
    assert len(found.rows) == len(LOG)
    assert any(row["displaced"] for row in found.rows)
    return found


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("limits", [(None,), (4, 12, 7, None)], ids=["straight", "resumed"])
def test_split_over_files_it_is_the_same_log(
    whole: Outcome, tmp_path: Path, suffix: str, limits: tuple[int | None, ...]
) -> None:
    found = replayed(written(tmp_path / "split", suffix, CUTS), limits)
    assert found.interactions == whole.interactions
    assert found.tokens == whole.tokens
    assert [slate.id for slate in found.slates] == [slate.id for slate in whole.slates]
    assert_same_slates(found.slates, whole.slates)
