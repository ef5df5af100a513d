"""Evaluation of a model on a log, through the production path.

The log is replayed into a database as in production; at every target state the production scorer is
asked for the whole catalogue, and every baseline is ranked over the same candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from stream.clock import from_ms
from stream.errors import EvaluationError, LeakageError
from stream.evaluation.counted import MIX, Counted, fit_baselines, rank_baselines
from stream.evaluation.figures import ProtocolFigures, figures_of
from stream.evaluation.production import (
    FULL,
    RECENTS,
    SWAPPED,
    TOKENS,
    IntervalScorer,
    Variant,
)
from stream.evaluation.ranks import RankBook
from stream.evaluation.targets import (
    PROTOCOLS,
    Cuts,
    Protocol,
    Split,
    TargetOptions,
    Targets,
    load_targets,
    sample_targets,
)
from stream.loading import FULL_ROWS
from stream.score import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from model.engine import Engine
    from stream.evaluation.log import EvaluationLog
    from stream.pipeline import Pipeline
    from stream.summary import RunSummary

Progress: TypeAlias = "Callable[[str, int, int], None]"
"""Told a stage, what is done of it, and how much there is (0 = not known)."""
VARIANTS = (TOKENS, RECENTS, SWAPPED, FULL)
PAIRS = (
    (TOKENS.name, MIX),
    (TOKENS.name, RECENTS.name),
    (TOKENS.name, SWAPPED.name),
    (TOKENS.name, FULL.name),
    (RECENTS.name, MIX),
    (TOKENS.name, "most frequent, decay 365 d"),
    (TOKENS.name, "Markov, last 3 lines"),
)
SHOWN = (TOKENS.name, RECENTS.name, SWAPPED.name, MIX, "most frequent, decay 365 d")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """What to measure.

    Attributes:
        cuts: Where time is cut.
        split: The period measured.
        protocols: How states are asked.
        options: Who is measured, and how often.
        target_file: Fixed targets instead of drawn ones.
        variants: Ways to read a state; the first one is production's.
        after_visit: Also measure the slate after a visit's last line, for production's variant.
        max_states: At most so many states per protocol, drawn at random; None = all.
        allow_leakage: Measure events the model was fitted on too, and say so in the report.
    """

    cuts: Cuts
    split: Split = "test"
    protocols: tuple[Protocol, ...] = PROTOCOLS
    options: TargetOptions = field(default_factory=TargetOptions)
    target_file: Path | None = None
    variants: tuple[Variant, ...] = VARIANTS
    after_visit: bool = True
    max_states: int | None = None
    allow_leakage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The result of one evaluation.

    Attributes:
        model_versions: Versions measured, averaged per target if there are several.
        trained_through_ms: Newest event any of them was fitted on.
        cuts: Where time was cut.
        leaking: Some measured events are not newer than that.
        full_history_rows: Most interactions the variant with the whole history reads raw.
        protocols: The figures.
        after_visit: The slate after a visit's last line, None if not measured.
    """

    model_versions: tuple[str, ...]
    trained_through_ms: int
    cuts: Cuts
    leaking: bool
    full_history_rows: int
    protocols: tuple[ProtocolFigures, ...]
    after_visit: ProtocolFigures | None

    def protocol(self, name: Protocol) -> ProtocolFigures:
        """Return the figures of one protocol; KeyError if it was not measured."""
        for figures in self.protocols:
            if figures.protocol == name:
                return figures
        raise KeyError(name)


@dataclass(slots=True)
class Measurement:
    """Ranks of one or more models on the same targets, ready to become figures.

    Attributes:
        log: The log measured.
        plan: What was asked for.
        books: One per protocol, `after_visit` last if measured.
        counted: The baselines per protocol.
        model_versions: Models measured so far.
        trained_through_ms: Newest event any of them was fitted on.
        full_history_rows: Most interactions read raw.
    """

    log: EvaluationLog
    plan: EvaluationPlan
    books: list[RankBook]
    counted: dict[Protocol, Counted] = field(default_factory=dict)
    model_versions: list[str] = field(default_factory=list)
    trained_through_ms: int = 0
    full_history_rows: int = 0

    @property
    def first_ms(self) -> int:
        """Time of the first target."""
        asked = [book for book in self.books if book.targets.protocol != "after_visit"]
        return min(int(book.targets.states.time_ms.min()) for book in asked)

    @property
    def leaking(self) -> bool:
        """Whether a measured event is not newer than what a model was fitted on."""
        return bool(self.model_versions) and self.first_ms <= self.trained_through_ms


def prepare(log: EvaluationLog, plan: EvaluationPlan) -> Measurement:
    """Return the targets of a plan, nothing ranked yet.

    Raises:
        EvaluationError: The log has no target in the period, or the target file is of another log.
    """
    wanted = list(plan.protocols)
    if plan.after_visit and "next_visit" in wanted:
        wanted.append("after_visit")
    books = []
    for protocol in wanted:
        targets = _drawn(log, plan, protocol, plan.split)
        books.append(RankBook(log.events, _thinned(targets, plan)))
    return Measurement(log=log, plan=plan, books=books)


