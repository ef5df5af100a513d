"""freshet in a child process, whose peak memory and processor time are its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

import msgspec

from infra.errors import InfraError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from resource import struct_rusage

_ROOT = Path(__file__).parents[2]
_KIB = 1 << 10
_MACOS_UNIT = 1
_LOOK_S = 0.02


class ChildError(InfraError):
    """A child process of a benchmark failed."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command printed as JSON, its peak resident memory in bytes, and what it took."""

    json: Any
    peak_bytes: int
    cpu_s: float
    wall_s: float


def run_freshet(arguments: Sequence[str], *, folder: Path) -> Ran:
    """Run `freshet ARGUMENTS --json` in a process of its own and wait for it.

    Args:
        arguments: of the command line.
        folder: working folder; its settings file, if it has one, counts.

    Raises:
        ChildError: the command failed.
    """
    command = [sys.executable, "-m", "infra", *arguments, "--json"]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("FRESHET")
    }
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)}
    out, err = folder / "child.out", folder / "child.err"
    started = perf_counter()
    with out.open("wb") as stdout, err.open("wb") as stderr:
        child = subprocess.Popen(  # noqa: S603 - this very program
            command, cwd=folder, env=environment, stdout=stdout, stderr=stderr
        )
        status, usage, peak = _waited(child.pid)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        last = err.read_text(encoding="utf-8").strip().splitlines()[-1:] or ["no message"]
        raise ChildError(f"freshet {arguments[0]} ended with code {child.returncode}: {last[0]}")
    return Ran(
        json=msgspec.json.decode(out.read_bytes()),
        peak_bytes=peak,
        cpu_s=usage.ru_utime + usage.ru_stime,
        wall_s=perf_counter() - started,
    )


def _waited(pid: int) -> tuple[int, struct_rusage, int]:
    """Wait for a child; return how it ended, what it used, and its peak resident memory in bytes."""
    peak = 0
    while True:
        peak = max(peak, _high_water(pid))
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            unit = _MACOS_UNIT if sys.platform == "darwin" else _KIB
            return status, usage, peak or usage.ru_maxrss * unit
        sleep(_LOOK_S)


def _high_water(pid: int) -> int:
    """Peak memory so far where the system tells it: what it tells at the end counts the parent's at the start."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) * _KIB for line in lines if line.startswith("VmHWM:")]
    return max(found, default=0)
