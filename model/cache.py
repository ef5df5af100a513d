"""State in and out of the model: rows, token groups, and the key/value cache of one user.

A cache holds what the next row of a user reads: the keys and values of the visible token groups
and those of the raw recent rows pushed since. It is derived state: dropping it loses nothing,
because extending an empty cache by the recent rows gives it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.backbone import KeyValues, Meta, dtype_of
from model.config import ModelConfig
from model.errors import ShapeError, StateError

Ints: TypeAlias = NDArray[np.int64]
_FIRST_CAPACITY = 16


@dataclass(frozen=True, slots=True)
class Rows:
    """Interactions of one user in history order, as the model reads them.

    Attributes:
        item_row: int64 [m], from ``Engine.item_rows``.
        type_row: int64 [m], from ``Engine.type_rows``.
        time_ms: int64 [m], event times.
        ordinal: int64 [m], index in the user's whole history.
    """

    item_row: Ints
    type_row: Ints
    time_ms: Ints
    ordinal: Ints

    def __post_init__(self) -> None:
        m = len(self.item_row)
        if not len(self.type_row) == len(self.time_ms) == len(self.ordinal) == m:
            raise ShapeError("rows: item, type, time and ordinal arrays differ in length")

    def __len__(self) -> int:
        return len(self.item_row)


@dataclass(frozen=True, slots=True, eq=False)
class TokenBlock:
    """The token group of one closed segment.

    Attributes:
        segment: Segment number g.
        kv: [L, 2, K, d_kv] in the state dtype: keys and values of the K tokens per layer.
        time_ms: Time of the segment's last interaction.
        ordinal: Ordinal of the segment's last interaction.
        outputs: float32 [K, d], hidden rows of the tokens, for people.
    """

    segment: int
    kv: NDArray[np.floating]
    time_ms: int
    ordinal: int
    outputs: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SegmentJob:
    """One segment to compress.

    Attributes:
        segment: Segment number g.
        groups: Groups of the segments before it, oldest first; the newest ``window`` are read.
        rows: The segment's interactions.
    """

    segment: int
    groups: Sequence[TokenBlock]
    rows: Rows


class KVCache:
    """Keys and values of one user, extended in place by the engine.

    Args:
        config: Shapes and dtypes.
        groups: Visible token groups, oldest first; the newest ``window`` are kept.

    Raises:
        StateError: If a group does not fit the configuration.
    """

    __slots__ = ("_kv", "_meta", "_token_age", "_token_kv", "_token_meta", "length")

    def __init__(self, config: ModelConfig, groups: Sequence[TokenBlock]) -> None:
        kept = newest_groups(config, groups)
        dtype = dtype_of(config.compute_dtype)
        self._token_kv = tokens_tensor(config, kept)
        times = [(group.time_ms, group.ordinal, -1) for group in kept]
        meta = np.array(times, np.int64).reshape(-1, 3).repeat(config.n_tokens, axis=0)
        self._token_meta = torch.from_numpy(meta.T.copy())
        age = np.arange(len(kept), 0, -1).repeat(config.n_tokens).astype(np.int64)
        self._token_age = torch.from_numpy(age)
        self._kv = torch.empty(config.n_layers, 2, 0, config.d_kv, dtype=dtype)
        self._meta = torch.empty(3, 0, dtype=torch.int64)
        self.length = 0

    @property
    def n_tokens(self) -> int:
        """Token rows of the visible groups."""
        return self._token_kv.shape[2]

    @property
    def nbytes(self) -> int:
        """Memory of all arrays, capacity not yet used included."""
        arrays = (self._kv, self._meta, self._token_kv, self._token_meta, self._token_age)
        return sum(array.nbytes for array in arrays)

    @property
    def next_ordinal(self) -> int:
        """One more than the newest ordinal in the cache; 0 if it holds nothing."""
        if self.length:
            return int(self._meta[1, self.length - 1]) + 1
        return int(self._token_meta[1, -1]) + 1 if self.n_tokens else 0

    def recents(self) -> tuple[Tensor, Tensor]:
        """Keys and values [L, 2, r, d_kv] and metadata int64 [3, r] of the raw rows (views)."""
        return self._kv[:, :, : self.length], self._meta[:, : self.length]

    def tokens(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values [L, 2, T, d_kv], metadata int64 [3, T] and age int64 [T] (views)."""
        return self._token_kv, self._token_meta, self._token_age

    def append(self, kv: Tensor, meta: Tensor) -> None:
        """Add rows: keys and values [L, 2, m, d_kv], metadata int64 [3, m]."""
        end = self.length + meta.shape[1]
        if end > self._meta.shape[1]:
            self._grow(end)
        self._kv[:, :, self.length : end] = kv
        self._meta[:, self.length : end] = meta
        self.length = end

    def _grow(self, needed: int) -> None:
        capacity = max(_FIRST_CAPACITY, self._meta.shape[1])
        while capacity < needed:
            capacity *= 2
        kv, meta = self.recents()
        self._kv = kv.new_zeros(*kv.shape[:2], capacity, kv.shape[3])
        self._meta = meta.new_zeros(3, capacity)
        self._kv[:, :, : self.length] = kv
        self._meta[:, : self.length] = meta


