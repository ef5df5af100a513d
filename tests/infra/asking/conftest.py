"""Databases that somebody owns: another process, or a thread of this one where that makes no difference."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.asking.app import owner_app, serve
from infra.asking.sockets import socket_of
from infra.settings import load
from infra.wiring import replaying
from stream.pipeline import Pipeline
from tests.infra.asking.owning import plan_of
from tests.infra.conftest import World

ROOT = Path(__file__).parents[3]


@contextmanager
def owner_process(world: World, db: Path) -> Iterator[subprocess.Popen]:
    """Run a process that owns a database; it closes it when its input is closed."""
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.infra.asking.owning", str(world.folder), str(db)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert owner.stdout.readline() == "ready\n"
        yield owner
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
        owner.stdin.close()


@contextmanager
def serving(pipeline: Pipeline, *, limit_s: float = 60) -> Iterator[None]:
    """Answer questions to a pipeline's database from threads of this process."""
    ready, over = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve_until_over() -> None:
        async with serve(owner_app(pipeline, limit_s=limit_s), socket_of(pipeline.db.path)):
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve_until_over(),))
    thread.start()
    try:
        assert ready.wait(20)
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


@contextmanager
def owned(
    world: World, db: Path, *, slates: Path | None = None, limit_s: float = 60
) -> Iterator[Pipeline]:
    """Own a database in this process, with the pipeline that replays the world's log into it."""
    loaded = load(config_file=world.config, environ={})
    with (
        replaying(plan_of(world, db, slates), loaded) as pipeline,
        serving(pipeline, limit_s=limit_s),
    ):
        yield pipeline


@pytest.fixture
def running(world: World) -> Iterator[Pipeline]:
    with owned(world, world.db) as pipeline:
        yield pipeline
