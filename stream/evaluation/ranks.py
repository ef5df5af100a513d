"""Ranks of every target under every method, over the same candidates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from model.baselines.log import ranges
from model.ranking import MISSED, MetricName, metric_values, target_ranks
from stream.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from model.baselines.log import EventLog
    from stream.evaluation.targets import Targets

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """One method's ranks on the targets of one protocol; nan = not measured there.

    Attributes:
        everything: [T] rank among all candidates.
        novel: [T] rank among the candidates the user never had; only for novel targets.
    """

    everything: Floats
    novel: Floats

    @classmethod
    def empty(cls, n_targets: int) -> Ranks:
        """Return ranks not measured yet."""
        return cls(everything=np.full(n_targets, np.nan), novel=np.full(n_targets, np.nan))


@dataclass(slots=True)
class RankBook:
    """Collects ranks, block of states by block of states, and forgets the scores.

    Attributes:
        targets: What is ranked.
        ranks: Method -> ranks of each trained model (one for a baseline).
        candidate_of: [S] which of `candidate_sets` stood when the state was asked, -1 = not asked.
        candidate_sets: Distinct candidate masks [V].
        groups: [S] token groups the production state read, -1 = unknown.
        age_ms: [S] time since the newest interaction inside those groups, -1 = none.
    """

    events: EventLog
    targets: Targets
    ranks: dict[str, list[Ranks]] = field(default_factory=dict)
    candidate_sets: list[Flags] = field(default_factory=list)
    candidate_of: Ints = field(init=False)
    groups: Ints = field(init=False)
    age_ms: Ints = field(init=False)
    _by_state: Ints = field(init=False)
    _first: Ints = field(init=False)

    def __post_init__(self) -> None:
        """Index the targets by state."""
        n_states = len(self.targets.states)
        self.candidate_of = np.full(n_states, -1)
        self.groups = np.full(n_states, -1)
        self.age_ms = np.full(n_states, -1)
        self._by_state = np.argsort(self.targets.state, kind="stable")
        self._first = np.searchsorted(self.targets.state[self._by_state], np.arange(n_states + 1))

    def stood(self, states: Ints, candidates: Flags) -> None:
        """Note the candidates [V] of some states; methods are ranked among these only."""
        last = self.candidate_sets[-1] if self.candidate_sets else None
        if last is None or not np.array_equal(last, candidates):
            self.candidate_sets.append(candidates.copy())
        self.candidate_of[states] = len(self.candidate_sets) - 1

    def put(
        self, method: str, states: Ints, scores: NDArray[np.floating[Any]], *, seed: int = 0
    ) -> None:
        """Rank the targets of some states [s] by scores [s, V]; `stood` comes first."""
        kept = self.ranks.setdefault(method, [])
        while len(kept) <= seed:
            kept.append(Ranks.empty(len(self.targets)))
        owner, place = ranges(self._first[states], self._first[states + 1])
        target = self._by_state[place]
        column = self.targets.column[target]
        masks = np.stack([self.candidate_sets[number] for number in self.candidate_of[states]])
        masked = np.where(masks, scores, -np.inf)
        kept[seed].everything[target] = target_ranks(masked, owner, column)
        novel = self.targets.novel[target]
        kept[seed].novel[target[novel]] = target_ranks(
            masked, owner[novel], column[novel], removed=self._had(states)
        )

    def missed(self) -> Flags:
        """Return which targets no method could rank: no candidates when they were asked for, [T]."""
        number = self.candidate_of[self.targets.state]
        sets = np.stack(self.candidate_sets)
        missed: Flags = ~sets[number, self.targets.column]
        return missed

    def values(self, method: str, metric: MetricName, *, novel: bool = False) -> Floats:
        """Return the metric per target, averaged over trained models; nan where not measured."""
        per_model = [one.novel if novel else one.everything for one in self.ranks[method]]
        filled = [np.where(np.isnan(ranks), MISSED, ranks) for ranks in per_model]
        mean: Floats = np.mean([metric_values(ranks, metric) for ranks in filled], axis=0)
        return np.where(np.isnan(per_model[0]), np.nan, mean)

    def save(self, path: Path, methods: Sequence[str], *, seed: int = 0) -> None:
        """Write the ranks of one trained model, and what stood when states were asked."""
        arrays: dict[str, NDArray[Any]] = {
            "state": self.targets.state,
            "column": self.targets.column,
            "candidate_of": self.candidate_of,
            "candidate_sets": np.stack(self.candidate_sets),
            "groups": self.groups,
            "age_ms": self.age_ms,
        }
        for method in methods:
            arrays[f"everything/{method}"] = self.ranks[method][seed].everything
            arrays[f"novel/{method}"] = self.ranks[method][seed].novel
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # keywords are arrays

    def add_saved(self, path: Path) -> None:
        """Add the ranks `save` wrote as those of one more trained model.

        Raises:
            EvaluationError: They are of other targets.
        """
        with np.load(path) as saved:
            same = np.array_equal(saved["state"], self.targets.state)
            if not same or not np.array_equal(saved["column"], self.targets.column):
                raise EvaluationError(
                    f"{path}: ranks of other targets; delete the file to measure again"
                )
            self.candidate_of, self.groups = saved["candidate_of"], saved["groups"]
            self.candidate_sets, self.age_ms = list(saved["candidate_sets"]), saved["age_ms"]
            for name in saved.files:
                kind, _, method = name.partition("/")
                if kind == "everything":
                    ranks = Ranks(everything=saved[name], novel=saved[f"novel/{method}"])
                    self.ranks.setdefault(method, []).append(ranks)

    def _had(self, states: Ints) -> Flags:
        chosen = self.targets.states.take(states)
        owner, row = ranges(self.events.start[chosen.user], chosen.row)
        had = np.zeros((len(chosen), self.events.n_items), dtype=bool)
        had[owner, self.events.item[row]] = True
        return had
