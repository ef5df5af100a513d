"""Which deaths a service dies, in which order: a function of the number and the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from infra.fuse import Fuse

Outage = Literal["survived", "shared"]
"""What a service makes of its broker's end: it goes on when the broker is back, or dies before that."""

CLASSES: dict[str, tuple[str, ...]] = {
    "catch-up": (
        "catchup.begin",
        "ingest.rows",
        "store.committed",
        "catchup.answered",
        "ingest.commit",
    ),
    "ingest transaction": ("ingest.rows", "ingest.commit"),
    "stored, no slate": ("store.committed", "score.done"),
    "slates sent, not scored": ("sink.written", "scored.commit"),
    "compression": ("worker.compress", "tick.compressed", "tick.stored"),
    "tick": ("tick.groups", "tick.journal", "tick.applied"),
    "upkeep": (
        "rotation.moved",
        "merge.rows",
        "rotation.counted",
        "merge.counters",
        "rotation.deleted",
        "merge.deleted",
        "rotation.commit",
    ),
    "checkpoint": ("checkpoint.begin",),
    "broker gone": (),
    "anywhere": (),
}
"""Classes of deaths and the points of each; those without points are the parent's work."""
LEAST = {"catch-up": 5, "compression": 5, "checkpoint": 3, "broker gone": 2}
"""Deaths of these classes in a whole run; of every other class, one."""
FEWEST = sum(LEAST.get(kind, 1) for kind in CLASSES)
"""Deaths of a whole run at least."""
WATCHED = "worker.compress"
"""Passed in another process than the service: the parent waits for it and kills the service."""

_STEADY = frozenset({"ingest transaction", "stored, no slate", "slates sent, not scored"})
"""Classes that are to die after catching up: their points are passed with every batch."""
_STEADY_AFTER = 12
_SPREAD = 20


@dataclass(frozen=True, slots=True)
class Death:
    """One planned death.

    Attributes:
        kind: its class.
        fuse: where the service kills itself; None: the parent kills it.
        watch: the parent kills it when this point was passed so many times; None: at a random moment.
        moment: which moment, as a share of what it may take.
        outage: whether the broker is killed too, and what comes first.
    """

    kind: str
    fuse: Fuse | None = None
    watch: Fuse | None = None
    moment: float = 0.0
    outage: Outage | None = None


def plan(kills: int, seed: int) -> list[Death]:
    """Return the deaths in their order: what a whole run must have, then every class in turn.

    With fewer than that, every class gets one, in turn, those of `LEAST` first.
    """
    draw = random.Random(seed)  # noqa: S311 - a plan, not a secret
    order = sorted(CLASSES, key=lambda kind: kind not in LEAST)
    kinds = [kind for kind in order for _ in range(LEAST.get(kind, 1) if kills >= FEWEST else 1)]
    while len(kinds) < kills:
        kinds.append(order[len(kinds) % len(order)])
    kinds = kinds[:kills]
    draw.shuffle(kinds)
    made = dict.fromkeys(CLASSES, 0)
    return [_death(kind, draw, made) for kind in kinds]


def _death(kind: str, draw: random.Random, made: dict[str, int]) -> Death:
    turn, made[kind] = made[kind], made[kind] + 1
    moment = draw.random()
    if kind == "broker gone":
        return Death(kind, moment=moment, outage="shared" if turn % 2 else "survived")
    points = CLASSES[kind]
    if not points:
        return Death(kind, moment=moment)
    point = points[turn % len(points)]
    nth = draw.randint(1, 2)
    if kind in _STEADY:
        nth = _STEADY_AFTER + draw.randrange(_SPREAD)
    elif point.startswith("catchup"):
        nth = 1
    fuse = Fuse(point, nth)
    if point == WATCHED:
        return Death(kind, watch=fuse)
    return Death(kind, fuse, moment=moment if kind == "checkpoint" else 0.0)
