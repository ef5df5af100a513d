"""The least that scoring must do, measured alone: extend the states, score the catalogue, take the top.

The same micro-batches as the scorer forms: the users of a chunk of events, each with all his rows;
the same states, loaded before the clock starts; the same features. What is left out is everything
else the scorer does: finding states, building features, filters, slates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from infra.bench.worlds import loader_of
from model.features import stack_rows
from model.reference import best_columns
from stream.history import UserRows, model_rows, table_rows
from stream.loading import LoadRequest

if TYPE_CHECKING:
    import pyarrow as pa

    from infra.bench.timing import Work
    from stream.history import StoredRow
    from stream.pipeline import Pipeline
    from stream.state import UserState


def model_and_top(pipeline: Pipeline, table: pa.Table) -> dict[str, Work]:
    """Prepare the model's share of scoring a chunk of stored events; no row may arrive out of order.

    Args:
        pipeline: a stored world, opened with its model.
        table: the chunk, all rows of it scored.

    Returns:
        "model", "catalogue" and "top-k", to be run in this order.

    Raises:
        ValueError: the pipeline has no model or no tick yet.
    """
    engine, candidates = pipeline.engine, pipeline.shared.now().candidates
    if engine is None or candidates is None:
        raise ValueError("no model, or no tick yet: nothing to score with")
    rows = table_rows(table)
    queues: dict[int, list[StoredRow]] = {}
    for row in rows:
        queues.setdefault(row.user_idx, []).append(row)
    requests = [LoadRequest(user, queue[0].off) for user, queue in queues.items()]
    states = loader_of(pipeline).load(requests)
    item_rows = pipeline.shared.item_rows()
    runs = [
        model_rows(
            item_rows, engine, UserRows.of([r.history for r in queue], first=state.n_history)
        )
        for state, queue in zip(states, queues.values(), strict=True)
    ]
    gap = pipeline.config.stream.visit_gap_ms
    features = stack_rows([
        known
        for state, queue in zip(states, queues.values(), strict=True)
        for known in _features(state, queue, gap, len(candidates))
    ])
    caches = [state.cache for state in states]
    found: list[np.ndarray] = []

    def model() -> None:
        hidden = engine.extend(caches, runs)
        found.append(np.concatenate([part.numpy() for part in hidden]))

    def catalogue() -> None:
        found.append(candidates.scores("line", found.pop(), features))

    def top() -> None:
        best_columns(found.pop(), min(pipeline.config.serving.top_k, len(candidates)))

    return {"model": model, "catalogue": catalogue, "top-k": top}


def _features(
    state: UserState, queue: list[StoredRow], gap_ms: int, width: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What the read-out is given for each row, the state moving along; items of the catalogue only."""
    out = []
    for row in queue:
        state.push(row.history, gap_ms)
        items, x = state.line_features(row.history.key.h_ts_ms)
        out.append((items[items < width], x[items < width]))
    return out
