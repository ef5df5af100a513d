"""HSTU: gated linear-in-keys attention with silu instead of softmax.

Zhai et al., "Actions Speak Louder than Words" (2024), section 3. Per layer, with y = norm(x)::

    u, v, q, k = silu(y W)
    a          = silu(q k^T + recency) * mask / divisor
    x          = x + Linear(dropout(u * norm(a v)))

The divisor is a constant of the model, so that a row computes the same whatever else is in the
call. Recency terms (``model.recency``) replace position tables; keys of the own segment and
tokens of earlier segments have separate weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.backbone import (
    KeyValues,
    KvSpec,
    Meta,
    Projected,
    Scene,
    distances,
    merge_heads,
    product_plus,
    split_heads,
)
from model.config import ModelConfig
from model.recency import (
    ORDINAL_SCALES,
    ORDINAL_START,
    TIME_SCALES_MS,
    DecayWeights,
    decays,
)

_EPS = 1e-6
_START = (0.0,) * len(TIME_SCALES_MS) + ORDINAL_START


@dataclass(frozen=True, slots=True)
class _Side:
    """Shared terms for one set of keys: decays [F, S, M, T], mask / divisor [1, S, M, T]."""

    decays: Tensor
    scaled_mask: Tensor


class Hstu(nn.Module):
    """HSTU layers.

    Args:
        config: Widths, heads, layers, divisor, dropout.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.kv = KvSpec(config.n_layers, config.kv_heads, config.d_head)
        width = 2 * config.d_model + 2 * config.d_kv
        self.project_in = nn.ParameterList(
            nn.Parameter(nn.init.xavier_normal_(torch.empty(width, config.d_model)))
            for _ in range(config.n_layers)
        )
        self.project_out = nn.ModuleList(
            nn.Linear(config.d_model, config.d_model) for _ in range(config.n_layers)
        )
        self.own_recency = DecayWeights(config.n_layers, config.n_heads, _START)
        self.token_recency = DecayWeights(config.n_layers, config.n_heads, _START)

    def embed(self, x: Tensor, position: Tensor) -> Tensor:
        """Rows as they are: all order comes from the recency terms."""
        del position
        return x

    def prepare(self, scene: Scene) -> tuple[_Side, _Side]:
        """Decay features and scaled masks of both sets of keys."""
        own = self._side(scene.query, scene.own, scene.own_mask)
        return own, self._side(scene.query, scene.token, scene.token_mask)

    def _side(self, query: Meta, key: Meta, mask: Tensor) -> _Side:
        dtype = self.own_recency.weight.dtype
        elapsed = distances(query.time_ms, key.time_ms)
        steps = distances(query.ordinal, key.ordinal)
        features = decays([elapsed, steps], [TIME_SCALES_MS, ORDINAL_SCALES], dtype)
        return _Side(features, (mask.to(dtype) / self.config.divisor)[None])

    def project(self, layer: int, x: Tensor) -> Projected:
        """Gate, values, queries and keys from one product."""
        d, d_kv = self.config.d_model, self.kv.d_kv
        rows = F.layer_norm(x, x.shape[-1:], eps=_EPS)
        rows = F.silu(F.linear(rows, self.project_in[layer]))
        gate, q, k, v = torch.split(rows, [d, d, d_kv, d_kv], dim=-1)
        return Projected(q, k, v, gate)

    def attend(
        self,
        layer: int,
        q: Tensor,
        own: KeyValues,
        token: KeyValues,
        prepared: tuple[_Side, _Side],
    ) -> Tensor:
        """Sum over both sets of keys of silu(q k + recency) v / divisor."""
        queries = split_heads(q, self.config.n_heads)
        read = self._read(queries, own, prepared[0], self.own_recency, layer)
        if token.k.shape[1]:
            read = read + self._read(queries, token, prepared[1], self.token_recency, layer)
        return merge_heads(read)

    def _read(
        self, q: Tensor, keys: KeyValues, side: _Side, recency: DecayWeights, layer: int
    ) -> Tensor:
        groups = self.config.n_heads // self.kv.n_kv_heads
        k = split_heads(keys.k, self.kv.n_kv_heads, groups)
        v = split_heads(keys.v, self.kv.n_kv_heads, groups)
        logits = product_plus(recency(layer, side.decays), q, k)
        return (F.silu(logits) * side.scaled_mask) @ v

    def update(self, layer: int, x: Tensor, projected: Projected, read: Tensor) -> Tensor:
        """Gate the normalized read-out and add it to the rows."""
        mixed = projected.gate * F.layer_norm(read, read.shape[-1:], eps=_EPS)
        mixed = F.dropout(mixed, self.config.dropout, self.training)
        out: Tensor = x + self.project_out[layer](mixed)
        return out

    def finish(self, x: Tensor) -> Tensor:
        """Rows as they are."""
        return x

    def recency_parameters(self) -> list[nn.Parameter]:
        """Weights over the decays."""
        return [self.own_recency.weight, self.token_recency.weight]
