"""Facts about the machine and the software that figures depend on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from infra.cli import installed_version
from infra.wiring import versions

_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a benchmark ran.

    Attributes:
        cpu: model name of the processor.
        cores: processors this process may use.
        ram_gib: memory, GiB.
        kernel: operating system and release.
        threads: threads of torch and of DuckDB.
    """

    cpu: str
    cores: int
    ram_gib: float
    kernel: str
    threads: int = 1


def machine() -> Machine:
    """Return the facts about this machine."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        ram_gib=round(pages / _GIB, 1),
        kernel=f"{platform.system()} {platform.release()}",
    )


def software() -> dict[str, str]:
    """Return the versions of Python, freshet and the libraries whose speed matters."""
    return {"python": platform.python_version(), "freshet": installed_version(), **versions()}


def _cpu() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
