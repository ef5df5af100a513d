"""Recency: additive attention terms from fixed decays with learned weights.

How much a key counts depends on how long ago it was, in time and in number of events. Instead of
bucket tables (whose gathered gradients are slow) a fixed set of decays ``exp(-x / scale)`` is
computed once per forward pass; each layer and head mixes them with learned weights, which is one
small matrix product. Times enter as int64 millisecond differences, never as large floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor, nn

Scales: TypeAlias = tuple[float, ...]

HOUR_MS = 3_600_000
TIME_SCALES_MS = (HOUR_MS, 72 * HOUR_MS, 336 * HOUR_MS, 1440 * HOUR_MS, 8760 * HOUR_MS)
"""1 hour, 3, 14, 60 and 365 days."""
ORDINAL_SCALES = (1.5, 6.0, 24.0, 96.0)
AGE_SCALES = (1.0, 4.0, 16.0)
_SMALLEST = -60.0
"""Decays end at exp(-60): numbers below the normal range would slow every product down."""
ORDINAL_START = (1.0, 1.0, 0.5, 0.25)


def decays(distances: Sequence[Tensor], scales: Sequence[Scales], dtype: torch.dtype) -> Tensor:
    """exp(-distance / scale) for each kind of distance and each of its scales.

    Args:
        distances: int64 [S, M, T] per kind; negative distances count as 0.
        scales: Decay lengths per kind, in the unit of its distance.
        dtype: Dtype of the result.

    Returns:
        [F, S, M, T], kinds one after the other.
    """
    n_features = sum(len(kind) for kind in scales)
    out = torch.empty(n_features, *distances[0].shape, dtype=dtype, device=distances[0].device)
    start = 0
    for distance, kind in zip(distances, scales, strict=True):
        stop = start + len(kind)
        positive = distance.clamp(min=0).to(dtype)
        torch.mul(_rates(kind, dtype, distance.device), positive, out=out[start:stop])
        start = stop
    return out.clamp_(min=_SMALLEST).exp_()


@lru_cache(maxsize=32)
def _rates(scales: Scales, dtype: torch.dtype, device: torch.device) -> Tensor:
    """-1 / scale, shaped to multiply [S, M, T] distances."""
    with torch.inference_mode(mode=False):
        rates = torch.tensor([-1.0 / scale for scale in scales], dtype=dtype, device=device)
        return rates.view(-1, 1, 1, 1)


class DecayWeights(nn.Module):
    """Learned weights per layer and head over decay features.

    Args:
        n_layers: Layers.
        n_heads: Heads per layer.
        start: Starting weight of each feature.
    """

    def __init__(self, n_layers: int, n_heads: int, start: Scales) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start).repeat(n_layers, n_heads, 1))

    def forward(self, layer: int, features: Tensor) -> Tensor:
        """Additive term of one layer.

        Args:
            layer: Layer index.
            features: [F, S, M, T].

        Returns:
            [H, S, M, T]
        """
        flat = self.weight[layer] @ features.flatten(1)
        return flat.view(self.weight.shape[1], *features.shape[1:])
