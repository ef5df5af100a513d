"""Peak memory of a replay with slates: flat when there are twice the users, and when histories are twice as long.

Each replay is a process of its own with the same fixed limits: user states, their bytes, DuckDB's
memory. Most of the log is stored with ticks; its end is scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.bench.children import run_freshet
from infra.bench.result import Findings, Row, at_most, estimated
from infra.bench.timing import mean, ratio
from infra.bench.worlds import FIRST_MS, generated
from infra.output import iso_ms
from stream.clock import DAY_MS

if TYPE_CHECKING:
    from infra.bench.room import Room

LIMIT = 1.1
_MIB = 1 << 20
_LIMITS = {
    "serving.max_users": 256,
    "serving.max_bytes": 64 * _MIB,
    "database.memory_limit": "256MB",
    "database.rotate_rows": 50_000,
}


@dataclass(frozen=True, slots=True)
class _Size:
    users: int
    events: int
    days: int


def run(room: Room) -> Findings:
    """Replay three logs in turn, twice."""
    base = room.size(_Size(10_000, 300_000, 100), _Size(100, 1_000, 4))
    sizes = {
        "base": base,
        "twice the users": _Size(2 * base.users, 2 * base.events, base.days),
        "twice the history": _Size(base.users, 2 * base.events, base.days),
    }
    scored = room.size(3_000, 100)
    peaks: dict[str, list[float]] = {name: [] for name in sizes}
    slates: dict[str, int] = {}
    for number in range(2):
        for name, size in sizes.items():
            room.note(f"{name}, turn {number + 1}")
            peak, slates[name] = _peak(room, f"{name}-{number}", size, scored)
            peaks[name].append(peak / _MIB)
    rows, gates = [], []
    for name, size in sizes.items():
        rows.append(
            estimated(
                "peak resident memory, by users", name, mean(peaks[name]), "MiB", at=size.users
            )
        )
        rows.append(Row(part="what was replayed", what=f"{name}: users", value=size.users))
        rows.append(Row(part="what was replayed", what=f"{name}: events", value=size.events))
        rows.append(Row(part="what was replayed", what=f"{name}: slates", value=slates[name]))
    for name in list(sizes)[1:]:
        grown = ratio(peaks[name], peaks["base"])
        rows.append(estimated("growth", f"{name} over base", grown, "x"))
        gates.append(at_most(f"peak memory, {name} over base", grown.value, LIMIT, timed=False))
    return Findings(
        settings={**_LIMITS, "weights": "random, shipped shape"},
        rows=rows,
        gates=gates,
        remarks=[
            "Resident memory at its highest, of the whole process, torch and DuckDB included."
        ],
    )


def _peak(room: Room, name: str, size: _Size, scored: int) -> tuple[int, int]:
    """Bytes at the peak of one replay, and its slates."""
    folder = room.folder / name.replace(" ", "-")
    world = generated(folder, users=size.users, events=size.events, items=2_000, days=size.days)
    start = FIRST_MS + int((1 - scored / size.events) * size.days * DAY_MS)
    arguments = ["replay", str(world.log), "--db", str(world.db), "--model", str(world.model)]
    arguments += ["--items", str(world.items), "--slates", str(folder / "slates.jsonl"), "--quiet"]
    arguments += ["--from", str(iso_ms(start)), *_assignments()]
    ran = run_freshet(arguments, folder=folder)
    return ran.peak_bytes, int(ran.json["slates"])


def _assignments() -> list[str]:
    return [part for key, value in _LIMITS.items() for part in ("--set", f"{key}={value}")]
