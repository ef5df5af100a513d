from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stream.check.histories import GAP_EDGES_MS, HOUR_MS, HistoryFigures, history_figures
from stream.check.proposals import (
    LARGEST_R_MAX,
    MINUTE_MS,
    Proposal,
    judge_order,
    length_proposals,
    percent,
    readable,
    rounded_up,
    stream_proposals,
    with_given,
)
from stream.check.tally import Tally
from stream.clock import DAY_MS
from tests.stream.check.test_histories import kept
from tests.stream.check.test_tally import PATH, START, batch

JUMP = 60 * DAY_MS


def tallied(ts: list[int]) -> Tally:
    tally = Tally(lambda _: True, JUMP)
    tally.add(batch(ts), PATH)
    tally.end()
    return tally


def figures(gaps: list[int] | None = None) -> HistoryFigures:
    ts = START + np.cumsum([0, *(gaps or [1_000])])
    return history_figures(kept([(0, i, int(at), 0) for i, at in enumerate(ts)]))


def proposed(ts: list[int], gaps: list[int] | None = None) -> dict[str, object]:
    tally = tallied(ts)
    found = stream_proposals(tally, figures(gaps), judge_order(tally), JUMP)
    return {one.key.removeprefix("stream."): one.value for one in found}


def steps(count: int = 2_000, step: int = HOUR_MS) -> list[int]:
    return [START + step * i for i in range(count)]


def test_a_log_in_order_waits_for_nothing() -> None:
    found = proposed(steps())
    assert (found["lateness_ms"], found["max_jump_ms"]) == (0, JUMP)


def test_lateness_covers_all_that_is_late_within_a_day() -> None:
    ts = steps()
    ts[500] -= 4 * HOUR_MS
    assert proposed(ts)["lateness_ms"] == 4 * HOUR_MS


def test_lateness_leaves_out_the_last_hundredth_where_that_is_very_late() -> None:
    ts = steps()
    for at in range(200, 2_000, 10):
        ts[at] -= 2 * HOUR_MS
    ts[1_999] -= 20 * DAY_MS
    assert proposed(ts)["lateness_ms"] == 2 * HOUR_MS


