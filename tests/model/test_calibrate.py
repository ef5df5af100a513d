"""Calibration: it recovers known weights, folds exactly and leaves what is off alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from model.calibrate import Correction, calibrate, fit, fold
from model.config import ModelConfig, ReadOutConfig
from model.features import FEATURES, POPULARITY_DAYS, SparseFeatures
from model.readout import Kind, ReadOut
from model.training.validation import Examples, ranks

R, V, D = 400, 30, 8


def make_examples(kind: Kind = "visit", seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    vectors = torch.from_numpy(rng.normal(size=(V, D)).astype(np.float32))
    count = rng.integers(0, 6, R)
    x = rng.random((int(count.sum()), len(FEATURES))).astype(np.float32)
    item = np.concatenate([rng.permutation(V)[:n] for n in count])
    return Examples(
        kind=kind,
        hidden=torch.from_numpy(rng.normal(size=(R, D)).astype(np.float32)),
        vectors=functional.normalize(vectors, dim=1),
        log_pop=rng.random((5, len(POPULARITY_DAYS), V)).astype(np.float32) * 3,
        group=rng.integers(0, 5, R),
        sparse=SparseFeatures.packed(np.concatenate([[0], np.cumsum(count)]), item, x),
        target_row=np.arange(R),
        target=rng.integers(0, V, R),
    )


def make_readout(**switches: bool) -> ReadOut:
    torch.manual_seed(1)
    readout = ReadOut(ModelConfig(d_model=D, readout=ReadOutConfig(**switches)))
    with torch.no_grad():
        readout.visit.scale.fill_(4.0)
        readout.line.scale.fill_(4.0)
        for parameter in readout.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    return readout


@torch.no_grad()
def with_drawn_targets(examples: Examples, readout: ReadOut, seed: int = 3) -> Examples:
    """The same rows, targets drawn from the softmax of a read-out: 300 per row."""
    torch.manual_seed(seed)
    drawn = torch.multinomial(examples.scores(readout).softmax(-1), 300, replacement=True)
    values = {name: getattr(examples, name) for name in Examples.__slots__}
    values |= {"target_row": np.repeat(np.arange(R), 300), "target": drawn.flatten().numpy()}
    return Examples(**values)


def test_a_known_distortion_is_undone() -> None:
    truth, examples = make_readout(), make_examples()
    examples = with_drawn_targets(examples, truth)
    distorted = make_readout()
    shift = tuple(0.1 * (index - 3) for index in range(len(FEATURES)))
    fold(distorted, Correction("visit", 0.5, (0.4, -0.3, 0.2, 0.1), shift, 0.0, 0.0))
    correction = fit(distorted, examples, pull=0.0)
    fold(distorted, correction)
    assert correction.factor == pytest.approx(2.0, rel=0.1)
    assert correction.loss_after < correction.loss_before
    torch.testing.assert_close(distorted.visit.weight, truth.visit.weight, atol=0.15, rtol=0.0)
    torch.testing.assert_close(
        distorted.visit.popularity, truth.visit.popularity, atol=0.15, rtol=0.0
    )


def test_folding_equals_adding_the_correction_to_the_scores() -> None:
    readout, examples = make_readout(), make_examples("line")
    before = examples.scores(readout).detach()
    change = Correction("line", 0.7, (1.0, 0.0, -1.0, 0.5), (0.2,) * len(FEATURES), 0.0, 0.0)
    fold(readout, change)
    popularity = np.einsum("p,gpv->gv", change.popularity, examples.log_pop)[examples.group]
    features = examples.sparse.dense(V) @ np.array(change.features)
    want = 0.7 * before.numpy() + popularity + features
    np.testing.assert_allclose(examples.scores(readout).detach(), want, rtol=1e-4, atol=1e-4)


def test_each_read_out_is_calibrated_alone() -> None:
    readout = make_readout()
    before = {name: value.clone() for name, value in readout.line.state_dict().items()}
    corrections = calibrate(readout, [make_examples("visit")])
    assert [correction.kind for correction in corrections] == ["visit"]
    for name, value in readout.line.state_dict().items():
        assert torch.equal(value, before[name])


def test_parts_that_are_off_are_not_corrected() -> None:
    readout = make_readout(counters=False, popularity=False)
    correction = fit(readout, make_examples())
    assert set(correction.popularity) == {0.0}
    off = [value for name, value in zip(FEATURES, correction.features, strict=True)]
    assert set(off[:-1]) == {0.0}
    assert off[-1] != 0.0


def test_calibration_is_deterministic() -> None:
    first, second = make_readout(), make_readout()
    assert calibrate(first, [make_examples()]) == calibrate(second, [make_examples()])


def test_ranks_count_ties_by_half_and_do_not_depend_on_blocks() -> None:
    readout, examples = make_readout(), make_examples()
    scores = examples.scores(readout).detach().numpy()
    own = scores[np.arange(R), examples.target][:, None]
    want = 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
    np.testing.assert_array_equal(ranks([examples], readout), want)
