"""Torture: the reduced run, and that every verdict notices the damage it is there for."""

import json
import os
import signal
import subprocess
import sys

import msgspec
import pytest

from infra.errors import SettingsError
from infra.exits import ExitCode
from infra.fuse import FAULT_VARIABLE, TRACE_VARIABLE, Fuse
from infra.torture.plan import CLASSES, KILLS_PER_ROUND, died_inside, plan
from infra.torture.report import DISASTERS, Report, joined
from infra.torture.verdict import Check, slates_agree, standard, verdict
from infra.torture.world import Left
from storage import positions
from storage.faults import POINTS
from stream.clock import from_ms
from stream.slates import decode_slate, encode_slate
from tests.infra.test_refusals import opened

KILLS = 22

DYING = """
import os
from infra.fuse import arm
from storage.faults import reach
arm(os.environ)
for point in ("ingest.rows", "sink.line", "ingest.rows", "ingest.rows"):
    reach(point, lambda: os.write(1, b"half"))
    os.write(1, b".")
"""


@pytest.mark.slow
def test_killed_again_and_again_in_every_class_a_replay_ends_as_one_left_alone(freshet):
    done = freshet("torture", "--kills", KILLS, "--seed", 1, "--events", 600, "--json")
    found = done.json
    assert found["reason"] is None
    assert done.code == ExitCode.OK
    assert found["kills"] >= KILLS
    assert set(found["classes"]) == set(CLASSES)
    assert all(n > 0 for n in found["classes"].values())
    assert sum(found["classes"].values()) == found["kills"]
    checks = {check["name"]: check for check in found["checks"]}
    assert checks["records once each"]["counts"]["positions"] == found["records"] * found["rounds"]
    assert checks["records once each"]["counts"]["lost"] == 0
    assert checks["slates"]["counts"]["compared"] == 600 * found["rounds"]
    assert checks["slates"]["counts"]["repeats held against their first"] > 0
    assert checks["torn groups"]["counts"]["token groups"] > 20
    assert len(found["faults"]) == len(DISASTERS)
    assert all(fault["done"] or "not possible" in fault["how"] for fault in found["faults"])


def test_a_log_that_can_not_be_replayed_fails_with_the_reason(freshet, made, tmp_path):
    line = ("torture", "--log", tmp_path / "no.jsonl", "--model", made.model, "--no-faults")
    outcome = freshet(*line, "--kills", 11)
    assert outcome.code == ExitCode.FOUND
    assert "FAILED: the uninterrupted run fails with code 3" in outcome.out
    assert "no.jsonl" in outcome.out
    assert freshet("torture", "--log", "x.jsonl").code == ExitCode.USAGE


# ---- the plan ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [11, 22, 60, 137])
def test_a_plan_fills_every_class_evenly_and_repeats_with_its_seed(kills):
    rounds = plan(kills, seed=7)
    assert rounds == plan(kills, seed=7)
    assert rounds != plan(kills, seed=8)
    made = [kill for part in rounds for kill in part]
    counts = [sum(kill.kind == kind for kill in made) for kind in CLASSES]
    assert len(made) >= kills
    assert max(counts) - min(counts) <= 2
    assert max(map(len, rounds)) <= KILLS_PER_ROUND + 2


def test_migrations_die_first_and_a_catch_up_follows_what_it_catches_up_on():
    for part in plan(60, seed=3):
        kinds = [kill.kind for kill in part]
        assert kinds == sorted(kinds, key=lambda kind: kind != "migration")
        for before, kind in zip(["none", *kinds], kinds, strict=False):
            assert kind != "catch-up" or before == "committed, no slate"


def test_every_point_where_a_replay_may_die_belongs_to_one_class():
    points = [point for names in CLASSES.values() for point in names]
    elsewhere = [
        "checkpoint.end",
        "worker.compress",
        "backup.copied",
        "restore.checked",
        "positions.begun",
    ]
    elsewhere += ["mirror.sent", "dlq.sent"]
    assert sorted([*points, *elsewhere]) == sorted(POINTS)


def test_a_plan_that_can_not_fill_its_classes_is_refused():
    with pytest.raises(ValueError, match="can not fill"):
        plan(5, seed=0)


def test_a_death_counts_only_where_its_class_says():
    assert died_inside("checkpoint", "checkpoint.begin")
    assert not died_inside("checkpoint", "checkpoint.end")
    assert not died_inside("tick", None)
    assert died_inside("anywhere", None)


# ---- the fuse ---------------------------------------------------------------------------------


def dying(tmp_path, fuse):
    """Run a process that passes some points, with a fuse."""
    trace = tmp_path / "trace"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), TRACE_VARIABLE: str(trace)}
    env |= {} if fuse is None else {FAULT_VARIABLE: fuse}
    ended = subprocess.run(
        [sys.executable, "-c", DYING], env=env, capture_output=True, check=False, text=True
    )
    passed = [line.split()[1] for line in trace.read_text().splitlines()]
    return ended, passed


@pytest.mark.parametrize(
    ("fuse", "out", "passed"), [("ingest.rows:2", "..half", 3), ("sink.line:1", ".half", 2)]
)
def test_a_process_dies_where_its_fuse_says(tmp_path, fuse, out, passed):
    ended, points = dying(tmp_path, fuse)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == out
    assert len(points) == passed


@pytest.mark.parametrize("fuse", [None, "tick.groups:1", "ingest.rows:4"])
def test_a_process_whose_fuse_is_not_reached_lives(tmp_path, fuse):
    ended, points = dying(tmp_path, fuse)
    assert (ended.returncode, ended.stdout, len(points)) == (0, "....", 4)


