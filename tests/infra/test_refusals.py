"""Bad input: one line with the place and the remedy, the documented exit code, data intact."""

import json
import subprocess
import sys
import textwrap
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.exits import ExitCode
from storage.database import Database

GOOD = {"user_id": "a", "item_id": "x", "event_type": "buy", "ts": 1_700_000_000_000}


def refused(outcome, code: ExitCode, *parts: str) -> None:
    """Check code, single line and what the line names."""
    assert outcome.code == code, outcome.err
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    for part in parts:
        assert part in lines[0]


def write(path, *lines):
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return path


def opened(path):
    return Database.open(path, now=datetime(2024, 1, 1, tzinfo=UTC))


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_a_missing_log(freshet, tmp_path):
    outcome = freshet("replay", tmp_path / "no.parquet", "--db", tmp_path / "x.duckdb")
    refused(outcome, ExitCode.INPUT, "no.parquet")


def test_a_log_without_a_column(freshet, tmp_path):
    log = parquet(tmp_path / "log.parquet", user_id=["a"], item_id=["x"])
    refused(freshet("replay", log, "--db", tmp_path / "x.duckdb"), ExitCode.INPUT, "log.parquet")


def test_an_unknown_column_of_the_map(freshet, tmp_path):
    log = write(tmp_path / "log.csv", "user_id,item_id,event_type,ts", "a,x,buy,5")
    outcome = freshet("replay", log, "--db", tmp_path / "x.duckdb", "--map", "user_id=nope")
    assert outcome.code in {ExitCode.INPUT, ExitCode.USAGE}
    assert "nope" in outcome.err


def test_an_unknown_field_of_the_map(freshet, tmp_path):
    log = write(tmp_path / "log.jsonl", GOOD)
    outcome = freshet("replay", log, "--db", tmp_path / "x.duckdb", "--map", "userid=a")
    assert outcome.code in {ExitCode.INPUT, ExitCode.USAGE}
    assert "userid" in outcome.err


def test_a_truncated_parquet_file(freshet, made, tmp_path):
    whole = parquet(tmp_path / "whole.parquet", **{name: [value] for name, value in GOOD.items()})
    log = tmp_path / "cut.parquet"
    log.write_bytes(whole.read_bytes()[:-20])
    refused(freshet("replay", log, "--db", tmp_path / "x.duckdb"), ExitCode.INPUT, "cut.parquet")


def test_malformed_lines_become_dead_letters_and_the_rest_is_kept(freshet, tmp_path):
    log = write(tmp_path / "log.jsonl", GOOD, "{", {**GOOD, "ts": "soon"}, {**GOOD, "item_id": 7})
    db = tmp_path / "x.duckdb"
    done = freshet("replay", log, "--db", db, "--json").json
    assert (done["interactions"], done["dead"]) == (1, 3)
    query = "select off, reason from dead_letters order by off"
    rows = freshet("sql", query, "--db", db, "--json").json["rows"]
    assert [row["off"] for row in rows] == [1, 2, 3]


def test_too_many_dead_letters_stop_the_run_and_keep_what_was_read(freshet, tmp_path):
    log = write(tmp_path / "log.jsonl", *([GOOD] * 5 + ["{"] * 5))
    db = tmp_path / "x.duckdb"
    limit = ("--set", "stream.max_dead_run=3")
    outcome = freshet("replay", log, "--db", db, "--quiet", *limit)
    refused(outcome, ExitCode.DEAD_LETTERS, "freshet dlq list")
    count = (
        "select (select count(*) from interactions) as n, (select count(*) from dead_letters) as d"
    )
    stored = freshet("sql", count, "--db", db, "--json").json
    assert stored["rows"] == [{"n": 5, "d": 3}]


def test_a_short_log_with_too_many_dead_letters_is_refused_when_it_ends(freshet, tmp_path):
    log = write(tmp_path / "log.jsonl", *([GOOD] * 5 + ["{"] * 5))
    db = tmp_path / "x.duckdb"
    limit = ("--set", "stream.min_dead_records=3", "--set", "stream.max_batch_records=2")
    outcome = freshet("replay", log, "--db", db, "--quiet", *limit)
    refused(outcome, ExitCode.DEAD_LETTERS, "max_dead_share")
    stored = freshet("sql", "select count(*) as n from dead_letters", "--db", db, "--json").json
    assert stored["rows"] == [{"n": 5}]


