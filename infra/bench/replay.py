"""The whole shipped log replayed: append only, with ticks, with slates; each over the least it must do.

The least of an append is decoding the file and inserting the finished Arrow rows. The least of ticks
is that append and the compression of the same segments. The least of slates is all work of the model
and the top-k: extending and scoring the same micro-batches (`alone.py`), compressing as many segments,
and extending the recents after each anew, as many users at once as a tick has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from infra import shipped
from infra.bench.alone import model_and_top
from infra.bench.models import random_chain, random_rows
from infra.bench.result import Findings, Gate, Row, at_least, compared, estimated, rated
from infra.bench.timing import Spent, cold, cpu, ratio, spend
from infra.bench.worlds import settings
from infra.logs import open_log
from infra.wiring import ReplayPlan, load_engine, replaying
from model.engine import SegmentJob
from storage import interactions
from storage.database import Database
from storage.tokens import group_counts
from stream.clock import DAY_MS, from_ms
from stream.score import CHUNK_ROWS

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
_DAYS = {"daily ticks": 1, "weekly ticks": 7}
_GATED = "weekly ticks"
"""Of the ways with slates: the shorter the interval, the more its transactions and reads weigh."""
_REFILLED = 96
"""Recents after a refresh: r_min and half a segment."""
_REFILLS = 8
_SAMPLED = 8
"""Of the slices' chunks, every eighth is measured alone."""
_SETTINGS = {one.key: one.value for one in shipped.settings()}
_LOADED = settings(_SETTINGS)
_NO_TICKS = settings(_SETTINGS | {"refresh.tick_interval_s": 100 * 366 * 86_400})


@dataclass(slots=True)
class _Runs:
    """Repetitions of one way to replay, and of the least it must do; with slates also the part of it that scores."""

    events: list[int] = field(default_factory=list)
    subject: list[Spent] = field(default_factory=list)
    least: list[float] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    scoring: list[float] = field(default_factory=list)


def run(room: Room) -> Findings:
    """Replay the log every way."""
    records = room.size(None, 10_000)
    engine = load_engine(shipped.CHECKPOINT)
    room.note("storing once, for the rows")
    tables, counts = _stored_once(room, engine, records)
    append, ticks, compress_s = _without_slates(room, engine, records, tables, counts)
    model = _Model(engine, counts, compress_s)
    slates = {name: _with_slates(room, days, records, model) for name, days in _DAYS.items()}
    rows: list[Row] = []
    gates: list[Gate] = []
    least = "decode and Arrow insert alone"
    _report("append only", append, least, (0.5, "100,000 events/s"), rows, gates)
    least = "append plus compression alone"
    for name, runs in ticks.items():
        _report(f"with {name}", runs, least, (0.7, "40,000 events/s"), rows, gates)
    least = "all model work and top-k alone"
    for name, runs in slates.items():
        part, limit = f"with slates and {name}", 0.7 if name == _GATED else None
        _report(part, runs, least, (limit, "3,000 events/s"), rows, gates)
        share = ratio(runs.scoring, cpu(runs.subject))
        rows.append(
            compared(part, "replay over extending, scoring and top-k alone", share, "share")
        )
    return Findings(
        settings={
            "log": shipped.NAME,
            "events": sum(table.num_rows for table in tables),
            "events with slates": sum(slates[_GATED].events),
            "segments compressed": sum(counts.values()),
            "records per poll": _BATCH,
        },
        rows=rows,
        gates=gates,
        remarks=[
            "Every way is the whole log. Rates are per second of one core; the goals are for two.",
            "All model work: extending and scoring the events, compressing segments, and extending anew the recents"
            " that then see tokens in their place. The last is measured with as many users at once as a tick has.",
        ],
    )


def _without_slates(
    room: Room,
    engine: Engine,
    records: int | None,
    tables: list[pa.Table],
    counts: dict[int, int],
) -> tuple[_Runs, dict[str, _Runs], float]:
    """Append only and with ticks, in turn, twice; also the processor seconds of compressing one segment."""
    append, ticks = _Runs(), {name: _Runs() for name in _DAYS}
    alone: list[float] = []
    for number in range(2):
        room.note(f"append only, turn {number + 1}")
        folder = room.folder / str(number)
        folder.mkdir()
        inserted = spend(lambda: _decode_and_insert(folder / "least.duckdb", tables))  # noqa: B023
        spent = _replayed(_plan(folder / "append.duckdb"), append, records, _NO_TICKS)
        append.least.append(inserted.cpu_s)
        alone.append(spend(lambda: _compress_alone(engine, counts)).cpu_s)
        for name, days in _DAYS.items():
            room.note(f"with {name}, turn {number + 1}")
            path = folder / f"{days}.duckdb"
            _replayed(_plan(path, model=True), ticks[name], records, _ticking(days))
            ticks[name].least.append(spent.cpu_s + alone[-1])
    return append, ticks, sum(alone) / len(alone) / max(1, sum(counts.values()))


