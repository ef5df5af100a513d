"""`freshet doctor`: is this database whole, and do its tokens score as one forward pass would?"""

from pathlib import Path

import click

from infra.asking.owner import owner_of
from infra.asking.questions import AskDoctor
from infra.exits import ExitCode
from infra.options import ANY_PATH, db_option, json_option, read_settings, settings_options
from infra.output import console, print_json, table
from storage import wal
from stream.exactness_report import ExactnessReport


@click.command("doctor")
@db_option
@click.option(
    "--exactness", type=click.IntRange(min=1), metavar="N",
    help="For N users, compare scores through storage with one masked forward pass.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Which users --exactness draws.")
@click.option("--model", "model_path", type=ANY_PATH, help="Where the checkpoint is now.")
@click.option(
    "--repair-wal", is_flag=True,
    help="Cut a damaged write-ahead log before the damage first; a copy is kept beside it.",
)  # fmt: skip
@settings_options
@json_option
def command(
    db_path: Path,
    exactness: int | None,
    seed: int,
    model_path: Path | None,
    repair_wal: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> int:
    """Check a database: ranges touch, positions are unique, groups are contiguous, checksums hold.

    With --exactness N it also takes N users with tokens, scores them once through their stored token
    groups and raw recents and once by a single masked forward pass over the same partition, and
    prints the largest score difference and the top-10 overlap. Exit code 1 if anything is found.
    """
    loaded = read_settings(config_file, assignments)
    repaired = wal.repair_wal(db_path) if repair_wal and db_path.is_file() else None
    with owner_of(db_path, loaded, model_path) as owner:
        found = owner.ask(AskDoctor(exactness=exactness, seed=seed))
    exact = found.exactness
    healthy = all(one.ok for one in found.findings) and (exact is None or exact.ok)
    if as_json:
        print_json({
            "healthy": healthy,
            "findings": found.findings,
            "versions": found.versions,
            "exactness": exact,
            "repaired": repaired,
        })
    else:
        _print_repair(repaired)
        rows = [("ok" if one.ok else "FAIL", one.check, one.detail) for one in found.findings]
        console().print(table(f"doctor: {db_path}", ["ok", "check", "detail"], rows))
        _print_exactness(exact)
        console().print(", ".join(f"{name} {text}" for name, text in found.versions.items()))
    return ExitCode.OK if healthy else ExitCode.FOUND


def _print_repair(repaired: wal.WalRepair | None) -> None:
    if repaired is not None:
        console().print(
            f"the write-ahead log was cut to {repaired.kept_bytes:,} bytes, {repaired.cut_bytes:,} are gone;"
            f" as it was: {repaired.copy}; replay the log to store again what was cut",
            soft_wrap=True,
        )


def _print_exactness(report: ExactnessReport | None) -> None:
    if report is None:
        return
    console().print(
        f"exactness: {report.users} users, {report.groups} token groups ({report.state_dtype}),"
        f" {report.recents} recents, {report.candidates} candidates: largest score difference"
        f" {report.largest_difference:.2e} (allowed {report.allowed_difference:.0e}), top-10 overlap"
        f" {report.overlap:.4f} (at least {report.allowed_overlap:g}):"
        f" {'ok' if report.ok else 'FAIL'}"
    )
