"""Compression: one closed segment and the tokens before it -> the segment's token group.

Jobs run one at a time on one thread, at a shape that the job alone decides: inside a batch the
last bits of a row can depend on the batch slot it lies in (measured with 64-bit products), and a
group must have the same bytes whatever else is due at the same tick.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.arena import AGE
from model.backbone import KeyValues, Meta, Projected, Scene
from model.cache import Rows, SegmentJob, TokenBlock, newest_groups, tokens_meta, tokens_tensor
from model.config import ModelConfig
from model.errors import ShapeError, StateError
from model.segments import ITEM, TOKEN
from model.tokens import Part, SlotRows, TokenModel, run_layers


def compress(model: TokenModel, vectors: Tensor, jobs: Sequence[SegmentJob]) -> list[TokenBlock]:
    """Token groups of some segments, in the order of the jobs.

    Args:
        model: The model, in evaluation mode.
        vectors: [1 + V + n_buckets, d] item vectors.
        jobs: Segments, each with the groups before it.

    Raises:
        ShapeError: If a segment is empty.
        StateError: If a job lacks groups that its window covers, or numbers are not finite.
    """
    for job in jobs:
        _check(model.config, job)
    with one_thread():
        return [_compress(model, vectors, job) for job in jobs]


def _check(config: ModelConfig, job: SegmentJob) -> None:
    if not len(job.rows):
        raise ShapeError(f"segment {job.segment}: no interactions; compress closed segments only")
    reach = job.segment if config.window is None else min(job.segment, config.window)
    have = [group.segment for group in job.groups][-reach:] if reach else []
    if have != list(range(job.segment - reach, job.segment)):
        raise StateError(
            f"segment {job.segment}: the {reach} token groups before it are not all there (got"
            f" {have}); compress a user's segments in order"
        )


def _compress(model: TokenModel, vectors: Tensor, job: SegmentJob) -> TokenBlock:
    config, n_items = model.config, len(job.rows)
    n_slots = n_items + config.n_tokens
    groups = newest_groups(config, job.groups if job.segment else [])
    token_kv, token_meta = tokens_tensor(config, groups), tokens_meta(config, groups)[:, None]
    kept: list[Tensor] = []

    def keys(layer: int, projected: Projected) -> tuple[KeyValues, KeyValues]:
        k, v = projected.k[None], projected.v[None]
        kept.append(torch.cat([k[:, n_items:], v[:, n_items:]]))
        return KeyValues(k, v), KeyValues(token_kv[layer, 0][None], token_kv[layer, 1][None])

    slots, rows = _slots(config, job.rows)
    causal = torch.ones(1, n_slots, n_slots, dtype=torch.bool).tril()
    token_age = token_meta[AGE]
    token_mask = (token_age > 0).unsqueeze(1)
    scene = Scene(rows, rows, causal, Meta(*token_meta[:AGE]), token_age, token_mask)
    part = Part(0, (1, n_slots), model.backbone.prepare(scene), keys)
    hidden = run_layers(model.backbone, model.embed(slots, vectors), [part])[n_items:]
    stored = _stored(config, job, torch.stack(kept))
    last = (int(job.rows.time_ms[-1]), int(job.rows.ordinal[-1]))
    return TokenBlock(job.segment, stored, *last, hidden.float().numpy().copy())


def _slots(config: ModelConfig, rows: Rows) -> tuple[SlotRows, Meta]:
    """The segment's items, then its tokens at the time and ordinal of the last item."""
    n, k = len(rows), config.n_tokens
    values = np.zeros((7, n + k), np.int64)
    kind, source, item, types, position, time_ms, ordinal = values
    kind[:n], kind[n:] = ITEM, TOKEN
    source[n:] = np.arange(k)
    item[:n], types[:n] = rows.item_row, rows.type_row
    position[:n], position[n:] = np.arange(n), -1
    time_ms[:n], time_ms[n:] = rows.time_ms, rows.time_ms[-1]
    ordinal[:n], ordinal[n:] = rows.ordinal, rows.ordinal[-1]
    tensors = torch.from_numpy(values)
    return SlotRows(*tensors[:5]), Meta(tensors[5:6], tensors[6:7], tensors[4:5])


def _stored(config: ModelConfig, job: SegmentJob, kv: Tensor) -> NDArray[np.floating]:
    """Keys and values in the state dtype."""
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(kv.numpy().astype(config.state_dtype))
    if not np.isfinite(stored).all():
        raise StateError(
            f"segment {job.segment}: keys or values exceed {config.state_dtype}; set state_dtype"
            " to float32 or train the model anew"
        )
    return stored


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: how work is cut among threads changes the last bits."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
