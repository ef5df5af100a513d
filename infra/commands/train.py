"""`freshet train`: fit a model on a log and write its checkpoint."""

from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path

import click
import pyarrow as pa

from infra.logs import open_items, open_log
from infra.options import (
    FILE,
    TIME,
    column_overrides,
    json_option,
    map_option,
    read_settings,
    settings_options,
)
from infra.output import console, duration, iso_ms, print_json, progress, table
from infra.settings import Loaded, Override
from infra.wiring import training_config
from model.train import Progress, TrainResult, train
from stream.clock import to_ms
from stream.log import read_log


@click.command("train")
@click.argument("log")
@click.option("--items", "items_path", help="Item file: item_id and text.")
@click.option("--out", "out_path", type=FILE, required=True, help="Checkpoint to write.")
@map_option
@click.option("--seed", type=int, help="Seed of everything random (default: train.seed).")
@click.option("--train-end", type=TIME, help="Weights see events before this time.")
@click.option("--validation-end", type=TIME, help="Stopping and calibration see events before it.")
@click.option("--fresh", is_flag=True, help="Start anew even if an interrupted run can be resumed.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@settings_options
@json_option
def command(
    log: str,
    items_path: str | None,
    out_path: Path,
    columns: dict[str, str] | None,
    seed: int | None,
    train_end: datetime | None,
    validation_end: datetime | None,
    fresh: bool,
    quiet: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Fit a model on LOG (a file or a glob) and write its checkpoint.

    Weights see events before --train-end; early stopping and calibration use the time from there to
    --validation-end; nothing later is read. The same log, settings and seed give the same
    checkpoint. A killed run leaves OUT.state beside the checkpoint; the same command goes on from it.

    \b
    freshet train events.parquet --items items.parquet --out model.safetensors \\
        --train-end 2011-09-01 --validation-end 2011-10-01
    """
    flags = [
        Override(f"train.{name}", value, flag)
        for name, value, flag in (
            ("seed", seed, "--seed"),
            ("train_end_ms", _ms(train_end), "--train-end"),
            ("validation_end_ms", _ms(validation_end), "--validation-end"),
        )
        if value is not None
    ]
    loaded = read_settings(config_file, assignments, *column_overrides(columns), *flags)
    state_path = out_path.with_name(f"{out_path.name}.state")
    if fresh:
        state_path.unlink(missing_ok=True)
    interactions, items = _read(log, items_path, loaded)
    with progress("train", None, quiet=quiet or as_json) as advance:
        result = train(
            interactions,
            items,
            training_config(loaded),
            loaded.settings.train,
            progress=_shown(advance),
            state_path=state_path,
        )
    version = result.write(out_path)
    state_path.unlink(missing_ok=True)
    _report(out_path, version, result, as_json=as_json)


def _read(log: str, items_path: str | None, loaded: Loaded) -> tuple[pa.Table, pa.Table | None]:
    stream = loaded.settings.stream
    with closing(open_log(log, loaded)) as source:
        read = read_log(source, stream)
    if items_path is None:
        return read.interactions, read.items if read.items.num_rows else None
    with closing(open_items(items_path, loaded)) as source:
        return read.interactions, read_log(source, stream).items


def _ms(at: datetime | None) -> int | None:
    return None if at is None else to_ms(at)


def _shown(advance: Callable[..., None]) -> Callable[[Progress], None]:
    def show(at: Progress) -> None:
        metrics = " ".join(f"{name} {value:.4f}" for name, value in list(at.metrics.items())[:1])
        advance(at.step, at.steps, f"phase {at.phase} loss {at.loss:.3f} {metrics}")

    return show


def _report(path: Path, version: str, result: TrainResult, *, as_json: bool) -> None:
    figures = {
        "checkpoint": str(path),
        "version": version,
        "bytes": path.stat().st_size,
        "trained_through": iso_ms(result.trained_through_ms),
        "cpu_s": result.cpu_s,
        "seed": result.options.seed,
        **result.metrics,
    }
    if as_json:
        print_json({**figures, "readout": result.readout.report()})
        return
    console().print(
        table("trained", ["", ""], [(k.replace("_", " "), v) for k, v in figures.items()])
    )
    click.echo(f"{duration(result.cpu_s)} of CPU time", err=True)
