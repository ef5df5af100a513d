"""The long-interest task: a log on which a short window provably is not enough.

Every user has a few favorite genres out of many. The next event stays in the genre of the last
one most of the time, sometimes it goes to another favorite, rarely anywhere. Events that switch
to another favorite can only be guessed by a model that remembers the favorites. One model is
trained on random layouts and then asked with four kinds of state: the newest segment alone, the
same behind its own token groups, behind another user's, and with the whole history raw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import process_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ModelConfig
from model.items import Vocabulary
from model.segments import ITEM, REQUEST, Layout, UserSlots, build_layout
from model.tokens import TokenModel
from model.training.isolation import isolated

__all__ = ["MODES", "SyntheticOptions", "SyntheticReport", "generate_users", "run"]

Ints = NDArray[np.int64]

MODES = ("recents", "tokens", "other_tokens", "full")
_HOUR_MS = 3_600_000
_ALL_GROUPS = 1 << 30
_SCALE = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticOptions:
    """The generator, the model and the budget.

    Attributes:
        genres: Number of genres.
        items_per_genre: Items in each.
        favorites: Favorite genres per user.
        stay: Chance that the next event stays in the genre of the last one.
        favorite: Chance that it goes to one of the favorites; the rest goes anywhere.
        segment: Events per closed segment, and in the newest, raw one.
        closed_segments: Closed segments before the newest one.
        few_recents: Switches with fewer raw recents than this are the headline.
        top_k: Hits are counted in this many items.
        steps: Training steps.
        users_per_step: Fresh users per step.
        eval_users: Users of the measurement.
        lr: Peak learning rate.
        d_model: Width.
        n_layers: Layers.
    """

    genres: int = 40
    items_per_genre: int = 10
    favorites: int = 3
    stay: float = 0.70
    favorite: float = 0.25
    segment: int = 32
    closed_segments: int = 2
    few_recents: int = 8
    top_k: int = 40
    steps: int = 2_500
    users_per_step: int = 32
    eval_users: int = 1_500
    lr: float = 3e-3
    d_model: int = 48
    n_layers: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticReport:
    """What came out.

    Attributes:
        few: hit@k on switches with few raw recents, per mode.
        all: hit@k on all switches inside the newest segment, per mode.
        gap_closed: share of the gap between recents and full that tokens close, few recents.
        gap_closed_all: the same over all switches.
        switches: number of switches with few recents.
        steps: training steps.
        cpu_s: process time of everything.
        options: the options used.
    """

    few: dict[str, float]
    all: dict[str, float]
    gap_closed: float
    gap_closed_all: float
    switches: int
    steps: int
    cpu_s: float
    options: dict[str, Any]


def generate_users(
    options: SyntheticOptions, n_users: int, rng: np.random.Generator
) -> tuple[Ints, NDArray[np.bool_]]:
    """Users of the task.

    Returns:
        Items int64 [n_users, length], 0-based, and whether each event switches to another
        favorite than the genre before it, bool of the same shape.
    """
    length = options.segment * (options.closed_segments + 1)
    favorites = np.argsort(rng.random((n_users, options.genres)), axis=1)[:, : options.favorites]
    genre = np.empty((n_users, length), np.int64)
    pick = rng.integers(0, options.favorites, (n_users, length))
    liked = np.take_along_axis(favorites, pick, axis=1)
    anywhere = rng.integers(0, options.genres, (n_users, length))
    chance = rng.random((n_users, length))
    genre[:, 0] = liked[:, 0]
    for at in range(1, length):
        stays, likes = chance[:, at] < options.stay, chance[:, at] < options.stay + options.favorite
        moved = np.where(likes, liked[:, at], anywhere[:, at])
        genre[:, at] = np.where(stays, genre[:, at - 1], moved)
    is_favorite = (genre[:, :, None] == favorites[:, None, :]).any(-1)
    switch = np.zeros((n_users, length), bool)
    switch[:, 1:] = (genre[:, 1:] != genre[:, :-1]) & is_favorite[:, 1:]
    item = genre * options.items_per_genre
    item += rng.integers(0, options.items_per_genre, item.shape)
    return item, switch


def run(
    seed: int = 0,
    options: SyntheticOptions | None = None,
    *,
    progress: Callable[[int, int, float], None] | None = None,
) -> SyntheticReport:
    """Train one model on the task and measure all four kinds of state.

    Args:
        seed: Seed of users, weights and layouts.
        options: The task and the budget.
        progress: Called after every step with step, steps and smoothed loss.
    """
    options = options or SyntheticOptions()
    started = process_time()
    with isolated():
        torch.manual_seed(seed)
        model = _model(options)
        _train(model, options, seed, progress)
        hits, early = _measure(model.eval(), options, seed)
    few = {mode: float(hit[early].mean()) for mode, hit in hits.items()}
    every = {mode: float(hit.mean()) for mode, hit in hits.items()}
    return SyntheticReport(
        few=few,
        all=every,
        gap_closed=_gap_closed(few),
        gap_closed_all=_gap_closed(every),
        switches=int(early.sum()),
        steps=options.steps,
        cpu_s=process_time() - started,
        options=asdict(options),
    )


def _gap_closed(hit: dict[str, float]) -> float:
    gap = hit["full"] - hit["recents"]
    return (hit["tokens"] - hit["recents"]) / gap if gap > 0 else math.nan


def _model(options: SyntheticOptions) -> TokenModel:
    config = ModelConfig(
        n_layers=options.n_layers,
        n_heads=4,
        d_model=options.d_model,
        segment_len=options.segment,
        r_min=0,
        divisor=float(options.segment),
        dropout=0.0,
        id_dropout=0.0,
        n_buckets=1,
        n_words=1,
        event_types=("event",),
    )
    ids = [str(item) for item in range(options.genres * options.items_per_genre)]
    return TokenModel(config, Vocabulary.build(ids, None, config))


def _slots(items: Ints, mode: str, options: SyntheticOptions) -> UserSlots:
    """One user in one kind of state; a request stands before each segment's first event."""
    length, segment = items.shape[0], options.segment
    ordinal = np.arange(length)
    closed = np.full(0 if mode == "full" else options.closed_segments, segment, np.int64)
    before = np.arange(options.closed_segments + 1) * segment
    number = np.zeros_like(before) if mode == "full" else before // segment
    return UserSlots(
        item_row=items + 1,
        type_row=np.ones(length, np.int64),
        time_ms=ordinal * _HOUR_MS,
        ordinal=ordinal,
        closed=closed,
        request_time_ms=before * _HOUR_MS,
        request_at=before,
        request_segment=number,
        hide_newest=_ALL_GROUPS if mode == "recents" else 0,
    )


