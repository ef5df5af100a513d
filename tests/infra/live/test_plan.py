"""The plan of a service's deaths."""

from collections import Counter

import pytest

from infra.torture.live.plan import CLASSES, FEWEST, LEAST, WATCHED, plan
from storage.faults import POINTS


def test_a_whole_run_dies_often_enough_where_it_must():
    kinds = Counter(death.kind for death in plan(FEWEST, 0))
    assert kinds.total() == FEWEST >= 20
    assert kinds.keys() == CLASSES.keys()
    assert kinds["catch-up"] >= 5
    assert kinds["compression"] >= 5
    assert kinds["checkpoint"] >= 3
    assert {death.outage for death in plan(FEWEST, 0)} == {None, "survived", "shared"}


@pytest.mark.parametrize("kills", [1, 4, 5, 40, 60])
def test_a_seed_plans_the_same_deaths_again(kills):
    assert plan(kills, 3) == plan(kills, 3)
    assert len(plan(kills, 3)) == kills
    if kills > 4:
        assert plan(kills, 3) != plan(kills, 4)


def test_few_deaths_begin_with_the_classes_that_need_many():
    assert {death.kind for death in plan(4, 0)} == LEAST.keys()


def test_every_point_of_a_class_exists():
    assert {point for points in CLASSES.values() for point in points} <= POINTS.keys()
    assert WATCHED in CLASSES["compression"]
