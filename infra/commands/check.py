"""`freshet check`: what is in a log, and which settings fit it."""

from pathlib import Path

import click

from infra.checked import print_report
from infra.errors import InputError
from infra.exits import ExitCode
from infra.options import FILE, json_option, map_option, read_settings, settings_options
from infra.output import console, print_json, progress
from infra.settings import Loaded, Override
from infra.starting import check_writable, starting_toml
from stream.check.reading import log_files
from stream.check.report import CheckReport
from stream.check.survey import CheckOptions, check_log
from stream.sources.counting import count_records


@click.command("check")
@click.argument("log", nargs=-1, required=True)
@map_option
@click.option("--write", "target", type=FILE, help="Write the proposed settings here, as TOML.")
@click.option("--force", is_flag=True, help="Let --write overwrite a file.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@settings_options
@json_option
def command(
    log: tuple[str, ...],
    columns: dict[str, str] | None,
    target: Path | None,
    force: bool,
    quiet: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> int:
    """Read LOG (files, folders or globs) once and say what it is like, what is wrong, what fits it.

    Columns and the unit of times are guessed from names and values; what --map, --set or a file of
    settings says is taken as it is. Nothing is stored. Exit code 1 if something must be solved first,
    3 if a file can not be read to its end.

    \b
    freshet check 'events-*.csv.gz' --write freshet.toml
    freshet replay 'events-*.csv.gz' --config freshet.toml --db shop.duckdb
    """
    if target is not None:
        check_writable(target, force=force)
    flags = [
        Override(f"log.columns.{name}", column, "--map") for name, column in (columns or {}).items()
    ]
    options = check_options(read_settings(config_file, assignments, *flags))
    drawn = not (quiet or as_json)
    total = count_records(log_files(log)) if drawn else None
    with progress("check", total, quiet=not drawn) as advance:
        report = check_log(log, options, lambda done: advance(done, total))
    if target is not None and not report.damage:
        target.write_text(starting_toml(report.proposals, report.files), encoding="utf-8")
    if as_json:
        print_json(report)
    else:
        print_report(console(), report, written=target, log=log)
    return _outcome(report)


def check_options(loaded: Loaded) -> CheckOptions:
    """Return what a check is told: the settings, and which of them are not mere defaults."""
    settings = loaded.settings
    given = {key: value for key, value, origin in loaded.rows() if origin != "default"}
    return CheckOptions(
        log=settings.log,
        stream=settings.stream,
        tick_interval_s=settings.refresh.tick_interval_s,
        window=settings.model.window,
        given=given,
    )


def _outcome(report: CheckReport) -> int:
    if report.damage:
        raise InputError(report.damage)
    return ExitCode.FOUND if report.problems else ExitCode.OK
