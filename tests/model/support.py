"""Small models, ragged windows, and two independent ways to compute what a window's rows are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from model.arena import page_table
from model.backbone import KeyValues, Meta, Scene
from model.config import ModelConfig
from model.engine import Engine, KVCache, Rows, SegmentJob, TokenBlock
from model.items import Vocabulary
from model.segments import ITEM, REQUEST, TOKEN, UserSlots
from model.tokens import SlotRows, TokenModel

START_MS = 1_300_000_000_000
N_ITEMS = 40
BACKBONES = ("hstu", "sasrec")


def property_test(examples: int) -> settings:
    return settings(
        derandomize=True,
        deadline=None,
        max_examples=examples,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def tiny_config(**changes: Any) -> ModelConfig:
    values = {
        "n_layers": 2,
        "d_model": 16,
        "n_tokens": 3,
        "segment_len": 6,
        "r_min": 6,
        "r_max": 20,
        "n_buckets": 5,
        "n_words": 31,
        "event_types": ("view", "buy"),
    }
    values |= changes
    if "compute_dtype" in values and "state_dtype" not in values:
        values["state_dtype"] = values["compute_dtype"]
    return ModelConfig(**values)


def tiny_vocabulary(config: ModelConfig, n_items: int = N_ITEMS) -> Vocabulary:
    ids = [f"item {index}" for index in range(n_items)]
    texts = {item: f"Red {index % 7} box {index % 3}" for index, item in enumerate(ids)}
    return Vocabulary.build(ids, texts, config)


def tiny_model(config: ModelConfig, seed: int = 0, n_items: int = N_ITEMS) -> TokenModel:
    """A model whose weights are far from their start, so that every term counts."""
    torch.manual_seed(seed)
    model = TokenModel(config, tiny_vocabulary(config, n_items))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def tiny_engine(seed: int = 0, **changes: Any) -> Engine:
    return Engine.from_model(tiny_model(tiny_config(**changes), seed))


@dataclass(frozen=True)
class Shape:
    """Lengths that make up a window."""

    closed: list[int]
    recents: int
    chunks: list[int]


shapes = st.builds(
    Shape,
    closed=st.lists(st.integers(1, 8), max_size=5),
    recents=st.integers(0, 9),
    chunks=st.lists(st.integers(1, 5), min_size=1, max_size=4),
)


def window(shape: Shape, rng: np.random.Generator, n_rows: int = N_ITEMS + 6) -> UserSlots:
    """A window of this shape with one request at its end, read by the open segment."""
    n = sum(shape.closed) + shape.recents
    start = int(rng.integers(0, 100))
    times = START_MS + np.sort(rng.integers(0, 10**10, n))
    newest = int(times[-1]) if n else START_MS
    return UserSlots(
        item_row=rng.integers(1, n_rows, n),
        type_row=rng.integers(0, 3, n),
        time_ms=times,
        ordinal=start + np.arange(n),
        closed=np.array(shape.closed, dtype=np.int64),
        request_time_ms=np.array([newest + int(rng.integers(0, 10**9))]),
        request_at=np.array([n]),
        request_segment=np.array([len(shape.closed)]),
    )


def rows_of(slots: UserSlots, first: int, last: int) -> Rows:
    part = slice(first, last)
    return Rows(
        slots.item_row[part], slots.type_row[part], slots.time_ms[part], slots.ordinal[part]
    )


def compress_all(engine: Engine, slots: UserSlots) -> list[TokenBlock]:
    blocks: list[TokenBlock] = []
    first = 0
    for segment, length in enumerate(slots.closed.tolist()):
        job = SegmentJob(segment, blocks.copy(), rows_of(slots, first, first + length))
        blocks += engine.compress([job])
        first += length
    return blocks


def keys_held(engine: Engine, cache: KVCache) -> Tensor:
    """A copy of the keys and values of the raw rows, [L, 2, r, d_kv]."""
    pages = page_table([cache.pages], cache.length)
    layers = [engine.arena.read(layer, pages) for layer in range(engine.config.n_layers)]
    return torch.stack([torch.cat([kv.k, kv.v]) for kv in layers])[:, :, : cache.length]


def serve(
    engine: Engine, windows: list[UserSlots], chunks: list[list[int]]
) -> tuple[list[Tensor], Tensor, list[KVCache]]:
    """Compress segment by segment, then extend all users at once in their own chunk sizes.

    Returns:
        Hidden rows of the open items per user, hidden request rows [B, d], and the caches.
    """
    caches = [engine.new_cache(compress_all(engine, slots)) for slots in windows]
    at = [int(slots.closed.sum()) for slots in windows]
    hidden: list[list[Tensor]] = [[] for _ in windows]
    turn = 0
    while any(first < len(slots.item_row) for first, slots in zip(at, windows, strict=True)):
        steps = [sizes[turn % len(sizes)] for sizes in chunks]
        fresh = [
            rows_of(slots, first, first + step)
            for slots, first, step in zip(windows, at, steps, strict=True)
        ]
        for user, rows in enumerate(engine.extend(caches, fresh)):
            hidden[user].append(rows)
            at[user] += len(rows)
        turn += 1
    times = np.concatenate([slots.request_time_ms for slots in windows])
    empty = torch.zeros(0, engine.config.d_model, dtype=engine.model.tokens.dtype)
    return [torch.cat([empty, *rows]) for rows in hidden], engine.request(caches, times), caches


def scores(engine: Engine, hidden: Tensor) -> Tensor:
    """Cosine scores [R, V] of hidden rows."""
    return normalize(hidden, dim=-1) @ engine.candidate_vectors(engine.vocabulary).T


@dataclass(frozen=True)
class DenseSlots:
    """All slots of one window in one line, by the written rule and nothing else."""

    kind: np.ndarray
    segment: np.ndarray
    order: np.ndarray
    source: np.ndarray
    item_row: np.ndarray
    type_row: np.ndarray
    time_ms: np.ndarray
    ordinal: np.ndarray
    position: np.ndarray

    @property
    def own(self) -> np.ndarray:
        """[T, T]: a may read b of its own segment."""
        same = self.segment[:, None] == self.segment[None, :]
        not_later = self.order[None, :] <= self.order[:, None]
        strictly = self.order[None, :] < self.order[:, None]
        asks = (self.kind == REQUEST)[:, None]
        return same & np.where(asks, strictly, not_later) & (self.kind != REQUEST)[None, :]

    def earlier(self, span: int | None) -> np.ndarray:
        """[T, T]: a may read the token b of an earlier segment, at most `span` back."""
        back = self.segment[:, None] - self.segment[None, :]
        near = back <= (span if span is not None else len(back))
        return (self.kind == TOKEN)[None, :] & (back >= 1) & near


def dense_slots(slots: UserSlots, n_tokens: int) -> DenseSlots:
    lines: list[tuple[int, ...]] = []
    lengths = [*slots.closed.tolist(), len(slots.item_row) - int(slots.closed.sum())]
    first = 0
    for segment, length in enumerate(lengths):
        for o in range(length):
            i = first + o
            where = (int(slots.item_row[i]), int(slots.type_row[i]))
            when = (int(slots.time_ms[i]), int(slots.ordinal[i]))
            lines.append((ITEM, segment, o, i, *where, *when, o))
        first += length
        if segment < len(lengths) - 1:
            when = (int(slots.time_ms[first - 1]), int(slots.ordinal[first - 1]))
            lines += [(TOKEN, segment, length + k, k, 0, 0, *when, -1) for k in range(n_tokens)]
    assert slots.request_segment is not None
    for index, segment in enumerate(slots.request_segment.tolist()):
        before = int(slots.request_at[index]) - int(slots.closed[:segment].sum())
        when = (int(slots.request_time_ms[index]), int(slots.request_at[index]))
        ordinal = int(slots.ordinal[when[1] - 1]) + 1 if when[1] else 0
        lines.append((REQUEST, segment, before, index, 0, 0, when[0], ordinal, before))
    return DenseSlots(*np.array(lines, np.int64).reshape(-1, 9).T)


def dense_hidden(model: TokenModel, slots: UserSlots) -> tuple[DenseSlots, Tensor]:
    """Hidden rows of one window by plain T x T attention: every row is a segment of its own."""
    dense = dense_slots(slots, model.config.n_tokens)
    n = len(dense.kind)
    arrays = (dense.kind, dense.source, dense.item_row, dense.type_row, dense.position)
    rows = SlotRows(*(torch.from_numpy(array.copy()) for array in arrays))
    meta = [
        torch.from_numpy(array.copy()) for array in (dense.time_ms, dense.ordinal, dense.position)
    ]
    query = Meta(*(values[:, None] for values in meta))
    key = Meta(*(values[None, :].expand(n, n) for values in meta))
    earlier = dense.earlier(model.config.window)
    age = np.where(earlier, dense.segment[:, None] - dense.segment[None, :], 0)
    scene = Scene(
        query,
        key,
        torch.from_numpy(dense.own)[:, None, :],
        key,
        torch.from_numpy(age),
        torch.from_numpy(earlier)[:, None, :],
    )
    backbone = model.backbone
    prepared = backbone.prepare(scene)
    x = model.embed(rows, model.items.vectors())
    for layer in range(model.config.n_layers):
        projected = backbone.project(layer, x)
        keys = KeyValues(projected.k.expand(n, n, -1), projected.v.expand(n, n, -1))
        read = backbone.attend(layer, projected.q[:, None, :], keys, keys, prepared)
        x = backbone.update(layer, x, projected, read.squeeze(1))
    return dense, backbone.finish(x)
