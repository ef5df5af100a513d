"""The owner of a database: what it answers while it works, what it refuses, what happens when somebody leaves."""

import os
import socket
import stat
import threading
from contextlib import nullcontext
from time import monotonic, sleep

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from infra.asking import owner as asking
from infra.asking.questions import AskRows
from infra.asking.sockets import connect, listening, socket_of
from infra.errors import AnswerError, InputError
from infra.exits import ExitCode
from infra.settings import load
from tests.infra.asking.conftest import owned, owner_process
from tests.infra.test_looking import busiest

SLOW = "select count(*) as n from range(1000000) a, range(1000000) b"


def until(condition, seconds=20):
    """Wait for a condition, at most so long."""
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end
        sleep(0.01)


def test_the_socket_is_for_this_user_only_and_goes_with_its_owner(world):
    path = socket_of(world.db)
    assert path.name == "x.duckdb.sock"
    with owned(world, world.db):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_status_follows_a_running_owner(freshet, made, tmp_path):
    with owned(made, tmp_path / "y.duckdb") as pipeline:
        figures = []
        for _ in range(2):
            pipeline.run(max_records=100)
            figures.append(freshet("status", "--db", tmp_path / "y.duckdb", "--json").json)
    before, after = figures
    stored = [
        next(row["next_off"] for row in found["partitions"] if row["topic"] == "log.jsonl")
        for found in figures
    ]
    assert stored == [100, 200]
    assert after["cache"]["hits"] > before["cache"]["hits"] > 0
    assert before["limits"]["cached_users"]["used"] == before["cache"]["users"] > 0


def test_users_and_items_that_came_while_it_ran_are_known(freshet, made, tmp_path):
    line = ("inspect", "user", busiest(made), "--db", tmp_path / "y.duckdb", "--json")
    with owned(made, tmp_path / "y.duckdb") as pipeline:
        assert freshet(*line).code == ExitCode.INPUT
        pipeline.run()
        shown = freshet(*line)
        assert shown.json["slate"]["reason"] == "personal"


def test_a_note_says_that_settings_of_the_command_are_not_used(freshet, world, running):
    outcome = freshet("status", "--db", world.db, "--set", "database.rotate_rows=7", "--json")
    assert "with its settings" in outcome.err
    assert outcome.json["limits"]["hot_rows"]["limit"] != 7
    assert not freshet("status", "--db", world.db).err


@pytest.mark.parametrize("command", ["replay", "doctor"])
def test_what_needs_the_file_itself_says_who_has_it(freshet, world, running, command):
    line = {
        "replay": ["replay", world.log, "--db", world.db],
        "doctor": ["doctor", "--repair-wal", "--db", world.db],
    }[command]
    outcome = freshet(*line)
    assert outcome.code == ExitCode.LOCKED
    assert outcome.err.count("\n") == 1
    assert f"process {os.getpid()}: stop it first" in outcome.err


@pytest.mark.parametrize("suffix", ["parquet", "csv", "arrow"])
@pytest.mark.parametrize("asked", ["owner", "file"])
def test_many_rows_go_to_a_file_of_the_one_who_asks(freshet, world, tmp_path, suffix, asked):
    out = tmp_path / f"rows.{suffix}"
    line = ("sql", "select i, i * 0.5 as h from range(200000) t(i)", "--db", world.db, "--out", out)
    with owned(world, world.db) if asked == "owner" else nullcontext():
        outcome = freshet(*line)
    assert (outcome.code, outcome.out) == (0, "")
    assert "200,000 rows" in outcome.err
    read = {
        "parquet": pq.read_table,
        "csv": pyarrow.csv.read_csv,
        "arrow": lambda path: pyarrow.ipc.open_file(path).read_all(),
    }[suffix](out)
    assert read["i"].to_pylist() == list(range(200_000))
    assert [path.name for path in tmp_path.glob("rows*")] == [out.name]


def test_a_file_of_another_kind_is_refused(freshet, world, tmp_path):
    outcome = freshet("sql", "select 1", "--db", world.db, "--out", tmp_path / "rows.xls")
    assert outcome.code == ExitCode.INPUT
    assert ".parquet, .csv, .arrow" in outcome.err


