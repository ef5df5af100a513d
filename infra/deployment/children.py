"""Processes that run one command line and may die: cold ones start Python anew, warm ones fork a prepared one."""

from __future__ import annotations

import os
import resource
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import perf_counter
from typing import Protocol

from infra.fuse import FAULT_VARIABLE, TRACE_VARIABLE, Fuse

_HANG_S = 600.0
_NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended.

    Attributes:
        code: exit code, or minus the signal's number.
        error: what it wrote to stderr.
        last: the last point it passed, None if none.
        wall_s: seconds from its start to its end.
    """

    code: int
    error: str
    last: str | None
    wall_s: float

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.code == -signal.SIGKILL

    @property
    def said(self) -> str:
        """The last line it wrote to stderr."""
        lines = self.error.strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process is denied.

    Attributes:
        file_bytes: largest file it may write, None for any.
        unprivileged: runs as nobody.
    """

    file_bytes: int | None = None
    unprivileged: bool = False

    def apply(self) -> None:
        """Deny it to this process from now on."""
        if self.file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_bytes, self.file_bytes))
        if self.unprivileged:
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)


class Running(Protocol):
    """A started process."""

    def wait(self, timeout_s: float) -> int | None:
        """Return its exit code, None if it still runs after the time."""
        ...

    def kill(self) -> None:
        """Send SIGKILL."""
        ...

    def terminate(self) -> None:
        """Send SIGTERM."""
        ...


class Starter:
    """Starts `freshet` command lines as processes of their own.

    Args:
        folder: where their output and traces go.
        cold: start a Python per process; otherwise a server that has imported everything forks them.
    """

    def __init__(self, folder: Path, *, cold: bool = False) -> None:
        self._errors = folder / "child.err"
        self._trace = folder / "child.trace"
        self._cold = cold
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload([
            "infra.cli",
            "infra.commands.replay",
            "infra.commands.run",
            "infra.deployment.children",
        ])

    def run(
        self,
        argv: Sequence[str],
        *,
        fuse: Fuse | None = None,
        kill_after_s: float | None = None,
        limits: Limits | None = None,
    ) -> Ended:
        """Run one command line to its end, or kill it after some seconds.

        Raises:
            TimeoutError: it hangs.
        """
        started = perf_counter()
        running = self.start(argv, fuse=fuse, limits=limits)
        code = running.wait(_HANG_S if kill_after_s is None else kill_after_s)
        if code is None and kill_after_s is not None:
            running.kill()
            code = running.wait(_HANG_S)
        if code is None:
            running.kill()
            raise TimeoutError(f"`freshet {' '.join(argv)}` still runs after {_HANG_S:.0f} s")
        return self.ended(code, perf_counter() - started)

    def start(
        self, argv: Sequence[str], *, fuse: Fuse | None = None, limits: Limits | None = None
    ) -> Running:
        """Start one command line; output and trace of the one before are forgotten."""
        for path in (self._errors, self._trace):
            path.unlink(missing_ok=True)
        self._errors.touch()
        self._trace.touch()
        for path in (self._errors, self._trace):
            path.chmod(0o666)  # also for a process without rights
        given = {TRACE_VARIABLE: str(self._trace)} | ({FAULT_VARIABLE: str(fuse)} if fuse else {})
        start = _Cold if self._cold else self._warm
        return start(argv, given, self._errors, limits or Limits())

    def ended(self, code: int, wall_s: float) -> Ended:
        """Return how the last started process ended, from its exit code and what it left behind."""
        passed = [point for _, point in self.trace()]
        error = self._errors.read_text(errors="replace")
        return Ended(code, error, passed[-1] if passed else None, wall_s)

    def trace(self) -> list[tuple[float, str]]:
        """Return (seconds, point) of everything the last process passed."""
        lines = self._trace.read_text().rpartition("\n")[0].splitlines()  # it may be growing
        pairs = (line.split(" ", 1) for line in lines)
        return [(float(at), point) for at, point in pairs]

    def _warm(
        self, argv: Sequence[str], given: Mapping[str, str], errors: Path, limits: Limits
    ) -> Running:
        process = self._context.Process(target=_child, args=(list(argv), given, errors, limits))
        process.start()
        return Child(process)


class Child:
    """A process of `multiprocessing`, started.

    Args:
        process: the process.
    """

    def __init__(self, process: BaseProcess) -> None:
        self._process = process

    def wait(self, timeout_s: float) -> int | None:
        """Return its exit code, None if it still runs after the time."""
        self._process.join(timeout_s)
        return self._process.exitcode

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()


class _Cold:
    def __init__(
        self, argv: Sequence[str], given: Mapping[str, str], errors: Path, limits: Limits
    ) -> None:
        environ = {name: text for name, text in os.environ.items() if name != FAULT_VARIABLE}
        with errors.open("ab") as out:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                [sys.executable, "-m", "infra", *argv],
                env=environ | dict(given),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=out,
                preexec_fn=limits.apply,  # noqa: PLW1509 - no thread of ours holds a lock here
            )

    def wait(self, timeout_s: float) -> int | None:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()


def _child(argv: list[str], given: dict[str, str], errors: Path, limits: Limits) -> None:
    """What a warm process does: the command line, as if typed."""
    out = os.open(errors, os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(out, 2)
    os.environ.pop(FAULT_VARIABLE, None)
    os.environ.update(given)
    sys.argv = ["freshet", *argv]
    limits.apply()
    runpy.run_module("infra", run_name="__main__")
