"""Which kills a torture run makes, in which order: a function of the number and the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from infra.fuse import Fuse

CLASSES: dict[str, tuple[str, ...]] = {
    "migration": (
        "migration.statement",
        "migration.recorded",
        "migration.committed",
        "migration.views",
    ),
    "ingest transaction": ("ingest.rows", "ingest.commit"),
    "committed, no slate": ("store.committed", "score.done"),
    "catch-up": ("catchup.begin", "catchup.answered"),
    "mid sink line": ("sink.line",),
    "sink written, not scored": ("sink.written", "scored.commit"),
    "tick": (
        "tick.compressed",
        "tick.groups",
        "tick.stored",
        "tick.journal",
        "tick.applied",
    ),
    "rotation": ("rotation.moved", "rotation.counted", "rotation.deleted", "rotation.commit"),
    "run merge": ("merge.rows", "merge.counters", "merge.deleted"),
    "checkpoint": ("checkpoint.begin",),
    "anywhere": (),
}
"""Kill classes and the points of each; `anywhere` has none: the parent kills at a random moment."""

_OFTEN = 3
"""Points passed with every batch are hit at one of their first so many times; the others at the first."""
_FREQUENT = frozenset({"ingest transaction", "committed, no slate", "mid sink line"})
_STATEMENTS = 16
"""Statements of the first schema step after which a migration may die."""
KILLS_PER_ROUND = 24
"""A log has room for so many; more kills are made on further databases."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One planned death.

    Attributes:
        kind: its class, a key of `CLASSES`.
        fuse: where the process kills itself; None: the parent kills it.
        moment: for deaths at a moment, which one: a share of the time the work usually takes.
    """

    kind: str
    fuse: Fuse | None
    moment: float = 0.0


def plan(kills: int, seed: int) -> list[list[Kill]]:
    """Return the kills of each round: every class in turn, as evenly as the number allows.

    A round starts without a database, so its migration kills come first; a catch-up follows a death
    that left stored rows unanswered.

    Raises:
        ValueError: fewer kills than classes.
    """
    if kills < len(CLASSES):
        raise ValueError(f"{kills} kills can not fill {len(CLASSES)} classes")
    rounds = -(-kills // KILLS_PER_ROUND)
    draw = random.Random(seed)  # noqa: S311 - a plan, not a secret
    made: dict[str, int] = dict.fromkeys(CLASSES, 0)
    order = list(CLASSES)
    kinds = [order[i % len(order)] for i in range(kills)]
    out: list[list[Kill]] = []
    for number in range(rounds):
        part = kinds[kills * number // rounds : kills * (number + 1) // rounds]
        out.append(_round(part, draw, made))
    return out


def _round(kinds: list[str], draw: random.Random, made: dict[str, int]) -> list[Kill]:
    counts = {kind: kinds.count(kind) for kind in CLASSES}
    first = ["migration"] * counts["migration"]
    catching = counts["catch-up"]
    alone = max(0, counts["committed, no slate"] - catching)
    steps: list[list[str]] = [["committed, no slate"]] * alone
    steps += [["committed, no slate", "catch-up"]] * catching
    for kind, count in counts.items():
        if kind not in {"migration", "catch-up", "committed, no slate"}:
            steps += [[kind]] * count
    draw.shuffle(steps)
    return [
        _kill(kind, draw, made) for kind in (*first, *(kind for step in steps for kind in step))
    ]


def _kill(kind: str, draw: random.Random, made: dict[str, int]) -> Kill:
    points = CLASSES[kind]
    turn, made[kind] = made[kind], made[kind] + 1
    moment = draw.random()
    if not points:
        return Kill(kind, None, moment)
    point = points[turn % len(points)]
    if point == "migration.statement":
        return Kill(kind, Fuse(point, draw.randint(1, _STATEMENTS)))
    nth = draw.randint(1, _OFTEN) if kind in _FREQUENT else 1
    return Kill(kind, Fuse(point, nth), moment if kind == "checkpoint" else 0.0)


def died_inside(kind: str, last: str | None) -> bool:
    """Return whether a process that passed `last` as its last point died where its class says."""
    return not CLASSES[kind] or last in CLASSES[kind]
