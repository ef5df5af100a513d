"""The long-interest task: its generator and the command's report."""

from __future__ import annotations

import numpy as np

from model.synthetic import MODES, SyntheticOptions, generate_users, run

SMALL = SyntheticOptions(
    genres=6,
    items_per_genre=3,
    segment=8,
    steps=4,
    users_per_step=4,
    eval_users=30,
    d_model=16,
    n_layers=1,
    top_k=3,
    few_recents=4,
)


def test_the_generator_stays_switches_and_wanders_in_the_stated_shares() -> None:
    options = SyntheticOptions()
    items, switch = generate_users(options, 400, np.random.default_rng(0))
    genre = items // options.items_per_genre
    assert items.max() < options.genres * options.items_per_genre
    stayed = (genre[:, 1:] == genre[:, :-1]).mean()
    assert 0.70 < stayed < 0.80  # a favorite drawn anew may be the present genre
    assert 0.15 < switch[:, 1:].mean() < 0.20
    favorites = [np.unique(row[flag]).shape[0] for row, flag in zip(genre, switch, strict=True)]
    assert max(favorites) <= options.favorites


def test_a_run_reports_every_mode_and_is_deterministic() -> None:
    steps: list[int] = []
    first = run(3, SMALL, progress=lambda step, _steps, _loss: steps.append(step))
    again = run(3, SMALL)
    assert steps == [1, 2, 3, 4]
    assert set(first.few) == set(first.all) == set(MODES)
    assert first.few == again.few
    assert first.switches > 0
    assert all(0.0 <= value <= 1.0 for value in first.few.values())
