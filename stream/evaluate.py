"""Evaluation of a model on a log, through the production path.

The log is replayed into a database as in production; at every target state the production scorer is
asked for the whole catalogue, and every baseline is ranked over the same candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from stream.errors import LeakageError
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
from stream.score import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stream.evaluation.log import EvaluationLog
    from stream.pipeline import Pipeline

    Progress = Callable[[str, int, int], None]

VARIANTS = (TOKENS, RECENTS, SWAPPED, FULL)
PAIRS = (
    (TOKENS.name, MIX),
    (TOKENS.name, RECENTS.name),
    (TOKENS.name, SWAPPED.name),
    (TOKENS.name, FULL.name),
    (RECENTS.name, MIX),
    (TOKENS.name, "user: most frequent, decay 365 d"),
    (TOKENS.name, "Markov, last 3 lines"),
)
SHOWN = (TOKENS.name, RECENTS.name, SWAPPED.name, MIX, "user: most frequent, decay 365 d")


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
        max_states: At most so many states per protocol, whole users, drawn at random; None = all.
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
    def leaking(self) -> bool:
        """Whether a measured event is not newer than what a model was fitted on."""
        first = min(int(book.targets.states.time_ms.min()) for book in self._asked())
        return first <= self.trained_through_ms

    def _asked(self) -> list[RankBook]:
        return [book for book in self.books if book.targets.protocol != "after_visit"]


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
    measurement: Measurement,
    pipeline: Pipeline,
    *,
    on_progress: Progress | None = None,
    on_records: Callable[[int], None] | None = None,
) -> None:
    """Replay the pipeline's log to its end and rank every target with its model.

    Args:
        measurement: Where the ranks go; called again with another model, they are averaged.
        pipeline: A pipeline over the same log and an empty database, or one that stands before the
            first target.
        on_progress: Told the stage, what is done and how much there is.
        on_records: Told the records stored so far.

    Raises:
        LeakageError: A target is not newer than the model's newest training event.
    """
    engine, scorer = pipeline.engine, pipeline.scorer
    if engine is None or not isinstance(scorer, Scorer):
        raise ValueError("a pipeline without a model has nothing to measure")
    measurement.trained_through_ms = max(measurement.trained_through_ms, engine.trained_through_ms)
    check_leakage(measurement)
    hook = IntervalScorer(
        scorer,
        pipeline.identities.find_user,
        measurement.log,
        measurement.books,
        measurement.plan.variants,
        model_number=len(measurement.model_versions),
        on_states=None if on_progress is None else lambda n, of: on_progress("states", n, of),
    )
    pipeline.run(
        on_interval=hook,
        on_progress=None if on_records is None else lambda summary: on_records(summary.records),
    )
    measurement.model_versions.append(engine.version)


def check_leakage(measurement: Measurement) -> None:
    """Refuse targets the model was fitted on, unless the plan allows them.

    Raises:
        LeakageError: A target is not newer than the newest training event.
    """
    if measurement.leaking and not measurement.plan.allow_leakage:
        raise LeakageError(
            f"the model was fitted on events up to {measurement.trained_through_ms} ms, after the"
            " first measured event; measure a later period, train on less, or pass --allow-leakage"
            " to get a report that says so"
        )


def count(measurement: Measurement, on_progress: Progress | None = None) -> None:
    """Fit the baselines on the validation period and rank the targets with them.

    A book whose states no model was asked for is ranked over the whole catalogue.
    """
    plan = measurement.plan
    for book in measurement.books:
        protocol = book.targets.protocol
        if protocol == "after_visit":
            continue
        if (book.candidate_of < 0).all():
            everything = np.arange(len(book.targets.states))
            book.stood(everything, np.ones(book.events.n_items, dtype=bool))
        validation = _drawn(measurement.log, plan, protocol, "validation")
        counted = fit_baselines(book.events, validation, train_end_ms=plan.cuts.train_end)
        measurement.counted[protocol] = counted
        rank_baselines(
            book,
            counted,
            None if on_progress is None else lambda n, of: on_progress("baselines", n, of),
        )


def figures(measurement: Measurement) -> Evaluation:
    """Return the figures of everything ranked so far."""
    plan = measurement.plan
    made = [
        figures_of(
            book,
            ours=[variant.name for variant in plan.variants],
            pairs=PAIRS,
            shown=SHOWN,
            cold_before_ms=plan.cuts.train_end,
            mix_weights=_weights(measurement, book.targets.protocol),
        )
        for book in measurement.books
    ]
    return Evaluation(
        model_versions=tuple(measurement.model_versions),
        trained_through_ms=measurement.trained_through_ms,
        cuts=plan.cuts,
        leaking=bool(measurement.model_versions) and measurement.leaking,
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
    """Keep whole users, in a random order of users, until the states are used up."""
    most = plan.max_states
    if most is None or len(targets.states) <= most:
        return targets
    users, counts = np.unique(targets.states.user, return_counts=True)
    order = np.random.default_rng(plan.options.seed).permutation(len(users))
    kept = order[np.cumsum(counts[order]) <= most]
    return targets.of_users(users[kept])
