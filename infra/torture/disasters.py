"""Faults other than a kill, each with what must happen: a full disk, a read-only one, a jumping clock."""

from __future__ import annotations

import random
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from infra.exits import ExitCode
from infra.fuse import Fuse
from infra.options import read_settings
from infra.torture.disks import Disk, disk
from infra.torture.verdict import Standard, verdict
from infra.torture.world import Left, left_in
from infra.wiring import ReplayPlan, replaying

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.deployment.children import Ended, Limits, Starter
    from infra.torture.world import World

_SLATE_ROOM = 1 << 16
_JUMP_DAYS = 3_650


@dataclass(slots=True)
class Fault:
    """One fault and whether the product met it as it must.

    Attributes:
        name: the fault.
        how: the means by which it was made.
        done: what was seen, step by step.
        problems: what should not have been.
    """

    name: str
    how: str = ""
    done: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all was as it must be."""
        return not self.problems

    def refused(self, ended: Ended, code: ExitCode, *parts: str) -> None:
        """Note a run that must end with this code and one line that names these parts."""
        lines = ended.error.strip().splitlines()
        if ended.code != code:
            self.problems.append(f"ended with code {ended.code}, not {code}: {ended.said}")
        elif len(lines) != 1 or not all(part in lines[0] for part in parts):
            self.problems.append(f"said {lines}, not one line that names {', '.join(parts)}")
        else:
            self.done.append(f"code {ended.code}")

    def went_on(self, ended: Ended, expected: Standard, found: Left, text: str = "resumed") -> None:
        """Note a run that must end well and leave what an uninterrupted one leaves."""
        if ended.code:
            self.problems.append(f"not resumed, code {ended.code}: {ended.said}")
            return
        wrong = [check for check in verdict(expected, found) if not check.ok]
        self.problems += [f"{check.name}: {check.detail}" for check in wrong]
        if not wrong:
            self.done.append(f"{text}, same end")


@dataclass(frozen=True, slots=True)
class Scene:
    """What every fault is tried on.

    Attributes:
        world: a short log with its model.
        starter: of processes.
        folder: where runs go.
        expected: what an uninterrupted run left.
    """

    world: World
    starter: Starter
    folder: Path
    expected: Standard

    def run(
        self,
        left: Left,
        *more: str,
        log: Path | None = None,
        limits: Limits | None = None,
        finish: bool = True,
    ) -> Ended:
        """Replay into a database; a part of the log is to be read without `finish`."""
        named = None if log is None else str(log)
        argv = self.world.replay(left, *more, log=named, finish=finish)
        return self.starter.run(argv, limits=limits)


def full_disk(scene: Scene) -> Fault:
    """The database's disk fills up; it must stop, keep what it has, and go on when there is room."""
    fault = Fault("disk full: database")
    size = scene.expected.left.db.stat().st_size // 2
    with disk(scene.folder / "full", size=size) as small:
        fault.how = small.how
        left = Left(small.folder, left_in(scene.folder / "full-slates").folder)
        for _ in range(2):
            fault.refused(scene.run(left, limits=small.limits), ExitCode.NO_ROOM, "no room")
        small.free()
        fault.went_on(scene.run(left), scene.expected, left)
    return fault


def full_disk_of_slates(scene: Scene) -> Fault:
    """The disk of the slates fills up: whole lines only, and the rest later."""
    fault = Fault("disk full: slates")
    with disk(scene.folder / "full-sink", size=_SLATE_ROOM) as small:
        fault.how = small.how
        left = Left(left_in(scene.folder / "full-sink-db").folder, small.folder)
        if not small.mounted:
            fault.how = "not possible here: needs the right to mount"
            return fault
        fault.refused(scene.run(left), ExitCode.NO_ROOM, "slates.jsonl", "free space")
        if left.slates.read_bytes()[-1:] != b"\n":
            fault.problems.append("the file of slates ends in half a line")
        small.free()
        fault.went_on(scene.run(left), scene.expected, left)
    return fault


