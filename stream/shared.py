"""What all users share: known items, availability, popularity. Changes only by journal entries.

Candidates and popularity change at ticks (popularity counts events before the last UTC midnight before the watermark),
availability at once. A journal entry stores positions and the cut, not the values: they are computed from the log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from model.features import POPULARITY_DAYS
from model.ranker import Candidates
from storage import items, journal
from stream.clock import midnight_ms
from stream.popularity import Popularity
from stream.verdicts import NEVER

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    import pyarrow as pa
    from numpy.typing import NDArray

    from model.engine import Engine
    from storage.database import Database, Tx
    from storage.identities import Identities
    from storage.journal import JournalEntry


@dataclass(frozen=True, slots=True)
class Tick:
    """What holds between two ticks: candidates, popularity [P, V] before `cut_ms`, known and available items, bool [V]."""

    candidates: Candidates | None = None
    popularity: NDArray[np.float64] = field(
        default_factory=lambda: np.zeros((len(POPULARITY_DAYS), 0))
    )
    known: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=bool))
    available: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=bool))
    cut_ms: int | None = None


class Shared:
    """Candidates and popularity as of the newest tick; availability as of now.

    Attributes:
        popularity: running sums over the log; told of rows as they are stored.
    """

    def __init__(self, db: Database, identities: Identities, engine: Engine | None) -> None:
        self._db = db
        self._ids = identities
        self._engine = engine
        self.popularity = Popularity(db)
        self._item_rows = np.empty(0, dtype=np.int64)
        self._texts: list[str | None] = []
        self._now = Tick()
        self._stale = True

    def now(self) -> Tick:
        """What applies now: read from the newest journal entry when first asked for after a tick."""
        if self._stale:
            entry = journal.latest(self._db, "popularity")
            if entry is not None:
                self._load(entry)
            self._stale = False
        return self._now

    @property
    def n_items(self) -> int:
        """Columns of every score row: items known at the newest tick."""
        return len(self.now().known)

    def item_rows(self) -> NDArray[np.int64]:
        """Model row of every item seen so far, indexed by internal id."""
        have = len(self._item_rows)
        if self._engine is not None and have < self._ids.n_items:
            fresh = self._engine.item_rows(self._ids.all_item_ids[have:])
            self._item_rows = np.concatenate([self._item_rows, fresh])
        return self._item_rows

    def record_tick(
        self,
        tx: Tx,
        at: datetime,
        positions: Mapping[tuple[str, int], int],
        *,
        watermark_ms: int,
        tick: int,
    ) -> None:
        """Write the journal entry from which the next interval's candidates and popularity follow."""
        cut = midnight_ms(watermark_ms)
        detail = {
            "n_items": self._ids.n_items,
            "cut_ms": cut,
            "at_ms": watermark_ms,
            "tick": tick,
        }
        journal.append(tx, "popularity", str(cut), detail, positions, at)

    def renew(self) -> None:
        """A tick has written a newer journal entry: follow it from the next use on."""
        self._stale = True

    def allowed(self, deny: Collection[str]) -> NDArray[np.bool_]:
        """Items that may be shown, bool [V]: known, available and not denied."""
        now = self.now()
        mask = now.known & now.available
        for item_id in deny:
            idx = self._ids.find_item(item_id)
            if idx is not None and idx < len(mask):
                mask[idx] = False
        return mask

    def set_available(self, changed: pa.Table) -> None:
        """Apply item records to availability at once."""
        available = self.now().available
        rows = zip(changed["item_id"].to_pylist(), changed["available"].to_pylist(), strict=True)
        for item_id, flag in rows:
            idx = self._ids.find_item(item_id)
            if idx is not None and idx < len(available):
                available[idx] = flag

    def _load(self, entry: JournalEntry) -> None:
        n_items = int(entry.detail["n_items"])
        table = items.all_items(self._db)
        table = table.filter(pc.less(table["item_idx"], n_items))
        cut_ms = int(entry.detail["cut_ms"])
        counts = self.popularity.counts(entry.positions, cut_ms, n_items)
        first_seen = pc.fill_null(table["first_seen_ms"], NEVER).to_numpy()
        self._now = Tick(
            candidates=self._candidates(table, counts),
            popularity=counts,
            known=(first_seen <= int(entry.detail["at_ms"])) | (counts[-1] > 0),
            available=table["available"].to_numpy(zero_copy_only=False).copy(),
            cut_ms=cut_ms,
        )

    def _candidates(self, table: pa.Table, counts: NDArray[np.float64]) -> Candidates | None:
        if self._engine is None:
            return None
        texts = table["text"].to_pylist()
        if self._now.candidates is not None and texts == self._texts:
            return self._now.candidates.with_popularity(counts)
        self._texts = texts
        return Candidates(self._engine, table["item_id"].to_pylist(), texts, counts)
