"""A full disk and a read-only one: the right error, and nothing of what was committed is gone."""

import resource
import signal
from contextlib import contextmanager

import duckdb
import pytest

from storage.connection import opening_error
from storage.database import Database, get_meta, set_meta
from storage.errors import CorruptFileError, DiskFullError, StorageError
from tests.storage.support import NOW

MANY = "INSERT INTO meta SELECT 'many' || range, repeat('x', 500) || range FROM range(20000)"


@contextmanager
def no_file_above(size):
    """Deny this process files longer than `size` bytes: the writes fail as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_transaction_that_finds_no_room_leaves_what_was_committed(tmp_path):
    path = tmp_path / "x.duckdb"
    with Database.open(path, now=NOW) as db:
        with db.transaction() as tx:
            set_meta(tx, "before", "kept")
        size = path.stat().st_size
        with (
            no_file_above(size),
            pytest.raises(DiskFullError, match=r"x\.duckdb: no room to write .* run again"),
            db.transaction() as tx,
        ):
            tx.execute(MANY)
    with Database.open(path, now=NOW) as db:
        assert get_meta(db, "before") == "kept"
        assert (
            db.query("SELECT count(*) AS n FROM meta WHERE key LIKE 'many%'")["n"][0].as_py() == 0
        )
        with db.transaction() as tx:
            tx.execute(MANY)


@pytest.mark.parametrize("size", [12_288, 100_000, 700_000])
def test_a_database_that_can_not_be_created_for_want_of_room_is_created_later(tmp_path, size):
    path = tmp_path / "x.duckdb"
    with no_file_above(size), pytest.raises(DiskFullError, match="no room"):
        Database.open(path, now=NOW)
    with Database.open(path, now=NOW) as db:
        assert db.query("SELECT count(*) AS n FROM coverage")["n"][0].as_py() == 0


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("IO Error: Cannot open file: Read-only file system", StorageError),
        ("IO Error: Cannot open file: Permission denied", StorageError),
        ("IO Error: Could not write file: No space left on device", DiskFullError),
        ("IO Error: Could not write file: File too large", DiskFullError),
        ("IO Error: Could not read enough bytes", CorruptFileError),
    ],
)
def test_a_file_that_can_not_be_opened_is_called_damaged_only_if_it_is(tmp_path, text, kind):
    found = opening_error(tmp_path / "x.duckdb", duckdb.IOException(text))
    assert type(found) is kind
    assert "x.duckdb" in str(found)
