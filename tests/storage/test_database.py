import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pytest

from storage.database import Database, get_meta, holder_pid, set_meta
from storage.errors import (
    CorruptFileError,
    LockedError,
    QueryError,
    StorageError,
)
from storage.records import to_ms, to_timestamp
from tests.storage.support import NOW, T0

CHILD = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from storage.database import Database, set_meta

db = Database.open(Path(sys.argv[1]), now=datetime(2026, 1, 1, tzinfo=UTC))
with db.transaction() as tx:
    set_meta(tx, "whole", "yes")
with db.transaction() as tx:
    set_meta(tx, "half", "written")
    tx.execute("INSERT INTO dead_letters(topic, part, off, reason, ingested_at) SELECT 't', 0, range, 'r', '2026-01-01' "
               "FROM range(200000)")
    print("ready", flush=True)
    sys.stdin.read()
"""


def child_env():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def one(db, sql):
    return db.query(sql).to_pylist()[0]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shard.duckdb"


@pytest.fixture
def holder(path):
    """Another process in the middle of a transaction on the file."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_env(),
    )
    assert child.stdout.readline() == "ready\n"
    yield child
    child.kill()
    child.communicate()


def test_a_locked_file_is_refused_with_the_pid_of_its_holder(path, holder):
    with pytest.raises(LockedError, match=f"held by process {holder.pid}") as caught:
        Database.open(path, now=NOW)
    assert caught.value.pid == holder.pid
    assert "\n" not in str(caught.value)
    assert holder_pid(path) == holder.pid


def test_a_killed_process_leaves_whole_transactions_only(path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert holder_pid(path) is None
    with Database.open(path, now=NOW) as db:
        assert get_meta(db, "whole") == "yes"
        assert get_meta(db, "half") is None
        assert one(db, "SELECT count(*) AS n FROM dead_letters") == {"n": 0}
        with db.transaction() as tx:
            set_meta(tx, "after", "fine")
    with Database.open(path, now=NOW) as db:
        assert get_meta(db, "after") == "fine"


def test_the_owner_sees_itself_as_holder_and_can_not_open_twice(path):
    assert holder_pid(path) is None
    with Database.open(path, now=NOW):
        assert holder_pid(path) == os.getpid()
        with pytest.raises(LockedError, match=str(os.getpid())):
            Database.open(path, now=NOW)
        probe = f"from storage.database import holder_pid; from pathlib import Path; print(holder_pid(Path({str(path)!r})))"
        seen = subprocess.run(
            [sys.executable, "-c", probe],
            capture_output=True,
            text=True,
            check=True,
            env=child_env(),
        )
        assert seen.stdout.strip() == str(os.getpid())  # the refused second opening kept the lock
    assert holder_pid(path) is None
    Database.open(path, now=NOW).close()


@pytest.mark.parametrize("damage", ["noise", "cut", "header"])
def test_a_damaged_file_is_refused_in_one_line(path, damage):
    with Database.open(path, now=NOW) as db, db.transaction() as tx:
        set_meta(tx, "x", "y" * 5000)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "noise": b"no database at all" * 1000,
            "cut": whole[: len(whole) // 3],
            "header": whole[:8] + b"\0" * 5000 + whole[5008:],
        }[damage]
    )
    with pytest.raises(CorruptFileError, match=r"restore a copy|check the path") as caught:
        Database.open(path, now=NOW)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_foreign_duckdb_file_is_left_alone(path):
    with duckdb.connect(str(path)) as other:
        other.execute("CREATE TABLE mine(a INTEGER)")
    with pytest.raises(CorruptFileError, match="not one of freshet's"):
        Database.open(path, now=NOW)
    with duckdb.connect(str(path)) as other:
        assert other.execute("SHOW TABLES").fetchall() == [("mine",)]


def test_a_missing_folder_is_named(path):
    with pytest.raises(StorageError, match="does not exist; create it"):
        Database.open(path.parent / "no" / "x.duckdb", now=NOW)


def test_files_have_the_storage_version_that_older_duckdb_opens(path):
    with Database.open(path, now=NOW) as db:
        info = one(
            db, "SELECT tags['storage_version'] AS v FROM duckdb_databases() WHERE NOT internal"
        )
    assert info["v"].startswith("v1.0.0")


def test_token_bytes_are_stored_uncompressed(path):
    with Database.open(path, now=NOW) as db:
        with db.transaction() as tx:
            tx.execute(
                "INSERT INTO token_groups(user_idx, model_version, segment, k, layers, d_kv, dtype, checksum,"
                " bytes, first_h_ts, first_h_seq, first_h_part, first_h_off, first_displaced, first_row_off,"
                " last_h_ts, last_h_seq, last_h_part, last_h_off, last_displaced, last_row_off, n_items,"
                " first_off, last_off, device, compute_dtype, run_id, created_at, kv)"
                " SELECT range, 'v', 0, 1, 1, 1, 'float16', 0, 4096, '2026-01-01', 0, 0, 0, false, 0,"
                " '2026-01-01', 0, 0, 0, false, 0, 1, 0, 0, 'cpu', 'float32', 1, '2026-01-01',"
                " repeat('a', 4096)::BLOB FROM range(3000)"
            )
        db.checkpoint()
        found = db.query(
            "SELECT DISTINCT compression FROM pragma_storage_info('token_groups') "
            "WHERE column_name = 'kv' AND segment_type = 'BLOB'"
        )
        assert found["compression"].to_pylist() == ["Uncompressed"]


