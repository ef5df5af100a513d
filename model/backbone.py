"""What a backbone must offer so that tokens, caches and requests work with it.

A backbone sees vectors, metadata and masks, never items or users. The caller owns the rows: it
projects them once per layer, hands the keys and values that a row may read (those of its own
segment and those of tokens of earlier segments, fresh or from a cache) to ``attend``, and lets
``update`` finish the layer. So one implementation serves the masked training pass, compression
and extension by single events.

What an implementation must satisfy (checked by the contract suite in tests/contracts):

* rows are independent but for attention: no batch statistics, no absolute batch positions;
* no constant depends on how many rows or keys a call has; a key whose mask is False counts
  exactly zero, and a row without any visible key gets a finite result;
* relative terms come from query and key metadata at read time, so cached keys and values stay
  valid. A rotary backbone keeps un-rotated keys in the cache and rotates both sides by their
  ordinals in ``attend``; grouped heads store ``n_kv_heads * d_head`` numbers per key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class KvSpec:
    """Shape of the keys and values a backbone caches: [n_layers, 2, rows, d_kv]."""

    n_layers: int
    n_kv_heads: int
    d_head: int

    @property
    def d_kv(self) -> int:
        """Width of one key or value row."""
        return self.n_kv_heads * self.d_head


@dataclass(frozen=True, slots=True)
class Meta:
    """Metadata of query rows or key rows, all int64 of one shape, [S, M] or [S, T].

    Attributes:
        time_ms: Event or request time.
        ordinal: Index in the user's whole history.
        position: Index inside the segment; -1 for tokens.
    """

    time_ms: Tensor
    ordinal: Tensor
    position: Tensor


@dataclass(frozen=True, slots=True)
class Scene:
    """Who may read what, for S segments with M query rows each.

    Attributes:
        query: Metadata [S, M].
        own: Metadata [S, T1] of the key slots of the same segment.
        own_mask: bool [S, M, T1], True where the row reads the key.
        token: Metadata [S, T2] of tokens of earlier segments.
        token_age: int64 [S, T2], 1 for the newest visible group, 0 for padding.
        token_mask: bool [S, M, T2] or [S, 1, T2].
    """

    query: Meta
    own: Meta
    own_mask: Tensor
    token: Meta
    token_age: Tensor
    token_mask: Tensor


@dataclass(frozen=True, slots=True)
class Projected:
    """What one layer computes per row before attention.

    Attributes:
        q: [R, d].
        k: [R, d_kv].
        v: [R, d_kv].
        gate: [R, d], used by ``update`` alone; backbones without a gate pass any tensor.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Keys and values that a set of rows reads, each [S, T, d_kv]."""

    k: Tensor
    v: Tensor


P = TypeVar("P")


class Backbone(Protocol[P]):
    """The layers of a model; P is what ``prepare`` hands to ``attend``."""

    kv: KvSpec

    def embed(self, x: Tensor, position: Tensor) -> Tensor:
        """Input rows [R, d] with positional terms; position int64 [R], -1 for tokens."""
        ...

    def prepare(self, scene: Scene) -> P:
        """Whatever the layers share for this scene, computed once per pass."""
        ...

    def project(self, layer: int, x: Tensor) -> Projected:
        """Queries, keys and values of rows x [R, d]."""
        ...

    def attend(
        self, layer: int, q: Tensor, own: KeyValues, token: KeyValues, prepared: P
    ) -> Tensor:
        """Read: q [S, M, d] over both sets of keys -> [S, M, d]; masked keys count exactly 0."""
        ...

    def update(self, layer: int, x: Tensor, projected: Projected, read: Tensor) -> Tensor:
        """New rows [R, d] from old ones and what they read [R, d]."""
        ...

    def finish(self, x: Tensor) -> Tensor:
        """Hidden rows [R, d] from the last layer's rows."""
        ...

    def recency_parameters(self) -> list[nn.Parameter]:
        """Weights of relative terms; they want a higher learning rate."""
        ...


def split_heads(rows: Tensor, n_heads: int, groups: int = 1) -> Tensor:
    """[S, T, h * d_head] -> [h * groups, S, T, d_head]; each head is repeated ``groups`` times."""
    heads = rows.view(*rows.shape[:2], n_heads, rows.shape[2] // n_heads).permute(2, 0, 1, 3)
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=0)


def merge_heads(heads: Tensor) -> Tensor:
    """[H, S, M, d_head] -> [S, M, H * d_head]."""
    return heads.permute(1, 2, 0, 3).flatten(2)


def product_plus(term: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """Add q k^T to a term [H, S, M, T] in one pass, for q [H, S, M, d] and k [H, S, T, d]."""
    flat = torch.baddbmm(term.flatten(0, 1), q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2))
    return flat.view(term.shape)


def distances(query: Tensor, key: Tensor) -> Tensor:
    """int64 differences [S, M, T] of metadata [S, M] and [S, T]."""
    return query.unsqueeze(-1) - key.unsqueeze(-2)


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype of a configured name such as ``float32``."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype
