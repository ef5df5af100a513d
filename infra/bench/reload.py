"""Eviction and reload: do the scores stay, and how long does a batched load take?"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from infra.bench.result import Findings, Gate, Row, at_least, at_most, compared, estimated, timed
from infra.bench.timing import Spent, cpu, mean, ratio, spend, wall
from infra.bench.worlds import asked, generated, loader_of, settings, store, tail
from storage.tokens import group_counts
from stream.diff import diff
from stream.loading import LoadRequest
from stream.score import Scorer

if TYPE_CHECKING:
    from infra.bench.room import Room
    from infra.bench.worlds import World
    from stream.pipeline import Pipeline
    from stream.slates import Slate

TOLERANCE = 1e-4
"""Largest allowed difference of a final score: what rounding of other batch shapes leaves, 32 bit."""
_USERS = 256
_VALUES: dict[str, object] = {"stream.lateness_ms": 60_000}
_CHUNK = 64


def run(room: Room) -> Findings:
    """Compare slates with and without evictions, then time loads of 256 users."""
    users, events = room.size(2_000, 300), room.size(300_000, 4_000)
    items = room.size(5_000, 500)
    world = generated(
        room.folder / "world",
        users=users,
        events=events,
        items=items,
        days=room.size(120, 4),
    )
    room.note("storing")
    store(world, settings(_VALUES))
    room.note("scores")
    rows, gates = _scores(world, room.size(2_048, 256))
    room.note("loads")
    rows += _loads(world, room)
    return Findings(
        settings={
            "users of a load": _USERS,
            "users stored": users,
            "events stored": events,
            "catalogue": items,
            "weights": "random, shipped shape",
        },
        rows=rows,
        gates=gates,
        remarks=[
            "One run keeps every state, the other so few that states are evicted after every chunk and"
            " loaded again; the difference is of final scores, in logits.",
            "A load reads the groups, recents and counters of 256 random users of a file that is warm,"
            " and extends their caches.",
        ],
    )


def _scores(world: World, events: int) -> tuple[list[Row], list[Gate]]:
    """Slates of the newest events, all states kept, against states that come and go."""
    kept, _ = _slates(world, events, {})
    evicted, evictions = _slates(world, events, {"serving.max_users": 1})
    report = diff(kept, evicted, score_tolerance=TOLERANCE)
    part = "evicted and loaded again, over kept"
    rows = [
        Row(part=part, what="slates compared", value=report.compared, unit="slates"),
        Row(part=part, what="evictions", value=evictions, unit="states"),
        Row(part=part, what="largest difference of a score", value=report.largest_score_difference),
        Row(part=part, what="slates that differ beyond it", value=sum(report.counts.values())),
    ]
    line = "score of a reloaded state less that of a kept one, largest"
    return rows, [
        at_most(line, report.largest_score_difference, TOLERANCE, timed=False),
        at_least("states evicted and loaded again", evictions, 1, timed=False),
        at_most("slates that differ", sum(report.counts.values()), 0, timed=False),
    ]


def _slates(world: World, events: int, values: dict[str, object]) -> tuple[list[Slate], int]:
    found: list[Slate] = []
    with asked(world, settings({**_VALUES, **values})) as pipeline:
        rows = tail(pipeline, events)
        for start in range(0, rows.num_rows, _CHUNK):
            found += chain.from_iterable(pipeline.scorer.score_rows(rows.slice(start, _CHUNK)))
        scorer = pipeline.scorer
        evictions = scorer.cache_use().evictions if isinstance(scorer, Scorer) else 0
    return found, evictions


def _loads(world: World, room: Room) -> list[Row]:
    with asked(world, settings(_VALUES)) as pipeline:
        spent, singles, groups = _timed_loads(pipeline, room.size(40, 3))
    part = "load of 256 users"
    walls = np.array(wall(spent)) * 1000
    cpus = np.array(cpu(spent)) * 1000
    gain = ratio([seconds * _USERS for seconds in cpu(singles)], cpu(spent)[: len(singles)])
    return [
        timed(part, "mean", spent),
        Row(part=part, what="p50", value=float(np.median(cpus)), unit="ms", wall=float(np.median(walls))),
        Row(part=part, what="p99", value=float(np.quantile(cpus, 0.99)), unit="ms", wall=float(np.quantile(walls, 0.99))),
        estimated(part, "token groups per user", mean(groups), "groups"),
        timed(part, "one user alone", singles),
        compared(part, "256 loads one by one over one batched load", gain),
    ]  # fmt: skip


def _timed_loads(
    pipeline: Pipeline, repetitions: int
) -> tuple[list[Spent], list[Spent], list[float]]:
    """Loads of random users, and of a single one beside each."""
    loader = loader_of(pipeline)
    version = "" if pipeline.engine is None else pipeline.engine.version
    counts = group_counts(pipeline.db, version)
    rng = np.random.default_rng(0)
    users = np.arange(pipeline.identities.n_users)
    spent, singles, groups = [], [], []
    for number in range(repetitions + 1):
        drawn = rng.choice(users, min(_USERS, len(users)), replace=False).tolist()
        requests = [LoadRequest(user) for user in drawn]
        found = spend(lambda: loader.load(requests))  # noqa: B023 - called at once
        single = spend(lambda: loader.load(requests[:1]))  # noqa: B023 - as above
        if number:  # the first one warms the file
            spent.append(found)
            singles.append(single)
            groups += [float(counts.get(user, 0)) for user in drawn]
    return spent, singles, groups
