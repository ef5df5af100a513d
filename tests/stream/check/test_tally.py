from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from stream.check.order import Order
from stream.check.tally import Tally, most_common
from stream.clock import DAY_MS
from stream.events import DeadLetter, EventBatch, Partition, interactions_table

START = 1_700_000_000_000
PATH = Path("log.jsonl")


def batch(
    ts: list[int], users: list[str] | None = None, *, dead: int = 0, first: int = 0, **more: object
) -> EventBatch:
    rows = [
        {
            "user_id": users[i] if users else "u", "item_id": f"i{i % 3}", "event_type": "view",
            "ts": at, "seq": 0, "value": 1.0, "topic": "log", "part": 0, "off": first + i, **more,
        }
        for i, at in enumerate(ts)
    ]  # fmt: skip
    after = first + len(rows) + dead
    letters = [
        DeadLetter("log", 0, after - dead + i, "malformed", f"fault {i}", b"") for i in range(dead)
    ]
    ranges = {Partition("log", 0): (first, after)}
    return EventBatch(
        interactions=interactions_table(rows), items=pa.table({}), dead=letters, ranges=ranges
    )


def tally(**changes: object) -> Tally:
    return Tally(lambda name: name != "shown", 60 * DAY_MS, **changes)  # type: ignore[arg-type]


def test_order_is_what_a_walk_over_the_records_finds() -> None:
    rng = np.random.default_rng(0)
    ts = START + np.cumsum(rng.integers(0, 1_000, 5_000)) - rng.integers(0, 50_000, 5_000)
    order = Order()
    for part in np.array_split(ts, 7):
        order.add(part)
    newest, late, ahead = int(ts[0]), [], 0
    for at in ts.tolist():
        late += [newest - at] if at < newest else []
        ahead = max(ahead, at - newest)
        newest = max(newest, at)
    assert (order.late, order.largest_ms, order.furthest_ms) == (len(late), max(late), ahead)
    for share in (0.5, 0.99):
        exact = float(np.quantile(late, share))
        assert exact * 0.98 <= order.quantile(share) <= exact * 1.04


def test_records_far_ahead_do_not_make_the_rest_late_when_they_are_left_out() -> None:
    ts = np.array([START, START + 1, START + 900 * DAY_MS, START + 2, START + 3])
    plain, guarded = Order(), Order(60 * DAY_MS)
    plain.add(ts)
    guarded.add(ts)
    assert (plain.late, guarded.late, guarded.left_out) == (2, 0, 1)


def test_everything_is_counted_over_batches() -> None:
    found = tally()
    found.begin_file()
    found.add(batch([START, START + 1], ["a", "b"]), PATH)
    found.add(batch([START + 2], ["a"], dead=2, first=2), PATH)
    found.add(batch([START + 3], ["a"], first=5, value=-1.0), PATH)
    found.add(batch([START + 4], ["a"], first=6, event_type="shown"), PATH)
    found.end()
    assert (found.records, found.interactions, found.bad_records, found.returns) == (7, 5, 2, 1)
    assert most_common(found.users, 1) == [("a", 4)]
    assert found.histories.tolist() == [2, 1]  # neither the return nor what was only shown
    bad = found.bad["malformed"]
    assert (bad.records, bad.first_row, bad.detail) == (2, 4, "fault 0")
    assert found.days.sum() == 5
    assert (found.first_ms, found.last_ms) == (START, START + 4)


def test_a_file_whose_last_record_is_malformed_is_cut_off() -> None:
    found = tally()
    for path, dead_last in (("whole", False), ("cut", True)):
        found.begin_file()
        found.add(batch([START], dead=1), Path(path))
        if not dead_last:
            found.add(batch([START], first=2), Path(path))
    found.begin_file()
    found.add(batch([START], dead=3), Path("all bad"))
    found.end()
    assert found.cut_files == ["cut"]


def test_order_within_files_is_counted_apart() -> None:
    found = tally()
    for first in (START + 100, START):
        found.begin_file()
        found.add(batch([first, first + 1, first + 2]), PATH)
    found.end()
    assert (found.plain.late, found.late_in_file) == (3, 0)


def test_beyond_the_limit_whole_users_are_left_out() -> None:
    rng = np.random.default_rng(1)
    users = [f"u{n}" for n in rng.integers(0, 500, 20_000)]
    full, part = tally(), tally(keep_events=4_000)
    for begin in range(0, 20_000, 3_000):
        rows = slice(begin, begin + 3_000)
        for one in (full, part):
            one.add(batch(list(range(START, START + len(users[rows]))), users[rows]), PATH)
    everyone, kept = full.kept(), part.kept()
    assert full.halvings == 0
    assert part.halvings >= 2
    assert len(kept.ts) <= 4_000
    chosen = np.unique(kept.user)
    assert 10 < len(chosen) < 250
    mask = np.isin(everyone.user, chosen)
    assert np.array_equal(everyone.user[mask], kept.user)
    assert np.array_equal(everyone.event_id[mask], kept.event_id)
    assert np.array_equal(full.histories, part.histories)


def test_dates_without_a_time_of_day_are_noticed() -> None:
    dates, times = tally(), tally()
    dates.add(batch([19_675 * DAY_MS, 19_676 * DAY_MS]), PATH)
    times.add(batch([19_675 * DAY_MS, START]), PATH)
    assert (dates.whole_days, times.whole_days) == (True, False)
