"""Events scored per core-second: against the model and the top-k alone, and against RecTools' HSTU.

A generated log is stored without scoring; then its newest events are scored in chunks, states warm.
Beside every chunk the least the scorer must do runs on the same micro-batch (`alone.py`). RecTools
runs in a process of its own, with its own libraries, on the same log and one thread.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.bench.alone import model_and_top
from infra.bench.breakdown import by_module
from infra.bench.peer import PeerUnavailableError, measure_peer
from infra.bench.result import Findings, Gate, Row, at_least, compared, estimated, rated
from infra.bench.timing import Estimate, Spent, cold, cpu, ratio, spend
from infra.bench.worlds import asked, generated, score, settings, store, tail
from storage import journal
from storage.visibility import users_of_run
from stream.unread import Made

if TYPE_CHECKING:
    from infra.bench.room import Room
    from infra.bench.worlds import World
    from stream.pipeline import Pipeline

LIMIT = 0.7
_CHUNK = 512
_SHOWN = 0.01
"""Modules with a smaller share of the time are added up."""
_LOADED = settings({"stream.lateness_ms": 60_000})


@dataclass(frozen=True, slots=True)
class _Shape:
    items: int
    users: int
    events: int


@dataclass(slots=True)
class _Measured:
    scorer: list[Spent]
    parts: dict[str, list[Spent]]
    events: list[int]
    modules: dict[str, float]

    def alone(self) -> list[float]:
        """Processor seconds of the least, per chunk."""
        return [sum(parts) for parts in zip(*map(cpu, self.parts.values()), strict=True)]


def run(room: Room) -> Findings:
    """Measure three catalogues with equally many users, then three numbers of users."""
    events = room.size(80_000, 5_000)
    users = room.size(500, 60)
    catalogues = room.size((5_000, 20_000, 100_000), (500,))
    crowds = room.size((250, 2_000, 16_000), (30,))
    rows: list[Row] = []
    gates: list[Gate] = []
    growth: list[Row] = []
    for items in catalogues:
        shape = _Shape(items, users, events)
        rows += _catalogue(room, shape, gates, growth)
    for crowd in crowds:
        shape = _Shape(catalogues[0], crowd, max(events, crowd * 40))
        room.note(f"{crowd} users")
        measured = _measure(room, _world(room, shape), room.size(24, 2))
        growth.append(_each("by users", "per event", measured, at=crowd))
    rows += growth
    return Findings(
        settings={
            "users": users,
            "events stored": events,
            "catalogues": list(catalogues),
            "events per chunk": _CHUNK,
            "weights": "random, shipped shape",
        },
        rows=rows,
        gates=gates,
        remarks=[
            "Model and top-k alone: extend of the chunk's users, scores of the whole catalogue with all"
            " features, exact top 10; states and features ready before. Both sides start with cold processor caches.",
            "The breakdown is a profile by module; a library's time counts for the module that called it.",
            "RecTools' HSTU has the same width, layers, heads and longest session, random weights after"
            " one short epoch: only speed is compared. It reads a user's session anew for every call.",
        ],
    )


def _catalogue(room: Room, shape: _Shape, gates: list[Gate], growth: list[Row]) -> list[Row]:
    part = f"catalogue of {shape.items:,}"
    room.note(part)
    world = _world(room, shape)
    measured = _measure(room, world, room.size(24, 2))
    share = ratio(measured.alone(), cpu(measured.scorer))
    gates.append(
        at_least(f"{part}: scorer's rate, share of model and top-k alone", share.value, LIMIT)
    )
    rows = [
        rated(part, "scorer with database", measured.scorer, measured.events),
        _rate(part, "model and top-k alone", measured),
        compared(part, "scorer over model and top-k alone", share, "share"),
    ]
    rows += [_each(f"{part}: one event", name, measured, name) for name in measured.parts]
    rows.append(_each(f"{part}: one event", "scorer, all of it", measured))
    rows += _breakdown(f"{part}: where the scorer's time goes", measured.modules)
    growth.append(_each("by catalogue", "per event", measured, at=shape.items))
    least = ratio([1000 * seconds for seconds in measured.alone()], measured.events)
    growth.append(estimated("by catalogue", "model and top-k alone", least, "ms", at=shape.items))
    rows += _peer(room, world, part, measured)
    return rows


def _world(room: Room, shape: _Shape) -> World:
    folder = room.folder / f"{shape.items}-{shape.users}"
    world = generated(
        folder,
        users=shape.users,
        events=shape.events,
        items=shape.items,
        days=room.size(120, 4),
        seed=1,
    )
    store(world, _LOADED)
    return world


def _measure(room: Room, world: World, chunks: int) -> _Measured:
    """Score the newest chunks; those before them bring the states into memory."""
    warm = room.size(6, 2)
    measured = _Measured([], {}, [], {})
    with asked(world, _LOADED) as pipeline:
        rows = tail(pipeline, (warm + chunks + 2) * _CHUNK)
        before, rows = rows.slice(0, warm * _CHUNK), rows.slice(warm * _CHUNK)
        visible = _visible(pipeline, before)
        for part in _between(before, [off for off, _ in visible]):
            _publish(pipeline, visible, part)
            score(pipeline, part)
        rows = rows.filter(pc.is_in(rows["user_idx"], pc.unique(before["user_idx"])))
        for number in range(min(chunks, rows.num_rows // _CHUNK)):
            chunk = rows.slice(number * _CHUNK, _CHUNK)
            _publish(pipeline, visible, chunk)
            _chunk(pipeline, chunk, measured)
        rest = rows.slice(len(measured.scorer) * _CHUNK)
        measured.modules = by_module(lambda: score(pipeline, rest))
    return measured


def _visible(pipeline: Pipeline, rows: pa.Table) -> deque[tuple[int, int]]:
    """Offsets from which groups become readable beyond the first of some rows, and the runs that stored them."""
    key = (rows["topic"][0].as_py(), rows["part"][0].as_py())
    found = journal.entries(pipeline.db, "group_visible")
    places = [(entry.positions.get(key, 0), int(entry.ref)) for entry in found]
    return deque(place for place in places if place[0] > rows["off"][0].as_py())


def _between(rows: pa.Table, offsets: list[int]) -> list[pa.Table]:
    """The rows, cut where groups become readable."""
    edges = np.searchsorted(rows["off"].to_numpy(), offsets)
    edges = np.unique(np.concatenate([[0], edges, [rows.num_rows]])).tolist()
    return [rows.slice(start, stop - start) for start, stop in pairwise(edges)]


def _publish(pipeline: Pipeline, visible: deque[tuple[int, int]], rows: pa.Table) -> None:
    """Let cached states take in what is readable at the first of some rows, as a tick would: loaded ones have it too."""
    while visible and visible[0][0] <= rows["off"][0].as_py():
        _, run = visible.popleft()
        pipeline.scorer.published(run, Made(users_of_run(pipeline.db, run), None))


def _chunk(pipeline: Pipeline, rows: pa.Table, measured: _Measured) -> None:
    """Time one chunk both ways; which comes first changes from chunk to chunk."""
    least = model_and_top(pipeline, rows)

    def alone() -> None:
        cold()
        for name, work in least.items():
            measured.parts.setdefault(name, []).append(spend(work))

    first = len(measured.scorer) % 2 == 0
    if first:
        alone()
    cold()
    measured.scorer.append(spend(lambda: score(pipeline, rows)))
    if not first:
        alone()
    measured.events.append(rows.num_rows)


def _rate(part: str, what: str, measured: _Measured) -> Row:
    return estimated(part, what, ratio(measured.events, measured.alone()), "events/s")


def _each(
    part: str, what: str, measured: _Measured, name: str = "", *, at: float | None = None
) -> Row:
    """Processor milliseconds of one event."""
    spent = measured.parts[name] if name else measured.scorer
    found = ratio([1000 * seconds for seconds in cpu(spent)], measured.events)
    return estimated(part, what, found, "ms", at=at)


def _breakdown(part: str, modules: dict[str, float]) -> list[Row]:
    shown = {name: share for name, share in modules.items() if share >= _SHOWN}
    rest = sum(modules.values()) - sum(shown.values())
    return [
        Row(part=part, what=name, value=share, unit="share")
        for name, share in {**shown, "less than 1 % each": rest}.items()
    ]


def _peer(room: Room, world: World, part: str, measured: _Measured) -> list[Row]:
    """RecTools' HSTU on the same log, one call per user, and all users in one call."""
    title = f"{part}: RecTools' HSTU"
    if room.quick:
        return []
    try:
        found = measure_peer(world.log, room)
    except PeerUnavailableError as error:
        return [Row(part=title, what=f"not measured: {error}", value=0)]
    per_event = ratio(cpu(measured.scorer), measured.events)
    one, together = found.one_user, found.all_users
    return [
        estimated(title, "one call per user", _ms(one), "ms"),
        estimated(title, "per user when all users are one call", _ms(together), "ms"),
        compared(title, "call per user over freshet's event", _over(one, per_event)),
        compared(title, "per user in one call, over freshet's event", _over(together, per_event)),
    ]


def _ms(seconds: Estimate) -> Estimate:
    return Estimate(1000 * seconds.value, 1000 * seconds.low, 1000 * seconds.high)


def _over(left: Estimate, right: Estimate) -> Estimate:
    """The ratio of two independent estimates; its interval is the widest the two allow."""
    return Estimate(left.value / right.value, left.low / right.high, left.high / right.low)
