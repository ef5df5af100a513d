"""Tiny models, tiny logs and whole replays for the tests of the pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.config import ModelConfig
from model.engine import Engine
from model.features import SparseFeatures
from model.items import Vocabulary
from model.readout import ReadOut
from model.tokens import TokenModel
from storage import interactions, tokens
from storage.database import Database
from storage.identities import Identities
from stream.clock import ManualClock, from_ms
from stream.config import (
    EventType,
    PipelineConfig,
    RefreshConfig,
    ServingConfig,
    StreamConfig,
)
from stream.diff import DiffReport, diff
from stream.events import Partition
from stream.facts import Facts, RowFacts, sparse_features
from stream.pipeline import Pipeline, TickSource
from stream.refresh import Compressor
from stream.sinks import Sink
from stream.sinks.memory import MemorySink
from stream.slates import Slate
from stream.sources import Source
from stream.sources.memory import MemorySource
from stream.state import UserState

torch.set_num_threads(1)

START_MS = 1_700_006_400_000 - 1_700_006_400_000 % 86_400_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
N_ITEMS = 24
TOPIC = "log"
NOW = from_ms(START_MS)
Event = dict[str, Any]

TYPES = {"view": EventType(weight=1.0), "buy": EventType(weight=2.5)}


def tiny_config(**changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "n_layers": 2,
        "d_model": 16,
        "n_tokens": 2,
        "segment_len": 4,
        "r_min": 4,
        "r_max": 16,
        "window": 3,
        "divisor": 8.0,
        "n_buckets": 5,
        "n_words": 31,
        "event_types": ("view", "buy"),
        "event_weights": (1.0, 2.5),
        "visit_gap_ms": 30 * MINUTE_MS,
        "state_dtype": "float32",
    }
    return ModelConfig(**(values | changes))


def tiny_model(
    config: ModelConfig, seed: int = 0, items: Sequence[str] = ()
) -> tuple[TokenModel, ReadOut]:
    """A model and a read-out with every weight away from zero; the vocabulary misses some items."""
    torch.manual_seed(seed)
    ids = list(items) or [f"i{index}" for index in range(N_ITEMS - 4)]
    vocabulary = Vocabulary.build(ids, {name: f"Red box {name[1:]}" for name in ids}, config)
    model = TokenModel(config, vocabulary)
    readout = ReadOut(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        for parameter in readout.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval(), readout.eval()


def tiny_engine(
    seed: int = 0, version: str = "tiny", items: Sequence[str] = (), **changes: Any
) -> Engine:
    model, readout = tiny_model(tiny_config(**changes), seed, items)
    return Engine.from_model(model, readout=readout, version=version)


def event(user: str, item: str, ts: int, **more: Any) -> Event:
    return {"user_id": user, "item_id": item, "ts": ts, "event_type": "view"} | more


def random_log(
    rng: np.random.Generator, n: int, *, users: int = 4, step_ms: int = 2 * HOUR_MS
) -> list[Event]:
    """Events in time order: baskets of equal times, short gaps inside visits, days between them."""
    out: list[Event] = []
    clock = START_MS + int(rng.integers(0, DAY_MS))
    while len(out) < n:
        clock += int(rng.exponential(step_ms))
        user = f"u{int(rng.integers(users))}"
        at = clock
        for _ in range(int(rng.integers(1, 4))):
            kind = "buy" if rng.random() < 0.3 else "view"
            item = f"i{int(N_ITEMS * rng.random() ** 2)}"
            out.append(event(user, item, at, event_type=kind))
            at += int(rng.choice([0, 0, 5 * MINUTE_MS, 20 * MINUTE_MS]))
    out = sorted(out[:n], key=lambda e: e["ts"])
    return [one | {"event_id": f"e{number}", "seq": number} for number, one in enumerate(out)]


def eventful(rng: np.random.Generator, n: int) -> list[Event]:
    """A log with sessions on some visits, repeats of earlier records, returns, and events late by up to five days."""
    log = []
    for one in random_log(rng, n, users=2, step_ms=5 * HOUR_MS):
        changes: dict[str, Any] = {}
        if rng.random() < 0.3:
            changes["session_id"] = f"s{one['ts'] // (4 * HOUR_MS)}"
        if rng.random() < 0.1:
            changes["value"] = -1
        delay = int(rng.integers(0, 5 * DAY_MS)) if rng.random() < 0.25 else 0
        log.append((one["ts"] + delay, one | changes))
        if rng.random() < 0.1:
            log.append((one["ts"] + delay + HOUR_MS, one | changes))
    return [one for _, one in sorted(log, key=lambda pair: pair[0])]


def memory_source(
    log: Sequence[Event | bytes], *, parts: int = 1, ended: bool = True
) -> MemorySource:
    """A source over events (or raw records); a user's events share a partition."""
    records = [
        (Partition(TOPIC, part_of(one, parts)), one if isinstance(one, bytes) else encode(one))
        for one in log
    ]
    return MemorySource(records, ended=ended)


