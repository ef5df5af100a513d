"""`freshet restore`: put a backup in the place of a database."""

from pathlib import Path

import click

from infra.commands.backup import print_copy
from infra.options import FILE, db_option, json_option
from storage.backup import restore
from stream.clock import WallClock


@click.command("restore")
@click.argument("backup", type=FILE)
@db_option
@click.option("--force", is_flag=True, help="Replace the database that is there.")
@json_option
def command(backup: Path, db_path: Path, force: bool, as_json: bool) -> None:
    """Check BACKUP as `freshet doctor` does, and put a copy of it in the place of a database.

    The log goes on where the backup ends: the next `run` or `replay` stores and answers again what came
    after it, with the same tokens and slate ids, as long as the log still has it.
    """
    done = restore(backup, db_path, now=WallClock().now(), force=force)
    print_copy(done, as_json=as_json)
