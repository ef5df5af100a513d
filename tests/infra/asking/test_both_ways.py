"""Every question, asked twice: of the free file, and of the process that owns it. The answers are the same."""

import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest

from infra.asking.sockets import socket_of
from infra.cli import run
from infra.exits import ExitCode
from tests.infra.asking.conftest import owned, owner_process
from tests.infra.conftest import Outcome, World, world_in
from tests.infra.test_looking import busiest

LONG = "select i, hash(i) as h from range(20000) t(i)"
QUESTIONS = {
    "status": ["status"],
    "status as JSON": ["status", "--json"],
    "rows": ["sql", "select user_id, groups from user_token_state order by 1"],
    "rows with times": ["sql", "from ingest_lag order by topic", "--json"],
    "rows as CSV": ["sql", "from coverage", "--csv"],
    "first rows": ["sql", LONG, "--limit", "3"],
    "all rows": ["sql", LONG, "--limit", "0", "--csv"],
    "no rows": ["sql", "select 1 as a where false", "--json"],
    "every type": [
        "sql", "select 1.5::decimal(9,2) d, 'nan'::float f, {'a': [1]} s, '\\x00'::blob b, null n", "--json",
    ],
    "a table's bytes": ["sql", "select checksum, kv from token_groups order by 1", "--json"],
    "no SELECT": ["sql", "drop table meta"],
    "no SQL": ["sql", "selec 1"],
    "no such table": ["sql", "from nowhere"],
    "an error at a later row": [
        "sql", "select if(i < 400000, i, error('no')) as i from range(400001) t(i)", "--limit", "0",
    ],
    "a user": ["inspect", "user", "BUSIEST"],
    "a user as JSON": ["inspect", "user", "BUSIEST", "--json", "--rows", "3", "--at", "2024-03-01"],
    "no such user": ["inspect", "user", "u99"],
    "tokens": ["inspect", "tokens", "BUSIEST", "--newest", "2"],
    "tokens as JSON": ["inspect", "tokens", "BUSIEST", "--json"],
    "an item": ["inspect", "item", "i1"],
    "an item as JSON": ["inspect", "item", "i2", "--json"],
    "no such item": ["inspect", "item", "nothing"],
    "a slate": ["recommend", "BUSIEST", "-k", "5"],
    "a slate as JSON": ["recommend", "BUSIEST", "--json"],
    "a slate at a time": ["recommend", "BUSIEST", "--json", "--at", "2024-03-01"],
    "a cold user": ["recommend", "nobody", "--json"],
    "bad records": ["dlq", "list"],
    "bad records as JSON": ["dlq", "list", "--reason", "malformed", "--json"],
    "no such bad record": ["dlq", "show", "nothing", "0", "1"],
    "doctor": ["doctor"],
    "doctor with exactness": ["doctor", "--json", "--exactness", "3"],
}  # fmt: skip
VARIES = r"(database|file|wal|cached|arena)[ _](memory|bytes|users)"
"""What two processes with the same data need not agree on: memory, the log of the file, cached states."""


def asked(world: World) -> dict[str, Outcome]:
    """Return what every question prints."""
    user = busiest(world)
    found = {}
    for name, words in QUESTIONS.items():
        line = [user if word == "BUSIEST" else word for word in words]
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            code = run([*line, "--db", str(world.db)])
        found[name] = Outcome(code, out.getvalue(), err.getvalue())
    return found


def comparable(outcome: Outcome) -> tuple[int, object, str]:
    if not outcome.out.startswith("{"):
        lines = [line for line in outcome.out.splitlines() if not re.search(VARIES, line)]
        return outcome.code, lines, outcome.err
    found = outcome.json
    for name in [name for name in found.get("limits", ()) if re.search(VARIES, name)]:
        del found["limits"][name]
        found.pop("cache", None)
    return outcome.code, found, outcome.err


@pytest.fixture(scope="module")
def both(made, tmp_path_factory):
    """Return what every question printed: asked of the free file, then of the process that owns it."""
    folder = tmp_path_factory.mktemp("both") / "world"
    shutil.copytree(made.folder, folder)
    world = world_in(folder)
    of_file = asked(world)
    with owner_process(world, world.db) as owner:
        of_owner = asked(world)
        owner.stdin.close()
        assert owner.wait(30) == 0
    assert not socket_of(world.db).exists()
    return of_file, of_owner


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_owner_answers_as_the_file_does(both, name):
    of_file, of_owner = both
    assert comparable(of_owner[name]) == comparable(of_file[name])
    assert of_file[name].out or of_file[name].code != ExitCode.OK


def test_the_questions_cover_answers_refusals_and_errors_on_the_way(both):
    codes = {name: outcome.code for name, outcome in both[0].items()}
    assert {codes["a user"], codes["no such user"], codes["no SQL"]} == {0, 3, 2}
    assert "no" in both[1]["an error at a later row"].err


def test_slates_of_two_databases_are_compared_whoever_has_them(freshet, made, tmp_path):
    kept = {}
    for name, number in (("all", 10_000), ("newest", 50)):
        kept[name] = tmp_path / f"{name}.duckdb"
        done = freshet(
            "replay", made.log, "--db", kept[name], "--model", made.model, "--items", made.items,
            "--config", made.config, "--set", f"database.slate_log={number}", "--quiet",
        )  # fmt: skip
        assert done.code == 0, done.err
    slates = sum(1 for _ in made.slates.open())
    with owned(made, kept["newest"]):
        for left, right, compared in (
            (kept["all"], made.slates, slates),
            (made.slates, kept["newest"], 50),
            (kept["newest"], kept["all"], 50),
        ):
            outcome = freshet("diff", left, right, "--json")
            assert (outcome.code, outcome.err) == (0, "")
            assert outcome.json["compared"] == compared
    assert freshet("diff", made.db, made.slates).code == ExitCode.INPUT
