from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import backlog, interactions, rotation
from storage.errors import StorageError
from storage.records import ROW_COLUMNS
from tests.storage.support import (
    DAY,
    HOMES,
    HOUR,
    ITEMS,
    T0,
    N,
    Row,
    fresh,
    history,
    logs,
    store,
    user_id,
)

FEW = settings(max_examples=20, deadline=None)


def offsets(found, idx):
    return found.filter(pa.compute.equal(found["user_idx"], idx))["off"].to_pylist()


def rotate_at(db, rows, share):
    """Move about `share` of the time span of all partitions into a run."""
    with db.transaction() as tx:
        bounds = dict.fromkeys(HOMES, 10000)
        rotation.rotate(tx, below=bounds, before_ms=T0 + int(30 * share) * HOUR)


@FEW
@given(logs(), st.integers(0, 60), st.sampled_from([None, 0.5, 1.1]), st.integers(0, 40))
def test_history_as_of_a_position_is_the_naive_one_before_and_after_rotation(
    rows, upto, share, split
):
    with fresh() as (db, ids):
        store(db, ids, rows[:split])
        if share is not None:
            rotate_at(db, rows, share)
        store(db, ids, rows[split:])
        users = {u: ids.find_user(user_id(u)) for u in range(3)}
        known = {u: idx for u, idx in users.items() if idx is not None}
        as_of = {idx: upto for u, idx in known.items() if u != 1}
        found = interactions.load_history(db, list(known.values()), as_of)
        for user, idx in known.items():
            expected = history(rows, user, None if user == 1 else upto)
            assert offsets(found, idx) == [r.off for r in expected]


@FEW
@given(logs(min_size=4), st.integers(0, 60), st.integers(0, 10))
def test_recents_are_the_rows_after_a_key(rows, upto, cut):
    with fresh() as (db, ids):
        store(db, ids, rows)
        rotate_at(db, rows, 0.4)
        user = rows[0].user
        idx = ids.find_user(user_id(user))
        ordered = history(rows, user)
        if not ordered:
            return
        after = ordered[cut % len(ordered)].key
        found = interactions.load_recents(db, [idx], after={idx: after}, as_of={idx: upto})
        expected = [r for r in ordered if r.key > after and r.off < upto]
        assert found["off"].to_pylist() == [r.off for r in expected]


@FEW
@given(logs(min_size=1))
def test_segments_and_due_counts_follow_history_order(rows):
    with fresh() as (db, ids):
        store(db, ids, rows)
        rotate_at(db, rows, 0.5)
        known = {u: ids.find_user(user_id(u)) for u in range(3)}
        known = {u: idx for u, idx in known.items() if idx is not None}
        covered = {user: history(rows, user)[: (user % 2) * N] for user in known}
        after = {idx: covered[u][-1].key if covered[u] else None for u, idx in known.items()}
        found = backlog.uncovered_rows(db, after, dict.fromkeys(after, N))
        marks = {HOMES[0]: T0 + 15 * HOUR, HOMES[2]: T0 + 20 * HOUR}
        counts = backlog.due_counts(db, marks)
        counted = dict(
            zip(counts["user_idx"].to_pylist(), counts["n_before"].to_pylist(), strict=True)
        )
        later = backlog.open_rows(db, marks)
        for user, idx in known.items():
            ordered = history(rows, user)
            start = len(covered[user])
            assert offsets(found, idx) == [r.off for r in ordered[start : start + N]]
            before = sum(r.key.h_ts_ms < marks[HOMES[user]] for r in ordered)
            assert counted.get(idx, 0) == before
            assert sum(u == idx for u in later["user_idx"].to_pylist()) == len(ordered) - before


def test_a_displaced_row_counts_at_its_place_and_not_at_its_own_time():
    anchor = Row(0, 0, T0 + 5 * HOUR, 0, 0)
    rows = [anchor, Row(0, 0, T0, 0, 1, anchor=anchor.key), Row(0, 0, T0 + 9 * HOUR, 0, 2)]
    with fresh() as (db, ids):
        store(db, ids, rows)
        assert backlog.due_counts(db, {HOMES[0]: T0 + 5 * HOUR}).num_rows == 0
        found = backlog.due_counts(db, {HOMES[0]: T0 + 5 * HOUR + 1})
        assert found["n_before"].to_pylist() == [2]
        assert interactions.load_history(db, [0])["off"].to_pylist() == [0, 1, 2]


def test_due_counts_bounded_by_positions_leave_out_rows_read_later():
    rows = [Row(0, 0, T0 + i, 0, i) for i in range(5)]
    with fresh() as (db, ids):
        store(db, ids, rows)
        marks = {HOMES[0]: T0 + 100}
        found = backlog.due_counts(db, marks, positions={HOMES[0]: 2})
        assert found.to_pylist() == [{"user_idx": 0, "n_before": 2}]
        assert backlog.due_counts(db, marks, positions={}).num_rows == 0
        assert backlog.due_counts(db, {}).num_rows == 0


@FEW
@given(logs(), st.integers(0, 60))
def test_popularity_is_the_weight_in_each_window_before_the_cut(rows, upto):
    cut_ms = T0 + 20 * HOUR
    cut = datetime.fromtimestamp(cut_ms / 1000, UTC)
    with fresh() as (db, ids):
        store(db, ids, rows)
        rotate_at(db, rows, 0.5)
        bound = {HOMES[0]: upto}
        for positions_, seen in ((None, rows), (bound, [r for r in rows if r.home == HOMES[0]])):
            found = interactions.popularity(db, cut, (1, None), positions_)
            assert found.column_names == ["item_idx", "p1", "pall"]
            got = {row["item_idx"]: row for row in found.to_pylist()}
            for item, name in enumerate(ITEMS):
                mine = [
                    r
                    for r in seen
                    if r.in_history
                    and r.item == item
                    and r.ts < cut_ms
                    and (positions_ is None or r.off < upto)
                ]
                idx = ids.find_item(name)
                row = got.get(idx, {"p1": 0.0, "pall": 0.0})
                assert row["pall"] == pytest.approx(sum(r.weight for r in mine))
                assert row["p1"] == pytest.approx(
                    sum(r.weight for r in mine if r.ts >= cut_ms - DAY)
                )


