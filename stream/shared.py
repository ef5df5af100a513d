"""What all users share: known items, availability, popularity. Changes only by journal entries.

Candidates and popularity change at ticks (popularity counts events before the last UTC midnight before the watermark),
availability at once. A journal entry stores positions and the cut, not the values: they are computed from the log.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.features import POPULARITY_DAYS
from model.ranker import Candidates
from storage import items, journal
from stream.catalogue import Catalogue
from stream.popularity import Popularity
from stream.verdicts import NEVER

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from model.engine import Engine
    from storage.database import Database
    from storage.identities import Identities
    from storage.journal import JournalEntry
    from stream.cuts import Cut
    from stream.ingest import Stored


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
    """Candidates and popularity as of the newest tick, availability as of now: where a cut of the log stands.

    Args:
        db: the shard's database.
        identities: its internal ids.
        engine: the model; None without one.
        cut: where answering stands.

    Attributes:
        popularity: running sums over the log.
        catalogue: the items.
        scattered: items may be numbered in another order than that in which answering comes to them.
    """

    def __init__(
        self, db: Database, identities: Identities, engine: Engine | None, cut: Cut
    ) -> None:
        self.scattered = False
        self._db = db
        self._ids = identities
        self._engine = engine
        self.popularity = Popularity(db)
        self.catalogue = Catalogue(db)
        self._cut = cut
        self._growing = threading.Lock()
        self._item_rows = np.empty(0, dtype=np.int64)
        self._texts: pa.ChunkedArray | None = None
        self._now = Tick()
        self._next = journal.latest(db, "popularity", cut.next_offsets)

    def stored(self, stored: Stored) -> None:
        """Take note of a commit, before anything asks what applies behind it."""
        self.popularity.passed(stored.rows)
        self.catalogue.stored(stored.items)

    def now(self) -> Tick:
        """What applies now: read from the newest journal entry when first asked for after a tick."""
        entry, self._next = self._next, None
        if entry is not None:
            self._load(entry)
        return self._now

    @property
    def n_items(self) -> int:
        """Columns of every score row: items known at the newest tick."""
        return len(self.now().known)

    def item_rows(self) -> NDArray[np.int64]:
        """Model row of every item seen so far, indexed by internal id."""
        with self._growing:
            have, known = len(self._item_rows), self._ids.n_settled_items
            if self._engine is not None and have < known:
                fresh = self._engine.item_rows(self._ids.all_item_ids[have:known])
                self._item_rows = np.concatenate([self._item_rows, fresh])
            return self._item_rows

    def renew(self, entry: JournalEntry) -> None:
        """Follow a tick's journal entry from the next use on."""
        self._next = entry

    def allowed(self, deny: Collection[str]) -> NDArray[np.bool_]:
        """Items that may be shown, bool [V]: known, available and not denied."""
        now = self.now()
        mask = now.known & now.available
        for item_id in deny:
            idx = self._ids.find_item(item_id)
            if idx is not None and idx < len(mask):
                mask[idx] = False
        return mask

    def set_available(self, item_id: str, *, available: bool) -> None:
        """Apply an item record to availability at once; a tick that is still to be read finds it in the store."""
        idx = self._ids.find_item(item_id)
        if self._next is None and idx is not None and idx < len(self._now.available):
            self._now.available[idx] = available

    def _load(self, entry: JournalEntry) -> None:
        n_items = int(entry.detail["n_items"])
        table = self.catalogue.as_of(entry.positions, n_items)
        now = self.catalogue.as_of(self._cut.next_offsets, n_items)["available"]
        cut_ms = int(entry.detail["cut_ms"])
        counts = self.popularity.counts(entry.positions, cut_ms, n_items)
        self._now = Tick(
            candidates=self._candidates(table, counts),
            popularity=counts,
            known=self._known(entry, table, counts),
            available=now.to_numpy(zero_copy_only=False).copy(),
            cut_ms=cut_ms,
        )

    def _known(
        self, entry: JournalEntry, table: pa.Table, counts: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Which items were first seen by the time of a tick, or counted by it, bool [V]."""
        if "unseen" in entry.detail:
            unseen = pa.array(entry.detail["unseen"], pa.string())
            later = pc.is_in(table["item_id"], unseen).to_numpy()
        else:
            first_seen = pc.fill_null(table["first_seen_ms"], NEVER).to_numpy()
            later = first_seen > int(entry.detail["at_ms"])
        known: NDArray[np.bool_] = ~later | (counts[-1] > 0)
        if self.scattered:
            below = items.seen_below(self._db, entry.positions).to_numpy()
            known &= np.isin(np.arange(len(known)), below)
        return known

    def _candidates(self, table: pa.Table, counts: NDArray[np.float64]) -> Candidates | None:
        if self._engine is None:
            return None
        texts, known = table["text"], self._now.candidates
        if known is not None and texts.equals(self._texts):
            return known.with_popularity(counts)
        self._texts = texts
        return Candidates(self._engine, table["item_id"].to_pylist(), texts.to_pylist(), counts)
