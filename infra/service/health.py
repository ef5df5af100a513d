"""Health of a process: loops that must take turns, conditions that must have been met, checks that must pass."""

from __future__ import annotations

import os
import shutil
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Check = Callable[[], str | None]

_ROOM_BYTES = 64 << 20


class Health:
    """Says why a process is not alive, or not ready; every reason is one short line.

    Args:
        now: seconds of a clock that only goes forward.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._bounds: dict[str, float] = {}
        self._beats: dict[str, float] = {}
        self._wanted: list[str] = []
        self._met: set[str] = set()
        self._begun = False
        self._ready_checks: list[Check] = []

    def watch(self, loop: str, bound_s: float) -> None:
        """Expect a turn of a loop at least every `bound_s` seconds, from now or from `begin` on."""
        self._beats[loop] = self._now()
        self._bounds[loop] = bound_s

    def begin(self) -> None:
        """Say that the loops start now: what comes before them may take any time."""
        self._begun = True
        self._beats |= dict.fromkeys(self._bounds, self._now())

    def beat(self, loop: str) -> None:
        """Say that a loop took a turn."""
        self._beats[loop] = self._now()

    def expect(self, *conditions: str) -> None:
        """Be ready only once all of these are met."""
        self._wanted += conditions

    def met(self, condition: str) -> None:
        """Say that a condition is met."""
        self._met.add(condition)

    def check_ready(self, check: Check) -> None:
        """Ask `check` whenever readiness is asked for: None, or what is wrong."""
        self._ready_checks.append(check)

    def ages(self) -> dict[str, float]:
        """Return the seconds since each loop's last turn; nothing before they begin."""
        now = self._now()
        return {loop: now - self._beats[loop] for loop in self._bounds} if self._begun else {}

    def not_alive(self) -> list[str]:
        """Return why the process is not alive; empty when it is."""
        return [
            f"{loop}: no turn for {age:.1f} s, more than {self._bounds[loop]:g} s"
            for loop, age in self.ages().items()
            if age > self._bounds[loop]
        ]

    def not_ready(self) -> list[str]:
        """Return why the process is not ready; empty when it is."""
        missing = [f"not yet: {name}" for name in self._wanted if name not in self._met]
        failed = [reason for check in self._ready_checks if (reason := check()) is not None]
        return missing + failed


def writable(path: Path) -> Check:
    """Return a check that a database file can grow: rights, and room on its file system."""

    def check() -> str | None:
        if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
            return f"{path}: no right to write"
        if shutil.disk_usage(path.parent).free < _ROOM_BYTES:
            return f"{path}: less than {_ROOM_BYTES >> 20} MiB left on its file system"
        return None

    return check
