"""Training: deterministic, resumable, honest about time, generic over logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from model.asof import AsOf
from model.config import ModelConfig, ReadOutConfig
from model.data import prepare_log
from model.engine import Engine
from model.errors import TrainingError
from model.features import DAY_MS
from model.items import Vocabulary
from model.readout import ReadOut
from model.segments import ITEM, REQUEST
from model.tokens import TokenModel
from model.train import PartitionOptions, Progress, TrainOptions, TrainResult, train
from model.training.batches import Batcher
from model.training.loop import Loop
from model.training.windows import Window, cut_window, epoch_batches

START = 1_300_000_000_000


def make_log(*, baskets: bool = True, seed: int = 0) -> pa.Table:
    """20 users with favorite items; baskets share a time, or all times are distinct."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for user in range(20):
        liked = rng.choice(30, 6, replace=False)
        ts = START + int(rng.integers(DAY_MS))
        for _ in range(int(rng.integers(6, 14))):
            ts += int(rng.integers(DAY_MS, 12 * DAY_MS))
            for line in range(int(rng.integers(1, 6))):
                item = int(rng.choice(liked)) if rng.random() < 0.8 else int(rng.integers(30))
                rows.append({
                    "user_id": f"u{user}",
                    "item_id": f"i{item}",
                    "event_type": "view" if not baskets and line % 2 else "buy",
                    "ts": ts if baskets else ts + 60_000 * line,
                })
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["ts"]))


CONFIG = ModelConfig(
    n_layers=1,
    n_heads=2,
    d_model=16,
    n_tokens=2,
    segment_len=8,
    r_min=4,
    r_max=32,
    n_buckets=4,
    n_words=16,
    divisor=8.0,
)
OPTIONS = TrainOptions(
    steps=8,
    finetune_steps=4,
    batch_events=64,
    window_events=40,
    eval_every=4,
    min_history=10,
    validation_days=20.0,
    state_every=3,
    warmup_steps=2,
    partition=PartitionOptions(segment_lens=(4, 8), recents_max=12, recents_wide=20),
)


def run(**changes: Any) -> TrainResult:
    log = changes.pop("log", None)
    log = make_log() if log is None else log
    config = changes.pop("config", CONFIG)
    options = changes.pop("options", OPTIONS)
    return train(log, changes.pop("items", None), config, options, **changes)


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return {**result.model.state_dict(), **result.readout.state_dict()}


def assert_same_weights(first: TrainResult, second: TrainResult) -> None:
    for name, value in weights(first).items():
        assert torch.equal(value, weights(second)[name]), name


def test_the_same_seed_gives_the_same_weights_and_figures_another_seed_does_not() -> None:
    first, again = run(), run()
    assert_same_weights(first, again)
    assert first.metrics == again.metrics
    other = run(options=TrainOptions(**{**_fields(OPTIONS), "seed": 1}))
    assert not torch.equal(first.model.items.id_rows, other.model.items.id_rows)


def test_training_leaves_the_callers_random_state_and_threads_alone() -> None:
    torch.manual_seed(5)
    threads, expected = torch.get_num_threads(), torch.rand(3)
    torch.manual_seed(5)
    run()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("stop_at", [2, 5, 9])
def test_a_killed_run_resumes_to_identical_weights(tmp_path: Path, stop_at: int) -> None:
    state = tmp_path / "training.state"

    def stop(progress: Progress) -> None:
        if progress.step == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(progress=stop, state_path=state)
    steps: list[int] = []
    resumed = run(progress=lambda p: steps.append(p.step), state_path=state)
    assert len(steps) < 12 or stop_at < OPTIONS.state_every
    assert_same_weights(resumed, run())


def test_a_state_file_of_another_recipe_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "training.state"
    run(state_path=state)
    with pytest.raises(TrainingError, match=r"training\.state belongs to another"):
        run(state_path=state, options=TrainOptions(**{**_fields(OPTIONS), "lr": 1e-3}))


