"""`docs/reference.md`, written from the code it describes: commands, settings, exit codes, metrics, views.

`make reference` rewrites the file; a test compares it with what this module returns.
"""

import inspect
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import get_args, get_type_hints

import click

from infra.cli import COMMANDS, cli
from infra.exits import MEANINGS
from infra.settings import Settings
from storage.database import Database
from storage.faults import POINTS
from stream.metrics import METRICS

WIDTH = 100
PEOPLE_VIEWS = (
    "user_token_state",
    "token_staleness",
    "user_timeline",
    "ingest_lag",
    "coverage",
    "interactions",
    "history",
    "counters",
)


def reference() -> str:
    """Return the whole reference page as Markdown."""
    parts = [
        "# Reference",
        "Written by `make reference` from the code; edit the code, not this page.",
        *_commands(),
        *_settings(),
        *_exit_codes(),
        *_metrics(),
        *_fault_points(),
        *_views(),
    ]
    return "\n\n".join(parts) + "\n"


def cli_context() -> click.Context:
    """Return the context a call of `freshet` has; commands remember the help flags of their first one."""
    settings = {**cli.context_settings, "max_content_width": WIDTH, "terminal_width": WIDTH}
    return click.Context(cli, info_name="freshet", **settings)


def setting_rows() -> Iterator[tuple[str, object, str]]:
    """Yield (key, default, meaning) of every setting, from the configs and their docstrings."""
    for section, kind in get_type_hints(Settings).items():
        default = getattr(Settings(), section)
        yield from _rows_of(kind, default, section)


def view_comments() -> dict[str, str]:
    """Return what the schema says about each view, by name."""
    text = resources.files("storage").joinpath("views.sql").read_text(encoding="utf-8")
    found = re.findall(r"((?:-- [^\n]*\n)*)CREATE OR REPLACE VIEW (\w+)", text)
    return {
        name: " ".join(line.removeprefix("--").strip() for line in comment.splitlines())
        for comment, name in found
    }


def _commands() -> Iterator[str]:
    yield "## Commands"
    context = cli_context()
    yield _help(cli, context)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        if command is None:
            continue
        yield f"### freshet {name}"
        inner = click.Context(command, info_name=name, parent=context, terminal_width=WIDTH)
        yield _help(command, inner)
        children = command.commands if isinstance(command, click.Group) else {}
        for below, child in children.items():
            yield f"#### freshet {name} {below}"
            yield _help(
                child, click.Context(child, info_name=below, parent=inner, terminal_width=WIDTH)
            )


def _help(command: click.Command, context: click.Context) -> str:
    lines = (line.rstrip() for line in command.get_help(context).splitlines())
    return "```\n" + "\n".join(lines) + "\n```"


def _settings() -> Iterator[str]:
    yield "## Settings"
    yield (
        "A TOML file (`--config`, `$FRESHET_CONFIG`, else `./freshet.toml`), then environment variables"
        " `FRESHET_SECTION__KEY`, then flags; later ones win. `freshet config show` prints what is in use and"
        " where it comes from. Where nothing is set, `stream.event_types`, `stream.visit_gap_ms`,"
        " `refresh.segment_len`, `refresh.r_min` and `serving.r_max` are those of the model."
    )
    rows = [f"| `{key}` | `{default}` | {meaning} |" for key, default, meaning in setting_rows()]
    yield "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def _rows_of(kind: type, default: object, prefix: str) -> Iterator[tuple[str, object, str]]:
    meanings = _attributes(kind)
    hints = get_type_hints(kind)
    for item in fields(kind):
        key, value = f"{prefix}.{item.name}", getattr(default, item.name)
        if is_dataclass(value):
            yield from _rows_of(type(value), value, key)
            continue
        yield key, _shown(value), meanings.get(item.name, "")
        inner = [one for one in get_args(hints[item.name]) if is_dataclass(one)]
        for one in inner:
            if isinstance(one, type):
                yield from _rows_of(one, one(), f"{key}.NAME")


def _shown(value: object) -> object:
    return (
        "none"
        if value is None
        else ("true" if value is True else "false" if value is False else value)
    )


def _attributes(kind: type) -> dict[str, str]:
    """Return the meaning of each field from the `Attributes:` part of a class docstring."""
    _, _, part = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {6,}.*)*)", part, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _exit_codes() -> Iterator[str]:
    yield "## Exit codes"
    yield "An error is one line on stderr, `freshet: error: ...`; `--debug` adds the traceback."
    rows = [f"| {code} | {meaning} |" for code, meaning in MEANINGS.items()]
    yield "\n".join(["| code | meaning |", "|---|---|", *rows])


def _metrics() -> Iterator[str]:
    yield "## Metrics"
    yield "On `/metrics` of `freshet run`; beside them stand those of the process (`process_*`)."
    rows = (
        f"| `{one.name}` | {one.kind} | {one.unit} | {', '.join(one.labels)} | {one.meaning} |"
        for one in METRICS
    )
    yield "\n".join(["| name | type | unit | labels | meaning |", "|---|---|---|---|---|", *rows])


def _fault_points() -> Iterator[str]:
    yield "## Fault points"
    yield (
        "For tests: `FRESHET_FAULT=POINT:NTH` makes a `freshet` process kill itself with SIGKILL when it reaches"
        " a point the nth time, `FRESHET_FAULT=POINT:NTH:DELAY_MS` so long after it, and"
        " `FRESHET_FAULT_TRACE=FILE` writes down every point it passes. `freshet torture` uses them; without the"
        " variables a point is one comparison."
    )
    rows = [f"| `{point}` | {meaning} |" for point, meaning in POINTS.items()]
    yield "\n".join(["| point | what is half done there |", "|---|---|", *rows])


def _views() -> Iterator[str]:
    yield "## Views"
    yield "For `freshet sql`; times are UTC. `freshet sql 'show tables' --db FILE` lists the tables too."
    comments = view_comments()
    with tempfile.TemporaryDirectory() as folder:
        start = datetime(2000, 1, 1, tzinfo=UTC)
        with Database.open(Path(folder) / "empty.duckdb", now=start) as db:
            for name in PEOPLE_VIEWS:
                columns = db.query(f"DESCRIBE {name}")["column_name"].to_pylist()
                listed = ", ".join(f"`{column}`" for column in columns)
                yield f"### {name}\n\n{comments[name]}\n\n{listed}".replace("\n\n\n\n", "\n\n")


if __name__ == "__main__":
    sys.stdout.write(reference())
