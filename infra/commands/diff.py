"""`freshet diff`: compare the slates of two runs."""

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from infra.errors import InputError
from infra.exits import ExitCode
from infra.options import FILE, json_option
from infra.output import console, print_json, table
from stream.diff import SCORE_TOLERANCE, DiffReport, diff
from stream.slates import Slate, decode_slate


@click.command("diff")
@click.argument("left", type=FILE)
@click.argument("right", type=FILE)
@click.option(
    "--tolerance", default=SCORE_TOLERANCE, show_default=True, help="Largest score difference."
)
@click.option("--examples", default=10, show_default=True, help="Differences to print.")
@json_option
def command(left: Path, right: Path, tolerance: float, examples: int, as_json: bool) -> int:
    """Compare the slates of two runs, LEFT and RIGHT (JSON lines as `replay --slates` writes them).

    Cause, reason, coverage and versions must be equal, scores within the tolerance, and the items in
    the same order except among items closer than that. Exit code 1 if the runs differ.
    """
    report = diff(
        read_slates(left), read_slates(right), score_tolerance=tolerance, max_examples=examples
    )
    if as_json:
        print_json({"equal": report.equal, **_figures(report), "examples": report.examples})
    else:
        _print(report)
    return ExitCode.OK if report.equal else ExitCode.FOUND


def read_slates(path: Path) -> Iterator[Slate]:
    """Yield the slates of a JSON lines file.

    Raises:
        InputError: the file can not be read, or a line is no slate.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _slate(path, number, line)
    except FileNotFoundError as err:
        raise InputError(f"{path}: no such file of slates; `replay --slates` writes one") from err


def _slate(path: Path, number: int, line: bytes) -> Slate:
    try:
        return decode_slate(line)
    except msgspec.DecodeError as err:
        raise InputError(f"{path}:{number}: not a slate: {err}; was the file cut off?") from err


def _figures(report: DiffReport) -> dict[str, object]:
    return {
        "left": report.left,
        "right": report.right,
        "compared": report.compared,
        "repeats": report.repeats,
        "same_order": report.same_order,
        "largest_score_difference": report.largest_score_difference,
        "differences": dict(report.counts),
    }


def _print(report: DiffReport) -> None:
    out = console()
    if report.examples:
        rows = [(found.id, found.user_id, found.kind, found.detail) for found in report.examples]
        out.print(table("differences", ["slate", "user", "kind", "detail"], rows))
    found = ", ".join(f"{count:,} {kind}" for kind, count in report.counts.most_common())
    verdict = "the slates agree" if report.equal else f"the slates differ: {found}"
    out.print(
        f"{verdict}; {report.compared:,} compared, {report.same_order:,} in the same order,"
        f" largest score difference {report.largest_score_difference:.2e}"
    )
