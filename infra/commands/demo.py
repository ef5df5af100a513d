"""`freshet demo`: the shipped log through the production path, what it is worth, one user in words."""

from dataclasses import replace
from pathlib import Path

import click
from rich.tree import Tree

from infra import shipped
from infra.commands.evaluate import print_evaluation
from infra.errors import InputError, MissingExtraError
from infra.figures import METRIC_TITLES, number
from infra.measuring import (
    Stages,
    count_baselines,
    read_for_evaluation,
    replay_measured,
    start_over,
    store_history,
)
from infra.options import json_option, read_settings, settings_options
from infra.output import console, print_json, table
from infra.report import Story, write_report
from infra.settings import Loaded
from infra.story import tell, typical_user
from infra.wiring import ReplayPlan, asking, load_engine
from stream.clock import DAY_MS
from stream.evaluate import Evaluation, EvaluationPlan, admit, figures, prepare
from stream.evaluation.production import TOKENS

STATES = 600
SLATES_DAYS = 2
SEED_SPREAD = {"recall@10": 0.003, "recall@50": 0.006}
"""How far two seeds of the recipe may lie apart on the demo's sample of states."""


@click.command("demo")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), default=Path("freshet-demo"),
    show_default=True, help="Where database, slates and report go; an earlier demo's are replaced.",
)  # fmt: skip
@click.option(
    "--model", "model_path", type=click.Path(path_type=Path, dir_okay=False),
    help="Another checkpoint than the shipped one.",
)  # fmt: skip
@click.option(
    "--states", type=click.IntRange(min=10), default=STATES, show_default=True,
    help="States measured per protocol, drawn at random; `freshet quality` takes all.",
)  # fmt: skip
@click.option(
    "--user", "user_id", help="The user told in words (default: one with several tokens)."
)
@click.option(
    "--train", "retrain", is_flag=True, help="Train the model again first and compare both."
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
@settings_options
@json_option
def command(
    folder: Path,
    model_path: Path | None,
    states: int,
    user_id: str | None,
    retrain: bool,
    quiet: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Replay the last months of a real shop's log, token refreshes and slates included, and measure them.

    The history before the test period is stored with monthly ticks; the test period is replayed with
    daily ones, and its last days yield a slate per event. Nothing of the test period was used to fit
    the model. Writes the database, the slates and an HTML report.
    """
    loaded = read_settings(config_file, assignments, *shipped.settings())
    folder.mkdir(parents=True, exist_ok=True)
    model = model_path or shipped.CHECKPOINT
    stages = Stages()
    quiet = quiet or as_json
    before: Evaluation | None = None
    if retrain:
        before = _measure(model, folder, states, loaded, stages, quiet=quiet)
        from infra.recipe import Run, train_run  # noqa: PLC0415 - loads the trainer

        run = Run(period=shipped.MAIN, recipe="shipped", seed=0, folder=folder)
        run.facts.unlink(missing_ok=True)  # an earlier demo's training is not this one's
        with stages.timed("train"):
            train_run(run, loaded, quiet=quiet)
        model = run.checkpoint
    found = _measure(model, folder, states, loaded, stages, quiet=quiet)
    story = _story(folder, model, user_id, loaded)
    written = _write(folder / "report.html", found, story, stages)
    if as_json:
        print_json({"evaluation": found, "story": story, "seconds": stages.seconds})
        return
    print_evaluation(found, stages)
    if before is not None:
        _print_comparison(before, found)
    _print_story(story)
    _print_next(folder, story, report=written)


def _measure(
    model: Path, folder: Path, states: int, loaded: Loaded, stages: Stages, *, quiet: bool
) -> Evaluation:
    cuts = shipped.MAIN.cuts
    db_path, slates_path = folder / "shop.duckdb", folder / "slates.jsonl"
    start_over(db_path, slates_path)
    replay = ReplayPlan(
        log=str(shipped.EVENTS),
        db_path=db_path,
        model_path=model,
        items_path=str(shipped.ITEMS),
        score=False,
    )
    engine = load_engine(model)
    with stages.timed("read the log"):
        log = read_for_evaluation(replay.log, replay.items_path, loaded, engine.config)
    plan = EvaluationPlan(cuts=cuts, target_file=shipped.TARGETS, max_states=states)
    measurement = prepare(log, plan)
    admit(measurement, engine)
    store_history(replay, loaded, cuts.validation_end, stages=stages, quiet=quiet)
    newest = int(log.events.time_ms.max())
    quiet_part = replace(replay, until_ms=newest - SLATES_DAYS * DAY_MS)
    loud_part = replace(replay, score=True, slates_path=slates_path)
    for part, stage in (
        (quiet_part, "replay the test period, ask for states"),
        (loud_part, f"its last {SLATES_DAYS} days, a slate per event"),
    ):
        replay_measured([measurement], part, loaded, stages=stages, stage=stage, quiet=quiet)
    count_baselines([measurement], stages=stages, quiet=quiet)
    with stages.timed("resample users"):
        return figures(measurement)


def _print_comparison(before: Evaluation, after: Evaluation) -> None:
    """Print the model in use and the one trained again, side by side."""
    rows = []
    for figures_before in before.protocols:
        figures_after = after.protocol(figures_before.protocol)
        for metric, spread in SEED_SPREAD.items():
            one = figures_before.figure(TOKENS.name).everything[metric].value
            other = figures_after.figure(TOKENS.name).everything[metric].value
            word = "within the spread of seeds" if abs(one - other) <= spread else "OUTSIDE it"
            name = f"{figures_before.protocol.replace('_', ' ')}, {METRIC_TITLES[metric]}"
            rows.append((name, number(one), number(other), number(other - one, signed=True), word))
    title = f"trained again: {after.model_versions[0]} against {before.model_versions[0]}"
    console().print(table(title, ["", "before", "again", "difference", ""], rows))


def _story(folder: Path, model: Path, user_id: str | None, loaded: Loaded) -> Story:
    with asking(folder / "shop.duckdb", model, loaded) as (pipeline, inspector):
        chosen = user_id or typical_user(pipeline.db, groups=6)
        found = None if chosen is None else inspector.user(chosen, at_ms=pipeline.clock_ms)
        if chosen is None or found is None:
            raise InputError(
                f"there is no user {user_id!r} in the shipped log; choose another --user"
            )
        return tell(pipeline.db, found, pipeline.recommend(chosen), inspector)


def _write(path: Path, found: Evaluation, story: Story, stages: Stages) -> bool:
    try:
        write_report(
            path,
            found,
            title="freshet on a real shop's log",
            source=shipped.SOURCE,
            story=story,
            timings=stages.rows(),
        )
    except MissingExtraError as err:
        console(stderr=True).print(f"no HTML report: {err}")
        return False
    return True


def _print_story(story: Story) -> None:
    out = console()
    out.print(f"\n[bold]{story.title}[/bold]: {story.intro}")
    tree = Tree("tokens, newest first, each by the items it is nearest to", guide_style="dim")
    for period, age, words in story.tokens:
        branch = tree.add(f"{period}, {age}")
        for text in words:
            branch.add(text)
    out.print(tree, markup=False)
    out.print(f"bought last: {'; '.join(story.recents)}", markup=False)
    rows = [(place, text, f"{score:.2f}", had) for place, text, score, had in story.slate]
    out.print(table("slate", ["#", "item", "score", ""], rows, right=["#", "score"]))
    out.print(story.reason, markup=False)


def _print_next(folder: Path, story: Story, *, report: bool) -> None:
    user = story.title.split()[1].rstrip(",")
    db = folder / "shop.duckdb"
    lines = [
        "try next:",
        f"  freshet inspect user {user} --db {db}",
        f"  freshet recommend {user} --db {db} --at 2011-12-24",
        f"  freshet sql 'FROM token_staleness LIMIT 5' --db {db}",
        f"  freshet doctor --db {db}",
        "  freshet demo --train                      make the checkpoint again (10 CPU minutes)",
        f"the slates of the last days are in {folder / 'slates.jsonl'}",
    ]
    if report:
        lines.append(f"the report with pictures is {folder / 'report.html'}")
    out = console()
    for line in lines:
        out.print(line, markup=False)
