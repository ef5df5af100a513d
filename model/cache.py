"""State in and out of the model: rows, token groups, and the key/value cache of one user.

A cache holds what the next row of a user reads: the keys and values of the visible token groups
and those of the raw recent rows pushed since. It is derived state: dropping it loses nothing,
because extending an empty cache by the recent rows gives it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.arena import (
    AGE,
    ITEM_ROW,
    ORDINAL,
    PAGE_ROWS,
    TIME,
    TYPE_ROW,
    Arena,
    row_numbers,
)
from model.backbone import KeyValues, dtype_of
from model.config import ModelConfig
from model.errors import ShapeError, StateError

Ints: TypeAlias = NDArray[np.int64]


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

    def then(self, more: Rows) -> Rows:
        """These rows and further ones of the same user."""
        return Rows(
            np.concatenate([self.item_row, more.item_row]),
            np.concatenate([self.type_row, more.type_row]),
            np.concatenate([self.time_ms, more.time_ms]),
            np.concatenate([self.ordinal, more.ordinal]),
        )


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
    """Keys and values of one user: pages of an arena, extended in place by the engine.

    The pages go back to the arena when the cache is dropped.

    Args:
        arena: Where the pages come from.
        config: Shapes and dtypes.
        groups: Visible token groups, oldest first; the newest ``window`` are kept.

    Attributes:
        arena: Where the pages come from.
        length: Raw rows pushed since.
        n_tokens: Token rows of the visible groups.
        next_ordinal: One more than the newest ordinal in the cache; 0 if it holds nothing.
        pages: Page numbers of the raw rows.
        token_pages: Page numbers of the tokens.

    Raises:
        StateError: If a group does not fit the configuration.
    """

    __slots__ = ("arena", "length", "n_tokens", "next_ordinal", "pages", "token_pages")

    def __init__(self, arena: Arena, config: ModelConfig, groups: Sequence[TokenBlock]) -> None:
        self.arena = arena
        self.pages: list[int] = []
        self.token_pages: list[int] = []
        kept = newest_groups(config, groups)
        self.length = 0
        self.n_tokens = len(kept) * config.n_tokens
        self.next_ordinal = kept[-1].ordinal + 1 if kept else 0
        self.token_pages = arena.take(-(-self.n_tokens // PAGE_ROWS))
        _write_groups(arena, config, row_numbers(self.token_pages, 0, self.n_tokens), [kept])

    def __del__(self) -> None:
        """Give the pages back."""
        self.arena.give([*self.pages, *self.token_pages])

    @property
    def nbytes(self) -> int:
        """Memory of the pages, rows not yet used included."""
        return (len(self.pages) + len(self.token_pages)) * self.arena.page_nbytes

    def make_room(self, count: int) -> NDArray[np.int64]:
        """Arena rows int64 [count] of the next raw rows; they count once ``length`` grows."""
        missing = -(-(self.length + count) // PAGE_ROWS) - len(self.pages)
        if missing > 0:
            self.pages += self.arena.take(missing)
        return row_numbers(self.pages, self.length, self.length + count)


def raw_rows(caches: Sequence[KVCache], ordinals: Sequence[int]) -> list[Rows]:
    """The raw rows of each cache at and after an ordinal of its user's history; raw rows follow one another.

    Args:
        caches: At least one; all of one arena.
        ordinals: One per cache.
    """
    places = []
    for cache, ordinal in zip(caches, ordinals, strict=True):
        kept = min(cache.length, max(0, cache.next_ordinal - ordinal))
        places.append(row_numbers(cache.pages, cache.length - kept, cache.length))
    meta = caches[0].arena.meta_of(torch.from_numpy(np.concatenate(places))).numpy()
    columns = [meta[which] for which in (ITEM_ROW, TYPE_ROW, TIME, ORDINAL)]
    ends = np.cumsum([len(own) for own in places]).tolist()
    return [Rows(*(column[lo:hi] for column in columns)) for lo, hi in pairwise([0, *ends])]


def following(
    olds: Sequence[KVCache], config: ModelConfig, groups: Sequence[Sequence[TokenBlock]]
) -> list[KVCache]:
    """Caches without raw rows that read the groups older ones read and then the given ones, user by user.

    Args:
        olds: At least one; all of one arena. They do not change.
        config: Shapes and dtypes.
        groups: Per cache, oldest first; the newest ``window`` of old and given ones are read.

    Raises:
        StateError: If a group does not fit the configuration.
    """
    arena, k = olds[0].arena, config.n_tokens
    news = [KVCache(arena, config, ()) for _ in olds]
    fresh = [newest_groups(config, own) for own in groups]
    source, target, into, ages = [], [], [], []
    for old, new, own in zip(olds, news, fresh, strict=True):
        kept = old.n_tokens
        if config.window is not None:
            kept = min(kept, (config.window - len(own)) * k)
        new.n_tokens = kept + len(own) * k
        new.next_ordinal = own[-1].ordinal + 1 if own else 0
        new.token_pages = arena.take(-(-new.n_tokens // PAGE_ROWS))
        source.append(row_numbers(old.token_pages, old.n_tokens - kept, old.n_tokens))
        rows = row_numbers(new.token_pages, 0, new.n_tokens)
        target.append(rows[:kept])
        into.append(rows[kept:])
        ages.append(np.arange(new.n_tokens // k, len(own), -1).repeat(k))
    rows_from, rows_to = (torch.from_numpy(np.concatenate(part)) for part in (source, target))
    meta = arena.meta_of(rows_from)
    meta[AGE] = torch.from_numpy(np.concatenate(ages))
    arena.copy(rows_from, rows_to)
    arena.write_meta(rows_to, meta)
    _write_groups(arena, config, np.concatenate(into), fresh)
    return news


def _write_groups(
    arena: Arena, config: ModelConfig, rows: Ints, groups: Sequence[Sequence[TokenBlock]]
) -> None:
    """Write the token groups of some users into arena rows, user after user."""
    every = [group for own in groups for group in own]
    if not every:
        return
    into, kv = torch.from_numpy(rows), tokens_tensor(config, every)
    for layer in range(config.n_layers):
        arena.write(layer, into, KeyValues(kv[layer, 0], kv[layer, 1]))
    arena.write_meta(into, torch.cat([tokens_meta(config, own) for own in groups], dim=1))


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


def tokens_meta(config: ModelConfig, groups: Sequence[TokenBlock]) -> Tensor:
    """Metadata of the tokens of some groups, int64 [6, len(groups) * K]."""
    ages = range(len(groups), 0, -1)
    rows = [(g.time_ms, g.ordinal, -1, age, 0, 0) for g, age in zip(groups, ages, strict=True)]
    meta = np.array(rows, np.int64).reshape(-1, 6).repeat(config.n_tokens, axis=0)
    return torch.from_numpy(meta.T.copy())
