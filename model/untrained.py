"""Models of random weights: what a speed measurement needs, where training would only take time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from model.checkpoint import save_checkpoint
from model.config import ModelConfig
from model.items import Vocabulary
from model.readout import ReadOut
from model.tokens import TokenModel
from model.training.isolation import isolated

__all__ = ["write_untrained"]


def write_untrained(
    path: Path,
    config: ModelConfig,
    item_ids: Sequence[str],
    texts: Mapping[str, str | None] | None = None,
    *,
    seed: int = 0,
) -> str:
    """Write a checkpoint of random weights and return its version; the same arguments give the same one.

    Every weight of the read-out is away from zero, so that no part of a score is skipped.

    Raises:
        ShapeError: If an id is listed twice.
    """
    with isolated():
        torch.manual_seed(seed)
        model = TokenModel(config, Vocabulary.build(item_ids, texts, config))
        readout = ReadOut(config)
        with torch.no_grad():
            for parameter in readout.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        return save_checkpoint(path, model=model, readout=readout, trained_through_ms=0)
