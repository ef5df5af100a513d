"""Ranks over the whole catalogue, the metrics made from them, and bootstrap intervals over users.

A *target* is one item that should stand high in one ranking (the ranking of its *state*). Every
method is ranked over the same candidates; an item at the same score counts half a place (mean
rank), so a method that says nothing gets the middle of the catalogue and not the top of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
MetricName = Literal["recall@10", "recall@50", "ndcg@10", "mrr"]

METRICS: tuple[MetricName, ...] = ("recall@10", "recall@50", "ndcg@10", "mrr")
MISSED = np.inf  # the rank of a target that could not be recommended at all
BLOCK_CELLS = 4_000_000  # cells compared at once: bounds memory, changes no result


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval over resampled users.

    Attributes:
        value: Mean over targets.
        low: 2.5 % quantile of the means of the resampled targets.
        high: 97.5 % quantile.
        target_count: Number of targets.
        user_count: Number of users.
    """

    value: float
    low: float
    high: float
    target_count: int
    user_count: int


def target_ranks(
    scores: NDArray[np.floating[Any]],
    target_state: Ints,
    target_column: Ints,
    *,
    removed: Flags | None = None,
) -> Floats:
    """Return the rank of every target among its state's candidates, 1 = first, shape [T].

    Equal scores get the mean of the places they share. Scores must be finite, except `-inf` for
    a column that is not a candidate.

    Args:
        scores: [B, V], one row per state.
        target_state: [T], the row of `scores` each target belongs to.
        target_column: [T], the column of the target; -1 = not a candidate, ranked `MISSED`.
        removed: [B, V], columns taken out of a state's ranking (items already bought). A target
            that is itself removed is ranked `MISSED`.
    """
    if scores.ndim != 2:
        raise ValueError(f"scores must be [states, items], got shape {scores.shape}")
    ranks = np.full(len(target_state), MISSED)
    known = np.flatnonzero(target_column >= 0)
    block = max(1, BLOCK_CELLS // max(1, scores.shape[1]))
    for first in range(0, len(known), block):
        chosen = known[first : first + block]
        rows, columns = target_state[chosen], target_column[chosen]
        cells = scores[rows]  # [t, V]
        if removed is not None:
            cells = np.where(removed[rows], -np.inf, cells)
        own = cells[np.arange(len(chosen)), columns][:, None]
        above = (cells > own).sum(axis=1)
        ties = (cells == own).sum(axis=1) - 1  # the target itself is not a tie
        ranks[chosen] = np.where(np.isneginf(own[:, 0]), MISSED, 1.0 + above + 0.5 * ties)
    return ranks


def recall(ranks: Floats, k: int) -> Floats:
    """Return 1 per target ranked within `k`, else 0, shape [T]."""
    return (ranks <= k).astype(np.float64)


def ndcg(ranks: Floats, k: int) -> Floats:
    """Return 1 / log2(1 + rank) per target ranked within `k`, else 0, shape [T]."""
    return np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0)


def reciprocal_rank(ranks: Floats) -> Floats:
    """Return 1 / rank per target (0 for a missed one), shape [T]."""
    return 1.0 / ranks


def metric_values(ranks: Floats, metric: MetricName) -> Floats:
    """Return one value per target for a named metric, shape [T]."""
    if metric == "mrr":
        return reciprocal_rank(ranks)
    name, _, cut = metric.partition("@")
    return recall(ranks, int(cut)) if name == "recall" else ndcg(ranks, int(cut))


class Resampler:
    """Draws of users, made once and used for every figure, so all intervals are comparable.

    A draw takes as many users as there are, with replacement; its mean is over the targets of
    the users taken. Differences between two methods are paired: take the difference per target
    and give it to `estimate`.
    """

    def __init__(self, target_user: Ints, *, draws: int = 1000, seed: int = 0) -> None:
        users, self._user_row = np.unique(target_user, return_inverse=True)
        self._users = len(users)
        generator = np.random.default_rng(seed)
        picks = generator.integers(0, max(1, self._users), size=(draws, self._users))
        self._times = np.zeros((draws, self._users))
        for draw, taken in enumerate(picks):
            self._times[draw] = np.bincount(taken, minlength=self._users)

    def estimate(self, values: Floats, where: Flags | None = None) -> Estimate:
        """Return the mean of `values` [T] and its interval; `where` [T] keeps some targets only.

        Users without a kept target still take part in the draws, with nothing to add. No kept
        target gives nan.
        """
        kept = np.ones(len(values), dtype=bool) if where is None else where
        rows = self._user_row[kept]
        sums = np.bincount(rows, weights=values[kept], minlength=self._users)
        counts = np.bincount(rows, minlength=self._users).astype(np.float64)
        if not kept.any():
            return Estimate(value=np.nan, low=np.nan, high=np.nan, target_count=0, user_count=0)
        drawn = self._times @ counts
        means = (self._times @ sums)[drawn > 0] / drawn[drawn > 0]
        low, high = np.quantile(means, (0.025, 0.975))
        return Estimate(
            value=float(sums.sum() / counts.sum()),
            low=float(low),
            high=float(high),
            target_count=int(counts.sum()),
            user_count=int((counts > 0).sum()),
        )
