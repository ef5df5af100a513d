"""Training and measuring the recipe on the shipped log, run by run, each kept so that a stop costs one run."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from infra import shipped
from infra.logs import open_items, open_log
from infra.measuring import (
    Stages,
    count_baselines,
    replay_measured,
    start_over,
    store_history,
)
from infra.output import progress
from infra.settings import Loaded
from infra.wiring import ReplayPlan, load_engine, training_config
from model.config import ModelConfig, ReadOutConfig
from model.train import Progress, train
from stream.evaluate import Evaluation, EvaluationPlan, Measurement, admit, figures, prepare
from stream.evaluation.log import EvaluationLog
from stream.evaluation.targets import Split
from stream.log import read_log

Recipe = Literal["shipped", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training and its measurement.

    Attributes:
        period: How time is cut.
        recipe: "shipped", or "plain": without counters and calibration.
        seed: Of everything random in the training.
        folder: Where its files are.
        max_states: States measured per protocol; None = all.
    """

    period: shipped.Period
    recipe: Recipe
    seed: int
    folder: Path
    max_states: int | None = None

    @property
    def name(self) -> str:
        """Name of the run and of its files."""
        return f"{self.period.name}-{self.recipe}-{self.seed}"

    @property
    def checkpoint(self) -> Path:
        """Its checkpoint."""
        return self.folder / f"{self.name}.safetensors"

    @property
    def facts(self) -> Path:
        """The file that says its training is finished."""
        return self.folder / f"{self.name}.json"

    def ranks(self, split: Split, protocol: str) -> Path:
        """Return the file of its ranks."""
        return self.folder / f"{self.name}-{split}-{protocol}.npz"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a finished training."""

    version: str
    trained_through_ms: int
    cpu_s: float
    metrics: dict[str, float]


def model_of(recipe: Recipe, config: ModelConfig) -> ModelConfig:
    """Return the configuration of a recipe."""
    if recipe == "shipped":
        return config
    return replace(config, readout=ReadOutConfig(counters=False, calibration=False))


def train_run(run: Run, loaded: Loaded, *, quiet: bool) -> Facts:
    """Train a run's model, or return what is known if its checkpoint is there."""
    if run.facts.exists() and run.checkpoint.exists():
        return msgspec.json.decode(run.facts.read_bytes(), type=Facts)
    cuts = run.period.cuts
    options = replace(
        loaded.settings.train,
        seed=run.seed,
        train_end_ms=cuts.train_end,
        validation_end_ms=cuts.validation_end,
    )
    with closing(open_log(str(shipped.EVENTS), loaded)) as source:
        interactions = read_log(source, loaded.settings.stream).interactions
    with closing(open_items(str(shipped.ITEMS), loaded)) as source:
        items = read_log(source, loaded.settings.stream).items
    with progress(f"train {run.name}", None, quiet=quiet) as advance:

        def show(at: Progress) -> None:
            advance(at.step, at.steps, f"loss {at.loss:.3f}")

        result = train(
            interactions,
            items,
            model_of(run.recipe, training_config(loaded)),
            options,
            progress=show,
            state_path=run.checkpoint.with_suffix(".state"),
        )
    version = result.write(run.checkpoint)
    facts = Facts(
        version=version,
        trained_through_ms=result.trained_through_ms,
        cpu_s=result.cpu_s,
        metrics=result.metrics,
    )
    run.facts.write_bytes(msgspec.json.encode(facts))
    run.checkpoint.with_suffix(".state").unlink(missing_ok=True)
    return facts


def plans(
    period: shipped.Period, splits: Sequence[Split], max_states: int | None = None
) -> list[EvaluationPlan]:
    """Return one plan per split; validation figures are of a period that calibration saw."""
    return [
        EvaluationPlan(
            cuts=period.cuts,
            split=split,
            target_file=period.targets,
            after_visit=split == "test",
            max_states=max_states,
            allow_leakage=split == "validation",
        )
        for split in splits
    ]


def measure_run(
    run: Run, log: EvaluationLog, loaded: Loaded, splits: Sequence[Split], *, quiet: bool
) -> None:
    """Replay the log with a run's model and keep the ranks; nothing to do if they are there."""
    measurements = [prepare(log, plan) for plan in plans(run.period, splits, run.max_states)]
    files = [
        (book, run.ranks(one.plan.split, book.targets.protocol))
        for one in measurements
        for book in one.books
    ]
    if all(path.exists() for _, path in files):
        return
    stages = Stages()
    db_path = run.folder / f"{run.name}.duckdb"
    start_over(db_path)
    replay = ReplayPlan(
        log=str(shipped.EVENTS),
        db_path=db_path,
        model_path=run.checkpoint,
        items_path=str(shipped.ITEMS),
        until_ms=max(one.plan.cuts.period(one.plan.split)[1] for one in measurements),
        score=False,
    )
    first = min(one.plan.cuts.period(one.plan.split)[0] for one in measurements)
    store_history(replay, loaded, first, stages=stages, quiet=quiet)
    replay_measured(
        measurements, replay, loaded, stages=stages, stage=f"measure {run.name}", quiet=quiet
    )
    for book, path in files:
        book.save(path, [variant.name for variant in measurements[0].plan.variants])
    start_over(db_path)


def pooled(
    runs: Sequence[Run], log: EvaluationLog, splits: Sequence[Split], *, quiet: bool
) -> list[Evaluation]:
    """Return the figures of several seeds of one recipe, averaged per target, one per split."""
    found = []
    for plan in plans(runs[0].period, splits, runs[0].max_states):
        measurement = prepare(log, plan)
        for run in runs:
            admit(measurement, load_engine(run.checkpoint))
            for book in measurement.books:
                book.add_saved(run.ranks(plan.split, book.targets.protocol))
        found.append(_figures(measurement, quiet=quiet))
    return found


def whole_catalogue(log: EvaluationLog, *, quiet: bool) -> Evaluation:
    """Return the baselines alone on the shipped test targets, every item a candidate."""
    plan = replace(plans(shipped.MAIN, ["test"])[0], after_visit=False)
    return _figures(prepare(log, plan), quiet=quiet)


def _figures(measurement: Measurement, *, quiet: bool) -> Evaluation:
    count_baselines([measurement], stages=Stages(), quiet=quiet)
    return figures(measurement)
