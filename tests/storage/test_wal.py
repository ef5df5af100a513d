"""A damaged write-ahead log is refused, cut on request, and nothing but its end is gone."""

import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from storage.database import Database, set_meta
from storage.errors import CorruptWalError
from storage.wal import repair_wal, wal_of

NOW = datetime(2024, 1, 1, tzinfo=UTC)
KEYS = 40
WRITER = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from storage.database import Database, set_meta
db = Database.open(Path(sys.argv[1]), now=datetime(2024, 1, 1, tzinfo=UTC))
for n in range(int(sys.argv[2])):
    with db.transaction() as tx:
        set_meta(tx, f"key{n}", "x" * 50)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def left(tmp_path):
    """A database whose process was killed with transactions in the write-ahead log."""
    path = tmp_path / "x.duckdb"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", WRITER, path, str(KEYS)], env=env, check=False)
    assert wal_of(path).stat().st_size > KEYS * 50
    return path


def keys(path):
    """Return the numbers of the keys that are there."""
    with Database.open(path, now=NOW) as db:
        found = db.query("SELECT key FROM meta WHERE key LIKE 'key%'")["key"].to_pylist()
    return sorted(int(key.removeprefix("key")) for key in found)


def overwrite(path, share):
    wal = wal_of(path)
    data = wal.read_bytes()
    at = int(len(data) * share)
    wal.write_bytes(data[:at] + bytes(len(data) - at))
    return wal.read_bytes()


def test_a_write_ahead_log_that_was_left_behind_is_taken_over(left):
    assert repair_wal(left) is None
    assert keys(left) == list(range(KEYS))


@pytest.mark.parametrize("share", [0.2, 0.61])
def test_a_damaged_one_is_refused_with_the_remedy_and_repaired(left, share):
    damaged = overwrite(left, share)
    with pytest.raises(CorruptWalError, match=r"x\.duckdb\.wal: damaged from byte .*--repair-wal"):
        Database.open(left, now=NOW)
    repaired = repair_wal(left)
    assert repaired.copy.read_bytes() == damaged
    assert repaired.kept_bytes + repaired.cut_bytes == len(damaged)
    assert repaired.kept_bytes <= share * len(damaged)
    found = keys(left)
    assert found == list(range(len(found)))
    assert 0 < len(found) < KEYS
    with Database.open(left, now=NOW) as db, db.transaction() as tx:
        set_meta(tx, "key999", "after")
    assert keys(left) == [*found, 999]


def test_an_earlier_copy_is_not_overwritten(left):
    earlier = left.with_name("x.duckdb.wal.damaged1")
    earlier.write_bytes(b"earlier")
    overwrite(left, 0.5)
    assert repair_wal(left).copy.name == "x.duckdb.wal.damaged2"
    assert earlier.read_bytes() == b"earlier"


def test_a_file_without_a_write_ahead_log_needs_no_repair(tmp_path):
    with Database.open(tmp_path / "x.duckdb", now=NOW):
        pass
    assert repair_wal(tmp_path / "x.duckdb") is None
