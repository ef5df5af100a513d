"""Logs and databases that benchmarks run on."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from infra.bench.models import shipped_shape
from infra.settings import Loaded, Override, load
from infra.wiring import ReplayPlan, asking, replaying
from model.untrained import write_untrained
from storage import interactions
from stream.generate import LogShape, generate
from stream.loading import StateLoader, WindowRule

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from stream.pipeline import Pipeline
    from stream.summary import RunSummary

FIRST_MS = 1_704_067_200_000
"""Event time at which generated logs start: 2024-01-01."""


@dataclass(frozen=True, slots=True)
class World:
    """A log with its items and a model of random weights, and the database a replay makes of them."""

    log: Path
    items: Path | None
    model: Path
    db: Path

    def plan(self, **changes: object) -> ReplayPlan:
        """Return the replay that stores the log without scoring it."""
        items = None if self.items is None else str(self.items)
        plan = ReplayPlan(
            log=str(self.log), db_path=self.db, model_path=self.model, items_path=items, score=False
        )
        return replace(plan, **changes)  # type: ignore[arg-type]  # fields of ReplayPlan


def settings(values: Mapping[str, object] | None = None) -> Loaded:
    """Return the default settings with some changed: files and variables of the caller do not count."""
    overrides = [Override(key, value, "the benchmark") for key, value in (values or {}).items()]
    return load(config_file=Path(os.devnull), environ={}, overrides=overrides)


def generated(
    folder: Path, *, users: int, events: int, items: int, days: int, seed: int = 0
) -> World:
    """Make a generated log with its catalogue, and a model of the shipped shape that knows it."""
    folder.mkdir(parents=True, exist_ok=True)
    world = World(
        folder / "log.parquet",
        folder / "items.parquet",
        folder / "model.safetensors",
        folder / "world.duckdb",
    )
    shape = LogShape(items=items, days=days, start_ms=FIRST_MS)
    generate(world.log, users=users, events=events, seed=seed, shape=shape, items_path=world.items)
    table = pq.read_table(world.items, columns=["item_id", "text"])
    texts = dict(zip(*table.to_pydict().values(), strict=True))
    write_untrained(world.model, shipped_shape(), list(texts), texts)
    return world


def written(
    folder: Path, users: list[str], items: NDArray[np.int64], ts_ms: NDArray[np.int64], n_items: int
) -> World:
    """Make a log of given users, item numbers and times, all views, and a model of the shipped shape."""
    folder.mkdir(parents=True, exist_ok=True)
    world = World(
        folder / "log.parquet", None, folder / "model.safetensors", folder / "world.duckdb"
    )
    names = pa.array([f"item{number:06d}" for number in range(n_items)])
    table = pa.table({
        "user_id": pa.array(users),
        "item_id": names.take(pa.array(items)),
        "event_type": pa.repeat("view", len(items)),
        "ts": pa.array(ts_ms),
    })
    pq.write_table(table, world.log)
    write_untrained(world.model, shipped_shape(), names.to_pylist())
    return world


def store(world: World, loaded: Loaded) -> RunSummary:
    """Store a world's whole log, with ticks and without slates."""
    with replaying(world.plan(), loaded) as pipeline:
        return pipeline.run()


@contextmanager
def asked(world: World, loaded: Loaded) -> Iterator[Pipeline]:
    """Open a stored world to score rows that are stored already."""
    with asking(world.db, world.model, loaded) as (pipeline, _):
        yield pipeline


def score(pipeline: Pipeline, rows: pa.Table) -> None:
    """Score stored rows; their slates are let go."""
    for _ in pipeline.scorer.score_rows(rows):
        pass


def tail(pipeline: Pipeline, rows: int) -> pa.Table:
    """Return the newest stored rows of the log, in its order."""
    (topic, part), end = max(
        ((key, off) for key, off in pipeline.ingest.next_offsets.items() if "items" not in key[0]),
        key=lambda pair: pair[1],
    )
    return interactions.read_range(pipeline.db, topic, part, max(0, end - rows), end)


def loader_of(pipeline: Pipeline) -> StateLoader:
    """Return a loader of user states as the pipeline's scorer has one.

    Raises:
        ValueError: the pipeline has no model.
    """
    if pipeline.engine is None:
        raise ValueError("a pipeline without a model loads no states; open it with one")
    config = pipeline.config
    rule = WindowRule(
        config.refresh.segment_len, config.serving.r_max, pipeline.engine.config.window
    )
    return StateLoader(
        pipeline.db,
        pipeline.identities,
        pipeline.engine,
        pipeline.shared,
        rule,
        config.stream.visit_gap_ms,
    )
