"""`freshet torture`: kill a replay again and again, break its disk and files, compare what is left."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from infra.exits import ExitCode
from infra.options import ANY_PATH, FILE, json_option
from infra.output import console, print_json, progress, table
from infra.torture.plan import CLASSES
from infra.torture.report import Report, torture_all
from infra.workfolder import work_folder

BAR = 24


@click.command("torture")
@click.option(
    "--kills", type=click.IntRange(min=len(CLASSES)), default=60, show_default=True,
    help="SIGKILLs, spread over the classes.",
)  # fmt: skip
@click.option(
    "--seed", default=0, show_default=True, help="The same seed makes the same plan and log."
)
@click.option(
    "--events",
    type=click.IntRange(min=200),
    default=1_500,
    show_default=True,
    help="Of the made-up log.",
)
@click.option("--log", help="Kill replays of this log instead (needs --model).")
@click.option("--model", "model_path", type=FILE, help="Its checkpoint.")
@click.option("--items", "items_path", help="Its item file.")
@click.option("--map", "columns", help="Its columns: user_id=CustomerID,ts=When,...")
@click.option("--config", "config_file", type=FILE, help="Its settings.")
@click.option(
    "--faults/--no-faults", default=True, show_default=True,
    help="Also full and read-only disks, a jumping clock, damaged logs and write-ahead logs.",
)  # fmt: skip
@click.option(
    "--cold",
    is_flag=True,
    help="Start Python anew for every process (slow) instead of forking a prepared one.",
)
@click.option(
    "--folder",
    type=ANY_PATH,
    help="Work here, in a new folder, and keep it (otherwise kept if anything is wrong).",
)
@json_option
def command(
    kills: int,
    seed: int,
    events: int,
    log: str | None,
    model_path: Path | None,
    items_path: str | None,
    columns: str | None,
    config_file: Path | None,
    faults: bool,
    cold: bool,
    folder: Path | None,
    as_json: bool,
) -> int:
    """Kill `freshet replay` with SIGKILL again and again, resume it, and hold the end against a run left alone.

    The processes die inside the ingest transaction, between commit and slate, in mid line, in a tick, a
    rotation, a merge, a checkpoint, a migration, while catching up, and at random moments. After each
    pass over the log every record must be stored once, token bytes, journal and slates equal. Then disks
    fill up or refuse writes, the clock jumps, and files lose their ends. Exit code 1 if anything is wrong
    or a class of kills stayed empty.
    """
    if (log is None) != (model_path is None):
        raise click.UsageError("--log and --model go together")
    given = (
        None
        if log is None or model_path is None
        else (log, model_path, items_path, columns, config_file)
    )
    with (
        work_folder("torture", folder) as work,
        progress("torture", kills, quiet=as_json) as advance,
    ):
        report = torture_all(
            work.path,
            kills=kills,
            seed=seed,
            events=events,
            given=given,
            faults=faults,
            cold=cold,
            on_step=lambda done, note: advance(done, kills, note),
        )
        work.keep = not report.ok
    return show(report, as_json=as_json, rounds="passes", against="a run left alone")


def show(report: Report, *, as_json: bool, rounds: str, against: str) -> ExitCode:
    """Print a report and return the exit code it calls for.

    Args:
        report: what was found.
        as_json: one document instead of tables.
        rounds: what its rounds are called.
        against: what the checks compare with.
    """
    if as_json:
        print_json({**asdict(report), "ok": report.ok, "reason": report.reason})
    else:
        _print(report, rounds, against)
    return ExitCode.OK if report.ok else ExitCode.FOUND


def _print(report: Report, rounds: str, against: str) -> None:
    out = console()
    most = max(report.classes.values(), default=1) or 1
    rows = [
        (
            kind,
            n,
            "█" * round(n / most * BAR),
            ", ".join(f"{p} {c}" for p, c in report.points[kind].items()),
        )
        for kind, n in report.classes.items()
    ]
    title = (
        f"{report.kills} kills in {report.rounds} {rounds} over {report.records:,} records"
        f" (seed {report.seed}); where they died"
    )
    out.print(table(title, ["class", "kills", "", "points"], rows, right=["kills"]))
    checks = [("ok" if check.ok else "FAIL", check.name, check.detail) for check in report.checks]
    out.print(table(f"what is left, against {against}", ["", "check", "found"], checks))
    if report.faults:
        met = [
            (
                "ok" if not fault.problems else "FAIL",
                fault.name,
                fault.how,
                "; ".join([*fault.done, *fault.problems]),
            )
            for fault in report.faults
        ]
        out.print(table("other faults", ["", "fault", "how", "found"], met))
    verdict = (
        "nothing lost, nothing doubled, nothing torn" if report.ok else f"FAILED: {report.reason}"
    )
    out.print(f"{verdict}; {report.wall_s:.0f} s", soft_wrap=True)