def encode(one: Event) -> bytes:
    return json.dumps({k: v for k, v in one.items() if k != "append_ms"}).encode()


def part_of(one: Event | bytes, parts: int) -> int:
    if isinstance(one, bytes) or "user_id" not in one:
        return 0
    return sum(one["user_id"].encode()) % parts


def pipeline_config(engine: Engine | None = None, **changes: Any) -> PipelineConfig:
    """Settings that fit an engine; `changes` go to whichever section has them."""
    model = engine.config if engine else tiny_config()
    config = PipelineConfig(
        stream=StreamConfig(
            event_types=TYPES,
            lateness_ms=0,
            visit_gap_ms=model.visit_gap_ms,
            max_jump_ms=365 * DAY_MS,
        ),
        serving=ServingConfig(top_k=6, r_max=model.r_max),
        refresh=RefreshConfig(
            segment_len=model.segment_len, r_min=model.r_min, tick_interval_s=DAY_MS // 1000
        ),
    )
    for name, value in changes.items():
        config = _set(config, name, value)
    return config


def _set(config: PipelineConfig, name: str, value: Any) -> PipelineConfig:
    for section in ("stream", "serving", "refresh"):
        part = getattr(config, section)
        if hasattr(part, name):
            return replace(config, **{section: replace(part, **{name: value})})
    return replace(config, **{name: value})


@contextmanager
def opened(
    path: Path,
    engine: Engine | None,
    config: PipelineConfig,
    *,
    source: Source | None = None,
    sink: Sink | None = None,
    compressor: Compressor | None = None,
    ticks: TickSource = "events",
) -> Iterator[Pipeline]:
    """A pipeline on a database file; leaving it closes the file, whatever was raised."""
    with Database.open(path, now=NOW, memory_limit="256MB") as db:
        yield Pipeline(
            db=db,
            identities=Identities.load(db),
            engine=engine,
            config=config,
            clock=ManualClock(NOW),
            source=source,
            sink=sink,
            compressor=compressor,
            ticks=ticks,
        )


@dataclass
class Outcome:
    """What a finished replay left behind."""

    slates: list[Slate]
    interactions: str
    tokens: str
    groups: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


def outcome(pipeline: Pipeline, slates: Sequence[Slate]) -> Outcome:
    db, engine = pipeline.db, pipeline.engine
    version = engine.version if engine else ""
    rows = db.query("SELECT * EXCLUDE (hot, h_ts) FROM rows_ms ORDER BY topic, part, off")
    return Outcome(
        slates=list(slates),
        interactions=interactions.digest(db),
        tokens=tokens.digest(db, version),
        groups=sum(tokens.group_counts(db, version).values()),
        rows=rows.to_pylist(),
    )


def replay(
    path: Path,
    log: Sequence[Event | bytes],
    engine: Engine | None,
    *,
    parts: int = 1,
    compressor: Compressor | None = None,
    **changes: Any,
) -> Outcome:
    """Replay a whole log into a new database and finish it."""
    sink = MemorySink()
    with opened(
        path,
        engine,
        pipeline_config(engine, **changes),
        source=memory_source(log, parts=parts),
        sink=sink,
        compressor=compressor,
    ) as pipeline:
        pipeline.run()
        pipeline.finish()
        return outcome(pipeline, sink.slates)


def assert_same_slates(left: Sequence[Slate], right: Sequence[Slate]) -> DiffReport:
    """Both runs answered the same events alike, scores to within 1e-4."""
    report = diff(left, right, score_tolerance=1e-4)
    assert report.equal, (report.counts, report.examples[:3])
    assert report.compared == report.left == report.right
    return report


def history(pipeline: Pipeline, user: str) -> list[dict[str, Any]]:
    """A user's stored history rows, in history order."""
    found = pipeline.identities.find_user(user)
    assert found is not None
    rows: list[dict[str, Any]] = interactions.load_history(pipeline.db, [found]).to_pylist()
    return rows


def features_of(facts: Sequence[Facts], times_ms: Sequence[int], ref_ms: int) -> SparseFeatures:
    """Features of one row per user's facts, each at its time and after the whole visit."""
    visible = np.array([len(fact.visit) for fact in facts], np.int64)
    which, at_ms = np.arange(len(facts)), np.array(times_ms, np.int64)
    return sparse_features(RowFacts(facts, which, at_ms, visible, ref_ms))


def line_features(state: UserState, at_ms: int, ref_ms: int) -> SparseFeatures:
    """Features of the newest row of a state."""
    return features_of([state.line_facts()], [at_ms], ref_ms)


def request_features(state: UserState, at_ms: int, ref_ms: int) -> SparseFeatures:
    """Features of a request outside the visit."""
    return features_of([state.request_facts(ref_ms)], [at_ms], ref_ms)


def seen_items(state: UserState) -> set[int]:
    """Internal ids of every item of the whole history."""
    return {*state.counters.items.tolist(), *state.visit.items}
