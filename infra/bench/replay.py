"""The whole shipped log replayed: append only, with ticks, with slates; each over the least it must do.

The least of an append is decoding the file and inserting the finished Arrow rows. The least of ticks
is that append and the compression of the same segments. The least of slates is the model and the
top-k on the same micro-batches (`alone.py`); a replay also compresses segments as it goes and extends
the recents after each anew, which is the model's work too: a second share counts it, measured alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from infra import shipped
from infra.bench.alone import model_and_top
from infra.bench.models import random_rows
from infra.bench.result import Findings, Gate, Row, at_least, compared, estimated, rated
from infra.bench.timing import Spent, cpu, ratio, spend
from infra.bench.worlds import settings
from infra.logs import open_log
from infra.wiring import ReplayPlan, load_engine, replaying
from model.engine import SegmentJob
from storage import interactions
from storage.database import Database
from storage.tokens import group_counts
from stream.clock import DAY_MS, from_ms

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from infra.bench.room import Room
    from infra.settings import Loaded
    from model.engine import Engine, TokenBlock
    from stream.pipeline import Pipeline
    from stream.summary import RunSummary

_BATCH = 50_000
_SLICE = 20_000
_CHUNK = 1_024
_DAYS = {"daily ticks": 1, "weekly ticks": 7}
_REFILLED = 96
"""Recents after a refresh: r_min and half a segment."""
_SAMPLED = 8
"""Of the slices' chunks, every eighth is measured alone."""
_SETTINGS = {one.key: one.value for one in shipped.settings()}
_LOADED = settings(_SETTINGS)
_NO_TICKS = settings(_SETTINGS | {"refresh.tick_interval_s": 100 * 366 * 86_400})


@dataclass(slots=True)
class _Runs:
    """Repetitions of one way to replay, and of the least it must do."""

    events: list[int] = field(default_factory=list)
    subject: list[Spent] = field(default_factory=list)
    least: list[float] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)


def run(room: Room) -> Findings:
    """Replay three ways."""
    records = room.size(None, 10_000)
    engine = load_engine(shipped.CHECKPOINT)
    room.note("storing once, for the rows")
    tables, counts = _stored_once(room, engine, records)
    append, ticks = _Runs(), {name: _Runs() for name in _DAYS}
    alone = Spent(0.0, 0.0)
    for number in range(2):
        room.note(f"append only, turn {number + 1}")
        folder = room.folder / str(number)
        folder.mkdir()
        inserted = spend(lambda: _decode_and_insert(folder / "least.duckdb", tables))  # noqa: B023
        spent = _replayed(_plan(folder / "append.duckdb"), append, records, _NO_TICKS)
        append.least.append(inserted.cpu_s)
        alone = spend(lambda: _compress_alone(engine, counts))
        for name, days in _DAYS.items():
            room.note(f"with {name}, turn {number + 1}")
            loaded = settings(_SETTINGS | {"refresh.tick_interval_s": 86_400 * days})
            _replayed(_plan(folder / f"{days}.duckdb", model=True), ticks[name], records, loaded)
            ticks[name].least.append(spent.cpu_s + alone.cpu_s)
    per_segment = alone.cpu_s / max(1, sum(counts.values())) + _refill_alone(engine)
    slates, model = _with_slates(room, room.size(None, 500), records, per_segment)
    rows: list[Row] = []
    gates: list[Gate] = []
    _report(
        "append only",
        append,
        "decode and Arrow insert alone",
        (0.5, "100,000 events/s"),
        rows,
        gates,
    )
    least = "append plus compression alone"
    for name, runs in ticks.items():
        _report(f"with {name}", runs, least, (0.7, "40,000 events/s"), rows, gates)
    least = "model and top-k alone"
    _report("with slates", slates, least, (0.7, "3,000 events/s"), rows, gates)
    runs = replace(slates, least=model, stages={})
    least = "model, its compressions and refills, and top-k alone"
    _over("with slates", runs, least, (0.7, "3,000 events/s"), rows, gates)
    return Findings(
        settings={
            "log": shipped.NAME,
            "events": sum(table.num_rows for table in tables),
            "events with slates": sum(slates.events),
            "segments compressed": sum(counts.values()),
            "records per poll": _BATCH,
        },
        rows=rows,
        gates=gates,
        remarks=[
            "Every way is the whole log. Rates are per second of one core; the goals are for two. Slates come"
            " with daily ticks; states that a day's users need are read from the file when they first appear.",
        ],
    )


def _plan(path: Path, *, model: bool = False, slates: Path | None = None) -> ReplayPlan:
    return ReplayPlan(
        log=str(shipped.EVENTS),
        db_path=path,
        model_path=shipped.CHECKPOINT if model else None,
        items_path=str(shipped.ITEMS) if model else None,
        slates_path=slates,
        score=slates is not None,
    )


def _stored_once(
    room: Room, engine: Engine, records: int | None
) -> tuple[list[pa.Table], dict[int, int]]:
    """The rows as a replay appends them, batch by batch, and the token groups per user it makes."""
    plan = _plan(room.folder / "once.duckdb", model=True)
    with replaying(plan, _LOADED) as pipeline:
        pipeline.run(max_records=records)
        end = max(pipeline.ingest.next_offsets.values())
        names = interactions.INTERACTION_SCHEMA.names
        tables = [
            interactions.read_range(
                pipeline.db, shipped.EVENTS.name, 0, first, min(first + _BATCH, end)
            ).select(names)
            for first in range(0, end, _BATCH)
        ]
        return tables, group_counts(pipeline.db, engine.version)


