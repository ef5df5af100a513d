"""The read-out: its formula, its switches, its report."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from model.config import ModelConfig, ReadOutConfig
from model.features import FEATURES, POPULARITY_DAYS, SparseFeatures
from model.readout import KINDS, Kind, ReadOut

R, V, D, G = 5, 11, 8, 2


def make_readout(**switches: bool) -> ReadOut:
    torch.manual_seed(3)
    readout = ReadOut(ModelConfig(d_model=D, readout=ReadOutConfig(**switches)))
    with torch.no_grad():
        for parameter in readout.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return readout


def make_inputs(seed: int = 0) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    count = rng.integers(0, 4, R)
    return {
        "hidden": torch.from_numpy(rng.normal(size=(R, D)).astype(np.float32)),
        "vectors": functional.normalize(
            torch.from_numpy(rng.normal(size=(V, D)).astype(np.float32)), dim=1
        ),
        "log_pop": rng.random((G, len(POPULARITY_DAYS), V)).astype(np.float32),
        "row_group": rng.integers(0, G, R),
        "sparse": SparseFeatures.packed(
            np.concatenate([[0], np.cumsum(count)]),
            rng.integers(0, V, count.sum()),
            rng.random((int(count.sum()), len(FEATURES))).astype(np.float32),
        ),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_stated_sum(kind: Kind) -> None:
    readout, inputs = make_readout(), make_inputs()
    got = readout(kind, **inputs).detach().numpy()
    part = readout.weights(kind)
    unit = functional.normalize(inputs["hidden"], dim=1)
    want = float(part.scale) * (unit @ inputs["vectors"].T).numpy()
    pop = np.einsum("p,gpv->gv", part.popularity.detach().numpy(), inputs["log_pop"])
    want = want + pop[inputs["row_group"]]
    weight = part.weight + unit * D**0.5 @ part.modulation.T
    dense = inputs["sparse"].dense(V)
    want = want + np.einsum("rvf,rf->rv", dense, weight.detach().numpy())
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("off", ["counters", "popularity", "in_visit"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_that_is_off_changes_no_score_and_the_report_says_so(kind: Kind, off: str) -> None:
    readout, inputs = make_readout(**{off: False}), make_inputs()
    before = readout(kind, **inputs)
    sparse = inputs["sparse"]
    assert isinstance(sparse, SparseFeatures)
    if off == "popularity":
        inputs["log_pop"] = np.zeros_like(inputs["log_pop"])
    else:
        last = FEATURES.index("in_visit")
        columns = [last] if off == "in_visit" else list(range(last))
        sparse.x[:, columns] = 7.0
    torch.testing.assert_close(readout(kind, **inputs), before)
    assert readout.report()["parts"][off] is False
    everything_on = ReadOut(ModelConfig(d_model=D))
    everything_on.load_state_dict(readout.state_dict())
    assert not torch.allclose(everything_on(kind, **make_inputs()), before)


def test_the_two_read_outs_have_their_own_weights() -> None:
    readout, inputs = make_readout(), make_inputs()
    assert not torch.allclose(readout("visit", **inputs), readout("line", **inputs))


def test_an_untrained_read_out_holds_back_items_of_the_visit_on_lines_only() -> None:
    readout = ReadOut(ModelConfig(d_model=D))
    x = np.zeros((1, len(FEATURES)), np.float32)
    x[0, FEATURES.index("in_visit")] = 1.0
    sparse = SparseFeatures.packed(np.array([0, 1]), np.array([4]), x)
    hidden, vectors = torch.zeros(1, D), torch.zeros(V, D)
    log_pop = np.zeros((1, len(POPULARITY_DAYS), V), np.float32)
    line = readout("line", hidden, vectors, log_pop, np.zeros(1, np.int64), sparse)
    visit = readout("visit", hidden, vectors, log_pop, np.zeros(1, np.int64), sparse)
    assert line[0, 4] < 0.0
    assert not visit.any()


def test_an_item_listed_twice_adds_up() -> None:
    readout, inputs = make_readout(), make_inputs()
    x = np.ones((2, len(FEATURES)), np.float32)
    twice = SparseFeatures.packed(np.array([0, 2]), np.array([1, 1]), x)
    once = SparseFeatures.packed(np.array([0, 1]), np.array([1]), 2 * x[:1])
    head = {
        "hidden": inputs["hidden"][:1],
        "vectors": inputs["vectors"],
        "log_pop": inputs["log_pop"],
        "row_group": inputs["row_group"][:1],
    }
    torch.testing.assert_close(
        readout("line", **head, sparse=twice), readout("line", **head, sparse=once)
    )


def test_rows_that_share_entries_score_as_if_each_had_its_own() -> None:
    readout, inputs = make_readout(), make_inputs()
    rng = np.random.default_rng(3)
    item, x = rng.integers(0, V, 9), rng.random((9, len(FEATURES))).astype(np.float32)
    start = rng.integers(0, 5, R)
    stop = start + rng.integers(0, 5, R)
    own = np.concatenate([np.arange(lo, hi) for lo, hi in zip(start, stop, strict=True)])
    row_ptr = np.concatenate([[0], np.cumsum(stop - start)])
    inputs["sparse"] = SparseFeatures(start, stop, item, x)
    shared = readout("line", **inputs)
    inputs["sparse"] = SparseFeatures.packed(row_ptr, item[own], x[own])
    torch.testing.assert_close(readout("line", **inputs), shared)


def test_gradients_reach_every_weight() -> None:
    readout, inputs = make_readout(), make_inputs()
    for kind in KINDS:
        readout(kind, **inputs).square().sum().backward()
    for name, parameter in readout.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_rows_do_not_depend_on_their_neighbors() -> None:
    readout, inputs = make_readout(), make_inputs()
    whole = readout("line", **inputs)
    sparse = inputs["sparse"]
    for row in range(R):
        alone = readout(
            "line",
            inputs["hidden"][row : row + 1],
            inputs["vectors"],
            inputs["log_pop"],
            inputs["row_group"][row : row + 1],
            sparse.slice(row, row + 1),
        )
        torch.testing.assert_close(alone[0], whole[row], rtol=1e-5, atol=1e-5)


def test_every_combination_of_switches_scores_finite_numbers() -> None:
    for flags in itertools.product([False, True], repeat=3):
        readout = make_readout(
            **dict(zip(("counters", "popularity", "in_visit"), flags, strict=True))
        )
        assert torch.isfinite(readout("visit", **make_inputs())).all()
