from __future__ import annotations

import numpy as np
import pytest
import torch

from model.errors import ShapeError
from model.items import ItemTable, Vocabulary, stable_hash, word_rows
from tests.model.support import N_ITEMS, tiny_config, tiny_vocabulary


def test_known_ids_read_their_row_and_unknown_ids_a_bucket() -> None:
    config = tiny_config()
    vocabulary = tiny_vocabulary(config)
    rows = vocabulary.rows(["item 0", "item 39", "new", "new", "another"])
    assert rows[:2].tolist() == [1, 40]
    assert rows[2] == rows[3]
    assert ((rows[2:] > N_ITEMS) & (rows[2:] < vocabulary.n_rows)).all()
    assert "item 0" in vocabulary
    assert "new" not in vocabulary


def test_buckets_spread_over_all_their_rows() -> None:
    vocabulary = tiny_vocabulary(tiny_config())
    rows = vocabulary.rows([f"unknown {i}" for i in range(300)])
    assert set(rows.tolist()) == set(range(N_ITEMS + 1, vocabulary.n_rows))


def test_hashes_never_change() -> None:
    assert stable_hash("käse", "item") == 7517988422082949496
    assert stable_hash("käse", "word") == 3263550096423789463


def test_words_are_lower_cased_distinct_and_bounded() -> None:
    assert word_rows("Red BOX, red", 97) == word_rows("red box", 97)
    assert word_rows(None, 97) == word_rows("", 97) == word_rows("—!", 97) == []
    assert len(word_rows(" ".join(f"w{i}" for i in range(99)), 10**6)) == 32
    assert all(1 <= row <= 3 for row in word_rows("a b c d e f", 3))


def test_a_vector_is_the_item_row_plus_the_mean_of_its_word_rows() -> None:
    config = tiny_config()
    vocabulary = Vocabulary.build(["a", "b", "c"], {"a": "red box", "c": "red"}, config)
    table = ItemTable(config, vocabulary)
    vectors = table.vectors()
    red, box = (table.word_rows[word_rows(word, config.n_words)[0]] for word in ("red", "box"))
    assert vectors.shape == (1 + 3 + config.n_buckets, config.d_model)
    torch.testing.assert_close(vectors[1], table.id_rows[1] + (red + box) / 2)
    torch.testing.assert_close(vectors[2], table.id_rows[2])
    torch.testing.assert_close(vectors[3], table.id_rows[3] + red)
    torch.testing.assert_close(vectors[4:], table.id_rows[4:])
    assert (vectors[0] == 0).all()


def test_id_dropout_replaces_whole_items_by_their_bucket_and_trains_it() -> None:
    config = tiny_config()
    vocabulary = tiny_vocabulary(config)
    table = ItemTable(config, vocabulary)
    torch.manual_seed(1)
    vectors = table.vectors(id_dropout=0.5)
    plain = table.vectors()
    swapped = table.id_rows[torch.from_numpy(vocabulary.buckets())] + plain - table.id_rows
    dropped = 0
    for row in range(1, N_ITEMS + 1):
        is_plain = torch.allclose(vectors[row], plain[row])
        assert is_plain or torch.allclose(vectors[row], swapped[row], atol=1e-6)
        dropped += not is_plain
    assert 8 <= dropped <= 32
    vectors[1 : N_ITEMS + 1].sum().backward()
    assert table.id_rows.grad is not None
    assert (table.id_rows.grad[N_ITEMS + 1 :] != 0).any()
    assert (table.id_rows.grad[0] == 0).all()


def test_items_without_any_text_read_their_rows_alone() -> None:
    config = tiny_config()
    table = ItemTable(config, Vocabulary.build(["a", "b"], None, config))
    torch.testing.assert_close(table.vectors()[1:], table.id_rows[1:])


def test_the_digest_follows_ids_order_and_texts() -> None:
    config = tiny_config()
    first = Vocabulary.build(["a", "b"], {"a": "red"}, config)
    same = Vocabulary.build(["a", "b"], {"a": "Red!"}, config)
    others = [
        Vocabulary.build(["b", "a"], {"a": "red"}, config),
        Vocabulary.build(["a", "b"], {"a": "blue"}, config),
        Vocabulary.build(["a", "b", "c"], {"a": "red"}, config),
        Vocabulary.build(["a", "b"], {"a": "red"}, tiny_config(n_buckets=6)),
    ]
    assert first.digest() == same.digest()
    assert len({first.digest(), *(other.digest() for other in others)}) == 5


def test_an_id_listed_twice_is_refused() -> None:
    with pytest.raises(ShapeError, match="twice"):
        Vocabulary.build(["a", "a"], None, tiny_config())


def test_word_lists_that_do_not_match_the_ids_are_refused() -> None:
    with pytest.raises(ShapeError, match="word lists"):
        Vocabulary(("a",), np.array([0, 2]), np.array([1]), 3)
