"""Does an event cost more when the user's history is longer? Two users, 64k and 4k events, equal recents.

Through the engine, and through the scorer with a database. What is read of a long history is the
newest 32 token groups and the recent window, whatever its length; the counters hold one entry per
distinct item, so the users compared first know equally many, and a second pair shows what more of
them cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from infra.bench.models import random_cache, random_chain, random_engine, random_rows, shipped_shape
from infra.bench.result import Findings, Gate, Row, at_most, estimated, exactly, timed
from infra.bench.timing import Spent, cpu, interleave, ratio, spend
from infra.bench.worlds import FIRST_MS, asked, loader_of, score, settings, store, tail, written
from stream.clock import DAY_MS
from stream.loading import LoadRequest
from stream.score import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from infra.bench.room import Room
    from infra.bench.timing import Work
    from infra.bench.worlds import World
    from stream.pipeline import Pipeline

LIMIT = 1.2
_RECENTS = 96
_EVENTS = 32
_CATALOG = 5_000
_KNOWN = 400
"""Distinct items of the users that know equally many."""
_CHUNK = 8
_TAIL = 96
"""Scored events per user: with 128 recents before, the window of 256 is never outgrown."""


@dataclass(frozen=True, slots=True)
class _Sizes:
    long: int
    short: int
    days: int


def run(room: Room) -> Findings:
    """Compare both pairs of users."""
    sizes = room.size(_Sizes(65_536, 4_096, 200), _Sizes(1_024, 512, 4))
    rows: list[Row] = []
    gates: list[Gate] = []
    room.note("engine")
    spent = _through_engine(room, sizes)
    rows += _compared("through the engine", spent, sizes, _EVENTS, gates)
    known = {"equal": _KNOWN, "growing": _CATALOG}
    for name, items in known.items():
        room.note(f"database, {name} number of distinct items")
        world = _world(room, name, sizes, items)
        store(world, _LOADED)
        part = f"through the scorer and the database, {name} number of distinct items"
        spent, loads, more_recents = _through_scorer(world, room.size(6, 2))
        line = f"recents of the long history less those of the short, {name} distinct items"
        gates.append(exactly(line, more_recents, 0))
        rows += _compared(part, spent, sizes, _CHUNK, gates)
        rows += [
            timed(
                "load on a miss", f"{name} number of distinct items", loads["long"], at=sizes.long
            ),
            timed(
                "load on a miss", f"{name} number of distinct items", loads["short"], at=sizes.short
            ),
        ]
    return Findings(
        settings={
            "long history": sizes.long,
            "short history": sizes.short,
            "window": shipped_shape().window,
            "catalogue": _CATALOG,
            "distinct items where equal": _KNOWN,
            "weights": "random, shipped shape",
        },
        rows=rows,
        gates=gates,
        remarks=[
            "Counters hold one entry per distinct item of the whole history and are read for every"
            " event: a user who knows more items costs more, at any length of history.",
            "A load on a miss reads the newest groups, the recent rows and the counters.",
        ],
    )


_LOADED = settings({"stream.lateness_ms": 0})


def _through_engine(room: Room, sizes: _Sizes) -> dict[str, list[Spent]]:
    engine = random_engine(room.folder, shipped_shape(), _CATALOG)
    n = engine.config.segment_len

    def work_of(history: int, seed: int) -> Callable[[], Work]:
        chain = random_chain(engine, history // n, seed=seed)
        first = len(chain) * n + _RECENTS
        events = [random_rows(engine, 1, first=first + k, seed=seed) for k in range(_EVENTS)]

        def prepare() -> Work:
            cache = random_cache(engine, chain, _RECENTS, seed)

            def work() -> None:
                for one in events:
                    engine.extend([cache], [one])

            return work

        return prepare

    works = {"long": work_of(sizes.long, 1), "short": work_of(sizes.short, 2)}
    return interleave(works, repetitions=room.size(40, 4))


def _world(room: Room, name: str, sizes: _Sizes, items: int) -> World:
    """Both users' histories over some days, then on one more day their tails in turns of eight.

    An event of somebody else lies between, so that the tick before the tails is visible to them.
    """
    rng = np.random.default_rng(5)
    parts = []
    for user, count in (("long", sizes.long), ("short", sizes.short)):
        ts = np.sort(rng.choice(sizes.days * DAY_MS // 1000, count, replace=False)) * 1000
        parts.append((np.full(count, user), rng.integers(0, items, count), FIRST_MS + ts))
    after = FIRST_MS + (sizes.days + 1) * DAY_MS
    parts.append((np.array(["clock"]), np.zeros(1, np.int64), np.array([after])))
    turn = np.arange(2 * _TAIL)
    ts = after + (turn + 1) * 60_000
    users = np.where(turn // _CHUNK % 2 == 0, "long", "short")
    parts.append((users, rng.integers(0, items, len(turn)), ts))
    who, what, when = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(when, kind="stable")
    return written(room.folder / name, who[order].tolist(), what[order], when[order], _CATALOG)


def _through_scorer(
    world: World, passes: int
) -> tuple[dict[str, list[Spent]], dict[str, list[Spent]], int]:
    """Score the tail again and again, one event per call, each pass after an untimed first turn.

    Returns:
        Times of the events and of a load by user, and how many more recents the long history has.
    """
    spent: dict[str, list[Spent]] = {"long": [], "short": []}
    with asked(world, _LOADED) as pipeline:
        rows = tail(pipeline, 2 * _TAIL)
        users = {name: _user(pipeline, name) for name in spent}
        for _ in range(passes):
            if isinstance(pipeline.scorer, Scorer):
                pipeline.scorer.forget(users.values())
            for start in range(0, rows.num_rows, _CHUNK):
                name = "long" if start // _CHUNK % 2 == 0 else "short"
                found = spend(_one_by_one(pipeline, rows.slice(start, _CHUNK)))
                if start >= 2 * _CHUNK:
                    spent[name].append(found)
        read = {name: _recents(pipeline, user, rows, name) for name, user in users.items()}
        loads = interleave(
            {name: _load(pipeline, user) for name, user in users.items()}, repetitions=passes
        )
    return spent, loads, read["long"] - read["short"]


def _recents(pipeline: Pipeline, user: int, rows: pa.Table, name: str) -> int:
    """Raw rows the user is read with before the first of the tail."""
    first = rows["off"][0 if name == "long" else _CHUNK].as_py()
    return loader_of(pipeline).load([LoadRequest(user, first)])[0].recents


def _user(pipeline: Pipeline, name: str) -> int:
    found = pipeline.identities.find_user(name)
    if found is None:
        raise ValueError(f"user {name} is not stored")
    return found


def _one_by_one(pipeline: Pipeline, rows: pa.Table) -> Work:
    singles = [rows.slice(at, 1) for at in range(rows.num_rows)]

    def work() -> None:
        for one in singles:
            score(pipeline, one)

    return work


def _load(pipeline: Pipeline, user: int) -> Callable[[], Work]:
    loader = loader_of(pipeline)
    return lambda: lambda: loader.load([LoadRequest(user)])


def _compared(
    part: str, spent: dict[str, list[Spent]], sizes: _Sizes, each: int, gates: list[Gate]
) -> list[Row]:
    found = ratio(cpu(spent["long"]), cpu(spent["short"]))
    gates.append(
        at_most(
            f"{sizes.long:,} over {sizes.short:,} events, {part}: upper bound", found.high, LIMIT
        )
    )
    return [
        timed(part, "per event", spent["long"], each=each, at=sizes.long),
        timed(part, "per event", spent["short"], each=each, at=sizes.short),
        estimated(part, "long over short", found, "x"),
    ]
