"""Rounds of kills: a database from nothing to the end of the log, dying on the way as planned."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median

from infra.deployment.children import Ended, Starter
from infra.torture.plan import CLASSES, Kill, died_inside
from infra.torture.verdict import Check, Standard, standard, verdict
from infra.torture.world import Left, World, left_in

_MISSES = 6
"""Attempts at a death inside something short, each at an earlier moment, before it counts as not hit."""
_SPARE_ROUNDS = 4
_SHARE = 0.25
"""A process killed at a random moment gets at most this share of the time a whole run takes."""


class TortureError(Exception):
    """A run did something else than die as planned or end well; the message is one line."""


@dataclass(slots=True)
class Tally:
    """Where processes died.

    Attributes:
        classes: deaths per class.
        points: deaths per point of those that killed themselves.
        anywhere: last point passed by those the parent killed at a random moment.
        missed: attempts that died outside of what their class means.
        resumed: runs that went on after a death.
        rounds: databases taken from nothing to the end of the log.
        checks: the verdict of every round.
    """

    classes: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(CLASSES, 0)))
    points: Counter[str] = field(default_factory=Counter)
    anywhere: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    resumed: int = 0
    rounds: int = 0
    checks: list[list[Check]] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """Deaths in all."""
        return self.classes.total()

    def died(self, kill: Kill, ended: Ended) -> bool:
        """Count a death; return whether it was where the plan wanted it."""
        self.resumed += 1
        if not died_inside(kill.kind, ended.last):
            self.missed += 1
            return False
        self.classes[kill.kind] += 1
        if kill.fuse is None:
            self.anywhere[ended.last or "start"] += 1
        else:
            self.points[kill.fuse.point] += 1
        return True


@dataclass(frozen=True, slots=True)
class Reference:
    """The uninterrupted run: what it left, and how long things took in it, seconds."""

    standard: Standard
    wall_s: float
    checkpoint_s: float


def uninterrupted(world: World, starter: Starter, left: Left) -> Reference:
    """Run the log once without a kill.

    Raises:
        TortureError: it fails, so there is nothing to compare with.
    """
    ended = starter.run(world.replay(left))
    if ended.code:
        raise TortureError(f"the uninterrupted run fails with code {ended.code}: {ended.said}")
    passed = starter.trace()
    spans = [
        after - before
        for (before, point), (after, _) in pairwise(passed)
        if point == "checkpoint.begin"
    ]
    working = passed[-1][0] - passed[0][0] if passed else ended.wall_s
    return Reference(standard(left), working, median(spans) if spans else 0.0)


def torture(
    world: World,
    starter: Starter,
    reference: Reference,
    rounds: Iterable[list[Kill]],
    tally: Tally,
    on_death: Callable[[], None] = lambda: None,
) -> None:
    """Kill and resume as planned; what a round could not hit waits for the next one.

    Args:
        world: what is replayed.
        starter: of the processes.
        reference: the uninterrupted run.
        rounds: the plan.
        tally: takes deaths and verdicts.
        on_death: called after every death.

    Raises:
        TortureError: a run failed instead of dying or ending well.
    """
    waiting: deque[Kill] = deque()
    planned = deque(rounds)
    spare = _SPARE_ROUNDS
    while planned or (waiting and spare):
        if not planned:
            spare -= 1
        kills = [*waiting, *(planned.popleft() if planned else [])]
        kills.sort(key=lambda kill: kill.kind != "migration")  # stable: only at a round's beginning
        left = left_in(reference.standard.left.folder.parent / f"round{tally.rounds}")
        waiting = _round(world, starter, reference, left, deque(kills), tally, on_death)
        tally.rounds += 1
        tally.checks.append(verdict(reference.standard, left))


def _round(
    world: World,
    starter: Starter,
    reference: Reference,
    left: Left,
    kills: deque[Kill],
    tally: Tally,
    on_death: Callable[[], None],
) -> deque[Kill]:
    """Take one database to the end of the log; return the kills that were not reached."""
    misses = 0
    while True:
        kill = kills[0] if kills else None
        ended = _attempt(world, starter, reference, left, kill)
        if ended.code == 0:
            return kills
        if kill is None or not ended.killed:
            raise TortureError(f"a resumed run fails with code {ended.code}: {ended.said}")
        if tally.died(kill, ended):
            kills.popleft()
            misses = 0
        elif misses < _MISSES:
            misses += 1
            kills[0] = replace(kill, moment=kill.moment / 2)
        else:
            kills.popleft()
            misses = 0
        on_death()


def _attempt(
    world: World, starter: Starter, reference: Reference, left: Left, kill: Kill | None
) -> Ended:
    argv = world.replay(left)
    if kill is None:
        return starter.run(argv)
    if kill.fuse is None:
        return starter.run(argv, kill_after_s=kill.moment * _SHARE * reference.wall_s)
    fuse = kill.fuse
    if kill.moment:
        fuse = replace(fuse, delay_ms=max(0.001, kill.moment * reference.checkpoint_s * 1000))
    return starter.run(argv, fuse=fuse)
