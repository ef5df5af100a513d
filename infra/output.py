"""What commands print: tables for people, JSON for programs, bars for the time in between."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

WIDTH_WITHOUT_TERMINAL = 120


def console(*, stderr: bool = False) -> Console:
    """Return a console for stdout or stderr; a pipe gets a fixed width, so that tables are not squeezed."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH_WITHOUT_TERMINAL
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def print_json(data: object) -> None:
    """Print one JSON document; times become ISO 8601 in UTC, structs and dataclasses objects."""
    text = msgspec.json.encode(data, enc_hook=_encode).decode()
    click.echo(msgspec.json.format(text, indent=2))


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
) -> Table:
    """Return a rich table of plain values; the columns named in `right` are aligned to the right."""
    made = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        show_header=any(columns),
    )
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell(value)) for value in row))
    return made


def cell(value: object) -> str:
    """Return one value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return str(value)


def iso(value: datetime) -> str:
    """Return a time as `2011-09-01T10:00:00Z`, milliseconds only where there are any."""
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    digits = "milliseconds" if aware.microsecond else "seconds"
    return aware.astimezone(UTC).isoformat(timespec=digits).replace("+00:00", "Z")


def iso_ms(value: int | None) -> str | None:
    """Return epoch milliseconds as `iso` does, None for None."""
    return None if value is None else iso(datetime.fromtimestamp(value / 1000, tz=UTC))


def duration(seconds: float | None) -> str:
    """Return a duration in the two largest units that say something: `3 d 4 h`, `5 min`, `0.8 s`."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.3g} s"
    units = (("d", 86_400), ("h", 3_600), ("min", 60))
    parts = []
    rest = int(seconds)
    for name, size in units:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])


class RateColumn(ProgressColumn):
    """Records per second of a progress bar."""

    def render(self, task: Task) -> Text:
        """Return the rate as text."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="cyan")


@contextmanager
def progress(
    description: str, total: float | None, *, quiet: bool = False
) -> Iterator[Callable[..., None]]:
    """Show a bar with rate, time left and a free note on stderr; yields `advance(completed, total, note)`.

    Where stderr is not a terminal, and with `quiet`, nothing is drawn.
    """
    out = console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    bar = Progress(*columns, console=out, transient=True, disable=quiet or not out.is_terminal)
    task = bar.add_task(description, total=total, note="")

    def advance(completed: float, total: float | None = None, note: str = "") -> None:
        bar.update(task, completed=completed, total=total, note=note)

    with bar:
        yield advance


def _encode(value: Any) -> object:  # noqa: ANN401 - any type msgspec does not know
    if hasattr(value, "item"):  # numpy scalars
        return value.item()
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
