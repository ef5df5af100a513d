"""The worker that compresses: a deadline, a new process after a dead one, the same bytes as in this process."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from infra.exits import ExitCode, exit_code
from infra.workers import WorkerCompressor
from model.checkpoint import save_checkpoint
from model.engine import Engine, Rows, SegmentJob
from stream.errors import CompressError
from stream.metrics import WORKER_REPLACED, Metric, NoMetrics
from tests.stream.support import START_MS, tiny_config, tiny_model

N = tiny_config().segment_len
DEADLINE_S = 1.0


class Counting(NoMetrics):
    """Counts replaced workers by reason."""

    def __init__(self) -> None:
        self.replaced: Counter[str] = Counter()

    def add(self, metric: Metric, amount: float = 1, /, **labels: str) -> None:
        assert metric is WORKER_REPLACED
        self.replaced[labels["reason"]] += int(amount)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, readout = tiny_model(tiny_config())
    path = tmp_path_factory.mktemp("worker") / "model.safetensors"
    save_checkpoint(path, model=model, readout=readout, trained_through_ms=START_MS)
    return path


@pytest.fixture(scope="module")
def shared(checkpoint: Path) -> Iterator[tuple[WorkerCompressor, Counting]]:
    metrics = Counting()
    made = WorkerCompressor(checkpoint, deadline_s=DEADLINE_S, metrics=metrics)
    yield made, metrics
    made.close()


@pytest.fixture
def metrics(shared: tuple[WorkerCompressor, Counting]) -> Counting:
    shared[1].replaced.clear()
    return shared[1]


@pytest.fixture
def worker(shared: tuple[WorkerCompressor, Counting]) -> WorkerCompressor:
    """The one worker of these tests: starting one takes seconds."""
    return shared[0]


def jobs(count: int = 3) -> list[SegmentJob]:
    return [
        SegmentJob(
            segment=0,
            groups=[],
            rows=Rows(
                item_row=np.arange(N, dtype=np.int64) + number,
                type_row=np.ones(N, np.int64),
                time_ms=START_MS + 1000 * np.arange(N, dtype=np.int64),
                ordinal=np.arange(N, dtype=np.int64),
            ),
        )
        for number in range(count)
    ]


def test_its_bytes_equal_those_of_this_process_also_after_it_was_killed(
    checkpoint: Path, worker: WorkerCompressor, metrics: Counting
):
    expected = [block.kv.tobytes() for block in Engine.load(checkpoint).compress(jobs())]
    assert [block.kv.tobytes() for block in worker.compress(jobs())] == expected
    first = worker.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    with pytest.raises(CompressError, match="died") as raised:
        worker.compress(jobs())
    assert exit_code(raised.value) is ExitCode.WORKER_DIED
    assert [block.kv.tobytes() for block in worker.compress(jobs())] == expected
    assert worker.pid != first
    assert metrics.replaced == {"died": 1}


def test_a_worker_that_hangs_is_killed_at_its_deadline_and_replaced(
    worker: WorkerCompressor, metrics: Counting
):
    worker.compress(jobs())
    hanging = worker.pid
    assert hanging is not None
    os.kill(hanging, signal.SIGSTOP)
    with pytest.raises(CompressError, match="overran its deadline"):
        worker.compress(jobs(2_000))  # more than its pipe takes unread
    assert len(worker.compress(jobs())) == 3
    assert worker.pid != hanging
    assert metrics.replaced == {"overran": 1}


def test_what_the_model_refuses_is_told_and_the_worker_stays(
    worker: WorkerCompressor, metrics: Counting
):
    worker.compress(jobs())
    same = worker.pid
    (broken,) = jobs(1)
    broken.rows.item_row[:] = 1 << 40
    with pytest.raises(CompressError, match=r"failed: \w+Error"):
        worker.compress([broken])
    assert len(worker.compress(jobs())) == 3
    assert worker.pid == same
    assert not metrics.replaced


def test_closing_ends_a_batch_that_hangs(checkpoint: Path):
    metrics = Counting()
    worker = WorkerCompressor(checkpoint, metrics=metrics)
    worker.compress(jobs())
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            worker.compress(jobs(2_000))
        except CompressError as err:
            raised.append(err)

    thread = threading.Thread(target=ask)
    thread.start()
    worker.close()
    thread.join(20)
    assert not thread.is_alive()
    assert raised
    assert not metrics.replaced
    with pytest.raises(CompressError, match="was stopped"):
        worker.compress(jobs())
