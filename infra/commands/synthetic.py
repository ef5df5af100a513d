"""`freshet synthetic`: do tokens carry a long interest that the recent window has lost?"""

from dataclasses import replace

import click

from infra.exits import ExitCode
from infra.options import json_option
from infra.output import console, print_json, progress, table
from model.synthetic import SyntheticOptions, run

WANTED = 0.70
"""Share of the gap between recents only and the full history that tokens must close."""
LEARNED = 0.10
"""Least gap, in hit@40, for the share to mean anything."""
MODES = (
    ("recents", "recents only"),
    ("tokens", "tokens + recents"),
    ("other_tokens", "another user's tokens + recents"),
    ("full", "full history"),
)


@click.command("synthetic")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--steps", type=click.IntRange(min=1), default=SyntheticOptions().steps, show_default=True
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def command(seed: int, steps: int, quiet: bool, as_json: bool) -> int:
    """Train on endless made-up users with three favorite genres and measure hit@40 where they switch.

    After a switch to another favorite, the newest events do not say which genres a user likes; the
    closed segments do. One checkpoint answers from recents only, tokens + recents, another user's
    tokens and the full history. About four CPU minutes; exit code 1 if the tokens close less than
    70 % of the gap between recents only and the full history.
    """
    options = replace(SyntheticOptions(), steps=steps)
    with progress("train", steps, quiet=quiet or as_json) as advance:
        report = run(
            seed,
            options,
            progress=lambda done, total, loss: advance(done, total, f"loss {loss:.3f}"),
        )
    gap = report.few["full"] - report.few["recents"]
    if as_json:
        print_json(report)
    else:
        rows = [(name, f"{report.few[key]:.3f}", f"{report.all[key]:.3f}") for key, name in MODES]
        head = [
            "hit@40 after a switch",
            f"fewer than {options.few_recents} recents",
            "all switches",
        ]
        console().print(table(f"{report.switches} switches", head, rows))
        if gap < LEARNED:
            console().print(
                f"full history beats recents only by {gap:.3f}: the model has not learned the task;"
                " give it more --steps"
            )
        console().print(
            f"tokens close {report.gap_closed:.1%} of the gap (wanted {WANTED:.0%});"
            f" {report.cpu_s:.0f} CPU seconds, seed {seed}, {report.steps} steps"
        )
    closed = gap >= LEARNED and report.gap_closed >= WANTED
    return ExitCode.OK if closed else ExitCode.FOUND
