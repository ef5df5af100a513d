"""`freshet diff`: compare the slates of two runs."""

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from infra.asking.owner import owner_of
from infra.asking.questions import AskRows
from infra.databases import is_database
from infra.errors import InputError
from infra.exits import ExitCode
from infra.options import FILE, json_option, read_settings, settings_options
from infra.output import console, print_json, table
from infra.settings import Loaded
from stream.diff import SCORE_TOLERANCE, DiffReport, diff
from stream.slate_log import SLATES, slate_of
from stream.slates import Slate, decode_slate


@click.command("diff")
@click.argument("left", type=FILE)
@click.argument("right", type=FILE)
@click.option(
    "--tolerance", default=SCORE_TOLERANCE, show_default=True, help="Largest score difference."
)
@click.option("--examples", default=10, show_default=True, help="Differences to print.")
@settings_options
@json_option
def command(
    left: Path,
    right: Path,
    tolerance: float,
    examples: int,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> int:
    """Compare the slates of two runs, LEFT and RIGHT: JSON lines as `replay --slates` writes them, or databases.

    Cause, reason, coverage and versions must be equal, scores within the tolerance, and the items in
    the same order except among items closer than that. A database has its newest `database.slate_log`
    slates; against one, what comes before its first is not compared. Exit code 1 if the runs differ.
    """
    loaded = read_settings(config_file, assignments)
    ours, theirs = _slates(left, loaded), _slates(right, loaded)
    if is_database(left):
        theirs = _since(theirs, ours)
    if is_database(right):
        ours = _since(ours, theirs)
    report = diff(ours, theirs, score_tolerance=tolerance, max_examples=examples)
    if as_json:
        print_json({"equal": report.equal, **_figures(report), "examples": report.examples})
    else:
        _print(report)
    return ExitCode.OK if report.equal else ExitCode.FOUND


def _slates(path: Path, loaded: Loaded) -> list[Slate]:
    """Return the slates of a file of JSON lines, or those that a database keeps."""
    if not is_database(path):
        return list(read_slates(path))
    with (
        owner_of(path, loaded) as owner,
        owner.rows(AskRows(text=SLATES, limit=0)) as rows,
    ):
        found = [slate_of(row) for batch in rows.batches for row in batch.to_pylist()]
    if not found:
        raise InputError(f"{path}: keeps no slates; set database.slate_log before the run")
    return found


def _since(slates: list[Slate], kept: list[Slate]) -> list[Slate]:
    """Return the slates from the first on that a bounded log has too."""
    ids = {slate.id for slate in kept}
    first = next((i for i, slate in enumerate(slates) if slate.id in ids), 0)
    return slates[first:]


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
