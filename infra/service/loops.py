"""A loop on a thread of its own: it takes turns until it is stopped, and tells what ended it otherwise."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.service.health import Health

_T = TypeVar("_T")
logger = logging.getLogger(__name__)


class Loop:
    """Takes turns on a daemon thread.

    Args:
        name: of the thread and in health.
        turn: one turn; it must return within the bound that health has for it.
        health: told of every turn.
    """

    def __init__(self, name: str, turn: Callable[[], None], health: Health) -> None:
        self._name = name
        self._turn = turn
        self._health = health
        self._stopping = threading.Event()
        self._failed: Callable[[BaseException], None] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, failed: Callable[[BaseException], None]) -> None:
        """Begin; `failed` is told what a turn raised, which ends the loop."""
        self._failed = failed
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait between turns; return whether the loop is to end."""
        return self._stopping.wait(timeout_s)

    def stop(self) -> None:
        """Let the turn in hand be the last."""
        self._stopping.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end after `stop`; return whether it came in time."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._turn()
                self._health.beat(self._name)
        except BaseException as err:  # noqa: BLE001 told to the service, which ends with it
            if self._failed is not None:
                self._failed(err)


async def in_thread(work: Callable[[], _T]) -> _T:
    """Return what `work` returns, run on a daemon thread: nothing waits for it at the end of the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type]  # of `work`, so a _T
        else:
            done.set_exception(error)

    def run() -> None:
        try:
            outcome = (work(), None)
        except BaseException as err:  # noqa: BLE001 raised again where it is awaited
            outcome = (None, err)  # type: ignore[assignment]  # the other half of the pair
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, daemon=True).start()
    return await done
