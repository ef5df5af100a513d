"""`freshet status`: positions, lag, tokens and failures of a database."""

from collections.abc import Sequence
from pathlib import Path

import click

from infra.asking.owner import owner_of
from infra.asking.questions import AskStatus
from infra.options import db_option, json_option, read_settings, settings_options
from infra.output import cell, console, iso_ms, print_json, table
from stream.status import Row, Status


@click.command("status")
@db_option
@settings_options
@json_option
def command(
    db_path: Path, config_file: Path | None, assignments: tuple[str, ...], as_json: bool
) -> None:
    """Print the state of a database: sizes, partitions and lag, tokens and what is due, dead letters, accepted losses."""
    with owner_of(db_path, read_settings(config_file, assignments)) as owner:
        found = owner.ask(AskStatus())
    if as_json:
        print_json(found)
    else:
        _print(db_path, found)


def _print(path: Path, found: Status) -> None:
    out = console()
    sizes = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in found.sizes.items())
    out.print(f"{path}: {sizes}")
    partitions = [
        {
            "partition": f"{row['topic']}[{row['part']}]",
            "next": row["next_off"],
            "scored": row["scored_off"],
            "watermark": iso_ms(row["watermark"]),
            **{name: row[name] for name in ("records", "dead", "late", "duplicates", "displaced")},
        }
        for row in found.partitions
    ]
    names = ("serving", "users", "users_covered", "interactions", "interactions_covered", "groups")
    covered = [
        {"model": row["model_version"], **{name: row[name] for name in names}}
        for row in found.coverage
    ]
    lost = [
        {
            "partition": f"{row['topic']}[{row['part']}]",
            "from": row["first_off"],
            "to": row["next_off"],
            "accepted": iso_ms(row["accepted_at_ms"]),
        }
        for row in found.lost
    ]
    bounded = [
        {"what": name.replace("_", " "), **{key: cell(value) for key, value in row.items()}}
        for name, row in found.limits.items()
    ]
    for title, rows in (
        ("limits", bounded),
        ("partitions", partitions),
        ("tokens", covered),
        ("due", found.staleness),
        ("dead letters", found.dead_letters),
        ("lost, and accepted", lost),
    ):
        _print_rows(title, rows)
    for failure in found.failures:
        out.print(f"refresh failure: {failure}")


def _print_rows(title: str, rows: Sequence[Row]) -> None:
    if rows:
        columns = list(rows[0])
        shown = [[row[name] for name in columns] for row in rows]
        names = [name.replace("_", " ") for name in columns]
        console().print(table(title, names, shown))
