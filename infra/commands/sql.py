"""`freshet sql`: one SELECT on a database."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow as pa

from infra.asking.owner import owner_of
from infra.asking.questions import AskRows
from infra.options import FILE, db_option, json_option, read_settings, settings_options
from infra.output import cell, console, print_json, table
from infra.rowfiles import write_rows
from storage.session import Stream

DEFAULT_ROWS = 100


@click.command("sql")
@click.argument("query", required=False)
@db_option
@click.option(
    "--file", "query_file", type=click.File("r"), help="Read the query from a file, - for stdin."
)
@click.option(
    "--limit", type=click.IntRange(min=0),
    help=f"Rows at most, 0 for all (default: {DEFAULT_ROWS}, with --out all).",
)  # fmt: skip
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV instead of a table.")
@click.option(
    "--out", "out_path", type=FILE,
    help="Write the rows here instead: .parquet, .csv or .arrow; never all of them in memory.",
)  # fmt: skip
@json_option
@settings_options
def command(
    query: str | None,
    db_path: Path,
    query_file: click.utils.LazyFile | None,
    limit: int | None,
    as_csv: bool,
    out_path: Path | None,
    as_json: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Run one SELECT on a database; nothing can be written.

    Views made for people: user_token_state, token_staleness, user_timeline, ingest_lag, coverage,
    dead_letter_counts.
    `show tables` lists everything there is. While a service runs the database, its process computes the
    rows, batch by batch and for a minute at most, and this command prints or writes them.
    """
    text = query_file.read() if query_file is not None else query
    if not text or not text.strip():
        raise click.UsageError("there is no query; give one, or --file")
    if limit is None:
        limit = 0 if out_path else DEFAULT_ROWS
    asked = AskRows(text=text, limit=limit + 1 if limit else 0)
    with (
        owner_of(db_path, read_settings(config_file, assignments)) as owner,
        owner.rows(asked) as found,
    ):
        rows = _Rows(found, limit)
        if out_path is not None:
            write_rows(out_path, rows.schema, rows)
            click.echo(f"{rows.count:,} rows in {out_path}", err=True)
        elif as_csv:
            _print_csv(rows)
        else:
            _print(rows.table(), rows, as_json=as_json)
    if rows.more and not as_json:
        click.echo(f"only the first {limit} rows; --limit 0 takes all", err=True)


class _Rows:
    """The first rows of a stream, 0 for all of them; `more` says whether there were others."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self.schema = stream.schema
        self.count = 0
        self.more = False
        self._batches = stream.batches
        self._limit = limit

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            room = self._limit - self.count if self._limit else batch.num_rows
            self.more = self.more or batch.num_rows > room
            kept = batch.slice(0, room)
            self.count += kept.num_rows
            yield kept

    def table(self) -> pa.Table:
        return pa.Table.from_batches(list(self), schema=self.schema)


def _print(found: pa.Table, rows: _Rows, *, as_json: bool) -> None:
    if as_json:
        print_json({"columns": found.column_names, "rows": found.to_pylist(), "more": rows.more})
    else:
        _print_table(found, rows.more)


def _print_csv(rows: _Rows) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(rows.schema.names)
    for batch in rows:
        for row in batch.to_pylist():
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
