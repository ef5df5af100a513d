"""Serving equals training, for every backbone: the contract suite and each backbone's formula."""

from __future__ import annotations

import numpy as np
import torch

from model.segments import ITEM, build_layout
from tests.contracts.backbone_contract import BackboneContract
from tests.model.support import Shape, tiny_config, tiny_model, window


class TestHstu(BackboneContract):
    backbone = "hstu"


class TestSasRec(BackboneContract):
    backbone = "sasrec"


def _norm(rows: np.ndarray) -> np.ndarray:
    centered = rows - rows.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def test_one_hstu_layer_follows_its_formula() -> None:
    config = tiny_config(n_layers=1, n_heads=1, compute_dtype="float64", divisor=3.0)
    model = tiny_model(config)
    slots = window(Shape([], 5, [1]), np.random.default_rng(0))
    layout = build_layout([slots], config)
    with torch.no_grad():
        found = model(layout)[torch.from_numpy(layout.rows_of(ITEM))].numpy()
        x = (model.items.vectors()[slots.item_row] + model.types[slots.type_row]).numpy()
    weights = {name: value.numpy() for name, value in model.layers.state_dict().items()}
    u, q, k, v = np.split(_silu(_norm(x) @ weights["project_in.0"].T), 4, axis=-1)
    attention = np.zeros((5, 5))
    for a in range(5):
        for b in range(a + 1):
            hours = (slots.time_ms[a] - slots.time_ms[b]) / 3_600_000
            decays = [np.exp(-hours / 24 / days) for days in (1 / 24, 3, 14, 60, 365)]
            decays += [np.exp(-(a - b) / steps) for steps in (1.5, 6, 24, 96)]
            recency = weights["own_recency.weight"][0, 0] @ decays
            attention[a, b] = _silu(q[a] @ k[b] + recency) / 3.0
    mixed = u * _norm(attention @ v)
    expected = x + mixed @ weights["project_out.0.weight"].T + weights["project_out.0.bias"]
    np.testing.assert_allclose(found, expected, atol=1e-12)
