from __future__ import annotations

import numpy as np
import pytest
import torch

from model.config import ModelConfig, ReadOutConfig
from model.errors import ConfigError, ShapeError
from model.segments import ITEM, REQUEST, build_layout
from tests.model.support import BACKBONES, Shape, tiny_config, tiny_model, window


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_parameter_is_in_one_group_and_recency_learns_faster(backbone: str) -> None:
    model = tiny_model(tiny_config(backbone=backbone))
    groups = {group["name"]: group for group in model.parameter_groups()}
    grouped = [id(p) for group in groups.values() for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert {id(p) for p in groups["tables"]["params"]} == {
        id(model.items.id_rows),
        id(model.items.word_rows),
    }
    assert groups["recency"]["lr_scale"] == 20.0
    assert groups["rest"]["weight_decay"] == groups["recency"]["weight_decay"] == 0.0
    assert groups["tables"]["weight_decay"] == 0.01
    torch.optim.AdamW(model.parameter_groups(), lr=1e-3)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_parameter_receives_a_gradient(backbone: str) -> None:
    config = tiny_config(backbone=backbone)
    model = tiny_model(config).train()
    slots = window(Shape([6, 6], 8, [1]), np.random.default_rng(0))
    layout = build_layout([slots], config)
    asked = torch.from_numpy(np.concatenate([layout.rows_of(REQUEST), layout.rows_of(ITEM)]))
    model(layout)[asked].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_few_steps_learn_what_follows_what(backbone: str) -> None:
    config = tiny_config(backbone=backbone, dropout=0.0, d_model=32)
    model = tiny_model(config).train()
    rng = np.random.default_rng(0)
    windows = [window(Shape([6, 6], 6, [1]), rng) for _ in range(8)]
    for slots in windows:
        slots.item_row[:] = 1 + (slots.item_row[0] + np.arange(18)) % 40
    layout = build_layout(windows, config)
    rows = layout.rows_of(ITEM)
    target = torch.from_numpy(layout.item_row[rows] % 40)
    optimizer = torch.optim.AdamW([
        group | {"lr": 3e-3 * group["lr_scale"]} for group in model.parameter_groups()
    ])
    for _ in range(60):
        vectors = model.items.vectors()
        hidden = model(layout, vectors)[torch.from_numpy(rows)]
        cosine = (
            torch.nn.functional.normalize(hidden, dim=-1)
            @ torch.nn.functional.normalize(vectors[1:41], dim=-1).T
        )
        loss = torch.nn.functional.cross_entropy(20 * cosine, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (cosine.argmax(-1) == target).float().mean() > 0.95


def test_dropout_is_active_in_training_only() -> None:
    config = tiny_config(dropout=0.5)
    model = tiny_model(config)
    layout = build_layout([window(Shape([6], 4, [1]), np.random.default_rng(0))], config)
    assert torch.equal(model(layout), model(layout))
    model.train()
    assert not torch.equal(model(layout), model(layout))


def test_event_types_are_read_and_unknown_ones_share_row_zero() -> None:
    config = tiny_config()
    model = tiny_model(config)
    slots = window(Shape([], 4, [1]), np.random.default_rng(0))
    hidden = []
    for type_row in (0, 1, 2):
        slots.type_row[:] = type_row
        hidden.append(model(build_layout([slots], config)))
    assert not torch.equal(hidden[0], hidden[1])
    assert not torch.equal(hidden[1], hidden[2])


def test_an_item_row_of_another_vocabulary_is_refused() -> None:
    config = tiny_config()
    slots = window(Shape([], 2, [1]), np.random.default_rng(0))
    slots.item_row[0] = 999
    with pytest.raises(ShapeError, match="item row 999 of 46"):
        tiny_model(config)(build_layout([slots], config))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_grouped_key_heads_store_less(backbone: str) -> None:
    config = tiny_config(backbone=backbone, n_heads=4, n_kv_heads=2)
    model = tiny_model(config)
    assert model.backbone.kv.d_kv == config.d_kv == config.d_model // 2


def test_a_config_survives_its_dictionary() -> None:
    config = tiny_config(window=None, readout=ReadOutConfig(counters=False))
    assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widnow": 3}, "unknown key 'widnow'"),
        ({"readout": {"counter": True}}, "unknown key 'counter'"),
        ({"backbone": "mamba"}, "backbone"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"d_model": 10, "n_heads": 4}, "do not divide"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"event_types": ["a"], "event_weights": [1.0, 2.0]}, "2 event_weights for 1"),
        ({"n_layers": "two"}, "n_layers"),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_line(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ModelConfig.from_dict(values)
    assert "\n" not in str(caught.value)
