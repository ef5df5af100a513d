"""Engines and histories of random content: speed depends on shapes, not on what was learned."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from infra import shipped
from model.checkpoint import load_checkpoint
from model.engine import Engine, Rows, SegmentJob, TokenBlock
from model.segments import UserSlots
from model.untrained import write_untrained
from stream.clock import DAY_MS
from stream.logwriter import EVENT_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from model.config import ModelConfig
    from model.engine import KVCache

VISIT_GAP_MS = 1_800_000
_STEP_MS = 600_000


def shipped_shape() -> ModelConfig:
    """Return the shape of the shipped model, for generated logs: their event types and visits."""
    found = load_checkpoint(shipped.CHECKPOINT).config
    return replace(found, event_types=EVENT_TYPES, event_weights=(), visit_gap_ms=VISIT_GAP_MS)


def random_engine(
    folder: Path, config: ModelConfig, items: int, texts: Mapping[str, str | None] | None = None
) -> Engine:
    """Return an engine of random weights on one thread, its vocabulary `item000000` and so on or that of `texts`."""
    path = folder / "random.safetensors"
    ids: Sequence[str] = list(texts) if texts else [f"item{number:06d}" for number in range(items)]
    write_untrained(path, config, ids, texts)
    return Engine.load(path, threads=1)


def random_rows(engine: Engine, count: int, *, first: int = 0, seed: int = 0) -> Rows:
    """Return `count` interactions of one user from ordinal `first` on, ten minutes apart."""
    rng = np.random.default_rng((seed, first))
    ordinal = np.arange(first, first + count, dtype=np.int64)
    return Rows(
        item_row=rng.integers(1, 1 + len(engine.vocabulary), count),
        type_row=np.zeros(count, np.int64),
        time_ms=DAY_MS + ordinal * _STEP_MS,
        ordinal=ordinal,
    )


def random_slots(
    engine: Engine, count: int, *, closed: Sequence[int] = (), seed: int = 0
) -> UserSlots:
    """Return `count` interactions of one user as a window, the first of them in closed segments of these lengths."""
    rows = random_rows(engine, count, seed=seed)
    return UserSlots(
        item_row=rows.item_row,
        type_row=rows.type_row,
        time_ms=rows.time_ms,
        ordinal=rows.ordinal,
        closed=np.array(closed, np.int64),
    )


def random_chain(engine: Engine, groups: int, *, seed: int = 0) -> list[TokenBlock]:
    """Return the token groups of a user's first `groups` segments, each compressed given those before."""
    n, window = engine.config.segment_len, engine.config.window
    chain: list[TokenBlock] = []
    for segment in range(groups):
        rows = random_rows(engine, n, first=segment * n, seed=seed)
        read = chain if window is None else chain[-window:]
        chain += engine.compress([SegmentJob(segment, read, rows)])
    return chain


def random_cache(
    engine: Engine, chain: Sequence[TokenBlock], recents: int, seed: int = 0
) -> KVCache:
    """Return the cache of a user with some token groups and raw recents after them."""
    cache = engine.new_cache(chain)
    first = len(chain) * engine.config.segment_len
    engine.extend([cache], [random_rows(engine, recents, first=first, seed=seed)])
    return cache
