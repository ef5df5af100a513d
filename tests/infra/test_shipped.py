"""The baselines on the shipped log give their published figures, on the shipped targets."""

import numpy as np
import pytest

from infra import shipped
from infra.gates import REFERENCE_MARGIN, reference_gates
from infra.measuring import read_for_evaluation
from infra.recipe import Run, model_of
from infra.settings import load
from model.baselines.counting import DailyPopularity, Fallback
from model.baselines.sequence import Markov
from model.config import ModelConfig
from model.ranking import recall
from stream.evaluate import EvaluationPlan, count, figures, prepare
from stream.evaluation.ranks import RankBook
from stream.evaluation.targets import load_targets

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def log():
    loaded = load(environ={}, overrides=shipped.settings())
    return read_for_evaluation(str(shipped.EVENTS), str(shipped.ITEMS), loaded, None)


def test_the_shipped_log_is_the_published_extract(log):
    assert (len(log.events.item), len(log.user_ids), log.events.n_items) == (788_187, 5_852, 4_743)


def test_next_visit_baselines_and_mix_give_their_published_figures(log):
    plan = EvaluationPlan(
        cuts=shipped.MAIN.cuts,
        protocols=("next_visit",),
        target_file=shipped.TARGETS,
        after_visit=False,
    )
    measurement = prepare(log, plan)
    count(measurement)
    found = figures(measurement)
    visit = found.protocol("next_visit")
    assert (visit.target_count, visit.state_count, visit.user_count) == (26_567, 1_905, 647)
    gates = list(reference_gates(found))
    assert len(gates) == 6
    assert [one for one in gates if not one.ok] == []


def test_the_markov_line_baseline_gives_its_published_figure(log):
    targets = load_targets(shipped.TARGETS, log, "next_line", "test")
    assert len(targets) == 15_258
    kept = targets.where(np.arange(len(targets)) % 3 == 0)
    markov = Markov(
        log.events,
        Fallback(DailyPopularity(log.events)),
        until_ms=shipped.MAIN.cuts.train_end,
    )
    book = RankBook(log.events, kept)
    everything = np.ones(log.events.n_items, dtype=bool)
    for first in range(0, len(kept.states), 200):
        states = np.arange(first, min(first + 200, len(kept.states)))
        book.stood(states, everything)
        book.put(markov.name, states, markov.scores(kept.states.take(states)))
    found = recall(book.ranks[markov.name][0].everything, 10).mean()
    assert found == pytest.approx(0.2535, abs=2 * REFERENCE_MARGIN)  # a third of the targets


def test_runs_are_named_by_period_recipe_and_seed(tmp_path):
    run = Run(period=shipped.EARLIER, recipe="plain", seed=2, folder=tmp_path)
    assert run.name == "earlier-plain-2"
    assert run.ranks("test", "next_line") == tmp_path / "earlier-plain-2-test-next_line.npz"


def test_the_plain_recipe_has_neither_counters_nor_calibration():
    plain = model_of("plain", ModelConfig())
    assert (plain.readout.counters, plain.readout.calibration) == (False, False)
    assert plain.readout.popularity
    assert model_of("shipped", ModelConfig()) == ModelConfig()
