"""`freshet recommend`: the slate of one user at a given time."""

from datetime import datetime
from pathlib import Path

import click

from infra.asking.owner import owner_of
from infra.asking.questions import AskSlate
from infra.commands.inspect import print_slate
from infra.options import ANY_PATH, TIME, db_option, json_option, read_settings, settings_options
from infra.output import console, print_json
from stream.clock import to_ms


@click.command("recommend")
@click.argument("user_id")
@db_option
@click.option("--model", "model_path", type=ANY_PATH, help="Where the checkpoint is now.")
@click.option("--at", type=TIME, help="Time of the request (default: the newest event stored).")
@click.option("-k", "k", type=click.IntRange(min=1), help="Items (default: serving.top_k).")
@settings_options
@json_option
def command(
    user_id: str,
    db_path: Path,
    model_path: Path | None,
    at: datetime | None,
    k: int | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print what USER_ID would be recommended at a time, by the same code that scores events.

    A user the database does not know gets recent popularity, with the reason `cold_user`.
    """
    loaded = read_settings(config_file, assignments)
    question = AskSlate(user_id=user_id, at_ms=None if at is None else to_ms(at), top_k=k)
    with owner_of(db_path, loaded, model_path) as owner:
        found = owner.ask(question)
    if as_json:
        print_json(found.slate)
        return
    print_slate(console(), found.slate, found.words)
