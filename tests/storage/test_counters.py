import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import counters, rotation
from tests.storage import support
from tests.storage.support import DAY, HOMES, HOUR, ITEMS, T0, Row, fresh, history, logs, store

FEW = settings(max_examples=20, deadline=None)
NAMES = ("n", "s7", "s30", "s90", "s365", "last_ts_ms")


def check(found, ids, rows, user, ref):
    expected = support.counters(rows, ref)
    idx = ids.find_user(support.user_id(user))
    got = {row["item_idx"]: row for row in found.to_pylist() if row["user_idx"] == idx}
    assert {ids.item_id(i) for i in got} == {ITEMS[i] for i in expected}
    for item, values in expected.items():
        row = got[ids.find_item(ITEMS[item])]
        assert [row[name] for name in NAMES] == pytest.approx(values, rel=1e-9)


def rotate(db, before_ms, below=10_000):
    with db.transaction() as tx:
        return rotation.rotate(tx, below=dict.fromkeys(HOMES, below), before_ms=before_ms)


@FEW
@given(
    logs(),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 31)), max_size=3),
    st.none() | st.integers(0, 60),
    st.booleans(),
    st.none() | st.integers(0, 20),
)
def test_counters_equal_raw_sums_for_any_rotations_positions_and_bounds(
    rows, steps, upto, merge, pick
):
    with fresh() as (db, ids):
        done = 0
        for end, hours in sorted(steps):
            store(db, ids, rows[done:end])
            done = max(done, end)
            rotate(db, T0 + hours * HOUR)
        store(db, ids, rows[done:])
        if merge:
            with db.transaction() as tx:
                rotation.merge_runs(tx, max_runs=1)
        users = [u for u in range(3) if ids.find_user(support.user_id(u)) is not None]
        idxs = [ids.find_user(support.user_id(u)) for u in users]
        as_of = None if upto is None else dict.fromkeys(idxs, upto)
        before = {}
        for user, idx in zip(users, idxs, strict=True):
            ordered = history(rows, user)
            if pick is not None and ordered:
                before[idx] = ordered[pick % len(ordered)].key
        ref = counters.counter_ref_ms(db)
        loaded = counters.load_counters(db, idxs, as_of, before)
        exact = counters.counters_from_history(db, idxs, as_of, before)
        for user, idx in zip(users, idxs, strict=True):
            limit = before.get(idx)
            mine = [r for r in history(rows, user, upto) if limit is None or r.key < limit]
            check(loaded, ids, mine, user, ref)
            check(exact, ids, mine, user, ref)
        view = db.query(
            "SELECT * RENAME (last_ts AS t), epoch_ms(last_ts) last_ts_ms FROM counters"
        )
        for user in users:
            check(view, ids, history(rows, user), user, ref)


def test_rotation_moves_only_rows_below_both_bounds_and_sorts_them():
    rows = [Row(i % 2, 0, T0 + (5 - i) * HOUR, 0, i) for i in range(6)]
    with fresh() as (db, ids):
        store(db, ids, rows)
        assert rotate(db, T0 + 4 * HOUR, below=5) == 3
        moved = db.query("SELECT off, run FROM interactions_runs").to_pylist()
        assert [row["off"] for row in moved] == [4, 2, 3]
        assert rotate(db, T0, below=5) == 0
        assert rotation.count_runs(db) == 1
        assert db.query("SELECT count(*) AS n FROM rows_all")["n"][0].as_py() == 6


def test_positions_at_the_edge_of_a_rotation_are_exact():
    rows = [Row(0, i % 2, T0 + i * HOUR, 0, i) for i in range(8)]
    with fresh() as (db, ids):
        store(db, ids, rows)
        rotate(db, T0 + DAY, below=5)
        ref = counters.counter_ref_ms(db)
        for upto in range(9):
            check(counters.load_counters(db, [0], {0: upto}), ids, rows[:upto], 0, ref)


@pytest.mark.parametrize("slice_rows", [400_000, 5, 1])
def test_merging_keeps_every_row_and_one_run(monkeypatch, slice_rows):
    monkeypatch.setattr(rotation, "_SLICE_ROWS", slice_rows)
    rows = [Row(i % 3, i % 4, T0 + i * HOUR, 0, i) for i in range(12)]
    with fresh() as (db, ids):
        for start in range(0, 12, 3):
            store(db, ids, rows[start : start + 3])
            rotate(db, T0 + DAY)
        with db.transaction() as tx:
            assert not rotation.merge_runs(tx, max_runs=4)
            assert rotation.merge_runs(tx, max_runs=3)
        assert rotation.count_runs(db) == 1
        runs = db.query("SELECT user_idx, epoch_ms(h_ts) AS ms FROM interactions_runs")
        keys = list(zip(*runs.to_pydict().values(), strict=True))
        assert keys == sorted(keys)
        assert len(keys) == 12


def test_the_reference_is_the_first_rows_midnight_and_stays():
    with fresh() as (db, ids):
        assert counters.counter_ref_ms(db) is None
        store(db, ids, [Row(0, 0, T0 + DAY, 0, 0), Row(0, 0, T0, 0, 1)])
        ref = counters.counter_ref_ms(db)
        assert ref == (T0 + DAY) // DAY * DAY
        store(db, ids, [Row(0, 0, T0 + 90 * DAY, 0, 2)])
        assert counters.counter_ref_ms(db) == ref
        with pytest.raises(ValueError, match="already use"), db.transaction() as tx:
            counters.set_counter_ref(tx, ref + 1)


def test_counters_stay_finite_decades_after_the_reference():
    rows = [Row(0, 0, T0, 0, 0), Row(0, 0, T0 + 40 * 365 * DAY, 0, 1)]
    with fresh() as (db, ids):
        store(db, ids, rows)
        found = counters.load_counters(db, [0]).to_pylist()[0]
        assert all(found[name] < 1e308 for name in NAMES)


def test_a_large_old_run_is_left_alone_until_the_newer_ones_outgrow_it():
    with fresh() as (db, ids):
        sizes = [20, 2, 2, 2, 2]
        rows = [Row(i % 3, i % 4, T0 + i * HOUR, 0, i) for i in range(sum(sizes))]
        start = 0
        for size in sizes:
            store(db, ids, rows[start : start + size])
            rotate(db, T0 + 9 * DAY)
            start += size
        with db.transaction() as tx:
            assert rotation.merge_runs(tx, max_runs=4)
        counted = "SELECT count(*) AS n FROM interactions_runs GROUP BY run ORDER BY run"
        assert db.query(counted)["n"].to_pylist() == [20, 8]
        ref = counters.counter_ref_ms(db)
        for user in range(3):
            check(
                counters.load_counters(db, [ids.find_user(support.user_id(user))]),
                ids,
                history(rows, user),
                user,
                ref,
            )