def test_a_database_held_by_another_process_is_named_with_its_pid(freshet, world):
    script = textwrap.dedent(f"""
        import sys
        from datetime import UTC, datetime
        from pathlib import Path
        from storage.database import Database
        with Database.open(Path({str(world.db)!r}), now=datetime(2024, 1, 1, tzinfo=UTC)):
            print("open", flush=True)
            sys.stdin.read()
    """)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as holder:
        assert holder.stdout.readline() == b"open\n"
        outcome = freshet("status", "--db", world.db)
        holder.stdin.close()
        holder.wait(30)
        refused(outcome, ExitCode.LOCKED, f"process {holder.pid}", str(world.db))
    assert freshet("status", "--db", world.db).code == 0


@pytest.mark.parametrize("content", [b"", b"not a database at all", b"user_id,item_id\na,x\n"])
def test_a_file_that_is_no_database_stays_as_it_is(freshet, tmp_path, content):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    refused(freshet("status", "--db", path), ExitCode.STORAGE, "x.csv")
    assert path.read_bytes() == content


def test_a_database_that_is_not_there_is_not_made_by_looking(freshet, tmp_path):
    outcome = freshet("sql", "select 1", "--db", tmp_path / "no.duckdb")
    refused(outcome, ExitCode.INPUT, "no.duckdb", "replay")
    assert not (tmp_path / "no.duckdb").exists()


def test_a_folder_that_is_not_there_is_named(freshet, made, tmp_path):
    outcome = freshet("replay", made.log, "--db", tmp_path / "no" / "x.duckdb")
    refused(outcome, ExitCode.INPUT, "no such folder")


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_checkpoint(freshet, made, tmp_path, damage):
    content = bytearray(made.model.read_bytes())
    if damage == "cut":
        del content[-100:]
    elif damage == "flip":
        content[-50] ^= 0xFF
    elif damage == "empty":
        content.clear()
    else:
        content[:] = b"something else"
    model = tmp_path / "damaged.safetensors"
    model.write_bytes(content)
    db = tmp_path / "x.duckdb"
    refused(
        freshet("replay", made.log, "--db", db, "--model", model),
        ExitCode.MODEL,
        "damaged.safetensors",
    )
    assert not db.exists()


def test_a_checkpoint_that_is_not_there(freshet, made, tmp_path):
    outcome = freshet(
        "replay", made.log, "--db", tmp_path / "x.duckdb", "--model", tmp_path / "no.st"
    )
    refused(outcome, ExitCode.INPUT, "no.st", "train")


def test_a_checkpoint_that_moved_is_asked_for(freshet, world):
    with opened(world.db) as db, db.transaction() as tx:
        db.set_meta(tx, "model_path", str(world.model))
    moved = world.model.rename(world.folder / "moved.safetensors")
    asked = freshet("recommend", "u1", "--db", world.db)
    refused(asked, ExitCode.MODEL, "model.safetensors", "--model")
    assert freshet("recommend", "u1", "--db", world.db, "--model", moved).code == 0


def test_a_broken_token_group_is_refused(freshet, world):
    with opened(world.db) as db, db.transaction() as tx:
        tx.execute("UPDATE token_groups SET checksum = 1 WHERE segment = 0")
        user = db.query(
            "select user_id from users join token_groups using (user_idx) where segment = 0 limit 1"
        )["user_id"][0].as_py()
    refused(freshet("recommend", user, "--db", world.db), ExitCode.STORAGE, "checksum", user)
    assert freshet("doctor", "--db", world.db).code == ExitCode.FOUND


def test_a_database_without_damage_needs_no_repair(freshet, world):
    outcome = freshet("doctor", "--db", world.db, "--repair-wal", "--json")
    assert outcome.code == 0
    assert outcome.json["repaired"] is None


def test_a_newer_schema_is_refused(freshet, world):
    with opened(world.db) as db:
        tables = db.query(
            "select table_name from duckdb_tables() where table_name like '%migration%'"
        )
        name = tables["table_name"][0].as_py()
        columns = db.query(f"describe {name}")["column_name"].to_pylist()
        with db.transaction() as tx:
            kept = ", ".join("99" if column == columns[0] else column for column in columns)
            tx.execute(f"INSERT INTO {name} SELECT {kept} FROM {name} LIMIT 1")
    refused(freshet("status", "--db", world.db), ExitCode.STORAGE, "newer")
