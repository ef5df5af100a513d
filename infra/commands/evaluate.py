"""`freshet evaluate`: a model against baselines on any log, through the production path."""

import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import click

from infra.figures import conditions, sentences, terminal_tables
from infra.measuring import (
    Stages,
    count_baselines,
    read_for_evaluation,
    replay_measured,
    store_history,
)
from infra.options import (
    FILE,
    TIME,
    column_overrides,
    json_option,
    map_option,
    read_settings,
    settings_options,
)
from infra.output import console, print_json, table
from infra.report import write_report
from infra.settings import Loaded
from infra.wiring import ReplayPlan, load_engine
from model.engine import Engine
from stream.clock import DAY_MS, to_ms
from stream.evaluate import Evaluation, EvaluationPlan, admit, figures, prepare
from stream.evaluation.log import EvaluationLog
from stream.evaluation.targets import Cuts, Split, TargetOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line asked for."""

    log: str
    model_path: Path
    items_path: str | None
    targets_path: Path | None
    train_end: datetime | None
    validation_end: datetime | None
    test_end: datetime | None
    split: Split
    min_events: int | None
    max_states: int | None
    seed: int
    allow_leakage: bool


@click.command("evaluate")
@click.argument("log")
@click.option("--model", "model_path", type=FILE, required=True, help="Checkpoint to measure.")
@click.option("--items", "items_path", help="Item file: item_id, text, available, first seen.")
@click.option("--targets", "targets_path", type=FILE, help="Fixed targets instead of drawn ones.")
@map_option
@click.option("--train-end", type=TIME, help="End of training (default: 30 days before the next).")
@click.option(
    "--validation-end",
    type=TIME,
    help="Start of the test (default: the midnight after the model's newest event).",
)
@click.option("--test-end", type=TIME, help="End of the test (default: end of the log).")
@click.option(
    "--split", type=click.Choice(["validation", "test"]), default="test", show_default=True
)
@click.option(
    "--min-events",
    type=click.IntRange(min=1),
    help="Events a user needs before the end of training (default: three segments).",
)
@click.option(
    "--max-states",
    type=click.IntRange(min=1),
    help="At most so many states per protocol, drawn at random.",
)
@click.option("--seed", default=0, show_default=True, help="Of everything drawn.")
@click.option("--db", "db_path", type=FILE, help="Keep the replayed database here (must be new).")
@click.option("--report", "report_path", type=FILE, help="Write an HTML report with pictures.")
@click.option(
    "--allow-leakage", is_flag=True, help="Measure events the model was fitted on, and say so."
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
@settings_options
@json_option
def command(
    log: str,
    model_path: Path,
    items_path: str | None,
    targets_path: Path | None,
    columns: dict[str, str] | None,
    train_end: datetime | None,
    validation_end: datetime | None,
    test_end: datetime | None,
    split: Split,
    min_events: int | None,
    max_states: int | None,
    seed: int,
    db_path: Path | None,
    report_path: Path | None,
    allow_leakage: bool,
    quiet: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Replay LOG (a file or a glob) into a new database and measure the model on its last part.

    Next visit and next line are measured apart, each at the state the production scorer had at that
    moment, over the whole catalogue, beside counting rules and a mix of them fitted on the
    validation period. Figures over events the model was fitted on are refused.

    \b
    freshet evaluate events.parquet --items items.parquet --model model.safetensors \\
        --train-end 2011-09-01 --validation-end 2011-10-01 --report report.html
    """
    loaded = read_settings(config_file, assignments, *column_overrides(columns))
    request = Request(
        log=log,
        model_path=model_path,
        items_path=items_path,
        targets_path=targets_path,
        train_end=train_end,
        validation_end=validation_end,
        test_end=test_end,
        split=split,
        min_events=min_events,
        max_states=max_states,
        seed=seed,
        allow_leakage=allow_leakage,
    )
    stages = Stages()
    with tempfile.TemporaryDirectory(prefix="freshet-") as folder:
        path = db_path or Path(folder) / "evaluate.duckdb"
        found = _evaluate(request, loaded, path, stages, quiet=quiet or as_json)
    if report_path is not None:
        _write(report_path, found, log, stages)
    if as_json:
        print_json({"evaluation": found, "seconds": stages.seconds})
    else:
        print_evaluation(found, stages)


def _evaluate(
    request: Request, loaded: Loaded, db_path: Path, stages: Stages, *, quiet: bool
) -> Evaluation:
    engine = load_engine(request.model_path)
    with stages.timed("read the log"):
        log = read_for_evaluation(request.log, request.items_path, loaded, engine.config)
    measurement = prepare(log, _plan(request, log, engine, loaded))
    replay = ReplayPlan(
        log=request.log,
        db_path=db_path,
        model_path=request.model_path,
        items_path=request.items_path,
        score=False,
    )
    first, _ = measurement.plan.cuts.period(request.split)
    admit(measurement, engine)  # refused before the long part, not after it
    store_history(replay, loaded, first, stages=stages, quiet=quiet)
    replay_measured(
        [measurement], replay, loaded, stages=stages, stage="replay and ask", quiet=quiet
    )
    count_baselines([measurement], stages=stages, quiet=quiet)
    with stages.timed("resample users"):
        return figures(measurement)


def _plan(request: Request, log: EvaluationLog, engine: Engine, loaded: Loaded) -> EvaluationPlan:
    newest = int(log.events.time_ms.max())
    through = engine.trained_through_ms
    start = _ms(request.validation_end, through - through % DAY_MS + DAY_MS)
    window = round(loaded.settings.train.validation_days * DAY_MS)
    cuts = Cuts(
        train_end=_ms(request.train_end, start - window),
        validation_end=start,
        test_end=_ms(request.test_end, newest + 1),
    )
    least = request.min_events or 3 * engine.config.segment_len
    return EvaluationPlan(
        cuts=cuts,
        split=request.split,
        options=TargetOptions(min_events=least, seed=request.seed),
        target_file=request.targets_path,
        max_states=request.max_states,
        allow_leakage=request.allow_leakage,
    )


def print_evaluation(found: Evaluation, stages: Stages) -> None:
    """Print tables, verdicts and conditions of an evaluation."""
    out = console()
    if found.leaking:
        out.print("[bold red]LEAKAGE: the model was fitted on events of this period[/bold red]")
    for made in terminal_tables(found):
        out.print(made)
    for text in sentences(found):
        out.print(f"  {text}", markup=False)
    out.print(table("how this was measured", ["", ""], [*conditions(found), *stages.rows()]))


def _write(path: Path, found: Evaluation, log: str, stages: Stages) -> None:
    write_report(
        path,
        found,
        title=f"freshet on {Path(log).name}",
        source=f"The log: {log}",
        timings=stages.rows(),
    )


def _ms(at: datetime | None, default: int) -> int:
    return default if at is None else to_ms(at)
