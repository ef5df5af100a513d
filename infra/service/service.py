"""The service: starts the threads, waits for a signal or a failure, ends everything within a bound."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import AsyncExitStack, ExitStack
from time import monotonic
from typing import TYPE_CHECKING

from infra.service.loops import in_thread
from storage.errors import FatalStorageError
from stream.errors import DeadShareError, SinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager

    from infra.scheduler import Scheduler
    from infra.service.answering import Answering, Pump
    from infra.service.health import Health
    from infra.service.ingesting import Ingesting
    from stream.pipeline import Pipeline

    Site = Callable[[], AbstractAsyncContextManager[object]]

RESUMED = "positions loaded"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FATAL_S, _FAILED_S = 1.0, 10.0
_SWITCH_S = 0.001  # storing and scoring hand the interpreter to each other many times per event: by default each waits 5 ms
logger = logging.getLogger(__name__)


class Service:
    """One shard's running process.

    A signal drains: the batch in hand is stored, what is stored is answered as far as the bound allows, everything
    is closed. A second signal, or a fault of the database file, ends at once. What a thread raises ends all others
    and is raised by `run`.

    Args:
        pipeline: what all threads share.
        ingesting: the thread that stores.
        answering: answers.
        pump: says when to answer.
        scheduler: ticks and upkeep.
        health: what the pages show.
        drain_s: longest time from a signal to the end.
        resources: closed last, source and database among them.
        interrupt: stops what may keep the refresh thread for long.
        sites: entered on the event loop before anything else, left after everything else but the resources.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        ingesting: Ingesting,
        *,
        answering: Answering,
        pump: Pump,
        scheduler: Scheduler,
        health: Health,
        drain_s: float,
        resources: ExitStack,
        interrupt: Callable[[], object] = lambda: None,
        sites: Sequence[Site] = (),
    ) -> None:
        self._pipeline = pipeline
        self._ingesting = ingesting
        self._answering = answering
        self._pump = pump
        self._scheduler = scheduler
        self._health = health
        self._drain_s = drain_s
        self._resources = resources
        self._interrupt = interrupt
        self._sites = sites
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()
        self._leaving = asyncio.Event()
        self._failure: BaseException | None = None
        self._signals = 0
        self.clean = False
        """Whether every thread has ended and every resource is closed; otherwise the process must leave by force."""

    def run(self) -> None:
        """Work until a signal or a failure.

        The event loop is closed only when everything has ended: closing it waits for every task, and one that
        holds on to events it may not acknowledge never ends.

        Raises:
            KeyboardInterrupt: a second signal came.
            BaseException: what ended a thread.
        """
        runner = asyncio.Runner()
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        try:
            runner.run(self._main())
        finally:
            sys.setswitchinterval(before)
            if self.clean:
                runner.close()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End as a first signal would; from any thread."""
        self._call(self._ending.set)

    def fail(self, error: BaseException) -> None:
        """End because of an error; from any thread. The first one counts.

        Slates that a sink did not take for now, once the service ends, are written by the next start.
        """
        away = isinstance(error, SinkError) and error.retry_after_s is not None
        if away and self._ending.is_set():
            logger.warning("left_to_the_next_start", extra={"error": str(error)})
            return
        if self._failure is None:
            self._failure = error
            logger.error("thread_failed", extra={"error": f"{type(error).__name__}: {error}"})
        self._call(self._ending.set)

    def _call(self, work: Callable[[], None]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._signaled)
        async with AsyncExitStack() as stack:
            for site in self._sites:
                await stack.enter_async_context(site())
            working = asyncio.create_task(self._work())
            leaving = asyncio.create_task(self._leaving.wait())
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            leaving.cancel()
            if not working.done():
                working.cancel()
                # Raised by `run`: an event loop lets this one pass, its task unheard.
                self._failure = KeyboardInterrupt()
                return
            await working

    def _signaled(self) -> None:
        self._signals += 1
        if self._signals > 1:
            logger.warning("leaving_at_once")
            self._leaving.set()
        else:
            logger.info("draining", extra={"bound_s": self._drain_s})
            self._ending.set()

    async def _work(self) -> None:
        """Start, wait for the end, stop."""
        try:
            await self._start()
        except Exception as err:  # noqa: BLE001 everything started so far has to end
            self.fail(err)
        await self._ending.wait()
        bound_s = self._drain_s
        if self._failure is not None:
            fatal = isinstance(self._failure, FatalStorageError)
            bound_s = min(bound_s, _FATAL_S if fatal else _FAILED_S)
        answer = self._failure is None or isinstance(self._failure, DeadShareError)
        await self._stop(monotonic() + bound_s, answer=answer)

    async def _start(self) -> None:
        if not await self._before_the_end(in_thread(self._pipeline.resume)):
            return
        self._health.met(RESUMED)
        self._health.begin()
        self._ingesting.loop.start(self.fail)
        if not await self._before_the_end(self._pump.start(self.fail)):
            return
        self._scheduler.start(self.fail)
        logger.info("started")

    async def _before_the_end(self, work: Coroutine[object, object, None]) -> bool:
        """Whether a step of the start was done before all was to end; one that was not is given up."""
        step = asyncio.ensure_future(work)
        ending = asyncio.ensure_future(self._ending.wait())
        await asyncio.wait({step, ending}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if self._ending.is_set():
            step.cancel()
            return False
        await step
        return True

    async def _stop(self, deadline: float, *, answer: bool) -> None:
        """End threads, answer what is stored if wanted, close; whatever does not end in time is left behind."""

        def left() -> float:
            return max(0.0, deadline - monotonic())

        self._answering.stop()
        await in_thread(self._interrupt)
        ended = [await in_thread(lambda: self._scheduler.stop(left()))]
        # The pump ends first: what it was given may still have to be stored.
        ended.append(await self._pump.stop(left() / 2))
        self._ingesting.loop.stop()
        ended.append(await in_thread(lambda: self._ingesting.loop.join(left())))
        answered = True
        if answer and all(ended):
            answered = await self._within(left(), self._drain, deadline)
        closed = all(ended) and await self._within(left(), self._resources.close)
        self.clean = closed
        logger.info("stopped", extra={"clean": self.clean, "answered": answered})

    def _drain(self, deadline: float) -> None:
        """Answer until shortly before the deadline: closing the file takes its time too."""
        self._answering.drain(deadline - 0.25 * self._drain_s)

    async def _within(self, timeout_s: float, work: Callable[..., object], *args: object) -> bool:
        """Whether `work` was done in time; what it raises is a failure."""
        try:
            await asyncio.wait_for(in_thread(lambda: work(*args)), timeout_s)
        except TimeoutError:
            return False
        except Exception as err:  # noqa: BLE001 raised at the end
            self.fail(err)
            return True
        return True
