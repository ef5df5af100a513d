import shutil
from pathlib import Path

import duckdb
import pytest

from storage import doctor, interactions, journal, migrations, models, positions, runs, tokens
from storage.database import Database
from storage.errors import MigrationError, NewerSchemaError
from tests.storage.support import NOW

FIRST = Path(__file__).parent / "data" / "schema_001.duckdb"


@pytest.fixture
def con(tmp_path):
    with duckdb.connect(str(tmp_path / "x.duckdb")) as connection:
        yield connection


def steps_with(*extra):
    return [*migrations.all_steps(), *extra]


def names(connection):
    return {name for (name,) in connection.execute("SHOW TABLES").fetchall()}


def test_a_file_of_the_first_schema_opens_migrates_and_passes_every_check(tmp_path):
    path = tmp_path / "old.duckdb"
    shutil.copyfile(FIRST, path)
    with Database.open(path, now=NOW) as db:
        assert interactions.load_history(db, [0]).num_rows == 7
        assert [row.segment for row in tokens.load_groups(db, [0], "v1")] == [0]
        assert positions.next_offsets(db) == {("clicks", 0): 11, ("clicks", 1): 3}
        assert [e.kind for e in journal.entries(db)] == ["group_visible", "popularity"]
        assert models.active(db).version == "v1"
        assert runs.list_runs(db)[0].status == "done"
        assert [f for f in doctor.run_checks(db) if not f.ok] == []
        tables = db.query("SELECT table_name AS t FROM duckdb_tables()")["t"].to_pylist()
        empty = [t for t in tables if db.query(f"SELECT * FROM {t} LIMIT 1").num_rows == 0]
        assert empty == ["gaps", "item_changes"]  # tables of later schemas


def test_every_step_is_recorded_once(con, tmp_path):
    ran = migrations.migrate(con, path=tmp_path, now=NOW)
    assert [step.version for step in ran] == list(range(1, len(ran) + 1))
    assert migrations.migrate(con, path=tmp_path, now=NOW) == []
    rows = con.execute("SELECT version, name, checksum FROM schema_migrations").fetchall()
    assert rows == [(step.version, step.name, step.checksum) for step in ran]


def test_a_failing_step_leaves_nothing_and_is_tried_again(con, tmp_path):
    top = len(migrations.all_steps()) + 1

    def broken(connection):
        connection.execute("CREATE TABLE half(a INTEGER)")
        connection.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(MigrationError, match=rf"step {top} \(broken\) failed and was taken back"):
        migrations.migrate(
            con, path=tmp_path, now=NOW, steps=steps_with(migrations.function_step(top, broken))
        )
    assert "half" not in names(con)
    assert migrations.schema_version(con, tmp_path) == top - 1

    def mended(connection):
        connection.execute("CREATE TABLE half(a INTEGER)")

    step = migrations.function_step(top, mended)
    migrations.migrate(con, path=tmp_path, now=NOW, steps=steps_with(step))
    assert "half" in names(con)
    assert migrations.schema_version(con, tmp_path) == top


def test_a_newer_schema_is_refused_with_a_sentence(tmp_path):
    path = tmp_path / "new.duckdb"
    shutil.copyfile(FIRST, path)
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (999, 'later', 'x', '2027-01-01')")
    with pytest.raises(
        NewerSchemaError, match=r"schema 999 is newer than .* update freshet"
    ) as caught:
        Database.open(path, now=NOW)
    assert "\n" not in str(caught.value)
    with duckdb.connect(str(path)) as connection:  # untouched, and not held
        assert migrations.schema_version(connection, path) == 999


def test_a_changed_step_is_refused(tmp_path):
    path = tmp_path / "changed.duckdb"
    shutil.copyfile(FIRST, path)
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE schema_migrations SET checksum = 'other' WHERE version = 1")
    with pytest.raises(MigrationError, match=r"step 1 \(core\) differs"):
        Database.open(path, now=NOW)


def test_views_are_made_again_when_their_text_changed(tmp_path):
    path = tmp_path / "views.duckdb"
    shutil.copyfile(FIRST, path)
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE meta SET value = 'old' WHERE key = 'views_checksum'")
        connection.execute("CREATE OR REPLACE VIEW coverage AS SELECT 1 AS stale")
    with Database.open(path, now=NOW) as db:
        assert "share_users" in db.query("SELECT * FROM coverage").column_names


def test_nothing_of_the_schema_waits_in_the_write_ahead_log(tmp_path):
    path = tmp_path / "x.duckdb"
    with Database.open(path, now=NOW):
        wal = path.with_name("x.duckdb.wal")
        assert not wal.exists() or wal.stat().st_size == 0


def test_defaults_are_literals_and_nothing_is_indexed(tmp_path):
    with Database.open(tmp_path / "x.duckdb", now=NOW) as db:
        assert db.query("SELECT * FROM duckdb_indexes()").num_rows == 0
        kinds = db.query("SELECT DISTINCT constraint_type AS c FROM duckdb_constraints()")
        assert kinds["c"].to_pylist() in ([], ["NOT NULL"])
        defaults = db.query(
            "SELECT DISTINCT column_default AS d FROM duckdb_columns() "
            "WHERE column_default IS NOT NULL AND NOT internal"
        )
        assert all(
            "(" not in d.replace("CAST('t' AS BOOLEAN)", "") for d in defaults["d"].to_pylist()
        )