def _ticking(days: int) -> Loaded:
    return settings(_SETTINGS | {"refresh.tick_interval_s": 86_400 * days})


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


@dataclass(frozen=True, slots=True)
class _Model:
    """What the model must do besides scoring.

    Attributes:
        engine: the model.
        counts: token groups per user at the end of the log.
        compress_s: processor seconds of compressing one segment.
    """

    engine: Engine
    counts: dict[int, int]
    compress_s: float

    def per_segment(self, segments: int, ticks: int) -> float:
        """Processor seconds of compressing a segment and extending the user's recents anew, all users of a tick at once.

        They read as many groups as a user of the log has when a segment is compressed, on average.
        """
        window = self.engine.config.window
        before = [segment + 1 for groups in self.counts.values() for segment in range(groups)]
        held = np.minimum(before, window) if window else np.array(before)
        blocks = random_chain(self.engine, max(1, round(float(held.mean()))))
        rows = [random_rows(self.engine, _REFILLED, first=0)] * max(1, round(segments / ticks))
        spent = 0.0
        for _ in range(_REFILLS):
            caches = [self.engine.new_cache(blocks) for _ in rows]
            cold()
            spent += spend(lambda: self.engine.extend(caches, rows)).cpu_s  # noqa: B023
        return self.compress_s + spent / (_REFILLS * len(rows))


def _with_slates(room: Room, days: int, records: int | None, model: _Model) -> _Runs:
    """Write slates for every event, slice by slice, and measure the least beside each."""
    runs, size = _Runs(), room.size(_SLICE, 250)
    most = room.size(None, 500)
    records = records if most is None else most
    path = room.folder / f"slates-{days}.duckdb"
    plan = _plan(path, model=True, slates=room.folder / f"slates-{days}.jsonl")
    segments: list[int] = []
    topic = shipped.EVENTS.name
    with replaying(plan, _ticking(days)) as pipeline:
        while records is None or sum(runs.events) < records:
            first = pipeline.ingest.next_offsets.get((topic, 0), 0)
            before = pipeline.summary.segments
            spent = spend(lambda: pipeline.run(max_records=size))
            end = pipeline.ingest.next_offsets[topic, 0]
            if end == first:
                break
            room.note(f"slates, ticks every {days} d, offset {end:,}")
            runs.subject.append(spent)
            runs.events.append(end - first)
            segments.append(pipeline.summary.segments - before)
            rows = interactions.read_range(pipeline.db, topic, 0, first, end)
            runs.scoring.append(_least(pipeline, rows) * (end - first))
        runs.stages = dict(pipeline.summary.seconds)
        each = model.per_segment(sum(segments), max(1, pipeline.summary.ticks))
    runs.least = [scoring + n * each for scoring, n in zip(runs.scoring, segments, strict=True)]
    return runs


def _least(pipeline: Pipeline, rows: pa.Table) -> float:
    """Processor seconds per event of the model and the top-k alone, over some chunks of a slice."""
    rows = rows.filter(rows["scores"])
    spent, events = 0.0, 0
    for start in range(0, rows.num_rows, CHUNK_ROWS * _SAMPLED):
        chunk = rows.slice(start, CHUNK_ROWS)
        works = model_and_top(pipeline, chunk)
        cold()  # preparing them has just touched the states, which a replay finds as it left them
        spent += sum(cpu([spend(work) for work in works.values()]))
        events += chunk.num_rows
    return spent / max(events, 1)


def _report(
    part: str,
    runs: _Runs,
    least: str,
    wanted: tuple[float | None, str],
    rows: list[Row],
    gates: list[Gate],
) -> None:
    limit, goal = wanted
    share = ratio(runs.least, cpu(runs.subject))
    rows += [
        rated(part, "replay", runs.subject, runs.events),
        estimated(part, least, ratio(runs.events, runs.least), "events/s"),
        compared(part, f"replay over {least}", share, "share"),
    ]
    rows += [
        Row(part=f"{part}: stages of one run, wall time", what=stage, value=seconds, unit="s")
        for stage, seconds in runs.stages.items()
        if seconds
    ]
    if limit is not None:
        gates.append(at_least(f"{part}: rate over {least}", share.value, limit, goal=goal))