def test_an_exception_rolls_everything_back_and_runs_the_hooks(path):
    calls = []
    with Database.open(path, now=NOW) as db:

        def fail():
            with db.transaction() as tx:
                tx.on_commit(lambda: calls.append("commit"))
                tx.on_rollback(lambda: calls.append("first"))
                tx.on_rollback(lambda: calls.append("second"))
                set_meta(tx, "a", "1")
                assert get_meta(tx, "a") == "1"
                assert get_meta(db, "a") is None
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert get_meta(db, "a") is None
        with db.transaction() as tx:
            tx.on_commit(lambda: calls.append("commit"))
            set_meta(tx, "a", "2")
        assert get_meta(db, "a") == "2"
    assert calls == ["second", "first", "commit"]


def test_transactions_of_one_thread_do_not_nest(path):
    def nest(db):
        with db.transaction() as tx:
            set_meta(tx, "a", "1")
            with db.transaction():
                pass

    with Database.open(path, now=NOW) as db:
        with pytest.raises(StorageError, match="already in a transaction"):
            nest(db)
        with db.transaction(), pytest.raises(StorageError, match="already"):
            db.checkpoint()
        assert get_meta(db, "a") is None


def test_an_interrupt_after_the_commit_does_not_run_the_rollback_hooks(path):
    calls = []
    with Database.open(path, now=NOW) as db:

        def interrupted():
            with db.transaction() as tx:
                tx.on_commit(lambda: calls.append("commit"))
                tx.on_rollback(lambda: calls.append("rollback"))
                set_meta(tx, "a", "1")
                db._writer.commit()  # as if the interrupt came right after it
                raise KeyboardInterrupt

        def before():
            with db.transaction() as tx:
                tx.on_rollback(lambda: calls.append("rollback"))
                set_meta(tx, "b", "1")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        with pytest.raises(KeyboardInterrupt):
            before()
        assert (get_meta(db, "a"), get_meta(db, "b")) == ("1", None)
    assert calls == ["commit", "rollback"]


def test_a_refused_statement_is_one_line_and_the_database_goes_on(path):
    with Database.open(path, now=NOW) as db:

        def fail():
            with db.transaction() as tx:
                set_meta(tx, "a", "1")
                tx.execute("INSERT INTO nowhere VALUES (1)")

        with pytest.raises(QueryError) as caught:
            fail()
        assert "\n" not in str(caught.value)
        with pytest.raises(QueryError):
            db.query("SELECT * FROM nowhere")
        assert get_meta(db, "a") is None
        with db.transaction() as tx:
            set_meta(tx, "a", "1")


def test_python_variables_are_not_tables(path):
    outside = pa.table({"a": [1]})
    with Database.open(path, now=NOW) as db:
        with pytest.raises(QueryError, match="outside"):
            db.query("SELECT * FROM outside")
        assert one(db, "SELECT 1 AS a") == {"a": 1}
        assert db.query("SELECT * FROM given", tables={"given": outside}).num_rows == 1
        with pytest.raises(QueryError, match="given"):
            db.query("SELECT * FROM given")


def test_a_snapshot_does_not_see_later_commits(path):
    with Database.open(path, now=NOW) as db:
        with db.snapshot() as snap:
            assert get_meta(snap, "a") is None
            with db.transaction() as tx:
                set_meta(tx, "a", "1")
            assert get_meta(snap, "a") is None
        assert get_meta(db, "a") == "1"


def test_threads_read_while_another_writes(path):
    with Database.open(path, now=NOW) as db:
        wrong = []

        def read():
            for _ in range(30):
                n = one(db, "SELECT count(*) AS n FROM journal")["n"]
                if n % 10:
                    wrong.append(n)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for start in range(0, 100, 10):
            with db.transaction() as tx:
                for i in range(start, start + 10):
                    tx.execute(
                        "INSERT INTO journal VALUES (?, 'config', '', '{}', '2026-01-01')", [i]
                    )
        for thread in threads:
            thread.join()
        assert wrong == []
        assert one(db, "SELECT count(*) AS n FROM journal")["n"] == 100


def test_milliseconds_fill_timestamp_columns(path):
    row = {"topic": ["t"], "part": [0], "next_off": [1], "scored_at_ms": [T0 + 1]}
    with Database.open(path, now=NOW) as db:
        with db.transaction() as tx:
            assert tx.insert("scored_positions", pa.table(row)) == 1
            assert tx.insert("scored_positions", pa.table(row).slice(0, 0)) == 0
            with pytest.raises(StorageError, match="no column"):
                tx.insert("meta; --", pa.table(row))
        stored = one(db, "SELECT epoch_ms(scored_at) AS ms, scored_at FROM scored_positions")
        assert stored["ms"] == T0 + 1
        assert stored["scored_at"] == datetime.fromtimestamp((T0 + 1) / 1000, UTC).replace(
            tzinfo=None
        )


def test_times_without_zone_are_refused_and_zones_become_utc():
    naive = datetime(2026, 1, 1)  # noqa: DTZ001
    with pytest.raises(ValueError, match="time zone"):
        to_ms(naive)
    with pytest.raises(ValueError, match="time zone"):
        to_timestamp(naive)
    assert to_ms(datetime.fromisoformat("1970-01-01T01:00:00+01:00")) == 0
    assert to_ms(datetime(1969, 12, 31, 23, 59, 59, 999_000, UTC)) == -1
    assert to_timestamp(datetime.fromisoformat("2026-01-01T01:00:00+01:00")) == naive


def test_a_closed_database_says_so(path):
    db = Database.open(path, now=NOW)
    db.close()
    db.close()
    with pytest.raises(StorageError, match="closed"):
        db.query("SELECT 1")
    with pytest.raises(StorageError, match="closed"), db.transaction():
        pass
