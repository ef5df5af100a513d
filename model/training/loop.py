"""The optimization loop: two phases, deterministic steps, a state file to resume from."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.asof import Histories
from model.errors import TrainingError
from model.losses import line_loss, visit_loss
from model.readout import Kind, ReadOut
from model.tokens import TokenModel
from model.training.batches import Batch, Batcher, LossRows
from model.training.options import TrainOptions
from model.training.windows import Window, epoch_batches

__all__ = ["Loop", "Progress", "ProgressCallback"]

Metrics = Mapping[str, float]

_SMOOTHING = 0.98
_STATE_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """What a progress bar shows after a step.

    Attributes:
        phase: 1 = all losses alike, 2 = weighted by age.
        step: steps done over both phases.
        steps: steps planned over both phases.
        loss: smoothed loss.
        metrics: newest validation figures; empty before the first validation.
        eta_s: seconds left at the present speed.
        cpu_s: process time used by this run so far.
    """

    phase: int
    step: int
    steps: int
    loss: float
    metrics: Metrics
    eta_s: float
    cpu_s: float


ProgressCallback = Callable[[Progress], None]


@dataclass(slots=True)
class _Standing:
    """What the loop carries between steps besides the weights."""

    step: int = 0
    loss: float = math.nan
    cpu_s: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    best: float = -math.inf
    stale: int = 0


class Loop:
    """Trains a model and its read-out in place.

    Args:
        model: the token model.
        readout: its read-out.
        batcher: source of batches.
        histories: the rows the batcher reads.
        options: the recipe.
        validate: returns figures of the present weights, ``score`` decides; None = no validation.
        fingerprint: names log, configuration and options; a state file of another run is refused.
    """

    def __init__(
        self,
        model: TokenModel,
        readout: ReadOut,
        batcher: Batcher,
        histories: Histories,
        options: TrainOptions,
        *,
        validate: Callable[[], dict[str, float]] | None,
        fingerprint: str,
    ) -> None:
        self._modules = nn.ModuleDict({"model": model, "readout": readout})
        self._model = model
        self._readout = readout
        self._batcher = batcher
        self._histories = histories
        self._options = options
        self._validate = validate
        self._fingerprint = fingerprint
        self._optimizer = _optimizer(model, readout, options)
        self._best: dict[str, Tensor] = {}
        self._standing = _Standing()
        self._epoch = -1
        self._batches: list[list[Window]] = []

    @property
    def curve(self) -> list[dict[str, float]]:
        """Validation figures in order, each with its step."""
        return self._standing.curve

    @property
    def cpu_s(self) -> float:
        """Process time of all steps and validations, of the interrupted run too."""
        return self._standing.cpu_s

    def run(self, progress: ProgressCallback | None, state_path: Path | None) -> None:
        """Train both phases, starting from the state file where there is one."""
        if state_path is not None and state_path.exists():
            self._restore(state_path)
        options, standing = self._options, self._standing
        total = options.steps + options.finetune_steps
        started, first_step, cpu_before = perf_counter(), standing.step, standing.cpu_s
        cpu_started = process_time()
        while standing.step < total:
            self._step()
            standing.step += 1
            self._after_step()
            standing.cpu_s = cpu_before + process_time() - cpu_started
            if progress is not None:
                done = standing.step - first_step
                eta = (perf_counter() - started) / done * (total - standing.step)
                progress(self._progress(total, eta))
            at_state = standing.step % options.state_every == 0 or standing.step == total
            if state_path is not None and at_state:
                self._save(state_path)

    def _progress(self, total: int, eta_s: float) -> Progress:
        standing = self._standing
        phase = 1 if standing.step <= self._options.steps else 2
        metrics = dict(standing.metrics)
        return Progress(phase, standing.step, total, standing.loss, metrics, eta_s, standing.cpu_s)

    def _step(self) -> None:
        options, step = self._options, self._standing.step
        aged = step >= options.steps
        rng = np.random.default_rng([options.seed, 2, step])
        torch.manual_seed(int(rng.integers(1 << 62)))
        batch = self._batcher.batch(self._windows(step), rng, aged=aged)
        rate = _rate(step, options)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self._modules.train()
        loss = self._loss(batch)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._modules.parameters(), options.clip)
        self._optimizer.step()
        value, before = float(loss.detach()), self._standing.loss
        smooth = _SMOOTHING * before + (1 - _SMOOTHING) * value
        self._standing.loss = value if math.isnan(before) else smooth

    def _windows(self, step: int) -> list[Window]:
        """Windows of a step: the epochs follow one another, each shuffled by its own generator."""
        epoch, offset = 0, step
        while True:
            if epoch != self._epoch:
                rng = np.random.default_rng([self._options.seed, 1, epoch])
                ptr = self._histories.ptr[:-1]
                self._batches = epoch_batches(ptr, self._batcher.stop, self._options, rng)
                self._epoch = epoch
                if not self._batches:
                    raise TrainingError(
                        "no user has two interactions in the training period; "
                        "move the end of training later"
                    )
            if offset < len(self._batches):
                return self._batches[offset]
            offset -= len(self._batches)
            epoch += 1

    def _loss(self, batch: Batch) -> Tensor:
        vectors = self._model.items.vectors(id_dropout=self._model.config.id_dropout)
        hidden = self._model(batch.layout, vectors)
        columns = torch.from_numpy(batch.candidates.columns + 1)
        candidates = F.normalize(vectors[columns], dim=-1)
        chance = torch.from_numpy(batch.candidates.log_chance)
        log_pop = torch.from_numpy(batch.log_pop).clone()
        log_pop[:, -1] = 0.0  # all-time popularity is stale; only calibration may weigh it
        visit = self._scores("visit", hidden, candidates, log_pop, batch.visit)
        line = self._scores("line", hidden, candidates, log_pop, batch.line)
        return visit_loss(
            visit,
            torch.from_numpy(batch.visit.target_row),
            torch.from_numpy(batch.visit.target),
            torch.from_numpy(batch.visit.weight),
            chance,
        ) + self._options.line_weight * line_loss(
            line, torch.from_numpy(batch.line.target), torch.from_numpy(batch.line.weight), chance
        )

    def _scores(
        self, kind: Kind, hidden: Tensor, candidates: Tensor, log_pop: Tensor, rows: LossRows
    ) -> Tensor:
        read = hidden[torch.from_numpy(rows.layout_row)]
        group = torch.from_numpy(rows.group)
        scores: Tensor = self._readout(kind, read, candidates, log_pop, group, rows.sparse)
        return scores

    def _after_step(self) -> None:
        """Validate when it is time; end a phase with its best weights, early if nothing improves."""
        options, standing = self._options, self._standing
        phase_end = options.steps
        if standing.step > options.steps:
            phase_end += options.finetune_steps
        due = options.eval_every > 0 and standing.step % options.eval_every == 0
        if self._validate is not None and (due or standing.step == phase_end):
            self._judge(self._validate())
            if standing.stale >= options.patience:
                standing.step = phase_end
        if standing.step == phase_end and self._best:
            self._modules.load_state_dict(self._best)
            standing.stale = 0

    def _judge(self, metrics: dict[str, float]) -> None:
        """Note validation figures; remember the weights if they are the best so far."""
        standing = self._standing
        standing.metrics = metrics
        standing.curve.append({"step": float(standing.step), **metrics})
        if metrics["score"] <= standing.best:
            standing.stale += 1
            return
        standing.best, standing.stale = metrics["score"], 0
        self._best = {
            name: value.detach().clone() for name, value in self._modules.state_dict().items()
        }

    def _save(self, path: Path) -> None:
        standing = self._standing
        state = {
            "format": _STATE_FORMAT,
            "fingerprint": self._fingerprint,
            "modules": self._modules.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best,
            "standing": {name: getattr(standing, name) for name in _Standing.__slots__},
        }
        partial = path.with_name(path.name + ".part")
        torch.save(state, partial)
        partial.replace(path)

    def _restore(self, path: Path) -> None:
        try:
            state = torch.load(path, weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise TrainingError(
                f"{path} is not a readable training state; delete it to start anew"
            ) from error
        same = isinstance(state, dict) and state.get("fingerprint") == self._fingerprint
        if not same or state.get("format") != _STATE_FORMAT:
            raise TrainingError(
                f"{path} belongs to another log, configuration or recipe; "
                "delete it or name another state file"
            )
        self._modules.load_state_dict(state["modules"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best = state["best"]
        self._standing = _Standing(**state["standing"])


def _optimizer(model: TokenModel, readout: ReadOut, options: TrainOptions) -> torch.optim.AdamW:
    groups: list[dict[str, Any]] = []
    for group in model.parameter_groups():
        decay = options.weight_decay if group["name"] == "tables" else 0.0
        groups.append({**group, "weight_decay": decay, "lr": options.lr * group["lr_scale"]})
    groups.append({
        "name": "readout",
        "params": list(readout.parameters()),
        "weight_decay": 0.0,
        "lr_scale": 1.0,
        "lr": options.lr,
    })
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def _rate(step: int, options: TrainOptions) -> float:
    """Learning rate of a step: linear warm-up, cosine to the final share, per phase."""
    if step < options.steps:
        at, length, peak = step, options.steps, options.lr
    else:
        at, length, peak = step - options.steps, options.finetune_steps, options.finetune_lr
    warm = min(1.0, (at + 1) / max(1, min(options.warmup_steps, length // 5)))
    share = 0.5 * (1.0 + math.cos(math.pi * at / max(1, length)))
    return peak * warm * (options.final_lr + (1.0 - options.final_lr) * share)