def test_a_damaged_state_file_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "training.state"
    state.write_bytes(b"not a state")
    with pytest.raises(TrainingError, match="delete it"):
        run(state_path=state)


def test_loss_falls_and_progress_tells_metric_and_eta() -> None:
    seen: list[Progress] = []
    options = TrainOptions(**{**_fields(OPTIONS), "steps": 60, "eval_every": 20, "lr": 1e-2})
    run(options=options, progress=seen.append)
    assert [p.step for p in seen[:3]] == [1, 2, 3]
    assert seen[-1].step == 64
    assert seen[-1].loss < seen[0].loss
    assert "score" in seen[-1].metrics
    assert seen[-1].eta_s == 0.0
    assert {p.phase for p in seen} == {1, 2}


def test_a_phase_ends_early_with_its_best_weights_when_validation_no_longer_improves() -> None:
    log = prepare(make_log())
    config = run_config()
    options = TrainOptions(**{
        **_fields(OPTIONS),
        "steps": 20,
        "finetune_steps": 0,
        "eval_every": 1,
        "patience": 2,
    })
    torch.manual_seed(0)
    model = TokenModel(config, Vocabulary.build(log.item_ids, None, config))
    scores = iter([0.5, 0.6, 0.1, 0.1])
    kept: list[torch.Tensor] = []

    def validate() -> dict[str, float]:
        kept.append(model.items.id_rows.detach().clone())
        return {"score": next(scores)}

    batcher = Batcher(log, config, options, int(log.histories.ts.max()) + 1)
    loop = Loop(
        model,
        ReadOut(config),
        batcher,
        log.histories,
        options,
        validate=validate,
        fingerprint="",
    )
    loop.run(None, None)
    assert [point["score"] for point in loop.curve] == [0.5, 0.6, 0.1, 0.1]
    assert torch.equal(model.items.id_rows, kept[1])


def test_trained_through_is_the_newest_event_used_for_anything() -> None:
    log = make_log()
    newest = max(log["ts"].to_pylist())
    assert run().trained_through_ms == newest
    end = newest - 5 * DAY_MS
    limited = run(options=TrainOptions(**{**_fields(OPTIONS), "validation_end_ms": end}))
    assert limited.trained_through_ms < end


def test_later_events_change_nothing() -> None:
    log = make_log()
    end = max(log["ts"].to_pylist()) - 15 * DAY_MS
    options = TrainOptions(**{**_fields(OPTIONS), "validation_end_ms": end})
    before = log.filter(pa.compute.less(log["ts"], end))
    assert_same_weights(run(log=log, options=options), run(log=before, options=options))


def test_a_click_log_without_baskets_and_text_trains() -> None:
    config = ModelConfig.from_dict({**CONFIG.to_dict(), "visit_gap_ms": 30 * 60_000})
    result = run(log=make_log(baskets=False), config=config)
    assert result.config.event_types == ("buy", "view")
    assert 0.0 <= result.metrics["visit_recall_10"] <= 1.0
    assert 0.0 <= result.metrics["line_recall_10"] <= 1.0


@pytest.mark.parametrize("backbone", ["hstu", "sasrec"])
def test_both_backbones_train_and_every_part_can_be_off(backbone: str) -> None:
    switches = {"counters": False, "popularity": False, "in_visit": False, "calibration": False}
    config = ModelConfig.from_dict({**CONFIG.to_dict(), "backbone": backbone, "readout": switches})
    result = run(config=config)
    assert result.corrections == []
    assert result.report()["readout"]["parts"] == switches


def test_a_large_catalogue_trains_on_a_sample_of_candidates() -> None:
    result = run(options=TrainOptions(**{**_fields(OPTIONS), "max_candidates": 10}))
    assert np.isfinite(result.metrics["score"])


