"""`freshet sql`: one SELECT on a database."""

import csv
import sys
from pathlib import Path

import click
import pyarrow as pa

from infra.databases import reading
from infra.options import db_option, json_option, read_settings, settings_options
from infra.output import cell, console, print_json, table
from storage.errors import QueryError
from storage.sql import select

DEFAULT_ROWS = 100


@click.command("sql")
@click.argument("query", required=False)
@db_option
@click.option(
    "--file", "query_file", type=click.File("r"), help="Read the query from a file, - for stdin."
)
@click.option("--limit", default=DEFAULT_ROWS, show_default=True, help="Rows at most, 0 for all.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV instead of a table.")
@json_option
@settings_options
def command(
    query: str | None,
    db_path: Path,
    query_file: click.utils.LazyFile | None,
    limit: int,
    as_csv: bool,
    as_json: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Run one SELECT on a database; nothing can be written.

    Views made for people: user_token_state, token_staleness, user_timeline, ingest_lag, coverage,
    dead_letter_counts.
    `show tables` lists everything there is.
    """
    text = query_file.read() if query_file is not None else query
    if not text or not text.strip():
        raise click.UsageError("there is no query; give one, or --file")
    with reading(db_path, read_settings(config_file, assignments)) as db:
        try:
            found, more = select(db, text, limit=limit)
        except QueryError as err:
            raise click.UsageError(str(err)) from err
    if as_json:
        print_json({"columns": found.column_names, "rows": found.to_pylist(), "more": more})
    elif as_csv:
        _print_csv(found)
    else:
        _print_table(found, more)
    if more and not as_json:
        click.echo(f"only the first {limit} rows; --limit 0 prints all", err=True)


def _print_csv(found: pa.Table) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(found.column_names)
    for row in found.to_pylist():
        writer.writerow(["" if value is None else value for value in row.values()])


def _print_table(found: pa.Table, more: bool) -> None:
    numbers = [
        name
        for name, kind in zip(found.column_names, found.schema.types, strict=True)
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    ]
    rows = [[_short(value) for value in row.values()] for row in found.to_pylist()]
    console().print(table("", found.column_names, rows, right=numbers))
    click.echo(f"{found.num_rows:,}{'+' if more else ''} rows", err=True)


def _short(value: object) -> object:
    text = cell(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
