"""The least that scoring must do, measured alone: extend the states, score the catalogue, take the top.

The same micro-batches as the scorer forms: the users of a chunk of events, each with all his rows;
the same states, loaded before the clock starts; the same features. What is left out is everything
else the scorer does: finding states, building features, filters, slates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from infra.bench.worlds import loader_of
from model.engine import Rows
from stream.advance import Advance
from stream.cache import StateCache
from stream.loading import LoadRequest
from stream.rank import top
from stream.readings import portions
from stream.score import rows_at_once
from stream.stored import StoredRows

if TYPE_CHECKING:
    import pyarrow as pa

    from infra.bench.timing import Work
    from model.engine import Engine
    from stream.pipeline import Pipeline
    from stream.readings import Readings
    from stream.state import UserState


def model_and_top(pipeline: Pipeline, table: pa.Table) -> dict[str, Work]:
    """Prepare the model's share of scoring a chunk of stored events; no row may arrive out of order.

    Args:
        pipeline: a stored world, opened with its model.
        table: the chunk, all rows of it scored.

    Returns:
        "model", then "catalogue and top-k", which scores as many rows at once as the scorer does.

    Raises:
        ValueError: the pipeline has no model or no tick yet.
    """
    engine, candidates = pipeline.engine, pipeline.shared.now().candidates
    if engine is None or candidates is None:
        raise ValueError("no model, or no tick yet: nothing to score with")
    rows = StoredRows.of(table, pipeline.identities)
    users, first = np.unique(rows.user_idx, return_index=True)
    offsets = rows.as_of[first].tolist()
    loader = loader_of(pipeline)
    requests = [LoadRequest(*one) for one in zip(users.tolist(), offsets, strict=True)]
    step = rows_at_once(len(candidates))
    parts = _readings(pipeline, engine, rows, requests, step)
    states = loader.load(requests)
    runs = [_run(pipeline, engine, rows, state) for state in states]
    caches = [state.cache for state in states]
    found: list[np.ndarray] = []

    shown = pipeline.shared.allowed(pipeline.config.serving.deny)
    features = [part.told.features(len(candidates)) for part in parts]

    def model() -> None:
        hidden = engine.extend(caches, runs)
        found.append(np.concatenate([part.numpy() for part in hidden]))

    def catalogue() -> None:
        hidden = found.pop()
        for number, known in enumerate(features):
            rows = hidden[number * step : (number + 1) * step]
            top(candidates.scores("line", rows, known, shown), pipeline.config.serving.top_k)

    return {"model": model, "catalogue and top-k": catalogue}


def _run(pipeline: Pipeline, engine: Engine, rows: StoredRows, state: UserState) -> Rows:
    """The rows of one user as the model reads them."""
    own = np.flatnonzero(rows.user_idx == state.user_idx)
    types = engine.type_rows(rows.event_type.names)[rows.event_type.code[own]]
    ordinal = np.arange(state.n_history, state.n_history + len(own))
    items = pipeline.shared.item_rows()[rows.item_idx[own]]
    return Rows(items, types, rows.keys[own, 0], ordinal)


def _readings(
    pipeline: Pipeline, engine: Engine, rows: StoredRows, requests: list[LoadRequest], step: int
) -> list[Readings]:
    """What the read-out is given for each row, as the scorer builds it, `step` rows at a time."""
    loader, serving = loader_of(pipeline), pipeline.config.serving
    cache = StateCache(len(requests), serving.max_bytes)
    for state in loader.load(requests):
        cache.put(state)
    gap = pipeline.config.stream.visit_gap_ms
    advance = Advance(loader, cache, engine, pipeline.shared, gap)
    return list(portions(advance.over(rows, 0, len(rows)), step))
