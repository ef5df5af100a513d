"""A process killed inside the write of a metadata block: mended, with nothing lost; other damage stays refused."""

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime

import duckdb
import pytest

from storage import torn
from storage.database import Database, get_meta
from storage.errors import CorruptFileError
from storage.torn import Mended, checksum, mend
from storage.wal import wal_of

NOW = datetime(2024, 1, 1, tzinfo=UTC)
START, BLOCK, PAGE = 3 * 4096, 256 * 1024, 4096
TABLES = 12
WRITER = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from storage.database import Database, set_meta
db = Database.open(Path(sys.argv[1]), now=datetime(2024, 1, 1, tzinfo=UTC))
for n in range(int(sys.argv[2])):
    with db.transaction() as tx:
        tx.execute(f"CREATE TABLE IF NOT EXISTS filler{n} AS SELECT range AS n, 'x' || range AS s FROM range(100)")
    db.checkpoint()
with db.transaction() as tx:
    set_meta(tx, "last", "x" * 50)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file as its process left it, killed with a transaction in the write-ahead log; and after one more checkpoint."""
    folder = tmp_path_factory.mktemp("made")
    before, after = folder / "before.duckdb", folder / "after.duckdb"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", WRITER, before, str(TABLES)], env=env, check=False)
    for suffix in ("", ".wal"):
        shutil.copy(f"{before}{suffix}", f"{after}{suffix}")
    with duckdb.connect(after) as db:
        db.execute("CHECKPOINT")
    return before, after


@pytest.fixture
def left(made, tmp_path):
    path = tmp_path / "x.duckdb"
    for suffix in ("", ".wal"):
        shutil.copy(f"{made[0]}{suffix}", f"{path}{suffix}")
    return path


def blocks(path):
    data = path.read_bytes()
    return [data[at : at + BLOCK] for at in range(START, len(data), BLOCK)]


def metadata(path):
    with duckdb.connect(path, read_only=True) as db:
        rows = db.execute("SELECT DISTINCT block_id FROM pragma_metadata_info()").fetchall()
    return {number for (number,) in rows}


def rewritten(made):
    """The blocks of metadata that the checkpoint wrote in their old places."""
    before, after = map(blocks, made)
    return sorted(number for number in metadata(made[0]) if before[number] != after[number])


def tear(made, left, which, pages):
    """Leave the file as a process does that dies in writing one of these blocks, the others before it; return that one."""
    old, new = map(blocks, made)
    places = rewritten(made)
    number = places.pop(which)
    for other in places:
        overwrite(left, START + other * BLOCK, new[other])
    half = new[number][: pages * PAGE] + old[number][pages * PAGE :]
    overwrite(left, START + number * BLOCK, half)
    return number, half


def overwrite(path, at, data):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_every_block_of_a_file_has_the_checksum_that_is_computed(made):
    found = [block for block in blocks(made[1]) if any(block)]
    assert len(found) >= 2
    assert all(torn._sound(block) for block in found)
    assert checksum(found[0][:-1] + b"\1") != checksum(found[0])


def test_a_checkpoint_writes_blocks_of_metadata_in_their_old_places(made):
    """What makes all this necessary: without it this file and its module can go."""
    assert len(rewritten(made)) >= 2


@pytest.mark.parametrize("which", [0, 1, -1])
@pytest.mark.parametrize("pages", [1, 2, 3, 5, 8, 13, 21])
def test_a_block_torn_anywhere_is_mended_and_nothing_is_lost(made, left, which, pages, caplog):
    _, half = tear(made, left, which, pages)
    assert not torn._sound(half)
    with Database.open(left, now=NOW) as db:
        assert get_meta(db, "last") == "x" * 50
        for n in range(TABLES):
            assert db.query(f"SELECT count(*) AS n, max(n) AS m FROM filler{n}").to_pylist() == [
                {"n": 100, "m": 99}
            ]
    copy = left.with_name("x.duckdb.torn1")
    assert copy.read_bytes() == half
    assert str(copy) in caplog.text


def test_a_sound_file_is_left_as_it_is(left):
    before = left.read_bytes()
    assert mend(left) is None
    assert left.read_bytes() == before


def test_a_file_without_a_write_ahead_log_is_never_mended(made, tmp_path):
    path = tmp_path / "x.duckdb"
    shutil.copy(made[1], path)
    assert not wal_of(path).exists()
    overwrite(path, START + rewritten(made)[0] * BLOCK, bytes(8))
    before = path.read_bytes()
    with pytest.raises(CorruptFileError, match="restore a copy or replay the log"):
        Database.open(path, now=NOW)
    assert path.read_bytes() == before


def test_damage_inside_parts_that_are_in_use_is_refused(made, left):
    """The bytes are those of no version of the block: what the file points to can not be read."""
    at = START + rewritten(made)[0] * BLOCK
    overwrite(left, at + 8, b"\xa5" * (BLOCK - 8))
    before = left.read_bytes()
    with pytest.raises(CorruptFileError):
        Database.open(left, now=NOW)
    assert left.read_bytes() == before
    assert not list(left.parent.glob("*.torn*"))


def test_a_damaged_block_of_data_is_never_given_a_new_checksum(made, left):
    for number in range(len(blocks(left))):
        if number not in metadata(made[0]):
            overwrite(left, START + number * BLOCK + 100, b"damage")
    before = left.read_bytes()
    assert mend(left) is None
    assert left.read_bytes() == before


def test_a_file_that_another_process_has_is_not_touched(left):
    holder = subprocess.Popen(
        [sys.executable, "-c", "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(1, flush=True); sys.stdin.read()", left],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    before = left.read_bytes()
    assert mend(left) is None
    assert left.read_bytes() == before
    holder.communicate()


def test_checks_that_fail_afterwards_take_the_repair_back(made, left, monkeypatch):
    number, _ = tear(made, left, 0, 1)
    before = left.read_bytes()
    broken = torn.run_checks
    monkeypatch.setattr(
        torn, "run_checks", lambda reader: [*broken(reader), broken(reader)[0].__class__(check="x", ok=False, detail="")]
    )  # fmt: skip
    assert mend(left) is None
    assert left.read_bytes() == before
    monkeypatch.undo()
    assert mend(left) == Mended(START + number * BLOCK, left.with_name("x.duckdb.torn1"))
