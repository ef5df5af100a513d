"""The command line: help, one line per error, exit codes that mean what they say."""

import os
import resource
import subprocess
import sys

import pytest

from infra.cli import COMMANDS, cli, run
from infra.exits import MEANINGS, ExitCode


def process(*arguments: str, **environ: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        arguments, check=False, capture_output=True, text=True, env={**os.environ, **environ}
    )


def error_line(outcome) -> str:
    """Return the one line of an error, after checking that there is just one."""
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("freshet: error: ")
    return lines[0]


def test_help_lists_every_command_and_exit_code(freshet):
    shown = freshet("--help")
    assert shown.code == 0
    for name in COMMANDS:
        assert f"  {name} " in shown.out
    for code, meaning in MEANINGS.items():
        assert f"{code}  {meaning}" in shown.out


def test_every_exit_code_has_a_meaning():
    assert {int(code) for code in ExitCode} == set(MEANINGS)


def test_help_needs_neither_torch_nor_duckdb_and_takes_less_than_a_second():
    script = (
        "import sys; from infra.cli import run; run(['--help']);"
        "heavy = {'torch', 'duckdb', 'numpy', 'pyarrow'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = process(sys.executable, "-c", script)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    # CPU time, so that a busy machine does not fail the test.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_a_help_page(freshet, name):
    shown = freshet(name, "--help")
    assert shown.code == 0
    assert shown.out.startswith(f"Usage: freshet {name}")
    assert len(cli.get_command(None, name).help) > 30


def test_looking_at_a_database_does_not_load_torch():
    names = ", ".join(f"infra.commands.{name}" for name in ("sql", "status", "config", "diff"))
    script = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert process(sys.executable, "-c", script).returncode == 0


def test_version_is_printed(freshet):
    assert freshet("--version").out.startswith("freshet, version ")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["replya"], "did you mean 'replay'?"),
        (["replay"], "Missing argument 'LOG'"),
        (["sql", "select 1"], "Missing option '--db'"),
        (["config", "shw"], "No such command 'shw'"),
        (["replay", "x", "--db", "y", "--nope"], "No such option"),
        (["recommend", "u", "--db", "y", "--at", "soon"], "is not a time"),
        (["replay", "x", "--db", "y", "--map", "user_id"], "is not of the form"),
        (["config", "show", "--set", "serving.top_k"], "KEY=VALUE"),
        (["config", "show", "--set", "serving.topk=1"], "did you mean 'serving.top_k'?"),
        (["config", "show", "--config", "absent.toml"], "absent.toml"),
    ],
)
def test_a_wrong_line_is_answered_with_one_line_and_code_2(freshet, arguments, part):
    outcome = freshet(*arguments)
    assert outcome.code == ExitCode.USAGE
    assert part in error_line(outcome)


def test_without_arguments_the_help_is_shown(freshet):
    outcome = freshet()
    assert outcome.code == ExitCode.USAGE
    assert outcome.out.startswith("Usage: freshet")


def test_an_unexpected_error_is_one_line_and_debug_shows_where(freshet, monkeypatch):
    def broken(*_: object, **__: object) -> int:
        raise ZeroDivisionError("a fault\nin two lines")

    monkeypatch.setattr(cli, "main", broken)
    plain = freshet("status")
    assert plain.code == ExitCode.UNEXPECTED
    assert "unexpected ZeroDivisionError: a fault in two lines" in error_line(plain)
    assert "Traceback" in freshet("status", "--debug").err


def test_an_interrupt_says_that_nothing_is_lost(freshet, monkeypatch):
    def interrupted(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    outcome = freshet("status")
    assert outcome.code == ExitCode.INTERRUPTED
    assert "resumes" in error_line(outcome)


def test_a_reader_that_leaves_early_is_no_error(made):
    line = f"{sys.executable} -m infra sql 'select * from range(100000)' --limit 0 --csv --db {made.db}"
    done = process("bash", "-o", "pipefail", "-c", f"{line} | head -1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "range\n"
    assert not done.stderr


def test_the_module_runs_like_the_command():
    arguments = ("-m", "infra", "config", "show", "serving", "--json")
    done = process(sys.executable, *arguments, FRESHET_SERVING__TOP_K="4")
    assert done.returncode == 0
    assert '"origin": "FRESHET_SERVING__TOP_K"' in done.stdout


def test_config_show_lists_every_setting(freshet):
    shown = freshet("config", "show", "--json").json
    keys = {row["key"] for row in shown}
    assert {"stream.lateness_ms", "model.readout.counters", "database.memory_limit"} <= keys
    assert freshet("config", "show").out.count("\n") > len(keys)


def test_run_returns_a_plain_number():
    assert run(["config", "show", "--json"]) == 0
