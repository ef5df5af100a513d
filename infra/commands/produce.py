"""`freshet produce`: a log file as messages of the topics."""

import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from infra.exits import ExitCode
from infra.live import live_extra
from infra.logs import open_items, open_log
from infra.options import (
    column_overrides,
    json_option,
    map_option,
    read_settings,
    settings_options,
)
from infra.output import console, print_json, progress, table
from stream.clock import WallClock
from stream.sources.counting import count_records
from stream.sources.file import FileSource
from stream.sources.recorded import RecordedSource
from stream.sources.recorded_files import log_meta

with live_extra():
    from stream.kafka.produce import Pace, Produced, Sender


@click.command("produce")
@click.option("--log", help="A log: file, folder or glob.")
@click.option(
    "--items", "items_path", help="An item file, sent before the log, as fast as it goes."
)
@map_option
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Messages per second.")
@click.option("--as-recorded", is_flag=True, help="With the gaps between the event times.")
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), default=1.0,
              show_default=True, help="Of --as-recorded: 60 sends an hour in a minute.")  # fmt: skip
@click.option("--shift-to-now/--keep-times", "shift_to_now", default=False, show_default=True,
              help="The event time is that of sending, or that of the file.")  # fmt: skip
@click.option("--malformed", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Share of messages spoiled on purpose.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="The same seed spoils the same ones.")
@click.option("--max-records", type=click.IntRange(min=1), help="Send so many of each file.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@settings_options
@json_option
def command(
    log: str | None,
    items_path: str | None,
    columns: dict[str, str] | None,
    rate: float | None,
    as_recorded: bool,
    speed: float,
    shift_to_now: bool,
    malformed: float,
    seed: int,
    max_records: int | None,
    quiet: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> int:
    """Send a log, an item file or both to the topics of [kafka], and print exact counts.

    Interactions are JSON keyed by user, items keyed by item. Without --rate or --as-recorded messages
    go as fast as the broker takes them. Bad records of the file are sent as they are. A log of `freshet
    export-log` may be sent too, into topics with other partitions, say. Ctrl-C stops and still counts.

    \b
    freshet produce --log events.parquet --rate 200 --shift-to-now --malformed 0.01
    """
    if log is None and items_path is None:
        raise click.UsageError("nothing to send; give --log, --items or both")
    if rate is not None and as_recorded:
        raise click.UsageError("--rate and --as-recorded exclude each other")
    loaded = read_settings(config_file, assignments, *column_overrides(columns))
    pace = Pace(rate=rate, as_recorded=as_recorded, speed=speed, shift_to_now=shift_to_now,
                malformed=malformed, seed=seed)  # fmt: skip
    with _stop_on_signals() as stop:
        sender = Sender(loaded.settings.kafka, clock=WallClock(), stop=stop)
        try:
            if items_path is not None:
                items = open_items(items_path, loaded)
                _send_file(sender, items_path, items, Pace(), max_records, quiet=quiet or as_json)
            if log is not None:
                _send_file(
                    sender, log, open_log(log, loaded), pace, max_records, quiet=quiet or as_json
                )
        finally:
            counts = sender.close()
    if as_json:
        print_json(counts)
    else:
        _show(counts, loaded.settings.kafka.bootstrap_servers)
    return ExitCode.BROKER if counts.failed else ExitCode.OK


def _send_file(
    sender: Sender,
    path: str,
    source: FileSource | RecordedSource,
    pace: Pace,
    max_records: int | None,
    *,
    quiet: bool,
) -> None:
    items_topic = log_meta(path).items_topic if isinstance(source, RecordedSource) else ""
    with closing(source):
        total = max_records or (None if quiet else count_records(source.paths))
        with progress(f"produce {path}", total, quiet=quiet) as advance:
            before = sender.produced.sent
            sender.send(
                source,
                pace,
                items_topic=items_topic,
                max_records=max_records,
                progress=lambda sent: advance(sent - before, total),
            )


def _show(counts: Produced, where: str) -> None:
    rows = [(name.replace("_", " "), value) for name, value in asdict(counts).items()]
    rate = counts.acknowledged / counts.seconds if counts.seconds else 0.0
    console().print(table(where, ["", ""], [*rows, ("messages per s", rate)]))


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C and SIGTERM set."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
