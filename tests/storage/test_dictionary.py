import random

import numpy as np
import pyarrow as pa
import pytest

from storage.dictionary import Dictionary, hashes

ODD = ["", "\0", "\0\0", "a", "a\0", "é", "éé", *("x" * n for n in range(60, 70))]


def strings(names):
    return pa.array(names, pa.string())


def drawn(rng, count):
    return [
        rng.choice(ODD) if rng.random() < 0.1 else f"u{rng.randrange(9000)}" for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_strings_are_numbered_as_a_plain_dict_would(seed):
    rng = random.Random(seed)
    found, expected = Dictionary(), {}
    for _ in range(25):
        names = drawn(rng, rng.randrange(3000))
        fresh = [
            row
            for row, name in enumerate(names)
            if name not in expected and name not in names[:row]
        ]
        for name in names:
            expected.setdefault(name, len(expected))
        numbers, rows = found.encode(pa.concat_arrays([strings(["before"]), strings(names)])[1:])
        assert numbers.tolist() == [expected[name] for name in names]
        assert rows.tolist() == fresh
        assert found.names(np.arange(len(found))).to_pylist() == list(expected)


def test_lookups_find_what_was_numbered_and_nothing_else():
    found = Dictionary(strings(ODD))
    assert [found.find(name) for name in ODD] == list(range(len(ODD)))
    assert [found.name(number) for number in range(len(ODD))] == ODD
    assert found.find("b") is None
    with pytest.raises(IndexError):
        found.name(len(ODD))
    with pytest.raises(IndexError):
        found.name(-1)


def test_strings_that_are_cut_are_numbered_anew():
    found = Dictionary(strings([f"u{n}" for n in range(5000)]))
    found.cut(10)
    assert (len(found), found.find("u9"), found.find("u10")) == (10, 9, None)
    assert found.encode(strings(["u77", "u3"]))[0].tolist() == [10, 3]


def test_a_hash_does_not_depend_on_the_neighbors():
    together = hashes(strings(ODD))
    assert [hashes(strings([name]))[0] for name in ODD] == together.tolist()
    assert len(set(together.tolist())) == len(ODD)


def test_equal_hashes_do_not_make_strings_equal(monkeypatch):
    monkeypatch.setattr(
        "storage.dictionary.hashes", lambda texts: np.full(len(texts), 7, np.uint64)
    )
    found = Dictionary(strings(["a", "b", "a", "c"]))
    assert found.encode(strings(["c", "b", "d", "a"]))[0].tolist() == [2, 1, 3, 0]


def test_short_ids_take_little_memory():
    found = Dictionary()
    for start in range(0, 200_000, 50_000):
        found.encode(strings([f"user-{n:07d}" for n in range(start, start + 50_000)]))
    assert found.nbytes / len(found) < 100
