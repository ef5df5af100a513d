"""Losses: the plain softmax, the sampled one, candidate sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from model.features import FEATURES, SparseFeatures
from model.losses import choose_candidates, line_loss, visit_loss


def test_over_all_items_the_loss_is_cross_entropy() -> None:
    torch.manual_seed(0)
    scores, target = torch.randn(7, 12), torch.randint(12, (7,))
    got = line_loss(scores, target, torch.ones(7), torch.zeros(12))
    torch.testing.assert_close(got, functional.cross_entropy(scores, target))


def test_a_visit_weighs_its_items_as_told() -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 5)
    rows, target = torch.tensor([0, 0, 1]), torch.tensor([1, 4, 2])
    weight = torch.tensor([1.0, 0.5, 2.0])
    each = -scores.log_softmax(-1)[rows, target]
    want = (each * weight).sum() / 3.5
    torch.testing.assert_close(visit_loss(scores, rows, target, weight, torch.zeros(5)), want)


def test_no_rows_give_a_loss_of_zero_with_a_gradient() -> None:
    scores = torch.zeros(0, 5, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    line_loss(scores, none, torch.zeros(0), torch.zeros(5)).backward()
    other = torch.zeros(1, 5, requires_grad=True)
    visit_loss(other, none, none, torch.zeros(0), torch.zeros(5)).backward()
    assert other.grad is not None


def test_a_sampled_softmax_estimates_the_full_one() -> None:
    rng, n_items = np.random.default_rng(0), 2_000
    scores = torch.from_numpy(rng.normal(size=(40, n_items)).astype(np.float32))
    target = torch.from_numpy(rng.integers(0, n_items, 40))
    full = float(functional.cross_entropy(scores, target))
    share = np.full(n_items, 1.0 / n_items)
    estimates = []
    for _ in range(20):
        chosen = choose_candidates(n_items, np.unique(target.numpy()), share, limit=400, rng=rng)
        place = torch.from_numpy(chosen.local(target.numpy()))
        chance = torch.from_numpy(chosen.log_chance)
        narrowed = scores[:, torch.from_numpy(chosen.columns)]
        estimates.append(float(line_loss(narrowed, place, torch.ones(40), chance)))
    assert np.mean(estimates) == pytest.approx(full, abs=0.02)


def test_narrowed_features_are_those_of_the_candidates() -> None:
    rng = np.random.default_rng(1)
    x = rng.random((9, len(FEATURES))).astype(np.float32)
    item = np.array([3, 7, 9, 0, 3, 5, 1, 2, 9])
    sparse = SparseFeatures.packed(np.array([0, 3, 3, 9]), item, x)
    chosen = choose_candidates(10, np.array([3, 9]), np.full(10, 0.1), limit=4, rng=rng)
    narrowed = chosen.narrow(sparse).dense(len(chosen.columns))
    np.testing.assert_array_equal(narrowed, sparse.dense(10)[:, chosen.columns])
