"""SASRec: a causal softmax transformer over the segment and the tokens before it.

Kang and McAuley, "Self-Attentive Sequential Recommendation" (2018), with normalization before
each part. Positions are indices inside the segment (items and requests), so cached keys stay
valid when the window moves; tokens carry their own vectors instead. Tokens of earlier segments
get an additive term from their age in segments and in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.backbone import (
    KeyValues,
    KvSpec,
    Projected,
    Scene,
    distances,
    merge_heads,
    product_plus,
    split_heads,
)
from model.config import ModelConfig
from model.recency import AGE_SCALES, TIME_SCALES_MS, DecayWeights, decays

_START = (0.0,) * (len(TIME_SCALES_MS) + len(AGE_SCALES))
_FEED_FORWARD = 2
"""Width of the inner rows of the feed-forward part, in units of d_model."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Mask of own keys, then token keys [1, S, M, T]; token decays [F, S, M, T2]."""

    mask: Tensor
    decays: Tensor


class _Layer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.d_model
        self.norm_read = nn.LayerNorm(d)
        self.project_in = nn.Linear(d, d + 2 * config.d_kv)
        self.project_out = nn.Linear(d, d)
        self.norm_feed = nn.LayerNorm(d)
        self.feed_in = nn.Linear(d, _FEED_FORWARD * d)
        self.feed_out = nn.Linear(_FEED_FORWARD * d, d)


class SasRec(nn.Module):
    """SASRec layers.

    Args:
        config: Widths, heads, layers, dropout; ``r_max`` sizes the position table.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.kv = KvSpec(config.n_layers, config.kv_heads, config.d_head)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.n_layers))
        self.norm_out = nn.LayerNorm(config.d_model)
        n_positions = max(config.r_max, config.segment_len)
        self.positions = nn.Parameter(torch.randn(n_positions, config.d_model) * 0.02)
        self.token_recency = DecayWeights(config.n_layers, config.n_heads, _START)

    def _layer(self, index: int) -> _Layer:
        return cast("_Layer", self.layers[index])

    def embed(self, x: Tensor, position: Tensor) -> Tensor:
        """Add the vector of the position; beyond the table the last one; none for tokens."""
        rows = F.embedding(position.clamp(0, len(self.positions) - 1), self.positions)
        return x + rows * (position >= 0).unsqueeze(-1)

    def prepare(self, scene: Scene) -> _Prepared:
        """The joint mask and the decay features of the tokens."""
        dtype = self.positions.dtype
        n_rows = scene.own_mask.shape[1]
        token_mask = scene.token_mask.expand(-1, n_rows, -1)
        elapsed = distances(scene.query.time_ms, scene.token.time_ms)
        age = scene.token_age.unsqueeze(1).expand(-1, n_rows, -1)
        mask = torch.cat([scene.own_mask, token_mask], dim=-1)[None]
        return _Prepared(mask, decays([elapsed, age], [TIME_SCALES_MS, AGE_SCALES], dtype))

    def project(self, layer: int, x: Tensor) -> Projected:
        """Queries, keys and values of normalized rows."""
        part = self._layer(layer)
        d_kv = self.kv.d_kv
        rows = part.project_in(part.norm_read(x))
        q, k, v = torch.split(rows, [self.config.d_model, d_kv, d_kv], dim=-1)
        return Projected(q, k, v, x)

    def attend(
        self, layer: int, q: Tensor, own: KeyValues, token: KeyValues, prepared: _Prepared
    ) -> Tensor:
        """Softmax over the visible keys; rows without any read zeros."""
        n_kv = self.kv.n_kv_heads
        groups = self.config.n_heads // n_kv
        queries = split_heads(q, self.config.n_heads) * self.config.d_head**-0.5
        logits = [queries @ split_heads(own.k, n_kv, groups).transpose(-1, -2)]
        values = [split_heads(own.v, n_kv, groups)]
        if token.k.shape[1]:
            keys = split_heads(token.k, n_kv, groups)
            logits.append(product_plus(self.token_recency(layer, prepared.decays), queries, keys))
            values.append(split_heads(token.v, n_kv, groups))
        return merge_heads(_masked_softmax(logits, prepared.mask) @ torch.cat(values, dim=2))

    def update(self, layer: int, x: Tensor, projected: Projected, read: Tensor) -> Tensor:
        """Residual read, then the residual feed-forward part."""
        del projected
        part, rate = self._layer(layer), self.config.dropout
        x = x + F.dropout(part.project_out(read), rate, self.training)
        inner = F.gelu(part.feed_in(part.norm_feed(x)))
        return x + F.dropout(part.feed_out(inner), rate, self.training)

    def finish(self, x: Tensor) -> Tensor:
        """Normalize the last rows."""
        rows: Tensor = self.norm_out(x)
        return rows

    def recency_parameters(self) -> list[nn.Parameter]:
        """Weights over age and time of tokens."""
        return [self.token_recency.weight]


def _masked_softmax(logits: list[Tensor], mask: Tensor) -> Tensor:
    """Softmax over the joined keys; masked ones weigh exactly 0, even in rows without any key."""
    joined = torch.cat(logits, dim=-1).masked_fill(~mask, torch.finfo(logits[0].dtype).min)
    return joined.softmax(-1).masked_fill(~mask, 0.0)