def test_a_window_includes_its_start_and_excludes_the_cut():
    cut = datetime(2024, 1, 8, tzinfo=UTC)
    cut_ms = int(cut.timestamp() * 1000)
    rows = [
        Row(0, 0, cut_ms - 7 * DAY - 1, 0, 0),
        Row(0, 0, cut_ms - 7 * DAY, 0, 1),
        Row(0, 0, cut_ms - 1, 0, 2),
        Row(0, 0, cut_ms, 0, 3),
    ]
    with fresh() as (db, ids):
        store(db, ids, rows)
        found = interactions.popularity(db, cut).to_pylist()
        assert found == [{"item_idx": 0, "p7": 2.0, "p30": 3.0, "p120": 3.0, "pall": 3.0}]
        local = cut.astimezone(timezone(timedelta(hours=5)))
        assert interactions.popularity(db, local).to_pylist() == found


def test_candidates_for_duplicates_are_all_rows_of_the_same_user_and_event():
    rows = [
        Row(0, 0, T0, 0, 0, event_id="a"),
        Row(1, 0, T0, 0, 1, event_id="a"),
        Row(0, 1, T0 + DAY, 0, 2, event_id="b"),
        Row(0, 0, T0 + 5, 0, 3, event_id="a", duplicate=True, in_history=False),
        Row(0, 0, T0 + 6, 0, 4),
    ]
    with fresh() as (db, ids):
        store(db, ids, rows)
        rotate_at(db, rows, 1.1)
        keys = pa.table({
            "user_idx": pa.array([0, 0, 1], pa.int64()),
            "event_id": pa.array(["a", None, "x"], pa.string()),
        })
        assert interactions.duplicates_of(db, keys)["off"].to_pylist() == [0, 3]
        newer = interactions.duplicates_of(db, keys, min_ts_ms=T0 + 1)
        assert newer["off"].to_pylist() == [3]
        assert tuple(newer.column_names) == ROW_COLUMNS


def test_rows_come_back_as_they_were_appended():
    rows = [
        Row(0, 2, T0 + 7, 1, 3, weight=0.25, event_id="x"),
        Row(2, 1, T0, 0, 0, in_history=False),
    ]
    with fresh() as (db, ids):
        store(db, ids, rows)
        found = interactions.read_range(db, "clicks", 0, 0, 10)
        assert found.num_rows == 1
        assert tuple(found.column_names) == ROW_COLUMNS
        row = found.to_pylist()[0]
        assert (row["ts_ms"], row["seq"], row["off"], row["weight"]) == (T0 + 7, 1, 3, 0.25)
        assert (row["event_id"], row["session_id"], row["append_ts_ms"]) == ("x", None, None)
        assert interactions.read_range(db, "clicks", 0, 4, 10).num_rows == 0
        assert interactions.load_history(db, [1]).num_rows == 0
        assert interactions.load_history(db, []).num_rows == 0
        assert interactions.seen_items(db, [0, 1]).to_pylist() == [{"user_idx": 0, "item_idx": 0}]
        assert interactions.history_counts(db, [0, 1]).to_pylist() == [{"user_idx": 0, "n": 1}]


def test_a_table_that_does_not_fit_is_refused_and_nothing_is_stored():
    with fresh() as (db, _):
        with pytest.raises(StorageError, match="do not fit"), db.transaction() as tx:
            interactions.append(tx, pa.table({"user_idx": [1]}))
        assert rotation.hot_rows(db) == 0


@FEW
@given(logs(min_size=1), st.integers(1, 5))
def test_the_digest_does_not_depend_on_batches_rotation_or_internal_ids(rows, size):
    with fresh() as (db, ids):
        store(db, ids, rows)
        one = interactions.digest(db)
    with fresh() as (db, ids):
        with db.transaction() as tx:  # other internal ids
            ids.assign_items(tx, list(reversed(ITEMS)), [T0] * len(ITEMS))
            present = [u for u in (2, 1, 0) if any(r.user == u for r in rows)]
            ids.assign_users(
                tx,
                [user_id(u) for u in present],
                [HOMES[u][0] for u in present],
                [HOMES[u][1] for u in present],
                [T0] * len(present),
            )
        for start in range(0, len(rows), size):
            store(db, ids, rows[start : start + size])
        rotate_at(db, rows, 0.5)
        assert interactions.digest(db) == one


def test_the_digest_changes_with_any_covered_value():
    base = Row(0, 0, T0, 0, 0, event_id="a")
    digests = set()
    for row in (
        base,
        Row(1, 0, T0, 0, 0, event_id="a"),
        Row(0, 1, T0, 0, 0, event_id="a"),
        Row(0, 0, T0 + 1, 0, 0, event_id="a"),
        Row(0, 0, T0, 1, 0, event_id="a"),
        Row(0, 0, T0, 0, 0, event_id="a", weight=2.0),
        Row(0, 0, T0, 0, 0, event_id=None),
        Row(0, 0, T0, 0, 0, event_id="", weight=1.0),
        Row(0, 0, T0, 0, 0, event_id="a", duplicate=True, in_history=False),
    ):
        with fresh() as (db, ids):
            store(db, ids, [row])
            digests.add(interactions.digest(db))
    assert len(digests) == 9
