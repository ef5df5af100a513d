"""The tuned mix: a conditional logit over popularity and what the user bought, one weight each.

It is the bar a model has to pass: everything that can be counted, weighted as well as the
validation period allows. The weights are the exact maximum of the likelihood (Newton steps on a
concave function), so there is no learning rate, no seed and no stopping rule to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from model.baselines.counting import DailyPopularity, history_counts, spread
from model.baselines.log import EventLog, Floats, Ints, States, ranges
from model.baselines.sequence import CoOccurrence, Markov

Singles = NDArray[np.float32]
Block: TypeAlias = "tuple[Singles, Ints, Ints]"
"""Features [S, V, F], target state [T] within the block, target column [T]."""
StateKind = Literal["next_visit", "next_line"]

VISIT_FEATURES = (
    "log popularity, all",
    "log popularity, 30 d",
    "log popularity, 7 d",
    "bought before",
    "log count",
    "log count, decay 7 d",
    "log count, decay 30 d",
    "log count, decay 90 d",
    "log count, decay 365 d",
    "in last visit",
)
LINE_FEATURES = (*VISIT_FEATURES, "in this visit", "Markov, last 3 lines", "co-occurrence")
DECAY_DAYS = (7.0, 30.0, 90.0, 365.0)
MARKOV_FLOOR = 1e-2  # log of a probability needs a floor; chosen among .1, .01, .001 on validation
RIDGE = 1e-6  # per target; keeps the Newton step defined where a feature is constant
HELD_CELLS = 60_000_000  # feature cells kept between Newton steps (240 MB); more are made afresh
STATE_BLOCK = 16  # small blocks stay in the cache


class MixFeatures:
    """Dense features of states, [S, V, F]; counters are taken before the current visit."""

    def __init__(
        self,
        log: EventLog,
        popularity: DailyPopularity,
        markov: Markov,
        together: CoOccurrence,
        *,
        kind: StateKind,
    ) -> None:
        self._log = log
        self._popularity = popularity
        self._markov = markov
        self._together = together
        self._visit_row = log.visit_first_row()
        self.kind: StateKind = kind
        self.names = VISIT_FEATURES if kind == "next_visit" else LINE_FEATURES

    def __call__(self, states: States) -> Singles:
        """Return [S, V, F] in the order of `names`."""
        before = states.visit_row
        counts = history_counts(self._log, states, before, None)
        columns = [np.log1p(self._popularity.counts(states.time_ms, d)) for d in (None, 30, 7)]
        columns += [(counts > 0).astype(np.float64), np.log1p(counts)]
        columns += [
            np.log1p(history_counts(self._log, states, before, decay)) for decay in DECAY_DAYS
        ]
        first_user_row = self._log.start[states.user]
        last_visit = self._visit_row[np.maximum(before - 1, 0)]
        columns.append(self._among(states, np.maximum(last_visit, first_user_row), before))
        if self.kind == "next_line":
            columns.append(self._among(states, before, states.row))
            columns.append(np.log1p(self._markov.raw(states) / MARKOV_FLOOR))
            columns.append(np.log1p(self._together.raw(states)))
        return np.stack(columns, axis=2, dtype=np.float32, casting="same_kind")

    def _among(self, states: States, first: Ints, last: Ints) -> Floats:
        owner, row = ranges(first, last)
        counted = spread(self._log, len(states), owner, row, np.ones(len(row)))
        return (counted > 0).astype(np.float64)


@dataclass(frozen=True)
class Mix:
    """A fitted mix.

    Attributes:
        features: Where the columns come from.
        weights: [F], one per `features.names`.
        name: How reports call it.
    """

    features: MixFeatures
    weights: Floats
    name: str = "mix, tuned"

    def scores(self, states: States) -> Floats:
        """Return [S, V] logits."""
        scored = np.empty((len(states), self.features(states.take(slice(0, 0))).shape[1]))
        for where, block in states.blocks(STATE_BLOCK):
            scored[where] = self.features(block) @ self.weights.astype(np.float32)
        return scored


def fit_mix(
    features: MixFeatures,
    states: States,
    target_state: Ints,
    target_column: Ints,
    *,
    max_states: int = 900,
    seed: int = 0,
) -> Mix:
    """Return the mix whose weights make the targets likeliest among the whole catalogue.

    Args:
        features: The features of the states.
        states: [S] states of the validation period.
        target_state: [T] state of each target.
        target_column: [T] its column.
        max_states: More states than this are sampled down, with `seed`.
        seed: Of the sample.
    """
    chosen = np.arange(len(states))
    if len(chosen) > max_states:
        generator = np.random.default_rng(seed)
        chosen = np.sort(generator.choice(len(states), max_states, replace=False))
    place = np.full(len(states), -1)
    place[chosen] = np.arange(len(chosen))
    kept = (place[target_state] >= 0) & (target_column >= 0)
    owner, column = place[target_state[kept]], target_column[kept]
    states = states.take(chosen)

    held: list[Block] = []
    cells = len(states) * features(states.take(slice(0, 1))).size

    def blocks() -> Iterator[Block]:
        if held:
            yield from held
            return
        for where, block in states.blocks(STATE_BLOCK):
            inside = (owner >= where.start) & (owner < where.stop)
            made = (features(block), owner[inside] - where.start, column[inside])
            if cells <= HELD_CELLS:
                held.append(made)
            yield made

    return Mix(features, maximum_likelihood(blocks, len(features.names)))


def maximum_likelihood(
    blocks: Callable[[], Iterator[Block]],
    n_features: int,
    *,
    max_steps: int = 25,
    tolerance: float = 1e-7,
) -> Floats:
    """Return the weights [F] of a conditional logit, by damped Newton steps.

    Args:
        blocks: Gives the data afresh each time: (features [S, V, F], target state [T] of the
            block, target column [T]).
        n_features: F.
        max_steps: Passes over the data, each one step or one halving of a step.
        tolerance: Stop when the mean log-likelihood grows by less.
    """
    weights: Floats = np.zeros(n_features)
    step: Floats = np.zeros(n_features)
    best = -np.inf
    for _ in range(max_steps):
        value, slope, curve, count = _moments(blocks(), weights + step)
        if count == 0:
            return weights
        if value < best - tolerance:
            step = step / 2
            continue
        grown = value - best
        weights, best = weights + step, value
        if grown < tolerance:
            break
        step = np.asarray(
            np.linalg.solve(curve + RIDGE * np.eye(n_features), slope), dtype=np.float64
        )
    return weights


def _moments(blocks: Iterator[Block], weights: Floats) -> tuple[float, Floats, Floats, int]:
    """Return the mean log-likelihood per target, its gradient, minus its Hessian, and T."""
    n = len(weights)
    total, count = 0.0, 0
    slope, matrix = np.zeros(n), np.zeros((n, n))
    for features, owner, column in blocks:
        logits = (features @ weights.astype(np.float32)).astype(np.float64)  # [S, V]
        logits -= logits.max(axis=1, keepdims=True)
        share = np.exp(logits)
        norm = share.sum(axis=1)
        times = np.bincount(owner, minlength=len(features)).astype(np.float64)
        weighed = (share * (times / norm)[:, None]).astype(np.float32)
        mean = np.stack([row @ block for row, block in zip(weighed, features, strict=True)])
        flat = features.reshape(-1, n)
        matrix += (flat * weighed.reshape(-1, 1)).T @ flat
        scale = 1.0 / np.maximum(times, 1.0)[:, None]
        matrix -= mean.T @ (mean * scale)
        slope += features[owner, column].sum(axis=0, dtype=np.float64) - mean.sum(axis=0)
        total += float((logits[owner, column] - np.log(norm[owner])).sum())
        count += len(owner)
    share_of = 1.0 / max(1, count)
    value = total * share_of - 0.5 * RIDGE * float(weights @ weights)
    return value, slope * share_of - RIDGE * weights, matrix * share_of, count
