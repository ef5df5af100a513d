"""The architectures. To add one: a module here, a row in ``BACKBONES``, the contract suite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from model.backbone import Backbone
from model.backbones.hstu import Hstu
from model.backbones.sasrec import SasRec
from model.config import ModelConfig

BACKBONES: dict[str, Callable[[ModelConfig], Backbone[Any]]] = {"hstu": Hstu, "sasrec": SasRec}


def build_backbone(config: ModelConfig) -> Backbone[Any]:
    """The backbone that a configuration names."""
    return BACKBONES[config.backbone](config)
