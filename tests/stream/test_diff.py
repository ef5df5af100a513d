"""Comparing slates: what must be equal, what may differ by a tie."""

import msgspec
import pytest

from stream.diff import diff
from stream.slates import Cause, Coverage, ScoredItem, Slate, recommendation_id


def slate(offset: int = 0, *scores: tuple[str, float], **changes: object) -> Slate:
    items = scores or (("a", 3.0), ("b", 2.0), ("c", 1.0))
    made = Slate(
        id=recommendation_id("log", 0, offset),
        user_id="u",
        at_ms=1000 + offset,
        cause=Cause(topic="log", partition=0, offset=offset, ts=1000 + offset),
        items=tuple(ScoredItem(item_id=name, score=score) for name, score in items),
        model_version="v",
        coverage=Coverage(groups=1, recents=3),
        reason="personal",
        readout="line",
    )
    return msgspec.structs.replace(made, **changes)


def test_equal_runs_agree():
    run = [slate(0), slate(1)]
    report = diff(run, run)
    assert report.equal
    assert (report.compared, report.same_order, report.repeats) == (2, 2, 0)


def test_runs_agree_in_whatever_order_they_were_written():
    assert diff([slate(0), slate(1)], [slate(1), slate(0)]).equal


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": "recent_only"},
        {"model_version": "w"},
        {"coverage": Coverage(groups=2, recents=3)},
        {"cause": Cause(topic="log", partition=0, offset=0, ts=999)},
        {"user_id": "x"},
        {"at_ms": 5},
        {"popularity_cut_ms": 7},
        {"readout": "visit"},
    ],
)
def test_fields_that_must_be_equal_are_named(changes):
    report = diff([slate(0)], [slate(0, **changes)])
    assert list(report.counts) == list(changes)
    assert report.examples[0].kind in changes


def test_missing_slates_are_found_on_both_sides():
    report = diff([slate(0), slate(1)], [slate(1), slate(2)])
    assert report.counts == {"only_left": 1, "only_right": 1}


def test_scores_within_the_tolerance_agree_and_the_largest_difference_is_reported():
    report = diff([slate(0, ("a", 1.0))], [slate(0, ("a", 1.0009))])
    assert report.equal
    assert report.largest_score_difference == pytest.approx(0.0009)
    assert not diff([slate(0, ("a", 1.0))], [slate(0, ("a", 1.002))]).equal


def test_near_ties_may_swap_and_others_may_not():
    ours = slate(0, ("a", 1.0), ("b", 0.9995))
    assert diff([ours], [slate(0, ("b", 1.0), ("a", 0.9995))]).equal
    far = slate(0, ("a", 1.0), ("b", 0.998))
    report = diff([far], [slate(0, ("b", 0.9985), ("a", 0.9995))])
    assert report.counts == {"order": 1}


def test_only_a_near_tie_with_the_last_place_may_drop_out():
    ours = slate(0, ("a", 2.0), ("b", 1.0))
    assert diff([ours], [slate(0, ("a", 2.0), ("c", 1.0005))]).equal
    report = diff([ours], [slate(0, ("b", 1.0), ("c", 0.5))])
    assert report.counts == {"items": 1}


def test_different_lengths_differ():
    assert diff([slate(0)], [slate(0, ("a", 3.0))]).counts == {"length": 1}


def test_a_repeat_must_equal_the_first():
    assert diff([slate(0), slate(0)], [slate(0)]).equal
    report = diff([slate(0), slate(0, reason="popular")], [slate(0, reason="popular")])
    assert report.counts == {"repeat": 1}


def test_examples_are_bounded_and_counts_are_not():
    left = [slate(n) for n in range(50)]
    report = diff(left, [], max_examples=3)
    assert len(report.examples) == 3
    assert report.counts["only_left"] == 50
