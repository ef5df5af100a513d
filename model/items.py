"""Items: from external ids and texts to vectors.

An item is read as its table row plus the mean of its hashed word rows. An id outside the
vocabulary reads one of a few shared hash bucket rows; buckets are trained because in training a
share of the items (``id_dropout``) is read through its bucket. Row space of ``item_row``::

    0              no item (padding)
    1 .. V         vocabulary
    V+1 .. V+B     hash buckets of unknown ids

Texts of known items are frozen in the checkpoint as word rows, so the same id always reads the
same vector under one model version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ModelConfig
from model.errors import ShapeError

Ints: TypeAlias = NDArray[np.int64]

MAX_WORDS = 32
"""Distinct words of one text that are read; the rest is left out."""

INITIAL_STD = 0.05
_WORD = re.compile(r"\w+")


@lru_cache(maxsize=1 << 17)
def stable_hash(text: str, purpose: str) -> int:
    """A 63-bit hash of a text that is the same in every process and release."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=purpose.encode())
    return int.from_bytes(digest.digest(), "little") >> 1


def word_rows(text: str | None, n_words: int) -> list[int]:
    """Rows of the word table for a text: distinct lower-cased words, in order, 1-based."""
    words = dict.fromkeys(_WORD.findall(text.lower())) if text else {}
    return [1 + stable_hash(word, "word") % n_words for word in list(words)[:MAX_WORDS]]


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """The items a model version knows, with the word rows of their texts.

    Attributes:
        item_ids: External ids; id i has item row i + 1.
        word_ptr: int64 [V + 1], words of item i are ``words[word_ptr[i]:word_ptr[i + 1]]``.
        words: int64, rows of the word table.
        n_buckets: Hash bucket rows that follow the vocabulary.
    """

    item_ids: tuple[str, ...]
    word_ptr: Ints
    words: Ints
    n_buckets: int
    _row_of: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = {item: index + 1 for index, item in enumerate(self.item_ids)}
        if len(rows) != len(self.item_ids):
            raise ShapeError("vocabulary: an item id is listed twice; list each id once")
        if self.word_ptr.shape != (len(rows) + 1,) or self.word_ptr[-1] != len(self.words):
            raise ShapeError("vocabulary: word lists do not match the item ids; build it anew")
        object.__setattr__(self, "_row_of", rows)

    @classmethod
    def build(
        cls,
        item_ids: Sequence[str],
        texts: Mapping[str, str | None] | None,
        config: ModelConfig,
    ) -> Vocabulary:
        """A vocabulary of the given ids, in this order, with the texts where there are any.

        Raises:
            ShapeError: If an id is listed twice.
        """
        texts = texts or {}
        rows = [word_rows(texts.get(item), config.n_words) for item in item_ids]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        pointer = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        flat = np.array([word for row in rows for word in row], dtype=np.int64)
        return cls(tuple(item_ids), pointer, flat, config.n_buckets)

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def n_rows(self) -> int:
        """Size of the item row space: padding, vocabulary, buckets."""
        return 1 + len(self.item_ids) + self.n_buckets

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._row_of

    def bucket_row(self, item_id: str) -> int:
        """The shared row that an id would read if it were unknown."""
        return 1 + len(self.item_ids) + stable_hash(item_id, "item") % self.n_buckets

    def rows(self, item_ids: Sequence[str]) -> Ints:
        """Item rows of external ids; unknown ids read their hash bucket. int64 [N]."""
        known = self._row_of
        rows = (known.get(item) or self.bucket_row(item) for item in item_ids)
        return np.fromiter(rows, dtype=np.int64, count=len(item_ids))

    def buckets(self) -> Ints:
        """For each row of the item row space the bucket row it may be replaced by. int64."""
        rows = np.arange(self.n_rows, dtype=np.int64)
        rows[1 : 1 + len(self.item_ids)] = [self.bucket_row(item) for item in self.item_ids]
        return rows

    def digest(self) -> str:
        """sha256 over ids and word rows, in hex."""
        digest = sha256()
        for item in self.item_ids:
            data = item.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(4, "little") + data)
        digest.update(self.word_ptr.astype("<i8").tobytes() + self.words.astype("<i8").tobytes())
        digest.update(self.n_buckets.to_bytes(4, "little"))
        return digest.hexdigest()


class ItemTable(nn.Module):
    """Item rows and word rows of one vocabulary.

    Args:
        config: Widths and table sizes.
        vocabulary: The known items.
    """

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.n_known = len(vocabulary)
        self.id_rows = nn.Parameter(_normal(vocabulary.n_rows, config.d_model))
        self.word_rows = nn.Parameter(_normal(config.n_words + 1, config.d_model))
        words, starts = torch.from_numpy(vocabulary.words), vocabulary.word_ptr
        self.register_buffer("words", words, persistent=False)
        self.register_buffer("word_start", torch.from_numpy(starts[:-1]), persistent=False)
        self.register_buffer("bucket", torch.from_numpy(vocabulary.buckets()), persistent=False)
        self.words: Tensor
        self.word_start: Tensor
        self.bucket: Tensor

    def vectors(self, *, id_dropout: float = 0.0) -> Tensor:
        """Vectors of the whole item row space, not normalized.

        Args:
            id_dropout: Chance per item that its table row is replaced by its bucket row, drawn
                once for this call.

        Returns:
            [1 + V + n_buckets, d]; row 0 is zero.
        """
        rows = torch.arange(len(self.bucket), device=self.bucket.device)
        if id_dropout > 0.0:
            drop = torch.rand(len(rows), device=rows.device) < id_dropout
            rows = torch.where(drop, self.bucket, rows)
        ids = F.embedding(rows, self.id_rows)
        text = ids.new_zeros(ids.shape)
        if len(self.words):
            means = F.embedding_bag(self.words, self.word_rows, self.word_start, mode="mean")
            text = torch.cat([text[:1], means, text[1 + self.n_known :]])
        alive = torch.ones(len(rows), 1, dtype=ids.dtype, device=ids.device)
        alive[0] = 0.0
        return (ids + text) * alive

    def text_vector(self, words: Sequence[int]) -> Tensor:
        """Mean of some word rows, [d]; zeros for no words."""
        if not words:
            return self.word_rows.new_zeros(self.word_rows.shape[1])
        return self.word_rows[torch.tensor(list(words), device=self.words.device)].mean(0)


def _normal(rows: int, width: int) -> Tensor:
    table = torch.randn(rows, width) * INITIAL_STD
    table[0] = 0.0
    return table
