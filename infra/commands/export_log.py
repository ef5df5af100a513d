"""`freshet export-log`: the topics as files that a replay reads like the live run read them."""

from pathlib import Path

import click

from infra.live import live_extra
from infra.options import json_option, read_settings, settings_options
from infra.output import print_json, progress
from stream.events import Partition
from stream.recording import LogRecorder

with live_extra():
    from stream.kafka.export import record_topics


class Offset(click.ParamType):
    """A position to begin at, `TOPIC:PARTITION=OFFSET`."""

    name = "topic:partition=offset"

    def convert(
        self,
        value: str | tuple[Partition, int],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[Partition, int]:
        """Return partition and offset."""
        if isinstance(value, tuple):
            return value
        place, equals, offset = value.rpartition("=")
        topic, colon, part = place.rpartition(":")
        if not (equals and colon and topic and part.isdigit() and offset.isdigit()):
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)
        return Partition(topic, int(part)), int(offset)


@click.command("export-log")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR|FILE.parquet",
              help="A new file, or a folder for files of a million records.")  # fmt: skip
@click.option("--offset", "offsets", type=Offset(), multiple=True,
              help="Begin a partition here, not at its first record (repeatable).")  # fmt: skip
@click.option("--quiet", is_flag=True, help="No progress bar.")
@settings_options
@json_option
def command(
    out: Path,
    offsets: tuple[tuple[Partition, int], ...],
    quiet: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Record the topics of [kafka] up to where they end now: every committed record, bad ones too.

    Columns: topic, partition, offset, append_ts, headers, key, raw; in the order of append times, every
    partition in its own. With several shards it is the shard's partitions and all items. `freshet
    replay`, `train` and `evaluate` know such files and read them with their real positions.

    \b
    freshet export-log --out log/
    freshet replay log/ --db again.duckdb --model model.safetensors --slates again.jsonl
    """
    config = read_settings(config_file, assignments).settings.kafka
    with (
        LogRecorder(out, items_topic=config.items_topic) as recorder,
        progress("export-log", None, quiet=quiet or as_json) as advance,
    ):
        spans = record_topics(config, recorder, start=dict(offsets), on_progress=advance)
        done = recorder.finish(spans)
    if as_json:
        ranges = [[*partition, first, end] for partition, (first, end) in sorted(spans.items())]
        print_json({"files": done.files, "records": done.records, "ranges": ranges})
        return
    click.echo(
        f"{done.records:,} records of {len(spans)} partitions in {len(done.files)} files: {out}"
    )
