"""Backups: made while the database works, checked, restored, and as good as a run that was never lost."""

import os
import threading
from base64 import b64decode
from contextlib import nullcontext

import pytest

from infra.exits import ExitCode
from storage.wal import wal_of
from tests.infra.asking.conftest import owned

DIGESTS = {
    "rows": "select topic, part, off, user_idx, item_idx, ts, h_ts, late, duplicate, displaced from rows_all order by all",
    "dead letters": "select topic, part, off, reason from dead_letters order by all",
    "tokens": "select user_idx, model_version, segment, checksum, kv from token_groups order by all",
    "journal": "select journal_id, kind, ref, detail from journal order by all",
    "where it applies": "from journal_positions order by all",
    "positions": "select topic, part, next_off from ingest_lag order by all",
}


def contents(freshet, db):
    """Return everything that a run decides."""
    line = ("--db", db, "--limit", 0, "--json")
    return {name: freshet("sql", text, *line).json["rows"] for name, text in DIGESTS.items()}


def replay(freshet, world, db, slates):
    done = freshet(
        "replay", world.log, "--db", db, "--model", world.model, "--items", world.items,
        "--slates", slates, "--config", world.config, "--quiet",
    )  # fmt: skip
    assert done.code == 0, done.err


def test_a_lost_database_is_restored_and_goes_on_as_if_it_had_never_been_lost(
    freshet, made, tmp_path
):
    db, slates, copy = tmp_path / "y.duckdb", tmp_path / "y.jsonl", tmp_path / "copy.duckdb"
    with owned(made, db, slates=slates) as pipeline:
        pipeline.run(max_records=150)
        going = threading.Thread(target=lambda: [pipeline.run(max_records=5) for _ in range(30)])
        going.start()
        made_copy = freshet("backup", copy, "--db", db, "--json")
        going.join()
        ends = dict(pipeline.ingest.next_offsets)
    assert made_copy.code == 0, made_copy.err
    report = made_copy.json
    (copied,) = [one["next_off"] for one in report["positions"] if one["topic"] == "log.jsonl"]
    assert 150 <= copied <= ends["log.jsonl", 0] == 300
    assert report["bytes"] == copy.stat().st_size
    assert freshet("doctor", "--db", copy).code == 0

    db.unlink()
    wal_of(db).unlink(missing_ok=True)
    assert freshet("restore", copy, "--db", db).code == 0
    assert freshet("doctor", "--db", db, "--exactness", 3).code == 0
    replay(freshet, made, db, slates)
    assert contents(freshet, db) == contents(freshet, made.db)
    compared = freshet("diff", made.slates, slates, "--json")
    assert compared.code == 0
    assert compared.json["largest_score_difference"] < 1e-4