def test_an_unsorted_log_is_told_from_a_late_one_and_can_still_be_read() -> None:
    ts = np.random.default_rng(0).permutation(steps(2_000, DAY_MS // 4)).tolist()
    tally = tallied(ts)
    verdict = judge_order(tally)
    assert verdict.unsorted
    found = proposed(ts)
    assert found["max_jump_ms"] >= verdict.order.furthest_ms + found["lateness_ms"]  # type: ignore[operator]


def test_a_long_pause_of_the_log_raises_the_jump() -> None:
    ts = [*steps(500), *(at + 100 * DAY_MS for at in steps(500))]
    assert proposed(ts)["max_jump_ms"] == 90 * DAY_MS
    assert judge_order(tallied(ts)).strays == 0


def test_a_few_records_far_ahead_do_not() -> None:
    ts = steps()
    ts[700] += 5_000 * DAY_MS
    assert judge_order(tallied(ts)).strays == 1
    assert proposed(ts) | {"visit_gap_ms": 0} == {
        "lateness_ms": 0,
        "max_jump_ms": JUMP,
        "visit_gap_ms": 0,
    }


def test_a_basket_of_one_time_is_a_visit() -> None:
    assert proposed(steps(), [0] * 90 + [9 * DAY_MS] * 10)["visit_gap_ms"] == 0


def test_a_clear_valley_of_the_gaps_parts_visits() -> None:
    gaps = [30_000] * 500 + [MINUTE_MS * 3] * 200 + [2 * DAY_MS] * 300
    assert proposed(steps(), gaps)["visit_gap_ms"] == 30 * MINUTE_MS
    slow = [HOUR_MS] * 500 + [90 * MINUTE_MS] * 500 + [20 * MINUTE_MS] * 200 + [9 * DAY_MS] * 500
    assert proposed(steps(), slow)["visit_gap_ms"] == 4 * HOUR_MS


def test_gaps_without_a_valley_leave_the_usual_gap() -> None:
    even = [2**power * 1_000 for power in range(25)] * 20
    assert proposed(steps(), even)["visit_gap_ms"] == 30 * MINUTE_MS
    assert proposed(steps(), [9 * DAY_MS] * 100)["visit_gap_ms"] == 30 * MINUTE_MS


def test_dates_alone_make_a_day_a_visit() -> None:
    assert proposed([19_675 * DAY_MS, 19_676 * DAY_MS])["visit_gap_ms"] == 0


@pytest.mark.parametrize(
    ("lengths", "n"), [([500, 3], 64), ([70] * 9, 32), ([40] * 9, 16), ([5] * 9, 64)]
)
def test_n_is_the_longest_that_reaches_enough_events(lengths: list[int], n: int) -> None:
    found = values(length_proposals(np.array(lengths), figures(), 0, DAY_MS))
    assert found["refresh.segment_len"] == found["model.segment_len"] == n
    assert found["refresh.r_min"] == found["model.r_min"] == n


@pytest.mark.parametrize("day", [10, 100, 150, 400, 800])
def test_r_max_holds_what_arrives_before_a_refresh(day: int) -> None:
    busy = replace(figures(), busiest={DAY_MS: day, 6 * HOUR_MS: day, HOUR_MS: day})
    found = values(length_proposals(np.array([1_000]), busy, 0, DAY_MS))
    assert found["serving.r_max"] >= 64 + 64 + day
    assert found["serving.r_max"] % 64 == 0
    assert found["serving.r_max"] == found["model.r_max"]
    assert "refresh.tick_interval_s" not in found


def test_lateness_counts_as_waiting_too() -> None:
    busy = replace(figures(), busiest={DAY_MS: 100, 6 * HOUR_MS: 90, HOUR_MS: 80})
    found = values(length_proposals(np.array([1_000]), busy, 2 * DAY_MS, DAY_MS))
    assert found["serving.r_max"] >= 64 + 64 + 300


def test_too_much_for_a_day_makes_ticks_shorter() -> None:
    busy = replace(figures(), busiest={DAY_MS: 5_000, 6 * HOUR_MS: 2_000, HOUR_MS: 300})
    found = values(length_proposals(np.array([10_000]), busy, 0, DAY_MS))
    assert found["refresh.tick_interval_s"] == 3_600
    assert 64 + 64 + 300 <= found["serving.r_max"] <= LARGEST_R_MAX


def test_configured_values_stay_and_say_what_would_fit() -> None:
    kept_, changed = with_given(
        [Proposal("a.b", 1, "why"), Proposal("a.c", 2, "so")], {"a.b": 1, "a.c": 3}
    )
    assert kept_ == Proposal("a.b", 1, "why")
    assert changed.value == 3
    assert "suggests 2: so" in changed.reason


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (40, "40 ms"), (2_500, "2.5 s"), (90_000, "1 min 30 s"), (12_000_000, "3 h 20 min"),
        (12 * DAY_MS, "12 d"), (DAY_MS + 5_000, "1 d"),
    ],
)  # fmt: skip
def test_spans_are_readable(ms: int, text: str) -> None:
    assert readable(ms) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.3, "30 %"),
        (0.587, "58.7 %"),
        (0.0002, "0.02 %"),
        (1e-6, "< 0.01 %"),
    ],
)
def test_shares_are_readable(share: float, text: str) -> None:
    assert percent(share) == text


def test_spans_are_rounded_up_to_what_people_use() -> None:
    assert [rounded_up(ms) for ms in (0, 1_000, 61_000, 3 * HOUR_MS)] == [
        1_000, 1_000, 2 * MINUTE_MS, 4 * HOUR_MS,
    ]  # fmt: skip
    assert GAP_EDGES_MS[0] == 1_000


def values(proposals: list[Proposal]) -> dict[str, int]:
    return {one.key: int(str(one.value)) for one in proposals}
