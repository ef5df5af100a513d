"""Where the processor time of some work goes, by module of the source."""

from __future__ import annotations

import cProfile
import pstats
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infra.bench.timing import Work

_ROOT = Path(__file__).parents[2]
_OWN = ("infra", "stream", "model", "storage")


def by_module(work: Work) -> dict[str, float]:
    """Return the share of the time spent in each module of freshet, largest first.

    Time in a library (torch, numpy, Arrow, DuckDB) counts for the module that called it, shared
    by the callers' own calls. A profiler slows short Python functions more than long library calls: shares are
    a map, not a measurement.
    """
    profile = cProfile.Profile()
    profile.runcall(work)
    found: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    own: dict[str, float] = {}
    for function, (_, _, seconds, _, callers) in found.items():
        for module, part in _charged(function, callers, found, frozenset()).items():
            own[module] = own.get(module, 0.0) + seconds * part
    whole = sum(own.values()) or 1.0
    return {
        name: seconds / whole for name, seconds in sorted(own.items(), key=lambda pair: -pair[1])
    }


def _charged(
    function: Any,  # noqa: ANN401 - a profiler's key: file, line, name
    callers: dict[Any, Any],
    found: dict[Any, Any],
    path: frozenset[Any],
) -> dict[str, float]:
    """Who pays for a function's own time: its module, or its callers' in proportion to their part."""
    module = _module(function[0])
    if module or not callers or function in path:
        return {module or "other": 1.0}
    whole = sum(calls[2] for calls in callers.values()) or 1.0
    out: dict[str, float] = {}
    for caller, calls in callers.items():
        above = found.get(caller)
        paid = _charged(caller, above[4] if above else {}, found, path | {function})
        for name, part in paid.items():
            out[name] = out.get(name, 0.0) + part * calls[2] / whole
    return out


def _module(file: str) -> str:
    path = Path(file)
    if not path.is_absolute() or not path.is_relative_to(_ROOT):
        return ""
    name = path.relative_to(_ROOT)
    return name.with_suffix("").as_posix() if name.parts[0] in _OWN else ""
