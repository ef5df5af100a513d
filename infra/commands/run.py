"""`freshet run`: the service beside a running log."""

import os
import sys
from pathlib import Path
from typing import cast

import click

from infra.cli import report
from infra.live import live_extra
from infra.options import ANY_PATH, FILE, db_option, read_settings, settings_options
from infra.settings import Loaded

with live_extra():
    from infra.service.running import RunPlan, Slates, service_of
    from infra.telemetry import configure_logs
    from stream.kafka.connection import secrets
    from stream.kafka.logs import keep_requests_out_of_logs
    from stream.kafka.starting import parse_start


@click.command("run")
@db_option
@click.option(
    "--model",
    "model_path",
    type=ANY_PATH,
    help="Checkpoint; without one that of the database, or recent popularity.",
)
@click.option(
    "--from",
    "start",
    default="earliest",
    show_default=True,
    metavar="earliest|latest|TIME",
    help="Where partitions not read before begin.",
)
@click.option(
    "--accept-data-loss",
    is_flag=True,
    help="Go on behind records that the log dropped before they were read.",
)
@click.option(
    "--slates",
    type=click.Choice(["topic", "file", "none"]),
    help="Where slates go; the topic unless --slates-file is given.",
)
@click.option("--slates-file", "slates_path", type=FILE, help="Append slates here, as JSON lines.")
@click.option("--no-score", is_flag=True, help="Store events and refresh tokens, write no slates.")
@settings_options
def command(
    db_path: Path,
    model_path: Path | None,
    start: str,
    accept_data_loss: bool,
    slates: str | None,
    slates_path: Path | None,
    no_score: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Store what arrives on the topics, keep tokens fresh, answer every scored event with a slate.

    Runs until SIGTERM or SIGINT, then drains and ends with code 0; a second signal ends it at once.
    Stopped or killed at any point, the same command goes on where the database file stands.

    \b
    freshet run --db shop.duckdb --model model.safetensors \\
        --set kafka.bootstrap_servers=broker:9092
    """
    kind = slates or ("topic" if slates_path is None else "file")
    if (kind == "file") != (slates_path is not None):
        raise click.UsageError("--slates file and --slates-file FILE belong together")
    if no_score and (slates or slates_path):
        raise click.UsageError("--no-score writes no slates; leave out --slates")
    loaded = read_settings(config_file, assignments)
    plan = RunPlan(
        db_path=db_path,
        model_path=model_path,
        start=parse_start(start),
        accept_data_loss=accept_data_loss,
        slates=cast("Slates", kind),
        slates_path=slates_path,
        score=not no_score,
    )
    _run(plan, loaded)


def _run(plan: RunPlan, loaded: Loaded) -> None:
    live = loaded.settings.live
    configure_logs(live.log_format, live.log_level, secrets=secrets(loaded.settings.kafka))
    keep_requests_out_of_logs()
    service = service_of(plan, loaded)
    try:
        service.run()
    except BaseException as err:
        if service.clean:
            raise
        _leave(report(err))
    if not service.clean:
        _leave(0)


def _leave(code: int) -> None:
    """End although a thread hangs; what was committed is kept."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
