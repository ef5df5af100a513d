import numpy as np
import pyarrow as pa

from storage import bounds
from storage.records import HistoryKey, partition_dict, partition_table, wanted_users
from tests.storage.support import ITEMS, T0, Row, history, table


def test_keys_compare_as_places_in_history():
    plain = HistoryKey(T0, 0, 0, 5, displaced=False, off=5)
    after = HistoryKey(T0, 0, 0, 5, displaced=True, off=9)
    later = HistoryKey(T0, 0, 0, 6, displaced=False, off=6)
    assert sorted([later, after, plain]) == [plain, after, later]


def test_partition_tables_go_round():
    values = {("a", 1): 5, ("b", 0): 7}
    assert partition_dict(partition_table(values, "x"), "x") == values
    assert partition_table(None, "x").num_rows == 0


def test_wanted_users_are_listed_once():
    key = HistoryKey(1, 2, 3, 4, displaced=True, off=5)
    found = wanted_users([3, 3, 1], {1: 9}, {3: key})
    assert found["user_idx"].to_pylist() == [3, 1]
    assert found["upto"].to_pylist() == [None, 9]
    assert found["b_displaced"].to_pylist() == [True, None]


def test_rows_of_another_partition_have_no_upper_offset():
    rows = [Row(0, 0, T0, 0, 5), Row(2, 0, T0 + 1, 0, 90), Row(0, 0, T0 + 2, 0, 8)]
    found = table(rows, np.zeros(3, np.int64), np.zeros(3, np.int64))
    home = {0: ("clicks", 0)}
    assert bounds.below(found, {0: 6}, home).tolist() == [True, True, False]
    assert bounds.below(found, {0: 6}, {}).tolist() == [True, False, False]
    assert bounds.below(found, None, home).all()


def test_sides_of_a_key_and_history_order():
    rows = [Row(0, i, T0 + i % 2, 0, i) for i in range(len(ITEMS))]
    found = table(rows, np.zeros(4, np.int64), np.arange(4))
    ordered = history(rows, 0)
    signs = bounds.side(found, {0: ordered[1].key})
    by_offset = {row.off: sign for row, sign in zip(rows, signs.tolist(), strict=True)}
    assert [by_offset[r.off] for r in ordered] == [-1, 0, 1, 1]
    assert set(bounds.side(found, {5: ordered[1].key}).tolist()) == {bounds.NO_KEY}
    mixed = found.take(pa.array([3, 1, 0, 2]))
    assert bounds.in_history_order(mixed)["off"].to_pylist() == [r.off for r in ordered]
