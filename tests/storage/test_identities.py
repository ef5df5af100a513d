import numpy as np
import pyarrow as pa
import pytest

from storage.database import Database
from storage.errors import IdentityError
from storage.identities import Identities
from tests.storage.support import NOW, T0, fresh

USERS = ["ann", "bob", "ann", "cid"]
TOPICS = ["t", "t", "t", "s"]
PARTS = [0, 1, 1, 0]


def assign(db, ids, users=USERS, topics=TOPICS, parts=PARTS):
    with db.transaction() as tx:
        return ids.assign_users(tx, users, topics, parts, [T0 + i for i in range(len(users))])


def test_ids_are_dense_in_order_of_first_sight_and_survive_reopening(tmp_path):
    path = tmp_path / "x.duckdb"
    with Database.open(path, now=NOW) as db:
        ids = Identities.load(db)
        assert assign(db, ids).tolist() == [0, 1, 0, 2]
        assert assign(
            db, ids, pa.chunked_array([["dan"], ["ann"]]), ["t", "t"], [4, 0]
        ).tolist() == [3, 0]
        with db.transaction() as tx:
            assert ids.assign_items(tx, pa.array(["x", "y", "x"]), [T0, T0, None]).tolist() == [
                0,
                1,
                0,
            ]
    with Database.open(path, now=NOW) as db:
        again = Identities.load(db)
        assert [again.user_id(i) for i in range(again.n_users)] == ["ann", "bob", "cid", "dan"]
        assert [again.partition(i) for i in range(4)] == [("t", 0), ("t", 1), ("s", 0), ("t", 4)]
        assert (again.find_user("bob"), again.find_user("eve")) == (1, None)
        assert (again.find_item("y"), again.find_item("z"), again.n_items) == (1, None, 2)
        assert again.all_item_ids == ["x", "y"]
        assert again.user_ids([2, 0]) == ["cid", "ann"]
        assert again.item_ids(np.array([1])) == ["y"]
        assert again.item_id(0) == "x"
        first = db.query("SELECT epoch_ms(first_seen) AS ms FROM users ORDER BY user_idx")
        assert first["ms"].to_pylist() == [T0, T0 + 1, T0 + 3, T0]
        with pytest.raises(IndexError):
            again.partition(4)


def test_a_rollback_takes_new_ids_back():
    with fresh() as (db, ids):
        assign(db, ids, ["ann"], ["t"], [0])

        def fail():
            with db.transaction() as tx:
                ids.assign_users(tx, ["bob"], ["t"], [1], [T0])
                ids.assign_items(tx, ["x"], [T0])
                ids.assign_users(tx, ["cid"], ["t"], [1], [T0])
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert (ids.n_users, ids.n_items, ids.find_user("bob"), ids.find_item("x")) == (
            1,
            0,
            None,
            None,
        )
        assert assign(db, ids, ["cid", "bob"], ["t", "t"], [2, 2]).tolist() == [1, 2]
        assert ids.partition(1) == ("t", 2)
        assert Identities.load(db).user_ids([0, 1, 2]) == ["ann", "cid", "bob"]


def test_rows_of_another_partition_are_told_apart():
    with fresh() as (db, ids):
        found = assign(db, ids)
        assert ids.foreign(found, TOPICS, PARTS).tolist() == [False, False, True, False]
        assert ids.foreign(found, ["never"] * 4, PARTS).all()
        assert ids.foreign(found[:0], [], []).tolist() == []


def test_many_users_grow_the_dictionary():
    with fresh() as (db, ids):
        names = [f"n{i}" for i in range(3000)]
        assign(db, ids, names[:10], ["t"] * 10, [0] * 10)
        assert assign(db, ids, names, ["t"] * 3000, [i % 7 for i in range(3000)])[-1] == 2999
        assert ids.partition(2999) == ("t", 2999 % 7)
        assert ids.partition(9) == ("t", 0)


def test_empty_batches_change_nothing():
    with fresh() as (db, ids):
        assert assign(db, ids, [], [], []).tolist() == []
        assert ids.n_users == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET user_idx = 7 WHERE user_idx = 1",
        "UPDATE users SET user_id = 'ann'",
    ],
)
def test_a_broken_dictionary_is_refused(statement):
    with fresh() as (db, ids):
        assign(db, ids)
        with db.transaction() as tx:
            tx.execute(statement)
        with pytest.raises(IdentityError, match="users table has holes or repeats"):
            Identities.load(db)
