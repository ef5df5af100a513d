"""The read-out: state in, one score per candidate item out.

Two read-outs share one form and have their own weights: ``visit`` scores a request row ("which
items come in the next visit?"), ``line`` the row of the newest interaction inside a visit
("which item is next?")::

    score(i) = scale * cos(h, v_i) + sum_p w_pop[p] * log_popularity_p(i)
             + sum_f (c[f] + M[f] . g) * x_f(user, i)        g = h scaled to length sqrt(d)

Everything is linear in the features, so calibration on the newest month folds into the weights.
"""

from __future__ import annotations

import warnings
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ModelConfig, ReadOutConfig
from model.features import FEATURES, POPULARITY_DAYS, SparseFeatures

__all__ = ["KINDS", "Kind", "ReadOut", "ReadOutWeights", "SparseFeatures"]

Kind: TypeAlias = Literal["visit", "line"]
KINDS: tuple[Kind, ...] = ("visit", "line")

INITIAL_SCALE = 20.0
"""Cosine scale before calibration: temperature 0.05."""
_INITIAL_IN_VISIT = -3.0
_IN_VISIT = FEATURES.index("in_visit")

# Torch tells once that sparse tensors are in beta: nothing a user could act on.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor([0, 0], [], [], size=(1, 0), check_invariants=False)


class ReadOutWeights(nn.Module):
    """Weights of one read-out.

    Attributes:
        scale: [], factor of the cosine.
        popularity: [P], weight of each popularity window.
        weight: [F], weight c of each sparse feature.
        modulation: [F, d], how the hidden row changes the feature weights.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(INITIAL_SCALE))
        self.scale: Tensor
        self.popularity = nn.Parameter(torch.zeros(len(POPULARITY_DAYS)))
        self.weight = nn.Parameter(torch.zeros(len(FEATURES)))
        self.modulation = nn.Parameter(torch.zeros(len(FEATURES), d_model))


class ReadOut(nn.Module):
    """Both read-outs of a model; parts that the configuration switches off score nothing.

    Args:
        config: the model's configuration; ``config.readout`` says which parts are on.

    Attributes:
        config: which parts are on.
        visit: weights of the request row's read-out.
        line: weights of the newest interaction's read-out.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config.readout
        self.visit = ReadOutWeights(config.d_model)
        self.line = ReadOutWeights(config.d_model)
        with torch.no_grad():
            self.line.weight[_IN_VISIT] = _INITIAL_IN_VISIT
        self.register_buffer("feature_mask", _feature_mask(self.config), persistent=False)
        self.feature_mask: Tensor

    def weights(self, kind: Kind) -> ReadOutWeights:
        """The weights of one read-out."""
        return self.visit if kind == "visit" else self.line

    @property
    def uses_features(self) -> bool:
        """Whether any sparse feature is on, so that callers may skip building them."""
        return self.config.counters or self.config.in_visit

    def forward(
        self,
        kind: Kind,
        hidden: Tensor,
        vectors: Tensor,
        log_pop: Tensor | NDArray[np.float32],
        row_group: Tensor | NDArray[np.int64],
        sparse: SparseFeatures | None,
        shown: Tensor | None = None,
    ) -> Tensor:
        """Score every candidate for every row.

        Args:
            kind: which read-out.
            hidden: float [R, d], rows of the backbone, not normalized.
            vectors: float [V, d], candidate vectors of length 1.
            log_pop: float [G, P, V], log popularity of each distinct cut.
            row_group: int [R], which of the G cuts a row uses.
            sparse: features of the R rows over the V candidates; None scores as if all were 0.
            shown: bool [V], candidates that may be shown; the others score -inf. None for all.

        Returns:
            float [R, V].
        """
        part = self.weights(kind)
        unit = F.normalize(hidden, dim=-1)
        pop = torch.as_tensor(log_pop, dtype=unit.dtype, device=unit.device)
        if self.config.popularity:
            offset = torch.matmul(part.popularity, pop)  # [G, V]
        else:
            offset = pop.new_zeros(1, len(vectors))
        if shown is not None:
            offset = offset.masked_fill(~shown, -torch.inf)
        if len(offset) > 1:
            offset = offset[torch.as_tensor(row_group, device=unit.device)]  # [R, V]
        scores = torch.addmm(offset, unit * part.scale, vectors.T)
        if sparse is not None and self.uses_features:
            _add_features(scores, sparse, self._feature_weights(part, unit))
        return scores

    def _feature_weights(self, part: ReadOutWeights, unit: Tensor) -> Tensor:
        """Weight of each feature for each row, [R, F]; 0 for parts that are off."""
        modulated = (unit * unit.shape[-1] ** 0.5) @ part.modulation.T
        weight: Tensor = (part.weight + modulated) * self.feature_mask
        return weight

    def report(self) -> dict[str, object]:
        """Which parts are on, with their weights in words; for people and for the model registry."""
        return {
            "parts": {
                "counters": self.config.counters,
                "popularity": self.config.popularity,
                "in_visit": self.config.in_visit,
                "calibration": self.config.calibration,
            },
            **{kind: _report(self.weights(kind)) for kind in KINDS},
        }


def _add_features(scores: Tensor, sparse: SparseFeatures, weight: Tensor) -> None:
    """Add the weighted features to the scores [R, V], in place.

    The products of every row with its own entries are those of a dense product of weights and features at the places of
    a sparse matrix [R, E]: entries that rows share are there once.
    """
    row_ptr, entry, cell = map(torch.from_numpy, sparse.pairs(scores.shape[1]))
    if not len(entry):
        return
    x = torch.from_numpy(sparse.x).to(device=scores.device, dtype=scores.dtype)
    places = torch.sparse_csr_tensor(
        row_ptr,
        entry,
        x.new_zeros(len(entry)),
        size=(len(scores), len(x)),
        device=scores.device,
        check_invariants=False,
    )
    value = torch.sparse.sampled_addmm(places, weight, x.T, beta=0.0).values()
    scores.view(-1).index_add_(0, cell.to(scores.device), value)


def _feature_mask(config: ReadOutConfig) -> Tensor:
    mask = torch.full((len(FEATURES),), float(config.counters))
    mask[_IN_VISIT] = float(config.in_visit)
    return mask


def _report(part: ReadOutWeights) -> dict[str, object]:
    names = [f"{days}d" if days else "all" for days in POPULARITY_DAYS]
    return {
        "scale": round(float(part.scale), 4),
        "popularity": dict(zip(names, _rounded(part.popularity), strict=True)),
        "features": dict(zip(FEATURES, _rounded(part.weight), strict=True)),
        "modulation_norm": dict(zip(FEATURES, _rounded(part.modulation.norm(dim=1)), strict=True)),
    }


def _rounded(values: Tensor) -> list[float]:
    return [round(float(value), 4) for value in values.detach()]
