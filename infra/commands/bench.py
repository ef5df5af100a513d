"""`freshet bench`: benchmarks with their baselines, as tables, JSON and the page of figures."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from infra.bench.catalog import BENCHES
from infra.exits import ExitCode
from infra.options import json_option
from infra.output import console, print_json, table

if TYPE_CHECKING:
    from infra.bench.result import Result

RESULTS = Path("bench")
PAGE = Path("docs/performance.md")
README = Path("README.md")


@click.command("bench")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "every", is_flag=True, help="Run every benchmark that takes minutes.")
@click.option(
    "--quick", is_flag=True, help="Reduced sizes: shows that it works; times are not judged."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False),
    help="Folder of NAME.json (default: bench; with --quick nothing is written).",
)  # fmt: skip
@click.option(
    "--work", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where logs and databases are made (default: a temporary folder).",
)  # fmt: skip
@click.option(
    "--page", is_flag=True, help="Write docs/performance.md and the README's table from the JSON."
)
@json_option
def command(
    names: tuple[str, ...],
    every: bool,
    quick: bool,
    out: Path | None,
    work: Path | None,
    page: bool,
    as_json: bool,
) -> int:
    """Run benchmarks by NAME and write bench/NAME.json; without a name, list them.

    Every benchmark measures its baseline in the same run, turn by turn, and prints processor time
    with a 95 % interval of the ratio. Exit code 1 if a requirement is missed.

    \b
    freshet bench extend
    freshet bench --all --page
    """
    wanted = _wanted(names, every=every)
    if not wanted and not page:
        return _list(as_json=as_json)
    folder = out or RESULTS
    found = []
    for name in wanted:
        result = _run(name, quick=quick, work=work, quiet=as_json)
        found.append(result)
        if out is not None or not quick:
            _write(folder, result)
        if not as_json:
            _print(result)
    if as_json:
        print_json(found)
    if page:
        from infra.bench.page import write_page  # noqa: PLC0415

        write_page(folder, PAGE, README)
        if not as_json:
            click.echo(f"wrote {PAGE}")
    return ExitCode.FOUND if any(result.missed for result in found) else ExitCode.OK


def _wanted(names: tuple[str, ...], *, every: bool) -> list[str]:
    from infra.settings import closest  # noqa: PLC0415

    for name in names:
        if name not in BENCHES:
            raise click.UsageError(f"there is no benchmark {name!r}{closest(name, BENCHES)}")
    return [
        name
        for name, entry in BENCHES.items()
        if name in names or (every and not entry.long and not entry.broker)
    ]


def _list(*, as_json: bool) -> int:
    if as_json:
        print_json(BENCHES)
        return ExitCode.OK
    rows = [(name, entry.what, f"{entry.minutes} min") for name, entry in BENCHES.items()]
    console().print(table("freshet bench NAME", ["name", "what it measures", "about"], rows))
    return ExitCode.OK


def _run(name: str, *, quick: bool, work: Path | None, quiet: bool) -> Result:
    from infra.bench.catalog import run_bench  # noqa: PLC0415
    from infra.bench.machine import machine, software  # noqa: PLC0415
    from infra.bench.result import Result  # noqa: PLC0415
    from infra.bench.room import Room  # noqa: PLC0415
    from infra.output import iso  # noqa: PLC0415
    from stream.clock import WallClock  # noqa: PLC0415

    screen = console(stderr=True)
    started = WallClock().now().replace(microsecond=0)
    with (
        TemporaryDirectory(prefix="freshet-bench-", dir=work) as folder,
        screen.status(name) as status,
    ):

        def note(text: str) -> None:
            if screen.is_terminal and not quiet:
                status.update(f"{name}: {text}")

        found = run_bench(name, Room(folder=Path(folder), quick=quick, note=note))
    return Result(
        name=name,
        what=BENCHES[name].what,
        date=iso(started),
        quick=quick,
        machine=machine(),
        versions=software(),
        settings=found.settings,
        rows=found.rows,
        gates=found.gates,
        remarks=found.remarks,
    )


def _write(folder: Path, result: Result) -> None:
    from infra.bench.result import write_result  # noqa: PLC0415

    write_result(folder, result)


def _print(result: Result) -> None:
    from infra.bench.show import tables  # noqa: PLC0415

    out = console()
    form = " (reduced sizes: not for claims)" if result.quick else ""
    out.print(f"\n[bold]{result.name}[/bold]{form}  {result.what}")
    for made in tables(result):
        out.print(made)
    for text in result.remarks:
        out.print(text)
