"""A generated log of 20 million events and a million users: stored with ticks in bounded memory, then slates.

Two child processes on one database: the first stores everything but the end without scoring it,
the second writes slates for the end. Takes about an hour and some 10 GB of disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from infra.bench.children import Ran, run_freshet
from infra.bench.models import shipped_shape
from infra.bench.result import Findings, Row, at_most
from infra.bench.worlds import FIRST_MS
from infra.output import iso_ms
from model.untrained import write_untrained
from stream.clock import DAY_MS

if TYPE_CHECKING:
    from pathlib import Path

    from infra.bench.room import Room

LIMIT_GIB = 2.0
_GIB = 1 << 30
_ITEMS = 20_000
_CACHE_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class _Size:
    users: int
    events: int
    scored: int
    days: int


def run(room: Room) -> Findings:
    """Generate the log, store all but its end with ticks, then write slates for the end."""
    size = room.size(_Size(1_000_000, 20_000_000, 200_000, 365), _Size(200, 2_000, 200, 4))
    log, model = room.folder / "log.parquet", room.folder / "model.safetensors"
    room.note("generating")
    made = _generate(room.folder, log, size)
    ids = pq.read_table(room.folder / "items.parquet", columns=["item_id"])["item_id"].to_pylist()
    write_untrained(model, shipped_shape(), ids)
    until = FIRST_MS + int(size.days * DAY_MS * size.events / (size.events + size.scored))
    bound = str(iso_ms(until))
    room.note("storing with ticks")
    stored = _replay(room.folder, log, ["--from", bound, "--until", bound])
    room.note("writing slates")
    slates = ["--slates", str(room.folder / "slates.jsonl")]
    scored = _replay(room.folder, log, [*slates, "--set", f"serving.max_bytes={_CACHE_BYTES}"])
    rows = _generated(made, size)
    rows += _rows("stored with ticks, without slates", stored, "records")
    rows += _rows("the end, with slates", scored, "slates")
    file_gib = (room.folder / "scale.duckdb").stat().st_size / _GIB
    rows.append(Row(part="the database file", what="size", value=file_gib, unit="GiB"))
    peak = stored.peak_bytes / _GIB
    line = "peak memory of the replay with ticks, GiB"
    return Findings(
        settings={
            "users": size.users,
            "events": size.events,
            "scored": size.scored,
            "catalogue": _ITEMS,
            "days": size.days,
            "DuckDB memory limit": "512MB",
            "state cache": f"{_CACHE_BYTES >> 20} MiB",
            "weights": "random, shipped shape",
        },
        rows=rows,
        gates=[
            at_most(line, peak, LIMIT_GIB, timed=False),
            at_most(f"{line}, with slates", scored.peak_bytes / _GIB, LIMIT_GIB, timed=False),
        ],
    )


def _generate(folder: Path, log: Path, size: _Size) -> Ran:
    arguments = ["generate", str(log), "--users", str(size.users), "--days", str(size.days)]
    arguments += ["--events", str(size.events + size.scored), "--items", str(_ITEMS), "--quiet"]
    arguments += ["--start", str(iso_ms(FIRST_MS)), "--items-out", str(folder / "items.parquet")]
    return run_freshet(arguments, folder=folder)


def _replay(folder: Path, log: Path, more: list[str]) -> Ran:
    arguments = ["replay", str(log), "--db", str(folder / "scale.duckdb"), "--quiet"]
    arguments += ["--model", str(folder / "model.safetensors")]
    arguments += ["--items", str(folder / "items.parquet"), "--set", "database.memory_limit=512MB"]
    return run_freshet([*arguments, *more], folder=folder)


def _generated(made: Ran, size: _Size) -> list[Row]:
    part = "generated"
    return [
        Row(part=part, what="events", value=size.events + size.scored, unit="events"),
        Row(part=part, what="processor time", value=made.cpu_s, unit="s", wall=made.wall_s),
        Row(part=part, what="peak memory", value=made.peak_bytes / _GIB, unit="GiB"),
    ]


def _rows(part: str, ran: Ran, units: str) -> list[Row]:
    done = ran.json[units]
    found = [
        Row(part=part, what=units, value=done),
        Row(part=part, what="processor time", value=ran.cpu_s, unit="s", wall=ran.wall_s),
        Row(
            part=part,
            what="rate",
            value=done / ran.cpu_s,
            unit=f"{units}/s",
            wall=done / ran.wall_s,
        ),
        Row(part=part, what="peak memory", value=ran.peak_bytes / _GIB, unit="GiB"),
    ]
    return found + [
        Row(part=part, what=f"wall time in {stage}", value=seconds, unit="s")
        for stage, seconds in ran.json["seconds"].items()
        if seconds
    ]