def read_only(scene: Scene) -> Fault:
    """Nothing may be written: an existing database, a new one, the slates."""
    fault = Fault("read-only disk")
    with _open_folder() as open_to_all, disk(open_to_all / "locked") as locked:
        scene = _copied(scene, open_to_all)
        left = Left(locked.folder)
        begun = scene.run(left, "--max-records", "100", finish=False)
        if begun.code:
            fault.problems.append(f"the first records fail: {begun.said}")
        before = left.db.read_bytes()
        locked.protect()
        fault.how = locked.how
        elsewhere = left_in(open_to_all / "elsewhere")
        elsewhere.folder.chmod(0o777)
        for argv, path in _denied(scene, locked, left, elsewhere):
            ended = scene.starter.run(argv, limits=locked.limits)
            code = ExitCode.STORAGE if path.suffix == ".duckdb" else ExitCode.INPUT
            fault.refused(ended, code, str(path), "check the path")
        locked.release()
        if left.db.read_bytes() != before:
            fault.problems.append("the read-only database was changed")
        fault.went_on(scene.run(left), scene.expected, left)
    return fault


def _denied(
    scene: Scene, locked: Disk, left: Left, elsewhere: Left
) -> list[tuple[list[str], Path]]:
    """Return command lines that must write below a locked folder, and the path that each must name."""
    new = scene.world.replay(Left(locked.folder, elsewhere.folder))
    at = new.index("--db") + 1
    new[at] = str(locked.folder / "new.duckdb")
    return [
        (scene.world.replay(Left(locked.folder, elsewhere.folder)), left.db),
        (new, Path(new[at])),
        (scene.world.replay(Left(elsewhere.folder, locked.folder)), left.slates),
    ]


@contextmanager
def _open_folder() -> Iterator[Path]:
    """Make a folder that every user can reach: a process without rights must fail at the right file."""
    with tempfile.TemporaryDirectory(prefix="freshet-torture-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def _copied(scene: Scene, folder: Path) -> Scene:
    """Return the scene with its files in a folder that everybody may read."""

    def copy(path: Path | str) -> Path:
        new = Path(shutil.copy(path, folder))
        new.chmod(0o644)
        return new

    world = scene.world
    moved = replace(
        world,
        log=str(copy(world.log)),
        items=str(copy(world.items)) if world.items else None,
        model=copy(world.model),
        config=copy(world.config) if world.config else None,
    )
    return replace(scene, world=moved, folder=folder)


def killed_worker(scene: Scene) -> Fault:
    """The process that compresses dies, not the one that stores: it must stop with its own error."""
    fault = Fault("worker killed", "SIGKILL of the process that compresses, at its second batch")
    left = left_in(scene.folder / "worker")
    argv = scene.world.replay(left, "--worker")
    ended = scene.starter.run(argv, fuse=Fuse("worker.compress", 2))
    fault.refused(ended, ExitCode.WORKER_DIED, "run the same command again")
    fault.went_on(scene.run(left), scene.expected, left)
    return fault


class JumpingClock:
    """A system clock that jumps years back and forth between any two looks at it.

    Args:
        seed: of the jumps.
    """

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)  # noqa: S311 - jumps, not secrets

    def now(self) -> datetime:
        """Return a time within ten years of 2024."""
        days = self._draw.uniform(-_JUMP_DAYS, _JUMP_DAYS)
        return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=days)


def jumping_clock(scene: Scene) -> Fault:
    """The system clock jumps by years between batches: only ingest times may differ."""
    fault = Fault("clock jumps", "years back and forth, in this process")
    left = left_in(scene.folder / "clock")
    world = scene.world
    plan = ReplayPlan(
        log=world.log,
        db_path=left.db,
        model_path=world.model,
        items_path=world.items,
        slates_path=left.slates,
    )
    loaded = read_settings(world.config, world.settings)
    with replaying(plan, loaded, clock=JumpingClock(1)) as pipeline:
        pipeline.run()
        pipeline.finish()
    wrong = [check for check in verdict(scene.expected, left) if not check.ok]
    fault.problems += [f"{check.name}: {check.detail}" for check in wrong]
    fault.done.append("same tokens, slates and rows")
    return fault
