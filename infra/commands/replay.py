"""`freshet replay`: a log through the production path, on the event clock."""

from contextlib import closing
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from time import perf_counter

import click

from infra.logs import open_log
from infra.options import (
    ANY_PATH,
    FILE,
    TIME,
    column_overrides,
    db_option,
    json_option,
    map_option,
    read_settings,
    settings_options,
)
from infra.output import console, print_json, progress, table
from infra.settings import Loaded
from infra.wiring import ReplayPlan, replaying
from stream.clock import to_ms
from stream.sources.counting import count_records
from stream.summary import RunSummary


@click.command("replay")
@click.argument("log")
@db_option
@click.option(
    "--model", "model_path", type=ANY_PATH, help="Checkpoint; without one, recent popularity."
)
@click.option("--items", "items_path", help="Item file: item_id, text, available, first seen.")
@click.option("--slates", "slates_path", type=FILE, help="Append slates here, as JSON lines.")
@map_option
@click.option("--from", "start", type=TIME, help="Store earlier events without scoring them.")
@click.option("--until", "end", type=TIME, help="Stop where event time reaches this.")
@click.option("--max-records", type=click.IntRange(min=1), help="Stop after so many records.")
@click.option(
    "--finish", is_flag=True, help="End with a tick, so that all that is due is compressed."
)
@click.option("--no-score", is_flag=True, help="Store events and refresh tokens, write no slates.")
@click.option("--worker", is_flag=True, help="Compress in a second process; same tokens.")
@click.option(
    "--journal",
    "journal_path",
    type=FILE,
    help="Repeat a live run: its database file, or its journal as JSON lines.",
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
@settings_options
@json_option
def command(
    log: str,
    db_path: Path,
    model_path: Path | None,
    items_path: str | None,
    slates_path: Path | None,
    columns: dict[str, str] | None,
    start: datetime | None,
    end: datetime | None,
    max_records: int | None,
    finish: bool,
    no_score: bool,
    worker: bool,
    journal_path: Path | None,
    quiet: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Store LOG (a file or a glob), keep tokens fresh on its own clock, write a slate per scored event.

    Stopped at any point, the same command goes on where the database file stopped, with the same
    slates, tokens and counters as a run without a stop. With --journal everything applies where it
    did in the run the journal is of, so that its slates come out again.

    \b
    freshet replay 'events-*.parquet' --db shop.duckdb --model model.safetensors \\
        --items items.parquet --slates slates.jsonl --map user_id=CustomerID,ts=InvoiceDate
    """
    if journal_path is not None and (start is not None or no_score):
        raise click.UsageError("--journal repeats a whole run; leave out --from and --no-score")
    if no_score and slates_path is not None:
        raise click.UsageError("--no-score writes no slates; leave out --slates")
    loaded = read_settings(config_file, assignments, *column_overrides(columns))
    plan = ReplayPlan(
        log=log,
        db_path=db_path,
        model_path=model_path,
        items_path=items_path,
        slates_path=slates_path,
        until_ms=None if end is None else to_ms(end),
        score=not no_score,
        worker=worker,
        journal_path=journal_path,
    )
    started = perf_counter()
    done = RunSummary()
    if start is not None:
        until = to_ms(start) if plan.until_ms is None else min(to_ms(start), plan.until_ms)
        before = replace(plan, until_ms=until, score=False, slates_path=None)
        done = _run(before, loaded, "store", max_records, finish=False, quiet=quiet or as_json)
    left = None if max_records is None else max_records - done.records
    if left is None or left > 0:
        after = _run(plan, loaded, "replay", left, finish=finish, quiet=quiet or as_json)
        done = _sum(done, after)
    _report(done, perf_counter() - started, as_json=as_json)


def _run(
    plan: ReplayPlan,
    loaded: Loaded,
    name: str,
    max_records: int | None,
    *,
    finish: bool,
    quiet: bool,
) -> RunSummary:
    total = max_records
    topics = set[str]()
    if total is None and plan.until_ms is None and not quiet:
        with closing(open_log(plan.log, loaded)) as log:
            total = count_records(log.paths)
            topics = {partition.topic for partition in log.partitions()}
    with replaying(plan, loaded) as pipeline, progress(name, total, quiet=quiet) as advance:
        stored = pipeline.ingest.next_offsets.items()
        already = sum(off for (topic, _), off in stored if topic in topics)
        if plan.until_ms is not None and (pipeline.clock_ms or 0) >= plan.until_ms:
            return RunSummary()  # a resumed run stands past the bound already
        summary = pipeline.run(
            max_records=max_records,
            on_progress=lambda at: advance(already + at.records, total, f"{at.slates:,} slates"),
        )
        if finish:
            pipeline.finish()
    return summary


def _sum(one: RunSummary, other: RunSummary) -> RunSummary:
    seconds = {name: spent + other.seconds.get(name, 0.0) for name, spent in one.seconds.items()}
    counts = {
        name: value + getattr(other, name)
        for name, value in asdict(one).items()
        if name != "seconds"
    }
    return RunSummary(**counts, seconds=seconds)


def _report(done: RunSummary, wall_s: float, *, as_json: bool) -> None:
    figures = {**asdict(done), "wall_s": wall_s}
    if as_json:
        print_json(figures)
        return
    seconds = figures.pop("seconds")
    figures["records_per_s"] = done.records / wall_s if wall_s else 0.0
    rows = [(name.replace("_", " "), value) for name, value in figures.items()]
    rows += [(f"seconds in {name}", spent) for name, spent in seconds.items()]
    console().print(table("replay", ["", ""], rows))
