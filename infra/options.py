"""Options that several commands share: database, times, settings, JSON."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from infra.settings import Loaded, Override, load, parse_value

P = ParamSpec("P")
R = TypeVar("R")
Decorator = Callable[[Callable[P, R]], Callable[P, R]]

FILE = click.Path(path_type=Path, dir_okay=False)
ANY_PATH = click.Path(path_type=Path)


class Time(click.ParamType):
    """A time: `2011-09-01`, `2011-09-01T10:30`, with or without offset (none is UTC), or epoch milliseconds."""

    name = "time"

    def convert(
        self,
        value: str | datetime,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> datetime:
        """Return the time, aware, in UTC."""
        if isinstance(value, datetime):
            return value
        try:
            # Eight digits are a date, 20110901.
            if value.lstrip("-").isdigit() and len(value.lstrip("-")) > 8:
                return datetime.fromtimestamp(int(value) / 1000, tz=UTC)
            parsed = datetime.fromisoformat(value)
        except (ValueError, OverflowError, OSError):
            self.fail(f"{value!r} is not a time such as 2011-09-01 or 2011-09-01T10:30", param, ctx)
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


TIME = Time()


class Columns(click.ParamType):
    """A column map, `user_id=CustomerID,ts=InvoiceDate`, as a dictionary."""

    name = "field=column,..."

    def convert(
        self,
        value: str | dict[str, str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> dict[str, str]:
        """Return {field of the event: column of the file}."""
        if isinstance(value, dict):
            return value
        pairs = [part.split("=", 1) for part in value.split(",") if part.strip()]
        if any(len(pair) != 2 or not pair[0].strip() or not pair[1].strip() for pair in pairs):
            self.fail(f"{value!r} is not of the form user_id=CustomerID,ts=InvoiceDate", param, ctx)
        return {name.strip(): column.strip() for name, column in pairs}


COLUMNS = Columns()

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
db_option = click.option(
    "--db", "db_path", type=FILE, required=True, help="The database file.", metavar="FILE"
)
map_option = click.option(
    "--map", "columns", type=COLUMNS, help="Columns of the log: user_id=CustomerID,ts=When,..."
)


def column_overrides(columns: dict[str, str] | None) -> list[Override]:
    """Return `--map` as settings of the log."""
    pairs = (columns or {}).items()
    return [Override(f"log.columns.{name}", column, "--map") for name, column in pairs]


def settings_options(function: Callable[P, R]) -> Callable[P, R]:
    """Add --config and --set; the command gets `config_file` and `assignments` for `read_settings`."""
    function = click.option(
        "--set", "assignments", multiple=True, metavar="KEY=VALUE",
        help="One setting, e.g. --set refresh.tick_interval_s=3600 (repeatable).",
    )(function)  # fmt: skip
    return click.option(
        "--config", "config_file", type=FILE, metavar="FILE",
        help="TOML file of settings (default: $FRESHET_CONFIG, ./freshet.toml).",
    )(function)  # fmt: skip


def read_settings(
    config_file: Path | None, assignments: tuple[str, ...], *flags: Override
) -> Loaded:
    """Return the settings of this process's environment, `--config`, `--set` and a command's own flags.

    Raises:
        SettingsError: as `infra.settings.load`.
        click.BadParameter: an assignment is not of the form KEY=VALUE.
    """
    overrides = list(flags)
    for text in assignments:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise click.BadParameter(f"{text!r} is not of the form KEY=VALUE", param_hint="--set")
        overrides.append(Override(key.strip(), parse_value(value.strip()), "--set"))
    return load(config_file=config_file, environ=os.environ, overrides=overrides)
