"""Counters, visits and popularity: as of any moment, equal to a plain recomputation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model.asof import AsOf, Histories, Popularity
from model.features import (
    DAY_MS,
    DECAY_DAYS,
    FEATURES,
    POPULARITY_DAYS,
    counter_features,
    log_popularity,
    popularity_cut,
)

N_ITEMS = 12


def make_histories(seed: int, n_users: int = 6, rows_per_user: int = 60) -> Histories:
    rng = np.random.default_rng(seed)
    ptr, ts, visit = [0], [], []
    for _ in range(n_users):
        n = int(rng.integers(0, rows_per_user))
        gaps = np.where(rng.random(n) < 0.6, 0, rng.integers(1, 40 * DAY_MS, n))
        ts.append(1_300_000_000_000 + np.cumsum(gaps))
        visit.append(len(visit) * 1_000 + np.cumsum(gaps > 0))
        ptr.append(ptr[-1] + n)
    total = ptr[-1]
    return Histories(
        ptr=np.array(ptr, np.int64),
        item=rng.integers(0, N_ITEMS, total),
        type_row=np.zeros(total, np.int64),
        ts=np.concatenate(ts).astype(np.int64),
        weight=rng.choice([0.5, 1.0, 3.0], total),
        visit=np.concatenate(visit).astype(np.int64),
    )


def plain_row(histories: Histories, start: int, cut: int, stop: int, time_ms: int) -> np.ndarray:
    """The definition, one loop: counters over [start, cut), the current visit is [cut, stop)."""
    out = np.zeros((N_ITEMS, len(FEATURES)))
    count = np.zeros(N_ITEMS)
    decayed = np.zeros((N_ITEMS, len(DECAY_DAYS)))
    for row in range(start, cut):
        item, weight = histories.item[row], histories.weight[row]
        count[item] += weight
        for column, days in enumerate(DECAY_DAYS):
            age = (time_ms - histories.ts[row]) / DAY_MS
            decayed[item, column] += weight * math.exp(-age / days)
        if histories.visit[row] == histories.visit[cut - 1]:
            out[item, FEATURES.index("in_last_visit")] = 1.0
    out[:, 0] = count > 0
    out[:, 1] = np.log1p(count)
    out[:, 2:6] = np.log1p(decayed)
    out[histories.item[cut:stop], FEATURES.index("in_visit")] = 1.0
    return out


@pytest.mark.parametrize("seed", range(4))
def test_as_of_features_equal_a_plain_recomputation(seed: int) -> None:
    histories = make_histories(seed)
    as_of = AsOf(histories, N_ITEMS)
    rows = np.arange(histories.n_rows)
    user = histories.user()
    got = as_of.line(rows).dense(N_ITEMS)
    for row in rows:
        cut = int(as_of.visit_start(np.array([row]))[0])
        start = int(histories.ptr[user[row]])
        want = plain_row(histories, start, cut, row + 1, int(histories.ts[row]))
        np.testing.assert_allclose(got[row], want, rtol=1e-6, atol=1e-12)


def test_request_rows_see_everything_before_the_position() -> None:
    histories = make_histories(7)
    as_of = AsOf(histories, N_ITEMS)
    user = np.flatnonzero(np.diff(histories.ptr) > 3)
    position = histories.ptr[user + 1]
    time_ms = histories.ts[position - 1] + 3 * DAY_MS
    got = as_of.request(user, position, time_ms).dense(N_ITEMS)
    for index, u in enumerate(user):
        start, stop = int(histories.ptr[u]), int(position[index])
        want = plain_row(histories, start, stop, stop, int(time_ms[index]))
        np.testing.assert_allclose(got[index], want, rtol=1e-6, atol=1e-12)
    assert not got[..., FEATURES.index("in_visit")].any()


def test_a_request_before_the_first_event_has_no_features() -> None:
    histories = make_histories(1)
    first = histories.ptr[:1]
    sparse = AsOf(histories, N_ITEMS).request(np.array([0]), first, np.array([0]))
    assert sparse.n_rows == 1
    assert sparse.item.shape == (0,)


def test_popularity_counts_whole_days_before_the_cut() -> None:
    histories = make_histories(5)
    popularity = Popularity(histories, N_ITEMS)
    times = histories.ts[:: max(1, histories.n_rows // 20)] + DAY_MS
    cuts = popularity_cut(times)
    planes, group = popularity.groups(cuts)
    for row, cut in enumerate(cuts):
        assert cut % DAY_MS == 0
        assert 0 <= times[row] - cut < DAY_MS
        for window, days in enumerate(POPULARITY_DAYS):
            inside = histories.ts < cut
            if days is not None:
                inside &= histories.ts >= cut - days * DAY_MS
            want = np.bincount(histories.item[inside], histories.weight[inside], N_ITEMS)
            np.testing.assert_allclose(planes[group[row], window], np.log1p(want), rtol=1e-6)


def test_transforms_never_return_nan_for_rounding_below_zero() -> None:
    tiny = -np.finfo(np.float64).eps
    x = counter_features(np.array([tiny, 2.0]), np.full((2, 4), tiny))
    assert x[0].tolist() == [0.0] * 6
    assert x[1, :2].tolist() == pytest.approx([1.0, math.log(3.0)])
    assert log_popularity(np.array([[tiny, 1.0]])).tolist() == [[0.0, pytest.approx(math.log(2))]]
