"""The owner's end: a small HTTP application over the pipeline of the process that has the database.

    async with serve(owner_app(pipeline), socket_of(db_path)):
        ...

Answers are computed in two threads of their own, never on the event loop; each reads through its own cursor.
A question nobody waits for any more, or that takes too long, is stopped.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import pyarrow as pa

from infra.asking import wire
from infra.asking.answers import answer, rows
from infra.asking.questions import AskRows
from infra.asking.sockets import listening
from infra.errors import MissingExtraError, QuestionError
from infra.wiring import engine_of
from model.engine import Engine
from stream.score import Scorer

try:
    from aiohttp import web
except ImportError as err:
    raise MissingExtraError(
        "the owner's socket needs the extra `live`: pip install 'freshet[live]'"
    ) from err

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Future
    from pathlib import Path

    from infra.asking.questions import Question
    from storage.database import Database
    from storage.identities import Identities
    from stream.cache import CacheUse
    from stream.config import PipelineConfig
    from stream.pipeline import Pipeline

A = TypeVar("A")

ANSWER_S = 60.0
"""Longest time for an answer; a backup takes as long as it needs."""
THREADS = 2
"""Answers at once: more would take the processor from scoring."""
_STOP_AGAIN_S = 0.05
_GOODBYE_S = 1.0


def owner_app(pipeline: Pipeline, *, limit_s: float = ANSWER_S) -> web.Application:
    """Return the application that answers questions from a running pipeline.

    Args:
        pipeline: the one pipeline over the database; `recommend` is called from other threads.
        limit_s: longest time for an answer, seconds.
    """
    owner = _Answering(InOwner(pipeline), limit_s)
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post(wire.ASK, owner.ask)
    app.on_cleanup.append(owner.close)
    return app


@asynccontextmanager
async def serve(app: web.Application, path: Path) -> AsyncIterator[None]:
    """Serve an application on a Unix socket for this user while the block runs.

    Raises:
        InputError: the path is too long, something else is there, or another process still listens.
    """
    runner = web.AppRunner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=_GOODBYE_S
    )
    with listening(path) as made:
        await runner.setup()
        try:
            await web.SockSite(runner, made).start()
            yield
        finally:
            await runner.cleanup()


class InOwner:
    """The database of a running pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    @property
    def db(self) -> Database:
        """The database."""
        return self.pipeline.db

    @property
    def limits(self) -> PipelineConfig:
        """What it and its pipeline may take."""
        return self.pipeline.config

    @property
    def cache(self) -> CacheUse | None:
        """Where the scorer's cache stands."""
        scorer = self.pipeline.scorer
        return scorer.cache_use() if isinstance(scorer, Scorer) else None

    @property
    def engine(self) -> Engine | None:
        """The model of its tokens."""
        return self.pipeline.engine

    def spare_engine(self) -> Engine | None:
        """Return the model anew: the scorer computes with its own meanwhile."""
        return engine_of(self.db, None, load=partial(Engine.load, threads=1))

    @property
    def identities(self) -> Identities:
        """Internal ids of users and items."""
        return self.pipeline.identities


