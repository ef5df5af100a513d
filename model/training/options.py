"""Options of a training run: the recipe's numbers, each with its reason where it is odd."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["PartitionOptions", "TrainOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionOptions:
    """How a window is cut into closed segments and raw recents; drawn anew every step.

    Attributes:
        full_share: Share of the steps that read the whole window raw (one segment).
        segment_lens: Lengths of closed segments; one is drawn per user and step.
        recents_max: Usual upper bound of the raw recents.
        recents_wide: Upper bound in ``wide_share`` of the windows: what a late refresh leaves.
        wide_share: Share of the windows that draw up to ``recents_wide``.
        no_tokens: Share of the windows whose open segment reads no tokens.
        hide_newest: Share of the windows whose open segment misses the newest group.
        gap: Share of the windows with a run of interactions missing before the open segment.
    """

    full_share: float = 0.15
    segment_lens: tuple[int, ...] = (32, 64, 128)
    recents_max: int = 128
    recents_wide: int = 256
    wide_share: float = 0.2
    no_tokens: float = 0.1
    hide_newest: float = 0.15
    gap: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """One training run; with the same log and options the result is the same.

    Step counts are fixed, not a time budget, so that the learning rate schedule and hence the
    weights do not depend on the machine's speed.

    Attributes:
        seed: Seed of everything random.
        train_end_ms: Weights see interactions before this time; None = the newest event minus
            ``validation_days``.
        validation_end_ms: Validation and calibration see interactions before this time; None =
            the newest event.
        validation_days: Length of the validation period when ``train_end_ms`` is None.
        steps: Steps of the first phase.
        finetune_steps: Steps of the second, age-weighted phase.
        batch_events: Interactions per step, about.
        window_events: Longest window of one user.
        lr: Peak learning rate of the first phase.
        finetune_lr: Peak learning rate of the second phase.
        warmup_steps: Linear warm-up at the start of each phase.
        final_lr: Learning rate at the end of a phase, as a share of its peak.
        weight_decay: Decay of the item and word tables; nothing else decays.
        clip: Largest gradient norm.
        age_days: Time constant of the second phase's loss weights, exp(-age / age_days).
        line_weight: Weight of the next-line loss against the next-visit loss.
        line_share: Share of the lines that are trained on per step.
        visit_items: Items of one visit counted at full weight.
        cold_requests: Share of first visits that are trained on (a request without history).
        max_candidates: Largest catalogue with a full softmax, else the size of the sample.
        eval_every: Steps between validations; 0 = only at the end of each phase.
        patience: Validations without a better metric before a phase stops early.
        eval_users: Most users in a validation during training; the final one takes all.
        min_history: Interactions before ``train_end_ms`` that a validation user needs.
        state_every: Steps between resumable states.
        partition: How windows are cut.
    """

    seed: int = 0
    train_end_ms: int | None = None
    validation_end_ms: int | None = None
    validation_days: float = 30.0
    steps: int = 1_100
    finetune_steps: int = 300
    batch_events: int = 2_048
    window_events: int = 512
    lr: float = 3e-3
    finetune_lr: float = 1e-3
    warmup_steps: int = 50
    final_lr: float = 0.02
    weight_decay: float = 0.01
    clip: float = 1.0
    age_days: float = 120.0
    line_weight: float = 0.5
    line_share: float = 0.3
    visit_items: int = 50
    cold_requests: float = 0.1
    max_candidates: int = 20_000
    eval_every: int = 400
    patience: int = 3
    eval_users: int = 120
    min_history: int = 192
    state_every: int = 200
    partition: PartitionOptions = field(default_factory=PartitionOptions)

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        return asdict(self)
