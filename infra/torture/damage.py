"""Damaged files: logs that end too early, write-ahead logs that were left, cut or overwritten."""

from __future__ import annotations

import gzip
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from infra.exits import ExitCode
from infra.fuse import Fuse
from infra.torture.disasters import Fault, Scene
from infra.torture.verdict import remains, standard
from infra.torture.world import Left, left_in
from stream.generate import LogShape, generate

if TYPE_CHECKING:
    from collections.abc import Iterator

_CUTS = 6
"""Places at which a write-ahead log is cut."""
_TRIES = 20
_BATCHES = 4
"""Batches whose transactions wait in the write-ahead log when its process dies."""


def torn_line(scene: Scene) -> Fault:
    """The log ends in half a line: that line is a dead letter, and the log may grow on."""
    fault = Fault("JSON lines cut in a line", "half of the log, ending in half a record")
    data = Path(scene.world.log).read_bytes()
    begin = data.rindex(b"\n", 0, len(data) // 2) + 1
    end = data.index(b"\n", begin)
    log, left = scene.folder / "torn.jsonl", left_in(scene.folder / "torn")
    log.write_bytes(data[: (begin + end) // 2])
    off = data.count(b"\n", 0, begin)
    for text, content in (("half a line", None), ("grown", data)):
        if content is not None:
            log.write_bytes(content)
        ended = scene.run(left, log=log, finish=content is not None)
        if ended.code:
            fault.problems.append(f"{text}: code {ended.code}: {ended.said}")
            return fault
    ours, whole = remains(left), scene.expected.remains
    if ours.places != whole.places:
        fault.problems.append("positions are lost or doubled")
    extra = ours.dead_places - whole.dead_places
    if {place[2] for place in extra} != {off} or whole.dead_places - ours.dead_places:
        fault.problems.append(f"dead letters {sorted(extra)}, not the one at offset {off}")
    fault.problems += [f"{f.check}: {f.detail}" for f in ours.findings if not f.ok]
    fault.done.append(f"dead letter at offset {off}, the rest read when the file had grown")
    return fault


def shortened_log(scene: Scene) -> Fault:
    """A log that was read is shorter now: refused until it is whole again."""
    fault = Fault("log shorter than read", "JSON lines cut below the stored position")
    data = Path(scene.world.log).read_bytes()
    log, left = scene.folder / "short.jsonl", left_in(scene.folder / "short")
    log.write_bytes(data[: data.rindex(b"\n", 0, len(data) // 2) + 1])
    begun = scene.run(left, log=log, finish=False)
    if begun.code:
        fault.problems.append(f"the first half fails: {begun.said}")
    log.write_bytes(data[: len(data) // 3])
    refused = scene.run(left, log=log)
    fault.refused(refused, ExitCode.INPUT, "short.jsonl", "restore")
    log.write_bytes(data)
    fault.went_on(scene.run(left, log=log), scene.expected, left, "restored")
    return fault


def cut_gzip(scene: Scene) -> Fault:
    """A compressed log ends too early: what comes before is stored, the run says where it ends."""
    fault = Fault("gzip cut", "three quarters of the compressed bytes")
    data = gzip.compress(Path(scene.world.log).read_bytes(), mtime=0)
    log, left = scene.folder / "cut.jsonl.gz", left_in(scene.folder / "gzip")
    log.write_bytes(data[: len(data) * 3 // 4])
    refused = scene.run(left, log=log)
    fault.refused(refused, ExitCode.INPUT, "cut.jsonl.gz", "restore")
    stored = len(remains(left).places)
    if not stored:
        fault.problems.append("nothing before the damage was stored")
    log.write_bytes(data)
    text = f"{stored:,} stored before the damage, restored"
    fault.went_on(scene.run(left, log=log), scene.expected, left, text)
    return fault


def cut_parquet(scene: Scene) -> Fault:
    """A Parquet file without its end is refused before anything is stored."""
    fault = Fault("Parquet cut", "without its last quarter")
    whole = scene.folder / "whole.parquet"
    generate(whole, users=6, events=200, seed=1, shape=LogShape(items=48, days=20))
    data = whole.read_bytes()
    log, left = scene.folder / "cut.parquet", left_in(scene.folder / "parquet")
    expected = left_in(scene.folder / "parquet-whole")
    log.write_bytes(data[: len(data) * 3 // 4])
    fault.refused(scene.run(left, log=log), ExitCode.INPUT, "cut.parquet", "restore")
    if left.db.exists():
        fault.problems.append("a database was made")
    log.write_bytes(data)
    scene.run(expected, log=whole)
    fault.went_on(scene.run(left, log=log), standard(expected), left, "restored")
    return fault


def wal_left_behind(scene: Scene) -> Fault:
    """A process died with transactions in the write-ahead log: the next one takes them over."""
    fault = Fault("WAL left behind")
    left = _killed(scene, fault, "wal")
    fault.went_on(scene.run(left), scene.expected, left)
    return fault


def wal_cut(scene: Scene) -> Fault:
    """The write-ahead log lost its end: whole transactions are left, the log delivers the rest again."""
    fault = Fault("WAL cut")
    whole = _killed(scene, fault, "wal-cut")
    draw = random.Random(2)  # noqa: S311 - places, not secrets
    size = whole.wal.stat().st_size
    for number in range(_CUTS):
        left = _copy(whole, scene.folder / f"wal-cut{number}")
        at = draw.randrange(1, size)
        with left.wal.open("rb+") as file:
            file.truncate(at)
        findings = [f"{f.check}: {f.detail}" for f in remains(left).findings if not f.ok]
        fault.problems += [f"cut at byte {at}: {text}" for text in findings]
    fault.done.append(f"cut at {_CUTS} places of {size:,} bytes, a whole prefix each time")
    fault.went_on(scene.run(left), scene.expected, left, "the last one resumed")
    return fault


def wal_damaged(scene: Scene) -> Fault:
    """Bytes of the write-ahead log were overwritten: refused, repaired on request, then resumed."""
    fault = Fault("WAL with zeros at its end")
    whole = _killed(scene, fault, "wal-damaged")
    for left in _damaged(scene, whole):
        status = scene.starter.run(["status", "--db", str(left.db)])
        if status.code == 0:
            continue  # nothing but padding was hit: the file opens as it is
        fault.refused(status, ExitCode.STORAGE, f"{left.db}.wal", "--repair-wal")
        before = left.wal.read_bytes()
        ended = scene.starter.run(["doctor", "--db", str(left.db), "--repair-wal"])
        if ended.code:
            fault.problems.append(f"not repaired, code {ended.code}: {ended.said}")
        copies = [path.read_bytes() for path in left.folder.glob("*.damaged*")]
        if copies != [before]:
            fault.problems.append("no copy of the damaged WAL was kept")
        fault.went_on(scene.run(left), scene.expected, left, "repaired, resumed")
        return fault
    fault.problems.append(f"{_TRIES} damaged places, and none was noticed")
    return fault


def _killed(scene: Scene, fault: Fault, name: str) -> Left:
    """Leave a database behind whose process died with several transactions in its write-ahead log."""
    left = left_in(scene.folder / name)
    ended = scene.starter.run(_lazy(scene, left), fuse=Fuse("scored.commit", _BATCHES))
    size = left.wal.stat().st_size if left.wal.exists() else 0
    fault.how = f"SIGKILL with {size:,} bytes in the WAL"
    if not ended.killed or not size:
        fault.problems.append(f"no WAL was left: code {ended.code}: {ended.said}")
    return left


def _lazy(scene: Scene, left: Left) -> list[str]:
    """Return the replay without the checkpoints that rotations make."""
    return scene.world.replay(left, "--set", "database.rotate_rows=1000000")


def _damaged(scene: Scene, whole: Left) -> Iterator[Left]:
    draw = random.Random(3)  # noqa: S311 - places, not secrets
    data = whole.wal.read_bytes()
    for number in range(_TRIES):
        left = _copy(whole, scene.folder / f"wal-damaged{number}")
        at = draw.randrange(len(data) // 3, len(data))
        left.wal.write_bytes(data[:at] + bytes(len(data) - at))
        yield left


def _copy(left: Left, folder: Path) -> Left:
    shutil.copytree(left.folder, folder)
    return replace(left, folder=folder)
