"""Training: from an event log to a checkpoint.

Two phases of optimization, early stopping and calibration on the newest period, all deterministic
with a seed and resumable after a kill. The newest interaction used for anything fitted is
recorded as ``trained_through``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from model.calibrate import Correction, calibrate
from model.checkpoint import save_checkpoint
from model.config import ModelConfig
from model.data import prepare_log
from model.engine import Engine
from model.errors import TrainingError
from model.features import DAY_MS
from model.items import Vocabulary
from model.readout import ReadOut
from model.tokens import TokenModel
from model.training.batches import Batcher
from model.training.isolation import isolated
from model.training.loop import Loop, Progress, ProgressCallback
from model.training.options import PartitionOptions, TrainOptions
from model.training.states import States, choose_states
from model.training.validation import ExampleSource, figures, ranks

__all__ = [
    "PartitionOptions",
    "Progress",
    "ProgressCallback",
    "TrainOptions",
    "TrainResult",
    "train",
]

Ints = NDArray[np.int64]

_PER_USER = (50, 25)
"""Most (visit, item) targets and most lines per user in a validation."""
_CALIBRATION_STATES = 1_500
_CALIBRATION_HISTORY = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A trained model.

    Attributes:
        model: the token model, in evaluation mode.
        readout: its calibrated read-out.
        config: the configuration, event types filled in.
        options: the recipe that was used, with the periods filled in.
        metrics: validation figures: at the end of training, and calibrated (in sample).
        curve: validation figures during training, each with its step.
        corrections: what calibration changed.
        trained_through_ms: newest event used for anything fitted.
        cpu_s: process time of everything, the interrupted part of a resumed run included.
    """

    model: TokenModel
    readout: ReadOut
    config: ModelConfig
    options: TrainOptions
    metrics: dict[str, float]
    curve: list[dict[str, float]]
    corrections: list[Correction]
    trained_through_ms: int
    cpu_s: float

    def engine(self) -> Engine:
        """The model as it is served."""
        return Engine.from_model(
            self.model, readout=self.readout, trained_through_ms=self.trained_through_ms
        )

    def write(self, path: Path) -> str:
        """Write the checkpoint file and return its version."""
        return save_checkpoint(
            path,
            model=self.model,
            readout=self.readout,
            trained_through_ms=self.trained_through_ms,
            extra={"training": self.report()},
        )

    def report(self) -> dict[str, Any]:
        """Recipe, figures and what is on in the read-out; free of times, so runs compare equal."""
        return {
            "options": self.options.to_dict(),
            "metrics": self.metrics,
            "curve": self.curve,
            "corrections": [asdict(correction) for correction in self.corrections],
            "readout": self.readout.report(),
        }


def train(
    interactions: pa.Table,
    items: pa.Table | None,
    config: ModelConfig,
    options: TrainOptions,
    *,
    progress: ProgressCallback | None = None,
    state_path: Path | None = None,
) -> TrainResult:
    """Train a model on a log.

    Args:
        interactions: user_id, item_id, event_type, ts; optional seq, value, session_id.
        items: item_id and text, or None.
        config: the model; empty ``event_types`` means every type in the log.
        options: the recipe.
        progress: called after every step.
        state_path: where the resumable state is kept; an existing file of the same run is
            continued and gives the same weights as a run that was never stopped.

    Raises:
        TrainingError: the log lacks what training needs, or the state file is of another run.
    """
    with isolated():
        return _Run(interactions, items, config, options).result(progress, state_path)


