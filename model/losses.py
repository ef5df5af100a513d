"""Losses over candidate scores: next visit (many items per row) and next line (one item per row).

With a large catalogue the softmax runs over a shared sample of candidates; each candidate's score
is corrected by the log of the chance that it was in the sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.features import SparseFeatures

__all__ = ["CandidateSet", "choose_candidates", "line_loss", "visit_loss"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """The candidates a step's softmax runs over.

    Attributes:
        columns: int64 [C], catalogue columns, ascending.
        log_chance: float32 [C], log of the chance that a column is in the set; 0 for a full set.
    """

    columns: Ints
    log_chance: NDArray[np.float32]

    def local(self, columns: Ints) -> Ints:
        """Places of catalogue columns in the set; all must be members."""
        return np.searchsorted(self.columns, columns).astype(np.int64)

    def narrow(self, sparse: SparseFeatures) -> SparseFeatures:
        """The same features over the candidates of the set; others are dropped."""
        place = np.searchsorted(self.columns, sparse.item)
        place = np.minimum(place, self.columns.shape[0] - 1)
        keep = self.columns[place] == sparse.item
        return replace(sparse, item=place).where(keep)


def choose_candidates(
    n_items: int,
    targets: Ints,
    share: NDArray[np.float64],
    *,
    limit: int,
    rng: np.random.Generator,
) -> CandidateSet:
    """All items when the catalogue is small, else the step's targets and a uniform sample.

    Args:
        n_items: catalogue size V.
        targets: target columns of the step; each is a candidate for every row.
        share: [V], share of each item among all training targets.
        limit: largest number of sampled candidates; a catalogue up to this size is taken whole.
        rng: source of the sample.
    """
    if n_items <= limit:
        return CandidateSet(np.arange(n_items), np.zeros(n_items, np.float32))
    sample = rng.choice(n_items, size=limit, replace=False)
    columns = np.union1d(sample, targets).astype(np.int64)
    absent = np.exp(targets.shape[0] * np.log1p(-np.minimum(share[columns], 0.5)))
    chance = 1.0 - (1.0 - limit / n_items) * absent
    return CandidateSet(columns, np.log(chance).astype(np.float32))


def line_loss(scores: Tensor, target: Tensor, weight: Tensor, log_chance: Tensor) -> Tensor:
    """Weighted mean of the negative log-likelihood of one item per row.

    Args:
        scores: [R, C].
        target: int64 [R], place of the next item among the candidates.
        weight: [R], weight of each row.
        log_chance: [C], see `CandidateSet`; the row's own target is not corrected.

    Returns:
        Scalar; 0 when there are no rows.
    """
    if not scores.shape[0]:
        return scores.sum()
    rows = torch.arange(scores.shape[0], device=scores.device)
    return _mean(_negative_log_likelihood(scores, rows, target, log_chance), weight)


def visit_loss(
    scores: Tensor,
    target_row: Tensor,
    target: Tensor,
    weight: Tensor,
    log_chance: Tensor,
) -> Tensor:
    """Weighted mean of the negative log-likelihood over (row, item of the next visit) pairs.

    Args:
        scores: [R, C].
        target_row: int64 [T], row of each pair.
        target: int64 [T], place of the item among the candidates.
        weight: [T], weight of each pair.
        log_chance: [C], see `CandidateSet`.

    Returns:
        Scalar; 0 when there are no pairs.
    """
    if not target_row.shape[0]:
        return scores.sum() * 0.0
    return _mean(_negative_log_likelihood(scores, target_row, target, log_chance), weight)


def _negative_log_likelihood(
    scores: Tensor, rows: Tensor, target: Tensor, log_chance: Tensor
) -> Tensor:
    total = torch.logsumexp(scores - log_chance, dim=-1)[rows]
    own = scores[rows, target]
    # The target is in the set for certain: take its correction back out of the sum.
    surplus = torch.expm1(-log_chance[target])
    total = total + torch.log1p(-(torch.exp(own - total) * surplus).clamp(max=1.0 - 1e-6))
    return total - own


def _mean(loss: Tensor, weight: Tensor) -> Tensor:
    return (loss * weight).sum() / weight.sum().clamp(min=1e-9)
