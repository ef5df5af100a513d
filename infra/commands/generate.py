"""`freshet generate`: a synthetic log with drifting tastes and known faults."""

from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import click

from infra.options import FILE, TIME, json_option
from infra.output import cell, console, iso_ms, print_json, progress, table
from stream.clock import to_ms
from stream.generate import LogShape, generate

SHAPE = LogShape()
SHARE = click.FloatRange(0, 1)


@click.command("generate")
@click.argument("out", type=FILE)
@click.option("--users", type=click.IntRange(min=1), default=1_000, show_default=True)
@click.option("--events", type=click.IntRange(min=1), default=100_000, show_default=True)
@click.option("--seed", default=0, show_default=True, help="The same arguments give the same log.")
@click.option("--items", default=SHAPE.items, show_default=True, help="Size of the catalogue.")
@click.option("--items-out", type=FILE, help="Write the catalogue here, with text and first seen.")
@click.option("--days", default=SHAPE.days, show_default=True, help="Time the log covers.")
@click.option("--start", type=TIME, help="First event time (default: 2024-01-01).")
@click.option("--late", type=SHARE, default=0.0, show_default=True, help="Share written late.")
@click.option(
    "--duplicates", type=SHARE, default=0.0, show_default=True, help="Share written twice."
)
@click.option("--bad", type=SHARE, default=0.0, show_default=True, help="Share of bad records.")
@click.option(
    "--max-delay", type=click.FloatRange(min=0.001), default=SHAPE.max_delay_ms / 1000,
    show_default=True, help="Longest delay of a late record or second copy, seconds.",
)  # fmt: skip
@click.option("--sessions", is_flag=True, help="Give interactions a session_id.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def command(
    out: Path,
    users: int,
    events: int,
    seed: int,
    items: int,
    items_out: Path | None,
    days: int,
    start: datetime | None,
    late: float,
    duplicates: float,
    bad: float,
    max_delay: float,
    sessions: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write a made-up log to OUT (.parquet, .jsonl or .jsonl.gz) and print what is in it.

    Users have slow tastes that drift over months, fast ones that drift over weeks, and favorites that
    come back; they view, put into the cart and purchase. Late, duplicate and bad records are made on
    purpose and counted, so that a replay can be held against the figures.

    \b
    freshet generate log.jsonl.gz --users 500 --events 50000 --seed 1 \\
        --late 0.02 --duplicates 0.01 --bad 0.005
    """
    shape = LogShape(
        items=items,
        start_ms=SHAPE.start_ms if start is None else to_ms(start),
        days=days,
        late_share=late,
        duplicate_share=duplicates,
        bad_share=bad,
        max_delay_ms=int(max_delay * 1000),
        sessions=sessions,
    )
    with progress("generate", events, quiet=quiet or as_json) as advance:
        made = generate(
            out,
            users=users,
            events=events,
            seed=seed,
            shape=shape,
            items_path=items_out,
            progress=advance,
        )
    figures = asdict(made)
    if as_json:
        print_json({"log": str(out), **figures})
        return
    figures |= {"first_ms": iso_ms(made.first_ms), "last_ms": iso_ms(made.last_ms)}
    rows = [
        (name.replace("_ms", "").replace("_", " "), cell(value)) for name, value in figures.items()
    ]
    console().print(table(f"{out}", ["", ""], rows))
