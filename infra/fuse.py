"""What makes a process die at a named point: two variables, read once at its start.

    FRESHET_FAULT=rotation.moved:2        SIGKILL when the point is reached the 2nd time
    FRESHET_FAULT=checkpoint.begin:1:4.5  SIGKILL 4.5 ms after it, from another thread
    FRESHET_FAULT_TRACE=FILE              append every point that is passed, with the process's seconds

Nothing is mocked: the process gets a real SIGKILL at a real place. Without the variables nothing happens.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

from infra.errors import SettingsError
from storage import faults
from storage.faults import POINTS, Spoil

FAULT_VARIABLE = "FRESHET_FAULT"
TRACE_VARIABLE = "FRESHET_FAULT_TRACE"


@dataclass(frozen=True, slots=True)
class Fuse:
    """Where to die.

    Attributes:
        point: one of `storage.faults.POINTS`.
        nth: how many times it has to be reached, from 1.
        delay_ms: how long after it, for points whose work runs inside the database; 0 dies on the spot.
    """

    point: str
    nth: int = 1
    delay_ms: float = 0.0

    def __str__(self) -> str:
        """Return the fuse as the variable holds it."""
        delay = f":{self.delay_ms:.3f}" if self.delay_ms else ""
        return f"{self.point}:{self.nth}{delay}"

    @classmethod
    def parse(cls, text: str) -> Fuse:
        """Return the fuse of a variable's text.

        Raises:
            SettingsError: it names no point, or no number.
        """
        point, *rest = text.split(":")
        if point not in POINTS:
            raise SettingsError(
                f"{FAULT_VARIABLE}: no point {point!r}; it is one of {', '.join(POINTS)}"
            )
        try:
            nth = int(rest[0]) if rest else 1
            delay = float(rest[1]) if len(rest) > 1 else 0.0
        except ValueError as err:
            raise SettingsError(
                f"{FAULT_VARIABLE}: {text!r} is not POINT:NTH or POINT:NTH:DELAY_MS; correct it"
            ) from err
        return cls(point, nth, delay)


def arm(environ: Mapping[str, str]) -> None:
    """Install the hook that the variables ask for; without them do nothing.

    Raises:
        SettingsError: `FRESHET_FAULT` can not be read.
    """
    fuse, trace = environ.get(FAULT_VARIABLE), environ.get(TRACE_VARIABLE)
    if fuse or trace:
        faults.install(_Burning(Fuse.parse(fuse) if fuse else None, Path(trace) if trace else None))


class _Burning:
    """The hook: counts, writes the trace, kills."""

    def __init__(self, fuse: Fuse | None, trace: Path | None) -> None:
        self._fuse = fuse
        self._left = fuse.nth if fuse else 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._trace = None if trace is None else os.open(trace, flags, 0o644)

    def __call__(self, point: str, spoil: Spoil | None, /) -> None:
        if self._trace is not None:
            os.write(self._trace, f"{perf_counter():.6f} {point}\n".encode())
        if self._fuse is None or point != self._fuse.point:
            return
        self._left -= 1
        if self._left:
            return
        if self._fuse.delay_ms:
            threading.Thread(target=_die_after, args=(self._fuse.delay_ms,), daemon=True).start()
            return
        if spoil is not None:
            spoil()
        _die()


def _die_after(delay_ms: float) -> None:
    sleep(delay_ms / 1000)
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
