"""Compression outside the owning process: a spawned worker that holds the model and exchanges arrays.

A worker that dies or overruns its deadline is replaced by the next call. Nothing of its batch was stored, so the
next tick plans the same segments anew.
"""

from __future__ import annotations

import logging
import os
import signal
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from threading import Lock, Timer
from time import perf_counter
from typing import TYPE_CHECKING

from infra.fuse import arm
from infra.parents import end_with_parent
from model.engine import Engine
from storage.faults import reach
from stream.errors import CompressError
from stream.metrics import COMPRESS_SECONDS, WORKER_REPLACED, Metrics, NoMetrics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess
    from pathlib import Path

    from model.engine import SegmentJob, TokenBlock

_START_S = 120.0  # loading the libraries takes seconds, on a busy machine tens of them
_END_S = 5.0
_STOPPED = "the process that compresses was stopped; start the command again"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Failed:
    """What the worker sends back when its work raised."""

    error: str
    trace: str


class WorkerCompressor:
    """Compresses segments in one spawned process; the bytes equal those of compressing in this process.

    Args:
        checkpoint: the model version to load in the worker.
        deadline_s: longest time for one batch; then the worker is killed. None lets it take any time.
        metrics: batches and replaced workers are counted there.
    """

    def __init__(
        self, checkpoint: Path, *, deadline_s: float | None = None, metrics: Metrics | None = None
    ) -> None:
        self._checkpoint = checkpoint
        self._deadline_s = deadline_s
        self._metrics = metrics or NoMetrics()
        self._worker: _Worker | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None while there is none."""
        return None if self._worker is None else self._worker.pid

    def compress(self, jobs: Sequence[SegmentJob]) -> list[TokenBlock]:
        """Token blocks in the order of the jobs.

        Raises:
            CompressError: the worker died, overran its deadline or refused; nothing of these jobs was stored.
        """
        if self._closed:
            raise CompressError(_STOPPED, again=False)
        if self._worker is None:
            self._worker = _Worker(self._checkpoint)
        started = perf_counter()
        try:
            blocks = self._worker.ask(list(jobs), self._deadline_s)
        except _GoneError as gone:
            self._worker.end()
            self._worker = None
            if not self._closed:
                self._metrics.add(WORKER_REPLACED, reason=gone.reason)
                logger.info("worker_gone", extra={"reason": gone.reason, "segments": len(jobs)})
            raise CompressError(
                f"the process that compresses {_REASONS[gone.reason]};"
                " what was committed is kept: run the same command again, or without --worker",
                again=not self._closed,
            ) from gone
        self._metrics.observe(COMPRESS_SECONDS, perf_counter() - started)
        return blocks

    def close(self) -> None:
        """Stop the worker, also in the middle of a batch that another thread waits for."""
        self._closed = True
        worker = self._worker
        if worker is not None:
            worker.end()


_REASONS = {"died": "died (killed, or out of memory)", "overran": "overran its deadline"}


class _GoneError(Exception):
    """The worker's process has ended."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Worker:
    """One worker process, started; it answers batch after batch until it is gone."""

    def __init__(self, checkpoint: Path) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_serve, args=(checkpoint, theirs), name="compress", daemon=True
        )
        self._process.start()
        theirs.close()  # so that its death ends the pipe
        self._ending = Lock()
        self._ready = False

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def ask(self, jobs: list[SegmentJob], deadline_s: float | None) -> list[TokenBlock]:
        """The blocks of a batch; the process is killed when they take longer than `deadline_s`."""
        if not self._ready:
            self._exchange(None, _START_S)
            self._ready = True
        found = self._exchange(jobs, deadline_s)
        blocks: list[TokenBlock] = found if isinstance(found, list) else []
        return blocks

    def _exchange(self, message: object, deadline_s: float | None) -> object:
        # Killing it is what bounds sending too: a process that hangs does not read its pipe.
        timer = None if deadline_s is None else Timer(deadline_s, self._process.kill)
        started = perf_counter()
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            self._pipe.send(message)
            answer: object = self._pipe.recv()
        except (OSError, EOFError) as err:
            late = deadline_s is not None and perf_counter() - started >= deadline_s
            raise _GoneError("overran" if late else "died") from err
        finally:
            if timer is not None:
                timer.cancel()
        if isinstance(answer, _Failed):
            logger.error("compress_failed", extra={"error": answer.error, "trace": answer.trace})
            raise CompressError(f"the process that compresses failed: {answer.error}")
        return answer

    def end(self) -> None:
        """End the process; whoever waits for an answer learns that it is gone."""
        with self._ending:
            self._process.kill()  # it holds nothing that outlives it
            self._process.join(_END_S)


def _serve(checkpoint: Path, pipe: Connection) -> None:
    """The worker: answers that it is ready, then one batch after the other."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the owner decides
    end_with_parent()
    arm(os.environ)
    engine: Engine | None = None
    with suppress(EOFError):
        while True:
            jobs: list[SegmentJob] | None = pipe.recv()
            try:
                engine = engine or Engine.load(checkpoint, threads=1)
                answer: object = None if jobs is None else _compress(engine, jobs)
            except Exception as err:  # noqa: BLE001 it is told to the owner, who decides
                answer = _Failed(f"{type(err).__name__}: {err}", traceback.format_exc())
            pipe.send(answer)


def _compress(engine: Engine, jobs: list[SegmentJob]) -> list[TokenBlock]:
    reach("worker.compress")
    return engine.compress(jobs)
