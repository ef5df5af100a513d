"""Compression outside the owning process: spawned workers that hold the model and exchange arrays."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TYPE_CHECKING

from infra.errors import WorkerDiedError
from infra.fuse import arm
from infra.parents import end_with_parent
from model.engine import Engine
from storage.faults import reach

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from model.engine import SegmentJob, TokenBlock

_engine: Engine | None = None
"""The worker process's own engine, loaded once by its initializer."""


class WorkerCompressor:
    """Compresses segments in one spawned process; the bytes equal those of compressing in this process.

    Args:
        checkpoint: the model version to load in the worker.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=get_context("spawn"),
            initializer=_load,
            initargs=(checkpoint,),
        )

    def compress(self, jobs: Sequence[SegmentJob]) -> list[TokenBlock]:
        """Token blocks in the order of the jobs.

        Raises:
            WorkerDiedError: it died; nothing of these jobs was stored.
        """
        try:
            return self._pool.submit(_compress, list(jobs)).result()
        except BrokenProcessPool as err:
            raise WorkerDiedError(
                "the process that compresses died (killed, or out of memory);"
                " what was committed is kept: run the same command again, or without --worker"
            ) from err

    def close(self) -> None:
        """Stop the worker."""
        self._pool.shutdown()


def _load(checkpoint: Path) -> None:
    global _engine  # noqa: PLW0603 one engine per worker process, set by its initializer
    end_with_parent()
    arm(os.environ)
    _engine = Engine.load(checkpoint, threads=1)


def _compress(jobs: list[SegmentJob]) -> list[TokenBlock]:
    if _engine is None:
        raise RuntimeError("the worker has no model; it is loaded by the pool's initializer")
    reach("worker.compress")
    return _engine.compress(jobs)
