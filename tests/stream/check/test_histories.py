from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from stream.check.histories import WINDOWS_MS, history_figures
from stream.check.tally import Kept
from stream.clock import DAY_MS

START = 1_700_006_400_000


def kept(rows: list[tuple[int, int, int, int]]) -> Kept:
    """Rows of (user, item, time, hash of the event id or 0)."""
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    return Kept(columns[0].astype(np.int32), columns[1].astype(np.int32), columns[2], columns[3])


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_what_a_walk_over_the_events_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        (
            int(rng.integers(6)), int(rng.integers(5)), START + 1_000 * int(rng.integers(300)),
            int(rng.integers(1, 200)) if rng.random() < 0.5 else 0,
        )
        for _ in range(400)
    ]  # fmt: skip
    figures = history_figures(kept(rows))
    seen, events, copies = set(), [], 0
    for user, item, ts, event_id in rows:
        if event_id and (user, event_id) in seen:
            copies += 1
            continue
        seen.add((user, event_id))
        events.append((user, item, ts))
    count = len(events)
    assert figures.events == count
    assert figures.duplicates == pytest.approx(copies / sum(1 for row in rows if row[3]))
    moments = Counter((user, ts) for user, _, ts in events)
    assert figures.tied == pytest.approx(sum(n for n in moments.values() if n > 1) / count)
    assert figures.same_event == pytest.approx(1 - len(set(events)) / count)
    pairs = {(user, item) for user, item, _ in events}
    assert figures.repeats == pytest.approx(1 - len(pairs) / count)
    newest: dict[int, int] = defaultdict(int)
    back = 0
    for user, _, ts in events:
        back += ts < newest[user]
        newest[user] = max(newest[user], ts)
    assert figures.out_of_order == pytest.approx(back / count)
    gaps = []
    for user in range(6):
        gaps += np.diff(sorted(ts for who, _, ts in events if who == user)).tolist()
    assert figures.gaps == len(gaps)
    assert figures.zero_gaps == pytest.approx(gaps.count(0) / len(gaps))
    assert sum(figures.gap_bins) == len(gaps) - gaps.count(0)


def test_the_busiest_window_is_that_of_nearly_all() -> None:
    rows = [(user, 0, START + user * DAY_MS, 0) for user in range(999)]
    rows += [(5_000, 0, START + i, 0) for i in range(70)]
    assert history_figures(kept(rows)).busiest[DAY_MS] == 1
    assert history_figures(kept(rows[-70:])).busiest == dict.fromkeys(WINDOWS_MS, 70)


def test_nothing_is_no_error() -> None:
    figures = history_figures(kept([]))
    assert (figures.events, figures.tied, figures.gaps) == (0, 0, 0)
