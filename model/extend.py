"""Extension: new rows of many users against their caches, and requests that leave no trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.arena import (
    AGE,
    ITEM_ROW,
    ORDINAL,
    PAGE_ROWS,
    POSITION,
    TIME,
    TYPE_ROW,
    Arena,
    page_table,
)
from model.backbone import KeyValues, Meta, Projected, Scene
from model.cache import Ints, KVCache, Rows
from model.segments import ITEM, REQUEST
from model.tokens import Part, SlotRows, TokenModel, run_layers

_MAX_KEYS = 1 << 13
"""Keys gathered for one pass: the copies of one layer stay in the processor's cache."""
_MAX_PAIRS = 1 << 17
"""Query-key pairs of one padded pass; larger batches are cut into several."""
_TOKENS_APART = 64
"""Users are sorted by their tokens in steps of so many first: the tokens of a pass are padded like its rows."""
_COLUMNS = (
    (TIME, "time_ms"),
    (ORDINAL, "ordinal"),
    (ITEM_ROW, "item_row"),
    (TYPE_ROW, "type_row"),
)


def extend(
    model: TokenModel,
    vectors: Tensor,
    arena: Arena,
    caches: Sequence[KVCache],
    rows: Sequence[Rows],
) -> list[Tensor]:
    """Push m_i >= 0 new rows per user and add their keys and values to the caches.

    Args:
        model: The model, in evaluation mode.
        vectors: [1 + V + n_buckets, d] item vectors.
        arena: The memory of the caches.
        caches: One cache per user, no cache twice.
        rows: New rows per user.

    Returns:
        [m_i, d] hidden rows per user.
    """
    out = [vectors.new_zeros(0, model.config.d_model) for _ in caches]
    for chunk in _chunks(caches, rows):
        hidden = _extend(
            model, vectors, arena, [caches[i] for i in chunk], [rows[i] for i in chunk]
        )
        for index, user in enumerate(chunk):
            out[user] = hidden[index, : len(rows[user])]
    return out


