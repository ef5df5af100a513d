"""`freshet config show`: the settings in use and where each value comes from."""

from pathlib import Path

import click

from infra.options import json_option, read_settings, settings_options
from infra.output import console, print_json, table


@click.group("config", help="Show the settings and where each value comes from.")
def command() -> None:
    """Group of the settings commands."""


@command.command("show")
@click.argument("prefix", required=False, default="")
@settings_options
@json_option
def show(
    prefix: str, config_file: Path | None, assignments: tuple[str, ...], as_json: bool
) -> None:
    """Print every setting, its value and its origin; PREFIX limits the list to a section.

    Origins, later ones win: default, the TOML file, an environment variable FRESHET_SECTION__KEY, a flag.
    """
    rows = [
        row for row in read_settings(config_file, assignments).rows() if row[0].startswith(prefix)
    ]
    if as_json:
        print_json([{"key": key, "value": value, "origin": origin} for key, value, origin in rows])
        return
    console().print(table("settings", ["key", "value", "origin"], rows))