def _decode_and_insert(path: Path, tables: list[pa.Table]) -> None:
    source = open_log(str(shipped.EVENTS), _LOADED)
    with Database.open(path, now=from_ms(DAY_MS)) as db:
        for table in tables:
            source.poll(_BATCH)
            with db.transaction() as tx:
                tx.insert("interactions_hot", table)
        db.checkpoint()
    source.close()


def _replayed(plan: ReplayPlan, runs: _Runs, records: int | None, loaded: Loaded) -> Spent:
    """Time a replay of the whole log into a new database, its checkpoint included."""
    with replaying(plan, loaded) as pipeline:
        runs.subject.append(spend(lambda: _run(pipeline, records)))
        runs.events.append(pipeline.summary.records)
        runs.stages = dict(pipeline.summary.seconds)
    return runs.subject[-1]


def _run(pipeline: Pipeline, records: int | None) -> RunSummary:
    done = pipeline.run(max_records=records)
    pipeline.db.checkpoint()
    return done


def _compress_alone(engine: Engine, counts: dict[int, int]) -> None:
    """As many segments per user as the replay compressed, each given the groups before it."""
    n, window = engine.config.segment_len, engine.config.window
    chains: dict[int, list[TokenBlock]] = {user: [] for user in counts}
    for segment in range(max(counts.values(), default=0)):
        users = [user for user, groups in counts.items() if groups > segment]
        rows = random_rows(engine, n, first=segment * n)
        jobs = [
            SegmentJob(segment, chains[user] if window is None else chains[user][-window:], rows)
            for user in users
        ]
        for user, block in zip(users, engine.compress(jobs), strict=True):
            chains[user].append(block)


def _refill_alone(engine: Engine) -> float:
    """Processor seconds of extending one user's recents anew after a refresh, of 32 users at once."""
    rows = [random_rows(engine, _REFILLED, first=0) for _ in range(32)]
    caches = [engine.new_cache([]) for _ in rows]
    return spend(lambda: engine.extend(caches, rows)).cpu_s / len(rows)


def _with_slates(
    room: Room, wanted: int | None, records: int | None, per_segment: float
) -> tuple[_Runs, list[float]]:
    """Write slates for the newest events (None: for all), slice by slice, and measure the least beside each.

    Returns:
        The runs, and per slice the least with `per_segment` more for every segment compressed.
    """
    ts = pq.read_table(shipped.EVENTS, columns=["ts"])["ts"].to_numpy()[:records]
    events = len(ts) if wanted is None else wanted
    until = int(np.sort(ts)[-events])
    path = room.folder / "slates.duckdb"
    room.note("storing what lies before the slates")
    before = replace(_plan(path, model=True), until_ms=until)
    with replaying(before, _LOADED) as pipeline:
        pipeline.run()
    runs, size = _Runs(), min(_SLICE, events // 2)
    model: list[float] = []
    with replaying(_plan(path, model=True, slates=room.folder / "out.jsonl"), _LOADED) as pipeline:
        topic = shipped.EVENTS.name
        while sum(runs.events) < events:
            first = pipeline.ingest.next_offsets.get((topic, 0), 0)
            before_segments = pipeline.summary.segments
            spent = spend(lambda: pipeline.run(max_records=size))
            end = pipeline.ingest.next_offsets[topic, 0]
            if end == first:
                break
            room.note(f"slates, offset {end:,}")
            runs.subject.append(spent)
            runs.events.append(end - first)
            rows = interactions.read_range(pipeline.db, topic, 0, first, end)
            runs.least.append(_least(pipeline, rows) * (end - first))
            segments = pipeline.summary.segments - before_segments
            model.append(runs.least[-1] + per_segment * segments)
        runs.stages = dict(pipeline.summary.seconds)
    return runs, model


def _least(pipeline: Pipeline, rows: pa.Table) -> float:
    """Processor seconds per event of the model and the top-k alone, over some chunks of a slice."""
    rows = rows.filter(rows["scores"])
    spent, events = 0.0, 0
    for start in range(0, rows.num_rows, _CHUNK * _SAMPLED):
        chunk = rows.slice(start, _CHUNK)
        spent += sum(cpu([spend(work) for work in model_and_top(pipeline, chunk).values()]))
        events += chunk.num_rows
    return spent / max(events, 1)


def _report(
    part: str,
    runs: _Runs,
    least: str,
    wanted: tuple[float, str],
    rows: list[Row],
    gates: list[Gate],
) -> None:
    """Rows of one way to replay: its rate, the least it must do, where its time went."""
    rows.append(rated(part, "replay", runs.subject, runs.events))
    _over(part, runs, least, wanted, rows, gates)
    rows += [
        Row(part=f"{part}: stages of one run, wall time", what=stage, value=seconds, unit="s")
        for stage, seconds in runs.stages.items()
        if seconds
    ]


def _over(
    part: str,
    runs: _Runs,
    least: str,
    wanted: tuple[float, str],
    rows: list[Row],
    gates: list[Gate],
) -> None:
    """Rows and requirement of a rate over the least that it must do."""
    limit, goal = wanted
    share = ratio(runs.least, cpu(runs.subject))
    rows += [
        estimated(part, least, ratio(runs.events, runs.least), "events/s"),
        compared(part, f"replay over {least}", share, "share"),
    ]
    gates.append(at_least(f"{part}: rate over {least}", share.value, limit, goal=goal))
