"""Extension: new rows of many users against their caches, and requests that leave no trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from model.backbone import KeyValues, Meta, Projected, Scene
from model.cache import Ints, KVCache, Past, Rows
from model.segments import ITEM, REQUEST
from model.tokens import Part, SlotRows, TokenModel, run_layers

_MAX_PAIRS = 1 << 18
"""Query-key pairs of one padded pass; larger batches are cut into several."""


def extend(
    model: TokenModel, vectors: Tensor, caches: Sequence[KVCache], rows: Sequence[Rows]
) -> list[Tensor]:
    """Push m_i >= 0 new rows per user and add their keys and values to the caches.

    Args:
        model: The model, in evaluation mode.
        vectors: [1 + V + n_buckets, d] item vectors.
        caches: One cache per user, no cache twice.
        rows: New rows per user.

    Returns:
        [m_i, d] hidden rows per user.
    """
    out = [vectors.new_zeros(0, model.config.d_model) for _ in caches]
    for chunk in _chunks(caches, rows):
        hidden = _extend(model, vectors, [caches[i] for i in chunk], [rows[i] for i in chunk])
        for index, user in enumerate(chunk):
            out[user] = hidden[index, : len(rows[user])]
    return out


def request(
    model: TokenModel, vectors: Tensor, caches: Sequence[KVCache], times_ms: Ints
) -> Tensor:
    """One request row per user at the given times, [B, d]; the caches stay as they are."""
    out = vectors.new_zeros(len(caches), model.config.d_model)
    width = max((cache.length + cache.n_tokens for cache in caches), default=0) + 1
    step = max(1, _MAX_PAIRS // width)
    for start in range(0, len(caches), step):
        part = slice(start, start + step)
        out[part] = _request(model, vectors, caches[part], times_ms[part])
    return out


def _chunks(caches: Sequence[KVCache], rows: Sequence[Rows]) -> Iterator[list[int]]:
    """Users with rows, in batches of similar length and bounded size."""
    users = [index for index in range(len(caches)) if len(rows[index])]
    users.sort(key=lambda index: (len(rows[index]), caches[index].length, index))
    chunk: list[int] = []
    width = 0
    for user in users:
        new, cache = len(rows[user]), caches[user]
        keys = max(width, cache.length + cache.n_tokens + new)
        if chunk and (len(chunk) + 1) * new * keys > _MAX_PAIRS:
            yield chunk
            chunk, keys = [], cache.length + cache.n_tokens + new
        chunk.append(user)
        width = keys
    if chunk:
        yield chunk


def _extend(
    model: TokenModel, vectors: Tensor, caches: Sequence[KVCache], rows: Sequence[Rows]
) -> Tensor:
    """One padded pass; returns [B, M, d]."""
    past = Past.of(caches)
    lengths = np.array([len(part) for part in rows])
    shape = (len(caches), int(lengths.max()))
    fresh = np.arange(shape[1]) < lengths[:, None]
    values = np.zeros((5, *shape), np.int64)
    for index, name in enumerate(("time_ms", "ordinal", "item_row", "type_row")):
        values[index][fresh] = np.concatenate([getattr(part, name) for part in rows])
    values[4] = np.array([[cache.length] for cache in caches]) + np.arange(shape[1])
    time_ms, ordinal, item_row, type_row, position = torch.from_numpy(values)
    query = Meta(time_ms, ordinal, position)
    kept: list[Tensor] = []

    def keys(layer: int, projected: Projected) -> tuple[KeyValues, KeyValues]:
        new = torch.stack([projected.k, projected.v]).view(2, *shape, -1)
        kept.append(new)
        own = torch.cat([past.kv[layer], new], dim=2)
        return KeyValues(own[0], own[1]), past.token_keys(layer)

    slots = SlotRows(
        torch.full((time_ms.numel(),), ITEM),
        torch.zeros(time_ms.numel(), dtype=torch.int64),
        item_row.flatten(),
        type_row.flatten(),
        position.flatten(),
    )
    part = Part(0, shape, model.backbone.prepare(_scene(past, query, fresh)), keys)
    hidden = run_layers(model.backbone, model.embed(slots, vectors), [part]).view(*shape, -1)
    kv, meta = torch.stack(kept), torch.stack([time_ms, ordinal, position])
    for index, cache in enumerate(caches):
        new = int(lengths[index])
        cache.append(kv[:, :, index, :new], meta[:, index, :new])
    return hidden


def _scene(past: Past, query: Meta, fresh: np.ndarray) -> Scene:
    """New rows read all of the past and the new rows up to themselves."""
    own = Meta(
        *(
            torch.cat([before, new], dim=1)
            for before, new in zip(
                past.meta, (query.time_ms, query.ordinal, query.position), strict=True
            )
        )
    )
    n_new = fresh.shape[1]
    causal = torch.ones(n_new, n_new, dtype=torch.bool).tril()
    among = torch.from_numpy(fresh)[:, None, :] & causal
    before = past.valid[:, None, :].expand(-1, n_new, -1)
    own_mask = torch.cat([before, among], dim=2)
    token_mask = (past.token_age > 0).unsqueeze(1)
    return Scene(query, own, own_mask, past.tokens, past.token_age, token_mask)


def _request(
    model: TokenModel, vectors: Tensor, caches: Sequence[KVCache], times_ms: Ints
) -> Tensor:
    past = Past.of(caches)
    n = len(caches)
    time_ms = torch.from_numpy(np.asarray(times_ms, np.int64).reshape(n, 1))
    ordinal = torch.tensor([[cache.next_ordinal] for cache in caches])
    position = torch.tensor([[cache.length] for cache in caches])

    def keys(layer: int, projected: Projected) -> tuple[KeyValues, KeyValues]:
        del projected
        return KeyValues(past.kv[layer, 0], past.kv[layer, 1]), past.token_keys(layer)

    token_mask = (past.token_age > 0).unsqueeze(1)
    scene = Scene(
        Meta(time_ms, ordinal, position),
        Meta(*past.meta),
        past.valid[:, None, :],
        past.tokens,
        past.token_age,
        token_mask,
    )
    none = torch.zeros(n, dtype=torch.int64)
    slots = SlotRows(torch.full((n,), REQUEST), none, none, none, position.flatten())
    part = Part(0, (n, 1), model.backbone.prepare(scene), keys)
    return run_layers(model.backbone, model.embed(slots, vectors), [part])
