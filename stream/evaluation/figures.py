"""Figures with intervals, paired differences and breakdowns, from the ranks of a protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.baselines.log import DAY_MS
from model.ranking import METRICS, Estimate, MetricName, Resampler
from stream.evaluation.targets import Protocol, Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stream.evaluation.ranks import RankBook

    Ints = NDArray[np.int64]
    Flags = NDArray[np.bool_]

BROKEN_DOWN: MetricName = "recall@50"
HISTORY_EDGES = (0, 128, 256, 512, 1024)  # interactions before the state
AGE_EDGES_DAYS = (0, 7, 30, 60, 120)  # from the newest interaction inside a token to the state
MIN_BUCKET_USERS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One method on one protocol.

    Attributes:
        method: Its name.
        kind: "baseline" counts, "ours" is the model through the production path.
        everything: Metric -> estimate, ranked among all candidates.
        novel: The same on targets the user never had, ranked among items he never had.
        cold: The same on targets nobody had before the end of training.
    """

    method: str
    kind: str
    everything: dict[str, Estimate]
    novel: dict[str, Estimate]
    cold: dict[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Paired difference of two methods: `method` minus `reference`, on the same targets."""

    method: str
    reference: str
    everything: dict[str, Estimate]
    novel: dict[str, Estimate]
    cold: dict[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Recall@50 of some methods on a part of the targets."""

    label: str
    user_count: int
    target_count: int
    methods: dict[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolFigures:
    """Everything measured on one protocol in one period.

    Attributes:
        protocol: How states are asked.
        split: Validation or test.
        user_count: Users with a target.
        state_count: Rankings made.
        target_count: Targets.
        novel_share: Share of targets the user never had.
        cold_share: Share of targets nobody had before the end of training.
        missed_share: Share of targets that were no candidates when asked for: missed by all.
        figures: One per method.
        differences: Paired differences.
        by_history: Recall@50 by the number of interactions before the state.
        by_age: Recall@50 by the age of the newest token read.
        mix_weights: Weights of the tuned mix.
    """

    protocol: Protocol
    split: Split
    user_count: int
    state_count: int
    target_count: int
    novel_share: float
    cold_share: float
    missed_share: float
    figures: tuple[Figure, ...]
    differences: tuple[Difference, ...]
    by_history: tuple[Bucket, ...]
    by_age: tuple[Bucket, ...]
    mix_weights: dict[str, float]

    def figure(self, method: str) -> Figure:
        """Return one method's figures; KeyError if it was not measured."""
        for figure in self.figures:
            if figure.method == method:
                return figure
        raise KeyError(method)

    def difference(self, method: str, reference: str) -> Difference:
        """Return one paired difference; KeyError if it was not taken."""
        for difference in self.differences:
            if (difference.method, difference.reference) == (method, reference):
                return difference
        raise KeyError((method, reference))


def figures_of(
    book: RankBook,
    *,
    ours: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    shown: Sequence[str],
    cold_before_ms: int,
    mix_weights: dict[str, float] | None = None,
) -> ProtocolFigures:
    """Return the figures of a protocol.

    Args:
        book: The ranks; states that were never asked are left out.
        ours: Methods of the model; all others are baselines.
        pairs: Differences to take: (method, reference); pairs with a missing method are skipped.
        shown: Methods of the breakdowns.
        cold_before_ms: A target is cold if nobody had it before this time.
        mix_weights: Printed with the figures.
    """
    targets = book.targets
    asked = book.candidate_of[targets.state] >= 0
    cold = _cold(book, cold_before_ms)
    draws = Resampler(targets.user)
    parts = _Parts(book, draws, asked, cold)
    order = [name for name in book.ranks if name not in ours]
    order += [name for name in ours if name in book.ranks]
    measured = [pair for pair in pairs if pair[0] in book.ranks and pair[1] in book.ranks]
    breakdown = [name for name in shown if name in book.ranks]
    return ProtocolFigures(
        protocol=targets.protocol,
        split=targets.split,
        user_count=len(np.unique(targets.user[asked])),
        state_count=int((book.candidate_of >= 0).sum()),
        target_count=int(asked.sum()),
        novel_share=float(targets.novel[asked].mean()),
        cold_share=float(cold[asked].mean()),
        missed_share=float(book.missed()[asked].mean()),
        figures=tuple(
            Figure(method=name, kind="ours" if name in ours else "baseline", **parts.of(name))
            for name in order
        ),
        differences=tuple(
            Difference(method=one, reference=other, **parts.of(one, other))
            for one, other in measured
        ),
        by_history=_by_history(book, draws, asked, breakdown),
        by_age=_by_age(book, draws, asked, breakdown),
        mix_weights=mix_weights or {},
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """Estimates of a method, or of a difference, on all, novel and cold targets."""

    book: RankBook
    draws: Resampler
    asked: Flags
    cold: Flags

    def of(self, method: str, minus: str | None = None) -> dict[str, dict[str, Estimate]]:
        return {
            "everything": self._metrics(method, minus, self.asked, novel=False),
            "novel": self._metrics(method, minus, self.asked & self.book.targets.novel, novel=True),
            "cold": self._metrics(method, minus, self.asked & self.cold, novel=False),
        }

    def _metrics(
        self, method: str, minus: str | None, where: Flags, *, novel: bool
    ) -> dict[str, Estimate]:
        estimates: dict[str, Estimate] = {}
        for metric in METRICS:
            values = self.book.values(method, metric, novel=novel)
            if minus is not None:
                values = values - self.book.values(minus, metric, novel=novel)
            estimates[metric] = self.draws.estimate(values, where & ~np.isnan(values))
        return estimates


def _cold(book: RankBook, before_ms: int) -> Flags:
    known = np.zeros(book.events.n_items, dtype=bool)
    known[book.events.item[book.events.time_ms < before_ms]] = True
    cold: Flags = ~known[book.targets.column]
    return cold


def _by_history(
    book: RankBook, draws: Resampler, asked: Flags, methods: Sequence[str]
) -> tuple[Bucket, ...]:
    states = book.targets.states
    length = (states.row - book.events.start[states.user])[book.targets.state]
    return tuple(_buckets(book, draws, asked, methods, length, HISTORY_EDGES, "{} to {}", "{}+"))


def _by_age(
    book: RankBook, draws: Resampler, asked: Flags, methods: Sequence[str]
) -> tuple[Bucket, ...]:
    age = book.age_ms[book.targets.state]
    days = np.where(age < 0, -1, age // DAY_MS)
    inside = asked & (days >= 0)
    return tuple(
        _buckets(book, draws, inside, methods, days, AGE_EDGES_DAYS, "{} to {} d", "{}+ d")
    )


def _buckets(
    book: RankBook,
    draws: Resampler,
    asked: Flags,
    methods: Sequence[str],
    values: Ints,
    edges: Sequence[int],
    inner: str,
    outer: str,
) -> Iterator[Bucket]:
    """Cut targets by `values` [T] at edges; bins with too few users are joined to their neighbors."""
    made = _joined(book.targets.user, values, asked, edges)
    if len(made) < 2:  # one bucket says no more than the whole
        return
    for first, last in made:
        inside = asked & (values >= first)
        if last is not None:
            inside &= values < last
        estimates = {}
        for name in methods:
            of_method = book.values(name, BROKEN_DOWN)
            estimates[name] = draws.estimate(of_method, inside & ~np.isnan(of_method))
        yield Bucket(
            label=outer.format(first) if last is None else inner.format(first, last - 1),
            user_count=len(np.unique(book.targets.user[inside])),
            target_count=int(inside.sum()),
            methods=estimates,
        )


def _joined(
    users: Ints, values: Ints, asked: Flags, edges: Sequence[int]
) -> list[tuple[int, int | None]]:
    """Return [first, last) of buckets with enough users each; None = open above."""
    ends = [*edges[1:], None]
    made: list[tuple[int, int | None]] = []
    first = edges[0]
    for last in ends:
        inside = asked & (values >= first)
        if last is not None:
            inside &= values < last
        if len(np.unique(users[inside])) >= MIN_BUCKET_USERS:
            made.append((first, last))
            first = first if last is None else last
        elif last is None and made and inside.any():
            made[-1] = (made[-1][0], None)
    return made
