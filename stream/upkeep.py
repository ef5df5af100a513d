"""Upkeep of the store between batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from storage import positions, rotation
from storage.faults import reach
from storage.wal import wal_bytes
from stream.cache import CACHE_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.database import Database, Tx
    from stream.cache import CacheUse
    from stream.config import PipelineConfig
    from stream.ingest import Ingest


def tidy(
    db: Database,
    ingest: Ingest,
    config: PipelineConfig,
    settle: Callable[[Tx], None] | None = None,
) -> None:
    """Rotate a hot table grown past its limit into a sorted run, merge runs, join touching position ranges.

    Args:
        db: the store.
        ingest: tells what is hot.
        config: the limits.
        settle: moves the scored positions first, where they stay behind what is passed until something needs them.
    """
    watermarks = ingest.watermarks()
    if not watermarks or ingest.hot_rows < config.rotate_rows:
        return
    before = min(watermarks.values()) - config.stream.visit_gap_ms
    with db.transaction() as tx:
        if settle is not None:
            settle(tx)
        moved = rotation.rotate(tx, below=positions.scored_offsets(tx), before_ms=before)
        rotation.merge_runs(tx, max_runs=config.max_runs)
        positions.compact(tx)
        tx.on_commit(lambda: ingest.moved(moved))
        reach("rotation.commit")
    if wal_bytes(db.path) >= config.checkpoint_bytes:
        db.checkpoint()


def record_cache(db: Database, use: CacheUse) -> None:
    """Leave what the cache of states held for `status`, which runs in another process."""
    with db.transaction() as tx:
        db.set_meta(tx, CACHE_KEY, msgspec.json.encode(use).decode())
