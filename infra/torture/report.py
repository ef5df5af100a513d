"""A whole torture run: kills, verdicts, other faults, and the one line that says what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TypeAlias

from infra.deployment.children import Starter
from infra.torture import damage, disasters
from infra.torture.disasters import Fault, Scene
from infra.torture.plan import CLASSES, plan
from infra.torture.rounds import Tally, TortureError, torture, uninterrupted
from infra.torture.verdict import Check
from infra.torture.world import given_world, left_in, made_world

DISASTERS: tuple[Callable[[Scene], Fault], ...] = (
    disasters.full_disk,
    disasters.full_disk_of_slates,
    disasters.read_only,
    disasters.killed_worker,
    disasters.jumping_clock,
    damage.torn_line,
    damage.shortened_log,
    damage.cut_gzip,
    damage.cut_parquet,
    damage.wal_left_behind,
    damage.wal_cut,
    damage.wal_damaged,
)
"""Every fault besides a kill, in the order of the report."""
Given: TypeAlias = tuple[str, Path, str | None, str | None, Path | None]
"""A log of the caller's: path, checkpoint, items, columns, settings."""

_USERS = 12
_SHORT_EVENTS, _SHORT_USERS, _SHORT_TICK_EVENTS = 200, 5, 50
"""The log of the other faults: each of them replays it once or twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a torture run found.

    Attributes:
        seed: of plan and log.
        kills: processes killed.
        records: positions of the log, items included.
        rounds: passes from nothing to the end of the log.
        missed: attempts that died outside of what their class means, and were made again.
        classes: kills per class.
        points: per class, kills per point; for `anywhere` the last point passed.
        checks: one row per promise over all passes.
        faults: the other faults.
        failure: a run that neither died as planned nor ended well, None if there was none.
        wall_s: seconds it took.
    """

    seed: int
    kills: int
    records: int
    rounds: int
    missed: int
    classes: dict[str, int]
    points: dict[str, dict[str, int]]
    checks: list[Check]
    faults: list[Fault] = field(default_factory=list)
    failure: str | None = None
    wall_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether everything held and every class was hit."""
        return self.reason is None

    @property
    def reason(self) -> str | None:
        """The first thing that is wrong, as one line; None if nothing is."""
        empty = [kind for kind, n in self.classes.items() if not n]
        found = [self.failure] if self.failure else []
        found += [f"{check.name}: {check.detail}" for check in self.checks if not check.ok]
        found += [f"{fault.name}: {fault.problems[0]}" for fault in self.faults if fault.problems]
        found += [f"no kill could be made in class {kind!r}" for kind in empty]
        return found[0] if found else None


def torture_all(
    folder: Path,
    *,
    kills: int,
    seed: int,
    events: int,
    given: Given | None = None,
    faults: bool = True,
    cold: bool = False,
    on_step: Callable[[int, str], None] = lambda _done, _note: None,
) -> Report:
    """Run it all in an empty folder.

    Args:
        folder: where logs, databases and slates go.
        kills: how many processes to kill.
        seed: of the plan, and of the log if one is made.
        events: of the log that is made.
        given: kill replays of this log instead.
        faults: whether to try the other faults too, on a short log of their own.
        cold: start Python anew for every process.
        on_step: called with the kills so far and what comes now.
    """
    started = perf_counter()
    starter = Starter(folder, cold=cold)
    world = (
        made_world(folder / "log", events=events, users=_USERS, seed=seed)
        if given is None
        else given_world(*given)
    )
    tally, records, failure = Tally(), 0, None
    try:
        reference = uninterrupted(world, starter, left_in(folder / "whole"))
        records = len(reference.standard.remains.places)
        torture(
            world,
            starter,
            reference,
            plan(kills, seed),
            tally,
            lambda: on_step(tally.kills, "kills"),
        )
    except (TortureError, TimeoutError) as error:
        failure = str(error)
    met = _disasters(folder / "faults", starter, seed, tally, on_step) if faults else []
    return Report(
        seed=seed,
        kills=tally.kills,
        records=records,
        rounds=tally.rounds,
        missed=tally.missed,
        classes=dict(tally.classes),
        points=_points(tally),
        checks=joined(tally.checks),
        faults=met,
        failure=failure,
        wall_s=perf_counter() - started,
    )


def joined(rounds: list[list[Check]]) -> list[Check]:
    """Return one row per check over all rounds: the first failure if there is one, counts added up."""
    rows: dict[str, Check] = {}
    for checks in rounds:
        for check in checks:
            before = rows.get(check.name, check)
            kept = before if not before.ok else check
            counts = Counter(check.counts)
            if check is not before:
                counts.update(before.counts)
            rows[check.name] = replace(kept, counts={name: counts[name] for name in check.counts})
    return list(rows.values())


def _points(tally: Tally) -> dict[str, dict[str, int]]:
    points = {
        kind: {point: tally.points[point] for point in names if tally.points[point]}
        for kind, names in CLASSES.items()
    }
    return points | {"anywhere": dict(tally.anywhere.most_common())}


def _disasters(
    folder: Path, starter: Starter, seed: int, tally: Tally, on_step: Callable[[int, str], None]
) -> list[Fault]:
    world = made_world(
        folder,
        events=_SHORT_EVENTS,
        users=_SHORT_USERS,
        seed=seed,
        tick_events=_SHORT_TICK_EVENTS,
    )
    met = []
    reference = uninterrupted(world, starter, left_in(folder / "whole"))
    scene = Scene(world, starter, folder, reference.standard)
    for disaster in DISASTERS:
        on_step(tally.kills, disaster.__name__.replace("_", " "))
        met.append(disaster(scene))
    return met
