"""A small world: a generated log, an untrained model with short segments, a replayed database."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from infra.cli import run
from model.checkpoint import save_checkpoint
from model.config import ModelConfig
from model.items import Vocabulary
from model.readout import ReadOut
from model.tokens import TokenModel
from stream.generate import LogShape, generate
from stream.logwriter import EVENT_TYPES

VISIT_GAP_MS = 1_800_000
SETTINGS = f"""
[stream]
visit_gap_ms = {VISIT_GAP_MS}
lateness_ms = 60000

[refresh]
tick_interval_s = 172800
"""


@dataclass(frozen=True, slots=True)
class World:
    """Paths of a log, its catalogue, a checkpoint, settings, and a database after a replay."""

    folder: Path
    log: Path
    items: Path
    model: Path
    config: Path
    db: Path
    slates: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def tiny_model(path: Path, item_ids: list[str], texts: dict[str, str], **changes: object) -> str:
    """Write a checkpoint of random weights with segments of 8."""
    config = ModelConfig(**{
        "n_layers": 1,
        "d_model": 16,
        "n_tokens": 2,
        "segment_len": 8,
        "r_min": 8,
        "r_max": 64,
        "divisor": 8.0,
        "n_buckets": 8,
        "n_words": 64,
        "event_types": EVENT_TYPES,
        "visit_gap_ms": VISIT_GAP_MS,
        **changes,
    })
    torch.manual_seed(1)
    vocabulary = Vocabulary.build(item_ids, texts, config)
    model, readout = TokenModel(config, vocabulary), ReadOut(config)
    return save_checkpoint(path, model=model, readout=readout, trained_through_ms=0)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Build the world once per worker; tests that write take `world`, a copy."""
    folder = tmp_path_factory.mktemp("world")
    found = world_in(folder)
    shape = LogShape(items=48, days=20, late_share=0.02, duplicate_share=0.01, bad_share=0.01)
    generate(found.log, users=8, events=400, seed=3, shape=shape, items_path=found.items)
    rows = [json.loads(line) for line in found.items.read_text().splitlines()]
    texts = {row["item_id"]: row["text"] for row in rows}
    tiny_model(found.model, list(texts)[:40], texts)
    found.config.write_text(SETTINGS)
    arguments = ["--model", str(found.model), "--items", str(found.items)]
    arguments += ["--slates", str(found.slates), "--config", str(found.config), "--quiet"]
    assert run(["replay", str(found.log), "--db", str(found.db), *arguments]) == 0
    return found


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    """Return a copy of the world that a test may change."""
    folder = tmp_path / "world"
    shutil.copytree(made.folder, folder)
    return world_in(folder)


@pytest.fixture
def freshet(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command line in this process."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def world_in(folder: Path) -> World:
    """Return the paths of a world in a folder."""
    names = ("log.jsonl", "items.jsonl", "model.safetensors", "freshet.toml", "x.duckdb")
    return World(folder, *(folder / name for name in names), folder / "slates.jsonl")