def _predictions(model: TokenModel, layout: Layout, n_users: int, length: int) -> Tensor:
    """Hidden row that predicts each event, [n_users, length, d].

    The first event of a segment is predicted by the request before it, any other by the event
    before it.
    """
    hidden = model(layout)
    segment = model.config.segment_len
    index = np.zeros((n_users, length), np.int64)
    rows = layout.rows_of(ITEM)
    user, following = layout.user[rows], layout.source[rows] + 1
    inside = following < length
    index[user[inside], following[inside]] = rows[inside]
    rows = layout.rows_of(REQUEST)
    index[layout.user[rows], layout.source[rows] * segment] = rows
    predicted: Tensor = hidden[torch.from_numpy(index)]
    return predicted


def _logits(model: TokenModel, predicted: Tensor) -> Tensor:
    vectors = F.normalize(model.items.vectors()[1 : 1 + model.items.n_known], dim=-1)
    return _SCALE * F.normalize(predicted, dim=-1) @ vectors.T


def _train(
    model: TokenModel,
    options: SyntheticOptions,
    seed: int,
    progress: Callable[[int, int, float], None] | None,
) -> None:
    groups = [{**group, "lr": options.lr} for group in model.parameter_groups()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
    smooth = math.nan
    for step in range(options.steps):
        rng = np.random.default_rng([seed, 1, step])
        items, _ = generate_users(options, options.users_per_step, rng)
        mode = str(rng.choice(["tokens", "recents", "full"], p=[0.6, 0.15, 0.25]))
        layout = build_layout([_slots(row, mode, options) for row in items], model.config)
        logits = _logits(model, _predictions(model, layout, *items.shape))
        loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(items).flatten())
        warm = min(1.0, (step + 1) / 50)
        rate = options.lr * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * step / options.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value = float(loss.detach())
        smooth = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
        if progress is not None:
            progress(step + 1, options.steps, smooth)


@torch.inference_mode()
def _measure(
    model: TokenModel, options: SyntheticOptions, seed: int
) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.bool_]]:
    """Hits on the switches of the newest segment per mode, and which have few recents."""
    items, switch = generate_users(options, options.eval_users, np.random.default_rng([seed, 2]))
    newest = options.segment * options.closed_segments
    others = np.concatenate([np.roll(items, 1, axis=0)[:, :newest], items[:, newest:]], axis=1)
    hits: dict[str, list[NDArray[np.bool_]]] = {mode: [] for mode in MODES}
    for first in range(0, options.eval_users, 100):
        asked = switch[first : first + 100, newest:]
        target = torch.from_numpy(items[first : first + 100, newest:][asked])
        for mode in MODES:
            read = (others if mode == "other_tokens" else items)[first : first + 100]
            layout = build_layout([_slots(row, mode, options) for row in read], model.config)
            predicted = _predictions(model, layout, *read.shape)[:, newest:]
            logits = _logits(model, predicted[torch.from_numpy(asked)])
            own = logits.gather(1, target[:, None])
            hits[mode].append(((logits > own).sum(1) < options.top_k).numpy())
    recents = np.nonzero(switch[:, newest:])[1]
    return {mode: np.concatenate(hit) for mode, hit in hits.items()}, recents < options.few_recents
