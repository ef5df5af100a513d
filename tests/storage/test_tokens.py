import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import tokens
from storage.errors import ChecksumError, GroupOrderError, StorageError
from tests.storage.support import HOMES, T0, N, Row, compress_due, fresh, group, publish, store


def closed(user, segment):
    return [Row(user, 0, T0 + i, 0, i) for i in range(segment * N, (segment + 1) * N)]


def put(db, *rows):
    with db.transaction() as tx:
        return tokens.put_groups(tx, rows)


def seeded(ids, db):
    """Users u0 and u1 at home in clicks[0], u2 in clicks[1]."""
    store(db, ids, [Row(0, 0, T0, 0, 0), Row(1, 0, T0, 0, 1), Row(2, 0, T0, 0, 0)])


def keys(found):
    return [(row.user_idx, row.segment) for row in found]


def test_a_group_comes_back_as_it_was_stored():
    with fresh() as (db, ids):
        seeded(ids, db)
        row = group(1, 0, closed(1, 0), run_id=7)
        assert put(db, row) == [True]
        (found,) = tokens.load_groups(db, [0, 1], "v1")
        assert (found.kv, found.first, found.last) == (row.kv, row.first, row.last)
        assert (found.run_id, found.n_items, found.first_off, found.last_off) == (7, N, 0, N - 1)
        assert found.created_at_ms == row.created_at_ms
        assert found.last_ordinal == N - 1
        np.testing.assert_array_equal(found.kv_array(), row.kv_array())
        assert found.kv_array().shape == (1, 2, 2, 4)
        np.testing.assert_array_equal(found.outputs, row.outputs)
        np.testing.assert_allclose(found.mean_out, row.outputs.mean(axis=0))


def test_the_stored_group_wins_over_a_later_one():
    with fresh() as (db, ids):
        seeded(ids, db)
        first = group(0, 0, closed(0, 0), run_id=1)
        other = replace(first, kv=first.kv[::-1], run_id=2)
        later = group(0, 1, closed(0, 1), run_id=2)
        assert put(db, first, other) == [True, False]
        assert put(db, other, later) == [False, True]
        found = tokens.load_groups(db, [0], "v1")
        assert [(row.kv, row.run_id) for row in found] == [(first.kv, 1), (later.kv, 2)]


def test_versions_do_not_mix():
    with fresh() as (db, ids):
        seeded(ids, db)
        one, two = group(0, 0, closed(0, 0)), group(0, 0, closed(0, 0), version="v2")
        assert put(db, one, replace(two, kv=two.kv[::-1])) == [True, True]
        assert tokens.load_groups(db, [0], "v1")[0].kv == one.kv
        assert tokens.load_groups(db, [0], "v3") == []
        assert tokens.group_counts(db, "v2") == {0: 1}
        with db.transaction() as tx:
            assert tokens.drop_version(tx, "v2") == 1
        assert tokens.group_counts(db, "v2") == {}
        assert tokens.group_counts(db, "v1", [0, 1]) == {0: 1}
        assert tokens.group_counts(db, "v1", [1]) == {}


def test_a_hole_is_refused_and_nothing_of_the_batch_is_stored():
    with fresh() as (db, ids):
        seeded(ids, db)
        with pytest.raises(GroupOrderError, match="hole before segment 2"):
            put(db, group(1, 0, closed(1, 0)), group(0, 0, closed(0, 0)), group(0, 2, closed(0, 2)))
        assert tokens.group_counts(db, "v1") == {}
        assert put(db, group(0, 1, closed(0, 1)), group(0, 0, closed(0, 0))) == [True, True]


def test_bytes_that_do_not_fit_the_shape_are_refused():
    with fresh() as (db, ids):
        seeded(ids, db)
        row = group(0, 0, closed(0, 0))
        with pytest.raises(StorageError, match="31 bytes"):
            put(db, replace(row, kv=row.kv[:-1]))


def test_a_damaged_group_is_named_when_read():
    with fresh() as (db, ids):
        seeded(ids, db)
        put(db, group(1, 0, closed(1, 0)), group(0, 0, closed(0, 0)))
        with db.transaction() as tx:
            tx.execute("UPDATE token_groups SET kv = repeat('x', 32)::BLOB WHERE user_idx = ?", [1])
        with pytest.raises(
            ChecksumError, match=r"user 'u1', segment 0, model version v1"
        ) as caught:
            tokens.load_groups(db, [0, 1], "v1")
        assert (caught.value.user_id, caught.value.segment) == ("u1", 0)
        assert keys(tokens.load_groups(db, [0], "v1")) == [(0, 0)]


