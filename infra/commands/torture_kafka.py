"""`freshet torture-kafka`: kill a running service and its broker again and again, then balance the books."""

from __future__ import annotations

from pathlib import Path

import click

from infra.commands.torture import show
from infra.options import ANY_PATH, json_option
from infra.output import progress
from infra.torture.live.plan import FEWEST
from infra.torture.live.report import LiveTorture, torture_live
from infra.workfolder import work_folder

_EVENTS_PER_KILL = 10_000


@click.command("torture-kafka")
@click.option(
    "--kills", type=click.IntRange(min=1), default=FEWEST + 3, show_default=True,
    help=f"SIGKILLs of the service; from {FEWEST} on every class gets its share.",
)  # fmt: skip
@click.option(
    "--seed", default=0, show_default=True, help="The same seed makes the same plan and log."
)
@click.option(
    "--rate", type=click.FloatRange(min=1), default=100.0, show_default=True,
    help="Records sent a second while services live and die.",
)  # fmt: skip
@click.option(
    "--events", type=click.IntRange(min=200),
    help=f"Of the made-up log (default: {_EVENTS_PER_KILL:,} per kill; what is not needed is not sent).",
)  # fmt: skip
@click.option(
    "--cold", is_flag=True,
    help="Start Python anew for every process (slow) instead of forking a prepared one.",
)  # fmt: skip
@click.option(
    "--folder",
    type=ANY_PATH,
    help="Work here, in a new folder, and keep it (otherwise kept if anything is wrong).",
)
@json_option
def command(
    kills: int,
    seed: int,
    rate: float,
    events: int | None,
    cold: bool,
    folder: Path | None,
    as_json: bool,
) -> int:
    """Kill `freshet run` with SIGKILL again and again while events arrive, kill its broker too, and balance the books.

    A real broker is started. The services die while they catch up, store, answer, compress, publish,
    rotate, write a checkpoint, while the broker is gone, and at random moments. Then a client of another make
    reads the log back: every record must be stored once, every acknowledged one be among them, every scored
    event have its slate or be accounted for as shed. The log is exported and replayed: tokens must be equal,
    and slates too when the replay follows the live journal. Exit code 1 if anything is wrong.

    Needs Java 17 for the broker and confluent-kafka for the other client.
    """
    what = LiveTorture(
        kills=kills, seed=seed, events=events or kills * _EVENTS_PER_KILL, rate=rate, cold=cold
    )
    with (
        work_folder("torture", folder) as work,
        progress("torture", kills, quiet=as_json) as advance,
    ):
        report = torture_live(
            work.path, what, on_step=lambda done, note: advance(done, kills, note)
        )
        work.keep = not report.ok
    return show(report, as_json=as_json, rounds="lives", against="the broker's log and its replays")