class _Answering:
    """The handler: decode, answer in a thread, encode."""

    def __init__(self, held: InOwner, limit_s: float) -> None:
        self._held = held
        self._limit_s = limit_s
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="answer")

    async def ask(self, request: web.Request) -> web.StreamResponse:
        """Answer one question."""
        try:
            question = wire.decode_question(await request.read())
            if isinstance(question, AskRows):
                return await self._rows(request, question)
            body = await self._answer(question)
        except Exception as err:  # noqa: BLE001 the process boundary: it becomes a line and a code there
            return web.Response(status=400, body=wire.refusal(err), content_type=wire.ANSWER_TYPE)
        return web.Response(body=body, content_type=wire.ANSWER_TYPE)

    async def close(self, _: web.Application) -> None:
        """End the threads; what they worked on was stopped when its handler was."""
        await asyncio.to_thread(self._pool.shutdown)

    async def _answer(self, question: Question[object]) -> bytes:
        def encoded(_: _Work[bytes]) -> bytes:
            return wire.encode_answer(answer(question, self._held))

        work = _Work(self._pool, self._held.db, encoded)
        return await work.result(None if question.patient else self._limit_s)

    async def _rows(self, request: web.Request, question: AskRows) -> web.StreamResponse:
        """Send the rows of a SELECT, batch by batch, as fast as they are taken."""
        sink = _Sink(request, asyncio.get_running_loop())
        work = _Work(
            self._pool, self._held.db, lambda own: self._send(question, sink, own), sink.stop
        )
        try:
            await work.result(self._limit_s)
        except Exception:
            if sink.response is None:  # nothing was sent: an error like any other
                raise
            if not sink.ended and request.transport is not None:
                request.transport.abort()
        return sink.response or web.Response()

    def _send(self, question: AskRows, sink: _Sink, work: _Work[None]) -> None:
        """Write the rows of a SELECT to a sink; an error at a later row ends the stream with its line."""
        notes: dict[bytes, bytes] = {}
        with rows(question, self._held) as found:
            writer = pa.ipc.new_stream(pa.PythonFile(sink, "w"), found.schema)
            while not notes:
                try:
                    batch = next(found.batches, None)
                except Exception as err:  # noqa: BLE001 the process boundary, as in `ask`
                    notes = {wire.REFUSED: wire.refusal(work.late or err)}
                else:
                    notes = {wire.END: b""} if batch is None else {}
                if not notes:
                    writer.write_batch(batch)
                    sink.flush()
        writer.write_batch(wire.last_batch(found.schema), custom_metadata=notes)
        writer.close()
        sink.flush()
        sink.ended = True


class _Work(Generic[A]):
    """A function in a thread of the pool, whose database query can be stopped.

    Args:
        pool: the threads.
        db: the database it reads.
        function: called with this object.
        stop: stops what else it may be waiting for.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        db: Database,
        function: Callable[[_Work[A]], A],
        stop: Callable[[], None] | None = None,
    ) -> None:
        self.late: QuestionError | None = None
        self._stops = [] if stop is None else [stop]
        self._stopping = threading.Lock()
        self._future = pool.submit(self._run, db, function)

    def _run(self, db: Database, function: Callable[[_Work[A]], A]) -> A:
        self._stops.append(db.stopper())
        try:
            return function(self)
        finally:
            with self._stopping:  # the thread's next question is not to be stopped
                self._stops.clear()

    async def result(self, limit_s: float | None) -> A:
        """Return what the function returns; it is stopped when it takes too long, or when nobody waits.

        Raises:
            QuestionError: it took longer than `limit_s`.
        """
        found = asyncio.wrap_future(self._future)
        found.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, if late
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.shield(found)
        except TimeoutError:
            self.late = QuestionError(
                f"took longer than {limit_s:g} s, and the process that has the database has other"
                " work; ask for less, or ask a backup"
            )
            await self._end()
            raise self.late from None
        except asyncio.CancelledError:
            await self._end()
            raise

    async def _end(self) -> None:
        """Stop the query that runs now, and the next ones, until the thread is free again."""
        while not self._future.cancel() and not self._future.done():
            with self._stopping:
                for stop in self._stops:
                    stop()
            await asyncio.sleep(_STOP_AGAIN_S)


class _Sink:
    """A file that sends what is written, from a thread, and waits until it was taken."""

    closed = False

    def __init__(self, request: web.Request, loop: asyncio.AbstractEventLoop) -> None:
        self.response: web.StreamResponse | None = None
        self.ended = False
        self._request = request
        self._loop = loop
        self._written: list[bytes] = []
        self._sending: Future[None] | None = None

    def write(self, data: bytes) -> int:
        """Keep some bytes until the next flush."""
        self._written.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Send what was written, and wait until the other side has room for more."""
        data, self._written = b"".join(self._written), []
        self._sending = asyncio.run_coroutine_threadsafe(self._send(data), self._loop)
        self._sending.result()

    def stop(self) -> None:
        """Wait no longer for the other side."""
        if self._sending is not None:
            self._sending.cancel()

    async def _send(self, data: bytes) -> None:
        if self.response is None:
            self.response = web.StreamResponse(headers={"Content-Type": wire.ROWS_TYPE})
            await self.response.prepare(self._request)
        await self.response.write(data)
