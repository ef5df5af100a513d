"""A running service seen from outside: its health pages, its end."""

from __future__ import annotations

import json
import signal
from http.client import HTTPException
from time import monotonic, perf_counter, sleep
from typing import TYPE_CHECKING
from urllib.request import urlopen

from infra.errors import InfraError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from infra.deployment.children import Ended, Limits, Running, Starter
    from infra.fuse import Fuse

_POLL_S = 0.05
_PAGE_S = 5.0
_END_S = 60.0
Ends = dict[tuple[str, int], int]
"""Offset per topic and partition."""


class DeploymentError(InfraError):
    """A part of a deployment did something else than it should; the message is one line."""


class Serving:
    """One `freshet run`, started.

    Args:
        starter: starts it; only one process of it runs at a time.
        argv: the command line.
        port: of its health pages.
        fuse: where it kills itself.
        limits: what it is denied.
    """

    def __init__(
        self,
        starter: Starter,
        argv: list[str],
        port: int,
        *,
        fuse: Fuse | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._starter = starter
        self._port = port
        self._started = perf_counter()
        self._running: Running = starter.start(argv, fuse=fuse, limits=limits)

    def page(self, name: str) -> str | None:
        """Return a health page, None while there is none."""
        try:
            with urlopen(f"http://127.0.0.1:{self._port}/{name}", timeout=_PAGE_S) as answer:
                text: str = answer.read().decode()
                return text
        except (OSError, HTTPException):
            return None

    def positions(self) -> tuple[Ends, Ends]:
        """Return up to where it has stored, and up to where it has answered; empty while it does not say."""
        text = self.page("status")
        rows = json.loads(text)["partitions"] if text else []
        return tuple(  # type: ignore[return-value]  # one per name
            {(row["topic"], row["partition"]): row[name] for row in rows}
            for name in ("stored", "answered")
        )

    def figures(self) -> Mapping[str, float]:
        """Return every series of the metrics page, and the sum of each metric over its labels."""
        found: dict[str, float] = {}
        for line in (self.page("metrics") or "").splitlines():
            if line and not line.startswith("#"):
                series, _, value = line.rpartition(" ")
                name = series.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
                found[series] = float(value)
        return found

    @property
    def ready(self) -> bool:
        """Whether it says that it works."""
        return self.page("readyz") is not None

    def caught_up(self, ends: Ends) -> bool:
        """Whether everything below these offsets is stored and answered."""
        stored, answered = self.positions()
        return all(
            min(stored.get(key, 0), answered.get(key, 0)) >= end for key, end in ends.items()
        )

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait for a condition while the service runs.

        Raises:
            DeploymentError: it ended, or the time is over.
        """
        deadline = monotonic() + timeout_s
        while not condition():
            code = self._running.wait(_POLL_S)
            if code is not None:
                ended = self.ended(code)
                raise DeploymentError(f"{what}: the service ended, code {code}: {ended.said}")
            if monotonic() > deadline:
                raise DeploymentError(f"{what}: not within {timeout_s:.0f} s")

    def wait(self, timeout_s: float) -> Ended | None:
        """Return how it ended, None if it still runs after the time."""
        code = self._running.wait(timeout_s)
        return None if code is None else self.ended(code)

    def kill(self) -> Ended:
        """End it as a power cut does."""
        self._running.kill()
        return self._gone()

    def terminate(self) -> Ended:
        """End it as an operator does; it is killed when that takes longer than a minute."""
        self._running.terminate()
        ended = self.wait(_END_S)
        return self.kill() if ended is None else ended

    def passed(self, point: str) -> int:
        """Return how often it has passed a point."""
        return sum(passed == point for _, passed in self._starter.trace())

    def ended(self, code: int) -> Ended:
        """Return how it ended, from its exit code."""
        return self._starter.ended(code, perf_counter() - self._started)

    def _gone(self) -> Ended:
        code = self._running.wait(_END_S)
        while code is None:  # a killed process goes when the kernel lets it
            sleep(_POLL_S)
            code = self._running.wait(_END_S)
        return self.ended(code)


KILLED = -signal.SIGKILL
"""Exit code of a process that SIGKILL ended."""