def request(
    model: TokenModel, vectors: Tensor, arena: Arena, caches: Sequence[KVCache], times_ms: Ints
) -> Tensor:
    """One request row per user at the given times, [B, d]; the caches stay as they are."""
    out = vectors.new_zeros(len(caches), model.config.d_model)
    width = max((cache.length + cache.n_tokens for cache in caches), default=0) + 1
    step = max(1, _MAX_KEYS // width)
    for start in range(0, len(caches), step):
        part = slice(start, start + step)
        out[part] = _request(model, vectors, arena, caches[part], times_ms[part])
    return out


def _chunks(caches: Sequence[KVCache], rows: Sequence[Rows]) -> Iterator[list[int]]:
    """Users with rows, in batches of similar length and bounded size: what a batch pads is computed for nothing."""
    users = [index for index in range(len(caches)) if len(rows[index])]
    users.sort(
        key=lambda index: (
            caches[index].n_tokens // _TOKENS_APART,
            len(rows[index]),
            caches[index].length,
            index,
        )
    )
    chunk: list[int] = []
    width = most = 0
    for user in users:
        cache, new = caches[user], len(rows[user])
        own = cache.length + cache.n_tokens + new
        keys = (len(chunk) + 1) * max(width, own)
        if chunk and (keys > _MAX_KEYS or max(most, new) * keys > _MAX_PAIRS):
            yield chunk
            chunk, width, most = [], 0, 0
        chunk.append(user)
        width, most = max(width, own), max(most, new)
    if chunk:
        yield chunk


@dataclass(frozen=True, slots=True)
class _Held:
    """What B users can read: pages of raw rows [B, P] and of tokens [B, P2], and how many rows count, [B, 1]."""

    arena: Arena
    pages: Tensor
    token_pages: Tensor
    token_meta: Tensor
    n_tokens: Tensor

    @classmethod
    def of(cls, arena: Arena, caches: Sequence[KVCache], n_own: int) -> _Held:
        """The pages of some caches, wide enough for ``n_own`` raw rows."""
        n_tokens = [cache.n_tokens for cache in caches]
        token_pages = page_table([cache.token_pages for cache in caches], max(n_tokens))
        return cls(
            arena,
            page_table([cache.pages for cache in caches], n_own),
            token_pages,
            arena.read_meta(token_pages),
            torch.tensor(n_tokens)[:, None],
        )

    def keys(self, layer: int) -> tuple[KeyValues, KeyValues]:
        """Keys and values of one layer: raw rows and tokens."""
        return self.arena.read(layer, self.pages), self.arena.read(layer, self.token_pages)

    def scene(self, query: Meta, own_mask: Tensor) -> Scene:
        """Metadata and masks for query rows that read raw rows by a mask and every token."""
        own = self.arena.read_meta(self.pages)
        n_slots = self.token_meta.shape[2]
        age = self.token_meta[AGE] * (torch.arange(n_slots) < self.n_tokens)
        token_mask = (age > 0).unsqueeze(1)
        return Scene(
            query, Meta(*own[:AGE]), own_mask, Meta(*self.token_meta[:AGE]), age, token_mask
        )


def _extend(
    model: TokenModel,
    vectors: Tensor,
    arena: Arena,
    caches: Sequence[KVCache],
    rows: Sequence[Rows],
) -> Tensor:
    """One padded pass; returns [B, M, d]. New rows are written first, then read with the old ones."""
    lengths = np.array([[cache.length] for cache in caches])
    counts = np.array([len(part) for part in rows])
    shape = (len(caches), int(counts.max()))
    fresh = np.arange(shape[1]) < counts[:, None]
    into = torch.from_numpy(
        np.concatenate([c.make_room(len(r)) for c, r in zip(caches, rows, strict=True)])
    )
    values = np.zeros((6, *shape), np.int64)
    values[POSITION] = lengths + np.arange(shape[1])
    for index, name in _COLUMNS:
        values[index][fresh] = np.concatenate([getattr(part, name) for part in rows])
    arena.write_meta(into, torch.from_numpy(values[:, fresh]))
    table, kept = torch.from_numpy(values), torch.from_numpy(np.flatnonzero(fresh))
    held = _Held.of(arena, caches, int((lengths[:, 0] + counts).max()))

    def keys(layer: int, projected: Projected) -> tuple[KeyValues, KeyValues]:
        new = (values.index_select(0, kept) for values in (projected.k, projected.v))
        arena.write(layer, into, KeyValues(*new))
        return held.keys(layer)

    item = torch.full((shape[0] * shape[1],), ITEM)
    slots = SlotRows(
        item,
        torch.zeros_like(item),
        table[ITEM_ROW].flatten(),
        table[TYPE_ROW].flatten(),
        table[POSITION].flatten(),
    )
    readable = torch.arange(held.pages.shape[1] * PAGE_ROWS) <= table[POSITION].unsqueeze(2)
    scene = held.scene(Meta(table[TIME], table[ORDINAL], table[POSITION]), readable)
    part = Part(0, shape, model.backbone.prepare(scene), keys)
    hidden = run_layers(model.backbone, model.embed(slots, vectors), [part])
    for cache, part_rows in zip(caches, rows, strict=True):
        cache.length += len(part_rows)
        cache.next_ordinal = int(part_rows.ordinal[-1]) + 1
    return hidden.view(*shape, -1)


def _request(
    model: TokenModel, vectors: Tensor, arena: Arena, caches: Sequence[KVCache], times_ms: Ints
) -> Tensor:
    """One pass of request rows, [B, d]."""
    n = len(caches)
    position = torch.tensor([[cache.length] for cache in caches])
    query = Meta(
        torch.from_numpy(np.asarray(times_ms, np.int64).reshape(n, 1)),
        torch.tensor([[cache.next_ordinal] for cache in caches]),
        position,
    )
    held = _Held.of(arena, caches, int(position.max()))
    readable = torch.arange(held.pages.shape[1] * PAGE_ROWS) < position.unsqueeze(2)

    def keys(layer: int, projected: Projected) -> tuple[KeyValues, KeyValues]:
        del projected
        return held.keys(layer)

    none = torch.zeros(n, dtype=torch.int64)
    slots = SlotRows(torch.full((n,), REQUEST), none, none, none, position.flatten())
    part = Part(0, (n, 1), model.backbone.prepare(held.scene(query, readable)), keys)
    return run_layers(model.backbone, model.embed(slots, vectors), [part])