def test_a_question_that_takes_too_long_is_stopped_and_others_go_on(freshet, world):
    with owned(world, world.db, limit_s=0.5):
        outcome = freshet("sql", SLOW, "--db", world.db)
        assert outcome.code == ExitCode.USAGE
        assert "longer than 0.5 s" in outcome.err
        assert freshet("sql", "select 42 as a", "--db", world.db, "--csv").out == "a\n42\n"


def test_rows_that_take_too_long_end_with_a_line(freshet, world):
    with owned(world, world.db, limit_s=0.5):
        endless = "select sum(i) over (order by i) as s from range(1000000000) t(i)"
        mixed = f"select i from range(500000) t(i) union all ({SLOW})"
        for text in (endless, mixed):
            outcome = freshet("sql", text, "--db", world.db, "--limit", 0, "--csv")
            assert outcome.code == ExitCode.USAGE
            assert "longer than 0.5 s" in outcome.err


def test_a_reader_that_takes_nothing_is_cut_off(world):
    with owned(world, world.db, limit_s=0.5):
        found = asking.SocketOwner(connect(socket_of(world.db)))
        endless = AskRows(text="select i, i as j from range(1000000000) t(i)", limit=0)
        with found.rows(endless) as rows:
            sleep(1)
            with pytest.raises(AnswerError):
                list(rows.batches)
        assert connect(socket_of(world.db)) is not None


def test_questions_of_those_who_left_are_stopped(freshet, world, running):
    loaded = load(environ={})
    for _ in range(4):  # twice as many as are answered at once
        with asking.owner_of(world.db, loaded) as owner:
            question = asking.wire.encode_question(AskRows(text=SLOW, limit=0))
            owner._connection.request("POST", asking.wire.ASK, question)
    started = monotonic()
    assert freshet("sql", "select 42 as a", "--db", world.db, "--csv").out == "a\n42\n"
    assert monotonic() - started < 20


def test_an_owner_that_dies_is_told_in_one_line_and_its_socket_stands_in_nobodys_way(
    freshet, world
):
    with owner_process(world, world.db) as process:
        with asking.owner_of(world.db, load(environ={})) as owner:
            timer = threading.Timer(0.3, process.kill)
            timer.start()
            with pytest.raises(AnswerError, match="ended before it had answered"):
                owner.rows(AskRows(text=SLOW, limit=0)).__enter__()
            timer.join()
        process.wait()
    assert socket_of(world.db).exists()
    assert freshet("status", "--db", world.db).code == 0  # the file is free: opened here
    with owned(world, world.db):
        assert "limits" in freshet("status", "--db", world.db).out


def test_a_question_of_another_version_is_refused_in_one_line(world, running):
    found = asking.SocketOwner(connect(socket_of(world.db)))
    found._connection.request("POST", asking.wire.ASK, b"\x81\xa4type\xa6future")
    with pytest.raises(AnswerError, match="same version") as caught:
        raise asking.wire.refused(found._connection.getresponse().read())
    assert caught.value.exit_code == ExitCode.USAGE


def test_something_else_in_the_socket_s_place_is_left_alone(tmp_path):
    path = tmp_path / "x.duckdb.sock"
    path.write_text("mine")
    with pytest.raises(InputError, match="move it away"), listening(path):
        pass
    assert path.read_text() == "mine"


def test_a_second_listener_is_refused(tmp_path):
    path = tmp_path / "x.duckdb.sock"
    with (
        listening(path),
        pytest.raises(InputError, match="another process listens"),
        listening(path),
    ):
        pass
    assert connect(path) is None


def test_a_long_folder_is_no_hindrance_and_a_long_name_is_told(tmp_path):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    path = socket_of(folder / "x.duckdb")
    assert len(str(path)) > 107
    with listening(path) as made:
        found = connect(path)
        taken, _ = made.accept()
        assert isinstance(found, socket.socket)
        found.close()
        taken.close()
    assert not path.exists()
    with pytest.raises(InputError, match="shorter name"), listening(tmp_path / ("n" * 120)):
        pass


def test_without_a_socket_a_held_file_is_refused(freshet, world, running):
    socket_of(world.db).unlink()
    outcome = freshet("status", "--db", world.db)
    assert outcome.code == ExitCode.LOCKED
    assert str(os.getpid()) in outcome.err
