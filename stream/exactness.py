"""Do stored tokens score as one forward pass would? The check that serving equals training, on real users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from model.reference import masked_requests
from model.segments import UserSlots
from storage import items as item_store
from storage.identities import Identities
from storage.interactions import load_history
from storage.tokens import group_counts
from stream.cuts import Cut
from stream.exactness_report import ExactnessReport
from stream.history import UserRows, model_rows, rows_by_user
from stream.loading import LoadRequest, StateLoader, WindowRule
from stream.shared import Shared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.engine import Engine
    from storage.database import Database

TOP = 10
LIMITS = {"float16": (5e-3, 0.99), "float32": (1e-5, 0.99), "float64": (1e-10, 0.99)}
"""Per state dtype: largest allowed difference of a cosine score, least allowed top-10 overlap."""


@dataclass(frozen=True, slots=True)
class _Compared:
    groups: int
    recents: int
    difference: float
    overlap: float


def check_exactness(db: Database, engine: Engine, *, users: int, seed: int = 0) -> ExactnessReport:
    """Compare both ways of scoring for some users of a database that have tokens.

    Args:
        db: the database; nothing is written.
        engine: the model of the version whose tokens are compared.
        users: how many users to draw; fewer if fewer have tokens.
        seed: which ones.
    """
    ids = Identities.load(db)
    table = item_store.all_items(db)
    vectors = engine.candidate_vectors(table["item_id"].to_pylist(), table["text"].to_pylist())
    check = _Check(db, engine, ids, np.asarray(vectors))
    drawn = _draw(group_counts(db, engine.version), ids, users, seed)
    compared = {user: check.compare(user) for user in drawn}
    worst = max(compared, key=lambda user: compared[user].difference, default=None)
    dtype = engine.config.state_dtype
    difference, overlap = LIMITS[dtype]
    largest = max((one.difference for one in compared.values()), default=0.0)
    shared = float(np.mean([one.overlap for one in compared.values()])) if compared else 1.0
    return ExactnessReport(
        users=len(compared),
        groups=sum(one.groups for one in compared.values()),
        recents=sum(one.recents for one in compared.values()),
        candidates=table.num_rows,
        state_dtype=dtype,
        largest_difference=largest,
        overlap=shared,
        allowed_difference=difference,
        allowed_overlap=overlap,
        ok=largest <= difference and shared >= overlap,
        worst_user="" if worst is None else ids.user_id(worst),
    )


class _Check:
    """Scores one user both ways."""

    def __init__(
        self, db: Database, engine: Engine, ids: Identities, vectors: NDArray[np.float32]
    ) -> None:
        config = engine.config
        self._db = db
        self._engine = engine
        self._vectors = vectors
        self._shared = Shared(db, ids, engine, Cut(lateness_ms=0))
        rule = WindowRule(segment_len=config.segment_len, r_max=config.r_max, window=config.window)
        self._loader = StateLoader(db, ids, engine, self._shared, rule, config.visit_gap_ms)

    def compare(self, user: int) -> _Compared:
        """Return how far the two ways are apart for a request at the user's newest interaction."""
        state = self._loader.load([LoadRequest(user_idx=user)])[0]
        rows = rows_by_user(load_history(self._db, [user]))[user]
        at_ms = np.array([rows.h_ts[-1]])
        stored = self._scores(np.asarray(self._engine.request([state.cache], at_ms))[0])
        covered = state.first_recent - state.left_out
        whole = self._scores(self._masked(rows, covered, state.first_recent, at_ms))
        return _Compared(
            groups=state.groups,
            recents=state.recents,
            difference=float(np.abs(stored - whole).max()),
            overlap=_overlap(stored, whole),
        )

    def _masked(
        self, rows: UserRows, covered: int, first_recent: int, at_ms: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Hidden row of the request in one masked pass over the same segments and recents, [d]."""
        read = model_rows(self._shared.item_rows(), self._engine, rows)
        kept = np.r_[0:covered, first_recent : len(rows)]
        groups = covered // self._engine.config.segment_len
        slots = UserSlots(
            item_row=read.item_row[kept],
            type_row=read.type_row[kept],
            time_ms=read.time_ms[kept],
            ordinal=read.ordinal[kept],
            closed=np.full(groups, self._engine.config.segment_len),
            request_time_ms=at_ms,
            request_at=np.array([len(kept)]),
            request_segment=np.array([groups]),
        )
        hidden: NDArray[np.float64] = masked_requests(self._engine, [slots])[0]
        return hidden

    def _scores(self, hidden: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Cosine with every candidate, float64 [V]."""
        wide = hidden.astype(np.float64)
        scores: NDArray[np.float64] = self._vectors @ (
            wide / max(float(np.linalg.norm(wide)), 1e-12)
        )
        return scores


def _overlap(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    top = min(TOP, len(left))
    best = [set(np.argsort(-scores, kind="stable")[:top].tolist()) for scores in (left, right)]
    return len(best[0] & best[1]) / top


def _draw(counts: dict[int, int], ids: Identities, users: int, seed: int) -> list[int]:
    known = sorted((user for user, groups in counts.items() if groups), key=ids.user_id)
    chosen = np.random.default_rng(seed).permutation(len(known))[:users]
    return [known[i] for i in sorted(chosen)]
