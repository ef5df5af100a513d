"""Calibration: a few weights fitted on the newest month, folded into the read-out.

Two years of equal weight overrate old best sellers and misjudge how much a repeat is worth now.
A conditional logit with the model's own score as one feature, popularity and the counters as the
others, corrects that; as the read-out is linear in all of them the result is the same read-out
with other weights, and serving does not know that it was calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.features import FEATURES, POPULARITY_DAYS
from model.readout import Kind, ReadOut
from model.training.validation import Examples

__all__ = ["Correction", "calibrate", "fit", "fold"]

_ITERATIONS = 40
_PULL = 1e-3
"""Ridge towards the trained weights, per pair; decides only what the data leaves open."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What calibration changes in one read-out.

    Attributes:
        kind: the read-out.
        factor: multiplies the trained score.
        popularity: added to the popularity weights.
        features: added to the feature weights.
        loss_before: mean negative log-likelihood before.
        loss_after: the same after.
    """

    kind: Kind
    factor: float
    popularity: tuple[float, ...]
    features: tuple[float, ...]
    loss_before: float
    loss_after: float


def calibrate(readout: ReadOut, parts: Sequence[Examples]) -> list[Correction]:
    """Fit and fold both read-outs; a read-out without examples stays as it is.

    Args:
        readout: changed in place.
        parts: examples of the newest month, all targets of a row weighing alike.
    """
    corrections = []
    for part in parts:
        correction = fit(readout, part)
        fold(readout, correction)
        corrections.append(correction)
    return corrections


def fit(readout: ReadOut, part: Examples, *, pull: float = _PULL) -> Correction:
    """Fit the correction of one read-out by maximum likelihood (L-BFGS, whole batch).

    Args:
        readout: stays as it is.
        part: examples of one read-out.
        pull: ridge towards the trained weights, on top of the mean loss per pair.
    """
    with torch.no_grad():
        base = part.scores(readout).detach()
    design = _Design(readout, part, base)
    theta = torch.zeros(1 + len(POPULARITY_DAYS) + len(FEATURES), requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [theta], max_iter=_ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = design.loss(theta) + pull * theta.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.no_grad():
        before = float(design.loss(theta))
    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        after = float(design.loss(theta))
    values = (theta.detach() * design.mask).tolist()
    split = 1 + len(POPULARITY_DAYS)
    return Correction(
        part.kind, 1.0 + values[0], tuple(values[1:split]), tuple(values[split:]), before, after
    )


@torch.no_grad()
def fold(readout: ReadOut, correction: Correction) -> None:
    """Put a correction into the weights, so that scores become factor * score + the rest."""
    part = readout.weights(correction.kind)
    part.scale.mul_(correction.factor)
    part.popularity.mul_(correction.factor).add_(torch.tensor(correction.popularity))
    part.weight.mul_(correction.factor).add_(torch.tensor(correction.features))
    part.modulation.mul_(correction.factor)


class _Design:
    """Scores of one read-out as a linear function of the correction."""

    def __init__(self, readout: ReadOut, part: Examples, base: Tensor) -> None:
        config = readout.config
        self.base = base
        self.log_pop = torch.as_tensor(part.log_pop)
        self.group = torch.from_numpy(part.group)
        pairs = part.sparse.pairs(base.shape[1])
        self.x = torch.from_numpy(part.sparse.x[pairs.entry])
        self.cell = torch.from_numpy(pairs.cell)
        self.target_row = torch.from_numpy(part.target_row)
        self.target = torch.from_numpy(part.target)
        mask = [1.0] + [float(config.popularity)] * len(POPULARITY_DAYS)
        self.mask = torch.cat([torch.tensor(mask), readout.feature_mask])

    def loss(self, theta: Tensor) -> Tensor:
        """Mean negative log-likelihood of the targets."""
        theta = theta * self.mask
        split = 1 + len(POPULARITY_DAYS)
        popularity = torch.einsum("p,gpv->gv", theta[1:split], self.log_pop)
        scores = self.base * (1.0 + theta[0]) + popularity[self.group]
        added = self.x @ theta[split:]
        scores = scores.reshape(-1).index_add(0, self.cell, added).view_as(scores)
        total = torch.logsumexp(scores, dim=-1)
        own = scores[self.target_row, self.target]
        return (total[self.target_row] - own).mean()
