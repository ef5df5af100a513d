"""Running an evaluation: history stored fast, then the measured stretch replayed tick by tick."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

from infra.logs import open_items, open_log
from infra.output import duration, progress
from infra.settings import Loaded
from infra.wiring import ReplayPlan, pipeline_config, replaying
from model.config import ModelConfig
from stream.evaluate import Measurement, Progress, count, measure
from stream.evaluation.log import EvaluationLog, evaluation_log
from stream.log import read_log
from stream.summary import RunSummary

HISTORY_TICK_S = 30 * 86_400
"""Ticks before the measured stretch: tokens are a function of the log, not of when ticks were."""


@dataclass(slots=True)
class Stages:
    """How long each stage took, in the order they ran."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the wall time of the block to a stage."""
        started = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - started

    def rows(self) -> list[tuple[str, str]]:
        """Return (stage, duration) pairs and their sum."""
        rows = [(name, duration(seconds)) for name, seconds in self.seconds.items()]
        return [*rows, ("all of it", duration(sum(self.seconds.values())))]


def read_for_evaluation(
    log: str, items_path: str | None, loaded: Loaded, model: ModelConfig | None
) -> EvaluationLog:
    """Return the whole log as arrays, judged as the pipeline judges it.

    Raises:
        SourceError: the log or the item file can not be read.
        EvaluationError: nothing in it is history.
    """
    config = pipeline_config(loaded, model).stream
    with closing(open_log(log, loaded)) as source:
        tables = read_log(source, config)
    if items_path is None:
        return evaluation_log(tables, config)
    with closing(open_items(items_path, loaded)) as source:
        return evaluation_log(tables, config, read_log(source, config).items)


def store_history(
    plan: ReplayPlan, loaded: Loaded, until_ms: int, *, stages: Stages, quiet: bool
) -> RunSummary:
    """Store everything before a time, with few ticks and no slates; goes on where a file stopped."""
    refresh = loaded.settings.refresh
    seldom = replace(refresh, tick_interval_s=max(HISTORY_TICK_S, refresh.tick_interval_s))
    slow = replace(loaded, settings=replace(loaded.settings, refresh=seldom))
    before = replace(plan, until_ms=until_ms, score=False, slates_path=None)
    with (
        stages.timed("store the history, compress it"),
        replaying(before, slow) as pipeline,
        progress("history", None, quiet=quiet) as advance,
    ):
        return pipeline.run(
            on_progress=lambda at: advance(at.records, None, f"{at.segments:,} segments")
        )


def replay_measured(
    measurements: Sequence[Measurement],
    plan: ReplayPlan,
    loaded: Loaded,
    *,
    stages: Stages,
    stage: str,
    quiet: bool,
) -> RunSummary:
    """Replay the rest of a plan's log tick by tick and rank the targets on the way.

    Raises:
        LeakageError: a target is not newer than what the model was fitted on.
    """
    with (
        stages.timed(stage),
        replaying(plan, loaded) as pipeline,
        progress(stage, None, quiet=quiet) as advance,
    ):
        measure(measurements, pipeline, on_progress=_shown(advance))
        return pipeline.summary


def count_baselines(measurements: Sequence[Measurement], *, stages: Stages, quiet: bool) -> None:
    """Fit and rank the baselines of each measurement."""
    with (
        stages.timed("fit and rank baselines"),
        progress("baselines", None, quiet=quiet) as advance,
    ):
        for one in measurements:
            count(one, lambda _, done, total: advance(done, total))


def start_over(*paths: Path) -> None:
    """Remove files of an earlier run, with what DuckDB keeps beside a database."""
    for path in paths:
        for suffix in ("", ".wal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _shown(advance: Callable[..., None]) -> Progress:
    def show(what: str, done: int, total: int) -> None:
        if what == "states":
            advance(done, total, "states asked")

    return show