def measure(
    measurements: Sequence[Measurement],
    pipeline: Pipeline,
    *,
    on_progress: Progress | None = None,
) -> None:
    """Replay the pipeline's log to its end and rank every target on the way with its model.

    A replay may be cut into several calls: the same model goes on where the last one stopped. With
    another model the figures become the mean of both.

    Args:
        measurements: Where the ranks go: one replay can serve several periods.
        pipeline: A pipeline over the measured log whose database stands before the targets.
        on_progress: Told "records" and "states" with what is done and how much there is (0 =
            not known).

    Raises:
        LeakageError: A target is not newer than the model's newest training event.
    """
    engine, scorer = pipeline.engine, pipeline.scorer
    if engine is None or not isinstance(scorer, Scorer):
        raise ValueError("a pipeline without a model has nothing to measure")
    for one in measurements:
        admit(one, engine)
    plan = measurements[0].plan
    hook = IntervalScorer(
        scorer,
        pipeline.identities.find_user,
        measurements[0].log,
        [book for one in measurements for book in one.books],
        plan.variants,
        model_number=measurements[0].model_versions.index(engine.version),
        on_states=None if on_progress is None else partial(on_progress, "states"),
    )
    pipeline.run(
        on_interval=hook,
        on_progress=None if on_progress is None else _records(on_progress),
    )


def _records(on_progress: Progress) -> Callable[[RunSummary], None]:
    return lambda summary: on_progress("records", summary.records, 0)


def admit(measurement: Measurement, engine: Engine) -> None:
    """Take a model into a measurement.

    Raises:
        LeakageError: A target is not newer than the model's newest training event, and the plan
            does not allow that.
    """
    through = max(measurement.trained_through_ms, engine.trained_through_ms)
    if measurement.first_ms <= through and not measurement.plan.allow_leakage:
        raise LeakageError(
            f"the model was fitted on events through {from_ms(through):%Y-%m-%d %H:%M}, the first"
            f" measured event is of {from_ms(measurement.first_ms):%Y-%m-%d %H:%M}; measure a later"
            " period, train on less, or pass --allow-leakage for a report that says so"
        )
    measurement.trained_through_ms = through
    measurement.full_history_rows = FULL_ROWS
    if engine.version not in measurement.model_versions:
        measurement.model_versions.append(engine.version)


def count(measurement: Measurement, on_progress: Progress | None = None) -> None:
    """Fit the baselines on the validation period and rank the targets with them.

    Without a model, over the whole catalogue; else over what the model could recommend.
    """
    plan = measurement.plan
    for book in measurement.books:
        protocol = book.targets.protocol
        if protocol == "after_visit":
            continue
        if not measurement.model_versions:
            everything = np.arange(len(book.targets.states))
            book.stood(everything, np.ones(book.events.n_items, dtype=bool))
        validation = _drawn(measurement.log, plan, protocol, "validation")
        counted = fit_baselines(book.events, validation, train_end_ms=plan.cuts.train_end)
        measurement.counted[protocol] = counted
        rank_baselines(
            book,
            counted,
            None if on_progress is None else partial(on_progress, "baselines"),
        )


def figures(measurement: Measurement) -> Evaluation:
    """Return the figures of everything ranked so far.

    Raises:
        EvaluationError: Nothing was ranked.
    """
    plan = measurement.plan
    for book in measurement.books:
        if book.targets.protocol != "after_visit" and (book.candidate_of < 0).all():
            raise EvaluationError(
                f"no {book.targets.protocol} state was asked: the database already stands behind the"
                " measured period; replay into a new one"
            )
    made = [
        figures_of(
            book,
            ours=[variant.name for variant in plan.variants],
            pairs=PAIRS,
            shown=() if book.targets.protocol == "after_visit" else SHOWN,
            cold_before_ms=plan.cuts.train_end,
            mix_weights=_weights(measurement, book.targets.protocol),
        )
        for book in measurement.books
        if (book.candidate_of >= 0).any()
    ]
    return Evaluation(
        model_versions=tuple(measurement.model_versions),
        trained_through_ms=measurement.trained_through_ms,
        cuts=plan.cuts,
        leaking=measurement.leaking,
        full_history_rows=measurement.full_history_rows,
        protocols=tuple(one for one in made if one.protocol != "after_visit"),
        after_visit=next((one for one in made if one.protocol == "after_visit"), None),
    )


def _weights(measurement: Measurement, protocol: Protocol) -> dict[str, float]:
    counted = measurement.counted.get(protocol)
    return {} if counted is None else counted.mix_weights


def _drawn(log: EvaluationLog, plan: EvaluationPlan, protocol: Protocol, split: Split) -> Targets:
    if plan.target_file is not None:
        return load_targets(plan.target_file, log, protocol, split)
    return sample_targets(log, plan.cuts, protocol, split, plan.options)


def _thinned(targets: Targets, plan: EvaluationPlan) -> Targets:
    """Keep some states, drawn at random; the same rows for every protocol that shares them."""
    most = plan.max_states
    if most is None or len(targets.states) <= most:
        return targets
    generator = np.random.default_rng(plan.options.seed)
    rows = np.sort(targets.states.row)
    kept = generator.choice(rows, most, replace=False)
    return targets.where(np.isin(targets.states.row, kept)[targets.state])
