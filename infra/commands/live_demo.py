"""`freshet live-demo`: a broker, a service and a producer on this machine; slates arrive, then everything is counted."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Group
from rich.live import Live

from infra.exits import ExitCode
from infra.options import ANY_PATH, json_option
from infra.output import console, print_json, table
from infra.workfolder import work_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from infra.live_demo.counting import DemoCounts
    from infra.live_demo.flow import Look

_ITEMS_SHOWN = 5


@click.command("live-demo")
@click.option(
    "--users", type=click.IntRange(min=1), default=40, show_default=True,
    help="The busiest users of the shipped log that take part.",
)  # fmt: skip
@click.option(
    "--history", type=click.IntRange(min=1), default=320, show_default=True,
    help="Interactions of each that are sent at once.",
)  # fmt: skip
@click.option(
    "--events", type=click.IntRange(min=1), default=3_000, show_default=True,
    help="Interactions sent after that at a steady rate, at least.",
)  # fmt: skip
@click.option(
    "--rate", type=click.FloatRange(min=1), default=100.0, show_default=True,
    help="That rate, records a second.",
)  # fmt: skip
@click.option(
    "--segments", type=click.IntRange(min=0), default=100, show_default=True,
    help="So many must have been compressed while slates were written.",
)  # fmt: skip
@click.option(
    "--folder",
    type=ANY_PATH,
    help="Work here, in a new folder, and keep it (otherwise kept if a count is off).",
)
@click.option("--quiet", is_flag=True, help="No live table.")
@json_option
def command(
    users: int,
    history: int,
    events: int,
    rate: float,
    segments: int,
    folder: Path | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Send a part of the shipped log through a real Kafka, and watch slates arrive from the running service.

    A broker is started from its jars, the topics are made, `freshet run` serves with the shipped checkpoint,
    `freshet produce` sends the catalog, histories and live events, one in a hundred malformed. When all is
    answered the service is stopped with SIGTERM and everything is counted. Exit code 1 if a count is off.

    Needs Java 17 for the broker.
    """
    from infra.live_demo.flow import DemoPlan, live_demo  # noqa: PLC0415 - loads the model

    plan = DemoPlan(users=users, history=history, events=events, rate=rate, segments=segments)
    with (
        work_folder("live-demo", folder) as work,
        _shown(quiet=quiet or as_json) as on_look,
    ):
        counts = live_demo(work.path, plan, on_look)
        work.keep = counts.reason is not None
    if as_json:
        print_json({**asdict(counts), "ok": counts.reason is None, "reason": counts.reason})
    else:
        _print(counts)
    if counts.reason is not None:
        console(stderr=True).print(f"live-demo: {counts.reason}", markup=False, soft_wrap=True)
        return ExitCode.FOUND
    return ExitCode.OK


@contextmanager
def _shown(*, quiet: bool) -> Iterator[Callable[[Look], None]]:
    """Yield what shows a look; it is redrawn in place on a terminal."""
    if quiet:
        yield lambda _look: None
        return
    with Live(console=console(), refresh_per_second=4, transient=True) as live:
        yield lambda look: live.update(_picture(look))


def _picture(look: Look) -> Group:
    counts = [
        (look.produced, look.stored, look.dead, look.answered, look.segments),
    ]
    names = ["sent so far", "stored", "dead letters", "slates", "segments compressed"]
    rows = [
        (
            slate.user_id,
            slate.reason,
            slate.coverage.groups,
            slate.coverage.recents,
            ", ".join(item.item_id for item in slate.items[:_ITEMS_SHOWN]),
        )
        for slate in look.slates
    ]
    columns = ["user", "reason", "token groups", "recent", "first items"]
    return Group(
        table(look.phase, names, counts, right=names), table("newest slates", columns, rows)
    )


def _print(counts: DemoCounts) -> None:
    out = console()
    fresh = ", ".join(f"{name} {value:,.0f} ms" for name, value in counts.freshness_ms.items())
    rows = [
        ("produced", f"{counts.produced:,}"),
        ("stored", f"{counts.interactions:,} interactions, {counts.items:,} items"),
        ("dead letters", f"{counts.dead_letters:,}"),
        ("scored events", f"{counts.scored:,}"),
        ("slates, distinct", f"{counts.slates:,}"),
        ("shed", f"{counts.shed:,}"),
        ("segments compressed while scoring", f"{counts.segments:,}"),
        ("slates that read tokens made meanwhile", f"{counts.renewed:,}"),
        (f"freshness of {counts.steady_slates:,} slates at the steady rate", fresh),
        ("seconds", f"{counts.wall_s:.0f}"),
    ]
    out.print(table("live demo", ["", ""], rows))
    checks = [("ok" if one.ok else "FAIL", one.name, one.detail) for one in counts.checks]
    out.print(table("what had to hold", ["", "check", "found"], checks))
