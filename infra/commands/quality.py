"""`freshet quality`: the recipe over seeds and periods on the shipped log, against its requirements."""

from pathlib import Path

import click
import msgspec
from rich.console import Console

from infra import shipped
from infra.exits import ExitCode
from infra.figures import conditions, terminal_tables
from infra.gates import (
    Gate,
    plain_gates,
    reference_gates,
    same_sign,
    shipped_gates,
    training_gate,
)
from infra.measuring import read_for_evaluation
from infra.options import json_option, read_settings, settings_options
from infra.output import console, print_json, table
from infra.recipe import (
    Facts,
    Recipe,
    Run,
    measure_run,
    pooled,
    train_run,
    whole_catalogue,
)
from stream.evaluate import Evaluation
from stream.evaluation.log import EvaluationLog
from stream.evaluation.targets import Split

RECIPES: tuple[tuple[str, Recipe, bool], ...] = (
    ("main", "shipped", True),
    ("earlier", "shipped", False),
    ("main", "plain", False),
)
"""Period, recipe, and whether it is trained with every seed."""


@click.command("quality")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), default=Path("freshet-quality"),
    show_default=True, help="Checkpoints, ranks and results; what is there is not made again.",
)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True,
    help="Of the shipped recipe in the main period; the others are trained with seed 0.",
)  # fmt: skip
@click.option(
    "--only",
    type=click.Choice(["main-shipped", "earlier-shipped", "main-plain"]),
    help="One recipe and period.",
)
@click.option(
    "--max-states",
    type=click.IntRange(min=1),
    help="Fewer states per protocol: to try it out, not for claims.",
)
@click.option(
    "--validation-only", is_flag=True,
    help="Measure the validation period, to choose by; do not look at the test period.",
)  # fmt: skip
@click.option("--quiet", is_flag=True, help="No progress bars.")
@settings_options
@json_option
def command(
    folder: Path,
    seeds: int,
    only: str | None,
    max_states: int | None,
    validation_only: bool,
    quiet: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> int:
    """Train every seed, measure the test period through the production path, check the requirements.

    Three recipes: the shipped one, the same three months earlier, and the plain model without
    counters. Figures are per target means over the seeds. Each run takes about a quarter of an hour
    of one core; stopped, the same command goes on after the last finished one. Exit code 1 if a
    requirement is missed.
    """
    loaded = read_settings(config_file, assignments, *shipped.settings())
    folder.mkdir(parents=True, exist_ok=True)
    log = read_for_evaluation(str(shipped.EVENTS), str(shipped.ITEMS), loaded, None)
    splits: tuple[Split, ...] = ("validation",) if validation_only else ("test",)
    facts: dict[str, Facts] = {}
    found: dict[str, list[Evaluation]] = {}
    for period, recipe, every_seed in RECIPES:
        name = f"{period}-{recipe}"
        if only is not None and name != only:
            continue
        runs = [
            Run(
                period=shipped.PERIODS[period],
                recipe=recipe,
                seed=seed,
                folder=folder,
                max_states=max_states,
            )
            for seed in range(seeds if every_seed else 1)
        ]
        for run in runs:
            facts[run.name] = train_run(run, loaded, quiet=quiet or as_json)
            measure_run(run, log, loaded, splits, quiet=quiet or as_json)
        found[name] = pooled(runs, log, splits, quiet=quiet or as_json)
        if not as_json:
            _print(console(), name, found[name])
    gates = [] if validation_only else _gates(found, facts, log, quiet=quiet or as_json)
    results = {"evaluations": found, "trainings": facts, "gates": gates}
    (folder / "quality.json").write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    if as_json:
        print_json(results)
    elif gates:
        rows = [("ok" if one.ok else "MISSED", one.name, one.found, one.wanted) for one in gates]
        console().print(table("requirements", ["", "what", "found", "wanted"], rows))
    return ExitCode.OK if all(one.ok for one in gates) else ExitCode.FOUND


def _gates(
    found: dict[str, list[Evaluation]], facts: dict[str, Facts], log: EvaluationLog, *, quiet: bool
) -> list[Gate]:
    gates: list[Gate] = [training_gate([one.cpu_s for one in facts.values()])]
    gates += reference_gates(whole_catalogue(log, quiet=quiet))
    test = {name: evaluations[-1] for name, evaluations in found.items()}
    if "main-shipped" in test:
        gates += shipped_gates(test["main-shipped"])
    if "main-plain" in test:
        gates += plain_gates(test["main-plain"])
    if {"main-shipped", "earlier-shipped"} <= set(test):
        gates += same_sign(test["main-shipped"], test["earlier-shipped"])
    return gates


def _print(out: Console, name: str, evaluations: list[Evaluation]) -> None:
    for one in evaluations:
        split = one.protocols[0].split
        note = " (calibration has seen it: for choosing, not for claims)" if one.leaking else ""
        out.print(f"\n[bold]{name}, {split}[/bold]{note}")
        for made in terminal_tables(one):
            out.print(made)
        out.print(table("", ["", ""], conditions(one)))
