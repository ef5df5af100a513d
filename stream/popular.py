"""Slates without a model: popular items of the last 30 days, under the same filters, and saying so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from model.features import POPULARITY_DAYS, log_popularity
from storage import interactions
from stream.rank import named, top
from stream.slates import Cause, Coverage, Slate, recommendation_id, request_id
from stream.stored import StoredRows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from storage.database import Database
    from storage.identities import Identities
    from stream.config import ServingConfig
    from stream.score import StateRequest
    from stream.shared import Shared
    from stream.unread import Made

_MONTH = POPULARITY_DAYS.index(30)


class PopularScorer:
    """Answers every scored event with popular items; holds no user state."""

    def __init__(
        self, db: Database, identities: Identities, shared: Shared, config: ServingConfig
    ) -> None:
        self._db = db
        self._ids = identities
        self._shared = shared
        self._config = config

    def skipped(self, rows: pa.Table) -> None:
        """Nothing is kept, so nothing changes."""

    def published(self, run_id: int, made: Made) -> None:
        """Nothing is kept, so nothing changes."""

    def score_rows(self, table: pa.Table) -> Iterator[list[Slate]]:
        """Slates for the scored rows of a stored batch, in its order, all at a time."""
        rows = StoredRows.of(table, self._ids)
        scored = np.flatnonzero(rows.scores)
        yield [
            self._slate(user, cause.ts, cause, as_of + 1, None)
            for user, as_of, cause in zip(
                rows.user_idx[scored].tolist(),
                rows.as_of[scored].tolist(),
                rows.causes(scored),
                strict=True,
            )
        ]

    def slate(self, request: StateRequest, *, top_k: int | None = None) -> Slate:
        """One slate for a request."""
        return self._slate(request.user_idx, request.at_ms, None, request.as_of, top_k)

    def _slate(
        self, user: int, at_ms: int, cause: Cause | None, as_of: int | None, top_k: int | None
    ) -> Slate:
        user_id = self._ids.user_id(user) if user >= 0 else ""
        seen = None
        if self._config.filter_seen and user >= 0:
            bounds = None if as_of is None else {user: as_of}
            seen = np.asarray(
                interactions.seen_items(self._db, [user], bounds)["item_idx"].to_numpy()
            )
        scores = log_popularity(self._shared.now().popularity[_MONTH])
        scores[~self._shared.allowed(self._config.deny)] = -np.inf
        if seen is not None:
            scores[seen[seen < len(scores)]] = -np.inf
        found = top(scores[None], top_k or self._config.top_k)
        (items,) = named([found], self._ids.all_item_ids)
        return Slate(
            id=recommendation_id(cause.topic, cause.partition, cause.offset)
            if cause
            else request_id(user_id, at_ms),
            user_id=user_id,
            at_ms=at_ms,
            cause=cause,
            items=items,
            model_version="",
            coverage=Coverage(groups=0, recents=0),
            reason="popular",
            readout="popular",
            popularity_cut_ms=self._shared.now().cut_ms,
        )