def newest_groups(config: ModelConfig, groups: Sequence[TokenBlock]) -> Sequence[TokenBlock]:
    """The groups inside the window, checked against the configuration.

    Raises:
        StateError: If the groups are not in order or one has another shape.
    """
    kept = groups if config.window is None else groups[-config.window :]
    shape = (config.n_layers, 2, config.n_tokens, config.d_kv)
    for group in kept:
        if group.kv.shape != shape:
            raise StateError(
                f"token group of segment {group.segment}: keys and values have shape"
                f" {group.kv.shape}, this model's have {shape}; read groups of its own version"
            )
    segments = [group.segment for group in kept]
    if segments != sorted(set(segments)):
        raise StateError(f"token groups {segments} are not in order; pass them oldest first")
    return kept


def check_rows(rows: Sequence[Rows], n_rows: int) -> None:
    """Refuse item rows outside the item row space.

    Raises:
        ShapeError: If any is negative or not below ``n_rows``.
    """
    for part in rows:
        if len(part) and not 0 <= part.item_row.min() <= part.item_row.max() < n_rows:
            raise ShapeError(
                f"rows: item rows {part.item_row.min()}..{part.item_row.max()} lie outside"
                f" 0..{n_rows - 1}; use Engine.item_rows of the same version"
            )


def tokens_tensor(config: ModelConfig, groups: Sequence[TokenBlock]) -> Tensor:
    """Keys and values of some groups side by side, [L, 2, len(groups) * K, d_kv]."""
    k = config.n_tokens
    # torch's own memory is always aligned alike; the last bits of a product can depend on it
    joined = torch.empty(
        config.n_layers, 2, len(groups) * k, config.d_kv, dtype=dtype_of(config.compute_dtype)
    )
    into = joined.numpy()
    for index, group in enumerate(groups):
        into[:, :, index * k : (index + 1) * k] = group.kv
    return joined


@dataclass(frozen=True, slots=True)
class Past:
    """What B users can read before a call, padded.

    Attributes:
        kv: [L, 2, B, R, d_kv] of raw rows.
        meta: int64 [3, B, R].
        valid: bool [B, R].
        token_kv: [L, 2, B, T, d_kv].
        token_meta: int64 [3, B, T].
        token_age: int64 [B, T], 0 for padding.
    """

    kv: Tensor
    meta: Tensor
    valid: Tensor
    token_kv: Tensor
    token_meta: Tensor
    token_age: Tensor

    @classmethod
    def of(cls, caches: Sequence[KVCache]) -> Past:
        """Join caches; a single one is not copied."""
        if len(caches) == 1:
            kv, meta = caches[0].recents()
            token_kv, token_meta, age = caches[0].tokens()
            valid = torch.ones(1, meta.shape[1], dtype=torch.bool)
            return cls(
                kv[:, :, None],
                meta[:, None],
                valid,
                token_kv[:, :, None],
                token_meta[:, None],
                age[None],
            )
        recents = [cache.recents() for cache in caches]
        tokens = [cache.tokens() for cache in caches]
        lengths = torch.tensor([[cache.length] for cache in caches])
        valid = torch.arange(int(lengths.max())) < lengths
        ages = [age[None, :, None] for _, _, age in tokens]
        return cls(
            _padded([kv for kv, _ in recents]),
            _padded([meta[:, :, None] for _, meta in recents]).squeeze(-1),
            valid,
            _padded([kv for kv, _, _ in tokens]),
            _padded([meta[:, :, None] for _, meta, _ in tokens]).squeeze(-1),
            _padded(ages).squeeze(0).squeeze(-1),
        )

    def token_keys(self, layer: int) -> KeyValues:
        """Keys and values of the tokens in one layer."""
        return KeyValues(self.token_kv[layer, 0], self.token_kv[layer, 1])

    @property
    def tokens(self) -> Meta:
        """Metadata of the tokens."""
        return Meta(*self.token_meta)


def _padded(parts: list[Tensor]) -> Tensor:
    """Join [..., n_i, d] into zero padded [..., B, max n, d]."""
    longest = max(part.shape[-2] for part in parts)
    first = parts[0]
    shape = (*first.shape[:-2], len(parts), longest, first.shape[-1])
    joined = first.new_zeros(shape)
    for index, part in enumerate(parts):
        joined[..., index, : part.shape[-2], :] = part
    return joined