class _Run:
    """One call of ``train``."""

    def __init__(
        self,
        interactions: pa.Table,
        items: pa.Table | None,
        config: ModelConfig,
        options: TrainOptions,
    ) -> None:
        self._started = process_time()
        self.config = _with_event_types(config, interactions)
        self.options = _with_periods(options, interactions)
        self.train_end = _required(self.options.train_end_ms)
        self.validation_end = _required(self.options.validation_end_ms)
        weights = self.config.event_weights or (1.0,) * len(self.config.event_types)
        self.log = prepare_log(
            interactions,
            items,
            event_types=self.config.event_types,
            event_weights=dict(zip(self.config.event_types, weights, strict=True)),
            visit_gap_ms=self.config.visit_gap_ms,
            known_until_ms=self.train_end,
            until_ms=self.validation_end,
        )
        if not self.log.n_known:
            raise TrainingError("no interaction lies before the end of training; move it later")
        self.source = ExampleSource(self.log)
        torch.manual_seed(self.options.seed)
        texts = dict(zip(self.log.item_ids, self.log.texts, strict=True))
        known = self.log.item_ids[: self.log.n_known]
        self.model = TokenModel(self.config, Vocabulary.build(known, texts, self.config))
        self.readout = ReadOut(self.config)

    def result(self, progress: ProgressCallback | None, state_path: Path | None) -> TrainResult:
        """Train, validate, calibrate."""
        judged = self._validation_states(self.options.eval_users)
        loop = Loop(
            self.model,
            self.readout,
            Batcher(self.log, self.config, self.options, self.train_end),
            self.log.histories,
            self.options,
            validate=(lambda: self._figures(judged)) if judged[0].user.shape[0] else None,
            fingerprint=self._fingerprint(),
        )
        prepared = process_time() - self._started
        loop.run(progress, state_path)
        finishing = process_time()
        self.model.eval()
        self.readout.eval()
        everyone = self._validation_states(None)
        metrics = self._figures(everyone) if everyone[0].user.shape[0] else {}
        corrections = self._calibrate() if self.config.readout.calibration else []
        if corrections and metrics:
            after = self._figures(everyone)
            metrics |= {f"calibrated_{name}": value for name, value in after.items()}
        return TrainResult(
            model=self.model,
            readout=self.readout,
            config=self.config,
            options=self.options,
            metrics=metrics,
            curve=loop.curve,
            corrections=corrections,
            trained_through_ms=int(self.log.histories.ts.max()),
            cpu_s=prepared + loop.cpu_s + process_time() - finishing,
        )

    def _states(
        self, users: Ints, per_user: tuple[int, int], purpose: int
    ) -> tuple[States, States]:
        rng = np.random.default_rng([self.options.seed, 3, purpose])
        histories = self.log.histories
        return choose_states(
            histories, self.train_end, self.validation_end, users, per_user=per_user, rng=rng
        )

    def _active(self, min_history: int) -> Ints:
        """Users with enough history before the period who are active in it."""
        histories = self.log.histories
        before = np.concatenate([[0], np.cumsum(histories.ts < self.train_end)])
        count = before[histories.ptr[1:]] - before[histories.ptr[:-1]]
        active = np.diff(histories.ptr) > count
        users = np.flatnonzero(active & (count >= min_history))
        if users.shape[0] < 20:
            users = np.flatnonzero(active & (count > 0))
        return users.astype(np.int64)

    def _validation_states(self, limit: int | None) -> tuple[States, States]:
        users = self._active(self.options.min_history)
        if limit is not None and users.shape[0] > limit:
            rng = np.random.default_rng([self.options.seed, 4])
            users = np.sort(rng.permutation(users)[:limit])
        return self._states(users, _PER_USER, 0)

    def _figures(self, states: tuple[States, States]) -> dict[str, float]:
        engine = Engine.from_model(self.model, readout=self.readout)
        reader = self.source.reader(engine)
        out: dict[str, float] = {}
        for name, chosen in zip(("visit", "line"), states, strict=True):
            parts = self.source.examples(engine, reader, chosen)
            out |= figures(name, ranks(parts, self.readout))
        recalls = [value for name, value in out.items() if name.endswith("recall_50")]
        return {"score": float(np.mean(recalls)), **out}

    def _calibrate(self) -> list[Correction]:
        engine = Engine.from_model(self.model, readout=self.readout)
        reader = self.source.reader(engine)
        visits, lines = self._states(self._active(_CALIBRATION_HISTORY), _PER_USER, 1)
        inside = lines.where(lines.in_visit)
        parts = []
        for states in (visits, inside):
            keep = np.zeros(states.user.shape[0], bool)
            rng = np.random.default_rng([self.options.seed, 5])
            keep[rng.permutation(keep.shape[0])[:_CALIBRATION_STATES]] = True
            parts += self.source.examples(engine, reader, states.where(keep))
        return calibrate(self.readout, parts)

    def _fingerprint(self) -> str:
        """Names log, configuration and recipe."""
        histories = self.log.histories
        digest = sha256()
        for array in (histories.ptr, histories.item, histories.ts, histories.visit):
            digest.update(np.ascontiguousarray(array).tobytes())
        recipe = {"config": self.config.to_dict(), "options": self.options.to_dict()}
        digest.update(json.dumps(recipe, sort_keys=True).encode())
        return digest.hexdigest()


def _with_event_types(config: ModelConfig, interactions: pa.Table) -> ModelConfig:
    if config.event_types or "event_type" not in interactions.column_names:
        return config
    names = pc.unique(interactions["event_type"].cast(pa.string())).drop_null()
    return replace(config, event_types=tuple(sorted(names.to_pylist())))


def _with_periods(options: TrainOptions, interactions: pa.Table) -> TrainOptions:
    if options.train_end_ms is not None and options.validation_end_ms is not None:
        return options
    name = "ts" if "ts" in interactions.column_names else "ts_ms"
    if name not in interactions.column_names or not interactions.num_rows:
        raise TrainingError("the training log has no rows with a column ts; map it")
    column = interactions[name]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    newest = int(pc.max(column).as_py())
    end = options.validation_end_ms if options.validation_end_ms is not None else newest + 1
    begin = options.train_end_ms
    if begin is None:
        begin = end - int(options.validation_days * DAY_MS)
    return replace(options, train_end_ms=begin, validation_end_ms=end)


def _required(value: int | None) -> int:
    if value is None:
        raise TrainingError("the end of training is not known; set train_end_ms")
    return value
