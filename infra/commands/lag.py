"""`freshet lag`: how far every partition is read, in records and in seconds."""

from pathlib import Path

import click

from infra.asking.owner import owner_of
from infra.asking.questions import AskStanding
from infra.live import live_extra
from infra.options import FILE, json_option, read_settings, settings_options
from infra.output import console, duration, print_json, table
from stream.clock import WallClock, to_ms

with live_extra():
    from stream.kafka.admin import lag

COLUMNS = ["topic", "part", "stored", "committed", "end", "records", "age"]


@click.command("lag")
@click.option("--db", "db_path", type=FILE, metavar="FILE", help="A database: show what it stores.")
@settings_options
@json_option
def command(
    db_path: Path | None, config_file: Path | None, assignments: tuple[str, ...], as_json: bool
) -> None:
    """Print, per partition, what is stored, what the group has committed, and where the log ends.

    `records` and `age` count from what the database stores, without --db from what the group has
    committed, which is only a signal and follows within seconds; the age is that of the first record
    not read yet.
    """
    loaded = read_settings(config_file, assignments)
    stored = None
    if db_path is not None:
        with owner_of(db_path, loaded) as owner:
            standing = owner.ask(AskStanding())
        stored = {(one.topic, one.part): one.next_off for one in standing}
    rows = lag(loaded.settings.kafka, stored=stored, now_ms=to_ms(WallClock().now()))
    if as_json:
        print_json(rows)
        return
    cells = [
        (
            row.topic,
            row.part,
            row.stored,
            row.committed,
            row.end,
            row.records,
            duration(row.seconds),
        )
        for row in rows
    ]
    console().print(
        table(loaded.settings.kafka.bootstrap_servers, COLUMNS, cells, right=COLUMNS[1:])
    )
