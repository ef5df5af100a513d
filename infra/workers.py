"""Compression outside the owning process: spawned workers that hold the model and exchange arrays."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

from model.engine import Engine

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
            BrokenProcessPool: the worker died; nothing of these jobs was stored.
        """
        return self._pool.submit(_compress, list(jobs)).result()

    def close(self) -> None:
        """Stop the worker."""
        self._pool.shutdown()


def _load(checkpoint: Path) -> None:
    global _engine  # noqa: PLW0603 one engine per worker process, set by its initializer
    _engine = Engine.load(checkpoint, threads=1)


def _compress(jobs: list[SegmentJob]) -> list[TokenBlock]:
    if _engine is None:
        raise RuntimeError("the worker has no model; it is loaded by the pool's initializer")
    return _engine.compress(jobs)
