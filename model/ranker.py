"""Final scores of rows over the candidate items: numpy in, numpy out.

The one place where serving meets the read-out: the same `ReadOut` module that training optimised is called
on the same features, so a served score and a trained score cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from model.features import log_popularity
from model.readout import Kind, SparseFeatures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.engine import Engine


class Candidates:
    """Vectors and popularity of every known item, frozen between two ticks.

    Args:
        engine: the model that scores.
        item_ids: external ids; position i is column i of every score row.
        texts: newest text per item or None; read for ids the model version does not know.
        popularity: interaction counts per window, float [P, V], windows as in `POPULARITY_DAYS`.
    """

    def __init__(
        self,
        engine: Engine,
        item_ids: Sequence[str],
        texts: Sequence[str | None],
        popularity: NDArray[np.float64],
    ) -> None:
        self._engine = engine
        self.item_ids = list(item_ids)
        self._vectors = engine.candidate_vectors(self.item_ids, texts)
        self._log_pop = torch.from_numpy(log_popularity(popularity))[None]

    def __len__(self) -> int:
        return len(self.item_ids)

    def with_popularity(self, popularity: NDArray[np.float64]) -> Candidates:
        """The same candidates under another popularity cut, counts float [P, V]."""
        other = object.__new__(Candidates)
        other._engine, other.item_ids, other._vectors = self._engine, self.item_ids, self._vectors
        other._log_pop = torch.from_numpy(log_popularity(popularity))[None]
        return other

    @torch.inference_mode()
    def scores(
        self,
        kind: Kind,
        hidden: NDArray[np.float32],
        features: SparseFeatures,
        shown: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]:
        """Final scores, float32 [R, V], for R rows read by the `kind` read-out.

        Args:
            kind: "visit" for request rows, "line" for rows inside a visit.
            hidden: hidden states, [R, d].
            features: counters and visit features per row, columns as `item_ids`.
            shown: items that may be shown, bool [V]; the others score -inf. None for all.
        """
        rows = torch.from_numpy(hidden).to(self._vectors.dtype)
        groups = torch.zeros(len(hidden), dtype=torch.int64)
        mask = None if shown is None else torch.from_numpy(shown)
        out = self._engine.readout(
            kind, rows, self._vectors, self._log_pop, groups, features, shown=mask
        )
        return np.asarray(out.float().numpy())
