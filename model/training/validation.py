"""Figures on a period after training: next visit and next line, as served."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.asof import AsOf, Popularity
from model.data import HistoryLog
from model.engine import Engine
from model.features import SparseFeatures, popularity_cut
from model.readout import Kind, ReadOut
from model.training.states import Mode, StateReader, States

__all__ = ["ExampleSource", "Examples", "figures", "ranks"]

Ints = NDArray[np.int64]

_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows of one read-out, ready to score, with their targets.

    Attributes:
        kind: the read-out.
        hidden: float [R, d].
        vectors: float [V, d], candidate vectors of length 1.
        log_pop: float32 [G, P, V].
        group: int64 [R].
        sparse: features of the rows.
        target_row: int64 [T].
        target: int64 [T], candidate column.
    """

    kind: Kind
    hidden: Tensor
    vectors: Tensor
    log_pop: NDArray[np.float32]
    group: Ints
    sparse: SparseFeatures
    target_row: Ints
    target: Ints

    def block(self, first: int, stop: int) -> Examples:
        """Rows ``[first, stop)`` with their targets."""
        cuts, group = np.unique(self.group[first:stop], return_inverse=True)
        mine = (self.target_row >= first) & (self.target_row < stop)
        return Examples(
            self.kind,
            self.hidden[first:stop],
            self.vectors,
            self.log_pop[cuts],
            group.reshape(-1).astype(np.int64),
            self.sparse.slice(first, stop),
            self.target_row[mine] - first,
            self.target[mine],
        )

    def scores(self, readout: ReadOut) -> Tensor:
        """Scores [R, V]."""
        scores: Tensor = readout(
            self.kind, self.hidden, self.vectors, self.log_pop, self.group, self.sparse
        )
        return scores


class ExampleSource:
    """Turns states into examples of either read-out, with the present weights.

    Args:
        log: the histories and candidates.
    """

    def __init__(self, log: HistoryLog) -> None:
        self._log = log
        self._as_of = AsOf(log.histories, len(log.item_ids))
        self._popularity = Popularity(log.histories, len(log.item_ids))

    def reader(self, engine: Engine) -> StateReader:
        """A reader of hidden rows for an engine."""
        return StateReader(engine, self._log.histories, engine.item_rows(self._log.item_ids))

    def examples(
        self, engine: Engine, reader: StateReader, states: States, mode: Mode = "tokens"
    ) -> list[Examples]:
        """Examples of the states: those outside a visit first, then those inside one.

        Args:
            engine: the model as served.
            reader: from ``reader``; keeps compressed groups between calls.
            states: the states.
            mode: which token groups the states have.
        """
        vectors = engine.candidate_vectors(self._log.item_ids, self._log.texts)
        parts: list[Examples] = []
        for kind, inside in (("visit", False), ("line", True)):
            chosen = states.where(states.in_visit == inside)
            if not chosen.user.shape[0]:
                continue
            log_pop, group = self._popularity.groups(popularity_cut(chosen.time_ms))
            newest = chosen.position - 1
            sparse = (
                self._as_of.line(newest)
                if inside
                else self._as_of.request(chosen.user, chosen.position, chosen.time_ms)
            )
            parts.append(
                Examples(
                    "line" if kind == "line" else "visit",
                    reader.hidden(chosen, mode),
                    vectors,
                    log_pop,
                    group,
                    sparse,
                    chosen.target_state,
                    chosen.target,
                )
            )
        return parts


@torch.inference_mode()
def ranks(parts: list[Examples], readout: ReadOut) -> NDArray[np.float64]:
    """Mean rank of every target among all candidates, over all parts in order."""
    out: list[NDArray[np.float64]] = [np.zeros(0)]
    for part in parts:
        for first in range(0, part.hidden.shape[0], _BLOCK):
            block = part.block(first, min(first + _BLOCK, part.hidden.shape[0]))
            scores = block.scores(readout)
            target = torch.from_numpy(block.target)
            rows = scores[torch.from_numpy(block.target_row)]
            own = rows.gather(1, target[:, None])
            above, same = (rows > own).sum(1), (rows == own).sum(1)
            out.append((above + (same + 1) / 2).numpy().astype(np.float64))
    return np.concatenate(out)


def figures(prefix: str, rank: NDArray[np.float64]) -> dict[str, float]:
    """Recall at 10 and 50, NDCG at 10 and MRR, each a mean over targets."""
    if not rank.shape[0]:
        return {}
    gain = np.where(rank <= 10, 1.0 / np.log2(1.0 + rank), 0.0)
    return {
        f"{prefix}_recall_10": float(np.mean(rank <= 10)),
        f"{prefix}_recall_50": float(np.mean(rank <= 50)),
        f"{prefix}_ndcg_10": float(np.mean(gain)),
        f"{prefix}_mrr": float(np.mean(1.0 / rank)),
    }