def test_a_written_checkpoint_serves_the_same_model(tmp_path: Path) -> None:
    result = run()
    version = result.write(tmp_path / "model.safetensors")
    engine = Engine.load(tmp_path / "model.safetensors")
    assert engine.version == version
    assert engine.trained_through_ms == result.trained_through_ms
    for name, value in result.readout.state_dict().items():
        assert torch.equal(engine.readout.state_dict()[name], value)


def test_a_log_that_ends_before_training_is_refused() -> None:
    options = TrainOptions(**{
        **_fields(OPTIONS),
        "train_end_ms": 5,
        "validation_end_ms": START * 2,
    })
    with pytest.raises(TrainingError, match="move it later"):
        run(options=options)


def test_windows_cover_every_training_row_once_per_epoch() -> None:
    log = prepare(make_log())
    ptr = log.histories.ptr
    batches = epoch_batches(ptr[:-1], ptr[1:], OPTIONS, np.random.default_rng(0))
    seen = np.concatenate([
        np.arange(window.begin, window.end) for batch in batches for window in batch
    ])
    assert np.unique(seen).shape == seen.shape
    assert seen.shape[0] >= 0.98 * log.histories.n_rows
    assert all(w.end - w.begin <= OPTIONS.window_events for batch in batches for w in batch)


def test_a_cut_keeps_order_and_drops_nothing_but_a_gap() -> None:
    options = PartitionOptions(segment_lens=(4, 8), recents_max=9, gap=0.5)
    rng = np.random.default_rng(1)
    for _ in range(200):
        cut = cut_window(Window(0, 10, 60), options, full=False, rng=rng)
        assert (np.diff(cut.rows) > 0).all()
        assert cut.rows[-1] == 59
        missing = 50 - cut.rows.shape[0]
        assert 0 <= missing <= 8
        assert cut.closed.sum() < cut.rows.shape[0]


def test_loss_rows_are_the_rows_they_claim_to_be() -> None:
    log = prepare(make_log())
    end = int(log.histories.ts.max()) + 1
    batcher = Batcher(log, run_config(), OPTIONS, end)
    rng = np.random.default_rng(3)
    for windows in epoch_batches(log.histories.ptr[:-1], batcher.stop, OPTIONS, rng):
        batch = batcher.batch(windows, rng, aged=False)
        visit, line = batch.visit, batch.line
        assert (batch.layout.kind[visit.layout_row] == REQUEST).all()
        assert (batch.layout.kind[line.layout_row] == ITEM).all()
        items = batch.layout.item_row[line.layout_row] - 1
        assert line.sparse is not None
        dense = line.sparse.dense(log.n_known)
        rows = np.arange(items.shape[0])
        assert dense[rows, items, -1].all()  # the newest item is in its own visit
        assert (line.target < log.n_known).all()
        assert (np.bincount(visit.target_row, minlength=visit.layout_row.shape[0]) > 0).all()


def prepare(table: pa.Table) -> Any:
    return prepare_log(
        table,
        None,
        event_types=("buy",),
        event_weights={},
        visit_gap_ms=0,
        known_until_ms=START * 2,
    )


def run_config() -> ModelConfig:
    return ModelConfig.from_dict({**CONFIG.to_dict(), "event_types": ["buy"]})


def _fields(options: TrainOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in TrainOptions.__slots__}


def test_read_out_switches_skip_the_features_entirely() -> None:
    config = ModelConfig.from_dict({
        **run_config().to_dict(),
        "readout": {"counters": False, "in_visit": False},
    })
    assert config.readout == ReadOutConfig(counters=False, in_visit=False)
    log = prepare(make_log())
    batcher = Batcher(log, config, OPTIONS, int(log.histories.ts.max()) + 1)
    batch = batcher.batch([Window(0, 0, 10)], np.random.default_rng(0), aged=True)
    assert batch.line.sparse is None
    assert AsOf(log.histories, len(log.item_ids)).line(np.array([3])).n_rows == 1