def test_a_user_without_stored_groups_has_none():
    with fresh() as (db, ids):
        seeded(ids, db)
        assert tokens.load_groups(db, [], "v1") == []
        assert tokens.load_groups(db, [0, 99], "v1", as_of={0: 5, 99: 1}) == []
        assert tokens.last_keys(db, "v1", [0]) == {}


def test_last_keys_are_those_of_the_newest_group():
    with fresh() as (db, ids):
        seeded(ids, db)
        put(db, group(0, 0, closed(0, 0)), group(0, 1, closed(0, 1)), group(1, 0, closed(1, 0)))
        found = tokens.last_keys(db, "v1", [0, 1, 2])
        assert found == {0: closed(0, 1)[-1].key, 1: closed(1, 0)[-1].key}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(1, 4), st.none() | st.integers(0, 9)), max_size=5),
    st.integers(0, 9) | st.none(),
    st.none() | st.integers(1, 4),
)
def test_groups_visible_as_of_a_position_are_those_the_journal_showed(run_of, shown, upto, newest):
    with fresh() as (db, ids):
        seeded(ids, db)
        put(db, *(group(0, g, closed(0, g), run_id=run) for g, run in enumerate(run_of)))
        put(db, group(2, 0, closed(2, 0), run_id=1))
        for run, position in shown:  # a position of None: the partition had not been read
            publish(db, run, {HOMES[2]: 100} | ({} if position is None else {HOMES[0]: position}))
        as_of = None if upto is None else {0: upto}
        found = tokens.load_groups(db, [0, 2], "v1", newest=newest, as_of=as_of)
        visible = []
        for segment, run in enumerate(run_of):
            places = [p or 0 for r, p in shown if r == run]
            if upto is not None and not any(p <= upto for p in places):
                break
            visible.append((0, segment))
        if newest is not None:
            visible = visible[-newest:]
        assert keys(found) == [*visible, (2, 0)]


def test_visibility_is_judged_in_the_users_own_partition():
    with fresh() as (db, ids):
        seeded(ids, db)
        put(db, group(0, 0, closed(0, 0)), group(2, 0, closed(2, 0)))
        publish(db, 1, {HOMES[0]: 50, HOMES[2]: 5})
        assert keys(tokens.load_groups(db, [0, 2], "v1", as_of={0: 49, 2: 5})) == [(2, 0)]
        assert keys(tokens.load_groups(db, [0, 2], "v1", as_of={0: 50, 2: 4})) == [(0, 0)]


def test_the_digest_covers_content_and_not_internal_ids_runs_or_devices():
    first = [Row(0, 0, T0, 0, 0), Row(1, 0, T0, 0, 1), Row(2, 0, T0, 0, 0)]
    other = [Row(2, 0, T0, 0, 0), Row(1, 0, T0, 0, 0), Row(0, 0, T0, 0, 1)]
    digests = []
    for rows in (first, other):
        with fresh() as (db, ids):
            store(db, ids, rows)
            groups = []
            for user in (0, 1, 2):
                base = group(7, 0, closed(user, 0))  # the same bytes whatever the internal id
                groups.append(
                    replace(
                        base,
                        user_idx=ids.find_user(f"u{user}"),
                        device=f"d{len(digests)}",
                        run_id=len(digests),
                        kv=bytes([user]) * len(base.kv),
                    )
                )
            put(db, *groups)
            digests.append(tokens.digest(db, "v1"))
            assert tokens.digest(db, "v2") == hashlib.sha256().hexdigest()
            with db.transaction() as tx:
                tx.execute("UPDATE token_groups SET kv = repeat('y', 32)::BLOB WHERE user_idx = 0")
            assert tokens.digest(db, "v1") != digests[-1]
    assert digests[0] == digests[1]


def test_a_refresh_stores_groups_runs_and_a_version_together():
    rows = [Row(0, 0, T0 + i * 3_600_000, 0, i) for i in range(20)]
    with fresh() as (db, ids):
        store(db, ids, rows)
        made = compress_due(db, ids, rows)
        assert tokens.group_counts(db, "v1") == {0: made[0]}
