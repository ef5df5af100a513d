"""`freshet backup`: a consistent copy of a database, while it runs or not."""

from pathlib import Path

import click

from infra.asking.owner import owner_of
from infra.asking.questions import AskBackup
from infra.options import FILE, db_option, json_option, read_settings, settings_options
from infra.output import console, print_json, table
from storage.backup import BackupReport


@click.command("backup")
@click.argument("out", type=FILE)
@db_option
@click.option("--force", is_flag=True, help="Replace a backup that is there.")
@settings_options
@json_option
def command(
    out: Path,
    db_path: Path,
    force: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Copy a database to OUT, as it stands between two transactions.

    While a service runs the database, its process makes the copy (a relative OUT is of the folder you
    are in); events wait meanwhile, about a second per gigabyte, and slates go on. OUT has its name only
    when it is whole and has been opened once.
    """
    with owner_of(db_path, read_settings(config_file, assignments)) as owner:
        done = owner.ask(AskBackup(out=str(out.absolute()), force=force))
    print_copy(done, as_json=as_json)


def print_copy(done: BackupReport, *, as_json: bool) -> None:
    """Print what was copied, and how far it goes in each partition."""
    if as_json:
        print_json(done)
        return
    rows = [(f"{one.topic}[{one.part}]", one.next_off, one.scored_off) for one in done.positions]
    out = console()
    out.print(table("", ["partition", "next", "scored"], rows, right=["next", "scored"]))
    waited = f", events waited {done.held_s:.2f} s" if done.held_s else ""
    out.print(f"{done.path}: {done.bytes:,} bytes in {done.seconds:.2f} s{waited}", soft_wrap=True)