def test_writers_are_never_seen_half_way_in_a_copy(freshet, made, tmp_path):
    db = tmp_path / "y.duckdb"
    with owned(made, db) as pipeline:
        going = threading.Thread(target=pipeline.run)
        going.start()
        copies = []
        while going.is_alive() or not copies:
            copies.append(tmp_path / f"copy{len(copies)}.duckdb")
            assert freshet("backup", copies[-1], "--db", db).code == 0
        going.join()
    for copy in copies[:: max(1, len(copies) // 4)]:
        assert freshet("doctor", "--db", copy).code == 0
    assert sorted(tmp_path.glob("copy*")) == sorted(copies)


def test_a_free_file_is_copied_too_and_the_log_beside_it(freshet, world, tmp_path):
    copy = tmp_path / "copy.duckdb"
    outcome = freshet("backup", copy, "--db", world.db)
    assert outcome.code == 0
    assert "log.jsonl[0]" in outcome.out
    assert contents(freshet, copy) == contents(freshet, world.db)


def test_a_reader_of_an_older_state_is_in_nobodys_way(freshet, made, tmp_path):
    db, copy = tmp_path / "y.duckdb", tmp_path / "copy.duckdb"
    with owned(made, db) as pipeline:
        pipeline.run(max_records=100)
        with pipeline.db.snapshot() as older:
            seen = older.query("select count(*) as n from rows_all")
            going = threading.Thread(target=lambda: pipeline.run(max_records=100))
            going.start()
            going.join()
            assert not pipeline.db.checkpoint()  # updated rows are kept for the reader
            assert freshet("backup", copy, "--db", db).code == 0
            assert older.query("select count(*) as n from rows_all") == seen
        assert pipeline.db.checkpoint()
    assert contents(freshet, copy) == contents(freshet, db)
    assert not wal_of(copy).exists()


@pytest.mark.parametrize("asked", ["owner", "file"])
def test_a_backup_replaces_nothing_unasked(freshet, world, tmp_path, asked):
    copy = tmp_path / "copy.duckdb"
    copy.write_text("mine")
    lines = (["backup", copy], ["backup", world.db, "--force"], ["backup", tmp_path / "no" / "c"])
    with owned(world, world.db) if asked == "owner" else nullcontext():
        outcomes = [freshet(*line, "--db", world.db) for line in lines]
    assert [outcome.code for outcome in outcomes] == [
        ExitCode.INPUT,
        ExitCode.INPUT,
        ExitCode.STORAGE,
    ]
    assert "--force" in outcomes[0].err
    assert copy.read_text() == "mine"
    assert freshet("backup", copy, "--db", world.db, "--force").code == 0
    assert freshet("doctor", "--db", copy).code == 0


def test_a_relative_path_is_of_the_folder_of_the_one_who_asks(
    freshet, world, tmp_path, monkeypatch
):
    with owned(world, world.db):
        monkeypatch.chdir(tmp_path)
        assert freshet("backup", "copy.duckdb", "--db", world.db).code == 0
    assert (tmp_path / "copy.duckdb").exists()


def test_a_database_in_use_is_not_replaced(freshet, world, tmp_path):
    copy = tmp_path / "copy.duckdb"
    assert freshet("backup", copy, "--db", world.db).code == 0
    assert freshet("restore", copy, "--db", world.db).code == ExitCode.INPUT
    with owned(world, world.db):
        outcome = freshet("restore", copy, "--db", world.db, "--force")
        assert outcome.code == ExitCode.LOCKED
        assert str(os.getpid()) in outcome.err
    assert freshet("restore", copy, "--db", world.db, "--force").code == 0


def test_the_log_of_a_lost_file_is_not_applied_to_the_restored_one(freshet, world, made, tmp_path):
    copy, lost = tmp_path / "copy.duckdb", wal_of(world.db)
    assert freshet("backup", copy, "--db", world.db).code == 0
    lost.write_bytes(b"what a crash left" * 100)
    world.db.write_bytes(b"damaged")
    assert freshet("restore", copy, "--db", world.db, "--force").code == 0
    assert not lost.exists()
    assert contents(freshet, world.db) == contents(freshet, made.db)


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "gone"])
def test_a_damaged_backup_changes_nothing(freshet, made, world, tmp_path, damage):
    copy = tmp_path / "copy.duckdb"
    assert freshet("backup", copy, "--db", world.db).code == 0
    whole = copy.read_bytes()
    if damage == "cut":
        copy.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        query = "select kv from token_groups order by all limit 1"
        kv = freshet("sql", query, "--db", made.db, "--json").json["rows"][0]["kv"]
        at = whole.index(b64decode(kv))
        copy.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    elif damage == "text":
        copy.write_text("user_id,item_id\n")
    else:
        copy.unlink()
    before = world.db.read_bytes()
    outcome = freshet("restore", copy, "--db", world.db, "--force")
    assert outcome.code in {ExitCode.STORAGE, ExitCode.INPUT}
    assert outcome.err.count("\n") == 1
    assert world.db.read_bytes() == before
    assert not list(world.folder.glob("*.part*"))
