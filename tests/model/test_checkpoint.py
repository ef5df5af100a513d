from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model.checkpoint import load_checkpoint, load_state, save_checkpoint
from model.engine import Engine
from model.errors import CheckpointError
from model.readout import ReadOut
from model.segments import build_layout
from tests.model.support import BACKBONES, Shape, tiny_config, tiny_model, window


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    model = tiny_model(tiny_config())
    save_checkpoint(path, model=model, readout=ReadOut(model.config), trained_through_ms=77)
    return path


def refused(path: Path, **kwargs: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, **kwargs)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_loaded_model_computes_the_same(backbone: str, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "model.safetensors"
    model = tiny_model(tiny_config(backbone=backbone))
    readout = ReadOut(model.config)
    with torch.no_grad():
        for parameter in readout.parameters():
            parameter.add_(torch.randn_like(parameter))
    version = save_checkpoint(
        path, model=model, readout=readout, trained_through_ms=5, extra={"seed": 3}
    )
    checkpoint = load_checkpoint(path, vocabulary=model.vocabulary.item_ids)
    assert checkpoint.version == version
    assert checkpoint.config == model.config
    assert checkpoint.extra == {"seed": 3}
    layout = build_layout([window(Shape([6], 4, [1]), np.random.default_rng(0))], model.config)
    assert torch.equal(checkpoint.build_model()(layout), model(layout))
    engine = Engine.load(path)
    assert (engine.version, engine.trained_through_ms) == (version, 5)
    for name, value in readout.state_dict().items():
        assert torch.equal(engine.readout.state_dict()[name], value)


def test_the_version_follows_content_only(tmp_path: Path) -> None:
    def version(name: str, seed: int = 0, through: int = 1) -> str:
        model = tiny_model(tiny_config(), seed)
        return save_checkpoint(
            tmp_path / name, model=model, readout=None, trained_through_ms=through
        )

    assert version("a") == version("b")
    assert len({version("a"), version("c", seed=1), version("d", through=2)}) == 3
    assert len(version("a")) == 16


def test_any_flipped_byte_is_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    rng = np.random.default_rng(0)
    positions = [0, 9, 40, *rng.integers(0, len(content), 60).tolist(), len(content) - 1]
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 0x11
        saved.write_bytes(bytes(damaged))
        refused(saved)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    assert "copy it again" in refused(saved)


def test_missing_files_and_directories_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.safetensors")
    assert "no such file" in refused(tmp_path)


def test_another_vocabulary_is_refused(saved: Path) -> None:
    ids = load_checkpoint(saved).vocabulary.item_ids
    load_checkpoint(saved, vocabulary=list(ids))
    for other in (ids[:-1], (*ids[1:], ids[0]), ("a", "b")):
        assert "another vocabulary" in refused(saved, vocabulary=other)


def test_other_safetensors_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    assert "not of format freshet-1" in refused(path)
    save_file({"weight": torch.zeros(3)}, path, {"format": "pt"})
    assert "not of format freshet-1" in refused(path)


def test_weights_of_another_shape_are_refused(saved: Path) -> None:
    checkpoint = load_checkpoint(saved)
    wider = dataclasses.replace(
        checkpoint, config=dataclasses.replace(checkpoint.config, n_tokens=9)
    )
    with pytest.raises(CheckpointError, match="tokens does not fit"):
        wider.build_model()
    with pytest.raises(CheckpointError, match="bias does not fit"):
        load_state(torch.nn.Linear(2, 2), {"weight": torch.zeros(2, 2)}, what="file x")


def test_a_broken_write_leaves_the_old_file(saved: Path) -> None:
    version = load_checkpoint(saved).version
    saved.with_name(saved.name + ".partial").write_bytes(b"torn")
    assert load_checkpoint(saved).version == version
    model = tiny_model(tiny_config(), seed=4)
    newer = save_checkpoint(saved, model=model, readout=None, trained_through_ms=0)
    assert load_checkpoint(saved).version == newer != version
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]