def test_a_fuse_is_written_as_it_is_read():
    for fuse in (Fuse("tick.groups", 3), Fuse("checkpoint.begin", 1, 2.5)):
        assert Fuse.parse(str(fuse)) == fuse
    assert Fuse.parse("tick.groups") == Fuse("tick.groups", 1)


@pytest.mark.parametrize("text", ["nowhere:1", "tick.groups:soon", "tick.groups:1:soon"])
def test_a_fuse_that_says_nothing_is_refused(text):
    with pytest.raises(SettingsError, match=FAULT_VARIABLE):
        Fuse.parse(text)


# ---- the verdict ------------------------------------------------------------------------------


def failing(made, world):
    checks = verdict(standard(Left(made.folder)), Left(world.folder))
    return {check.name for check in checks if not check.ok}


def test_an_equal_run_passes_every_check(made, world):
    assert failing(made, world) == set()


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        ("DELETE FROM interactions_hot WHERE off = 400", {"records once each", "interactions", "doctor"}),
        ("INSERT INTO interactions_hot SELECT * FROM interactions_hot WHERE off = 400",
         {"records once each", "interactions", "doctor"}),
        ("DELETE FROM dead_letters WHERE off = (SELECT min(off) FROM dead_letters)",
         {"records once each", "dead letters", "doctor"}),
        ("UPDATE dead_letters SET reason = 'other'", {"dead letters"}),
        ("UPDATE interactions_hot SET value = 7 WHERE off = 400", {"interactions"}),
        ("UPDATE position_ranges SET late = late + 1", {"counts per partition"}),
        ("UPDATE token_groups SET kv = kv || 'x'::BLOB WHERE segment = 0", {"torn groups", "token bytes"}),
        ("DELETE FROM token_groups WHERE segment = 0", {"torn groups", "token bytes"}),
        ("INSERT INTO token_groups SELECT * FROM token_groups WHERE segment = 0",
         {"torn groups", "token bytes"}),
        ("UPDATE scored_positions SET next_off = next_off - 1", {"all answered"}),
        ("DELETE FROM journal_positions WHERE journal_id = 2", {"journal"}),
    ],
)  # fmt: skip
def test_planted_damage_in_a_database_is_found(made, world, damage, names):
    with opened(world.db) as db, db.transaction() as tx:
        tx.execute(damage)
    assert failing(made, world) == names


def test_a_partition_without_records_is_no_difference(made, world):
    """The live service knows it from the broker; the log it is replayed from has no trace of it."""
    with opened(world.db) as db, db.transaction() as tx:
        positions.begin(tx, {("log", 7): 0}, from_ms(0))
        positions.set_scored(tx, {("log", 7): 0}, from_ms(0))
    assert failing(made, world) == set()


def lost(slates):
    return slates[:-1]


def changed(slates):
    item = slates[3].items[0]
    items = (msgspec.structs.replace(item, score=item.score + 1), *slates[3].items[1:])
    return [*slates[:3], msgspec.structs.replace(slates[3], items=items), *slates[4:]]


def foreign(slates):
    return [*slates, msgspec.structs.replace(slates[0], id="another")]


def changed_repeat(slates):
    return [msgspec.structs.replace(slates[0], reason="popular"), *slates]


@pytest.mark.parametrize("damage", [lost, changed, foreign, changed_repeat])
def test_planted_damage_in_slates_is_found(made, world, damage):
    slates = [decode_slate(line) for line in made.slates.read_bytes().splitlines()]
    world.slates.write_bytes(b"".join(encode_slate(s) + b"\n" for s in damage(slates)))
    assert not slates_agree(Left(made.folder), Left(world.folder)).ok


def test_equal_repeats_of_slates_are_counted_and_no_fault(made, world):
    world.slates.write_bytes(made.slates.read_bytes() * 2)
    check = slates_agree(Left(made.folder), Left(world.folder))
    assert check.ok
    n = len(made.slates.read_bytes().splitlines())
    assert check.counts == {
        "compared": n, "repeats held against their first": n, "differences": 0,
    }  # fmt: skip


# ---- the report -------------------------------------------------------------------------------


def report(**changes):
    full = {
        "seed": 0, "kills": 11, "records": 5, "rounds": 1, "missed": 0,
        "classes": dict.fromkeys(CLASSES, 1), "points": {}, "checks": [Check("records", ok=True)],
    }  # fmt: skip
    return Report(**(full | changes))


def test_a_report_names_the_first_thing_that_is_wrong():
    assert report().ok
    missed = report(classes=dict.fromkeys(CLASSES, 1) | {"run merge": 0})
    assert missed.reason == "no kill could be made in class 'run merge'"
    broken = report(checks=[Check("records", ok=False, counts={"lost": 2}, places="; log[0]@5")])
    assert broken.reason == "records: 2 lost; log[0]@5"
    assert report(failure="the run fails").reason == "the run fails"


def test_counts_of_several_rounds_add_up_and_a_failure_stays():
    good = Check("records", ok=True, counts={"positions": 10, "lost": 0})
    bad = Check("records", ok=False, counts={"positions": 9, "lost": 1}, places="; here")
    (check,) = joined([[good], [bad], [good]])
    assert not check.ok
    assert check.detail == "29 positions, 1 lost; here"
    assert json.loads(msgspec.json.encode(check))["counts"] == {"positions": 29, "lost": 1}
