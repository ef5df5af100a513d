"""Pages of keys and values that the caches of many users share.

One allocation serves every user: rows lie in pages of ``PAGE_ROWS``, a cache is a list of page
numbers, and a batch of users is read by one gather per layer instead of a loop over users. Memory
is not touched before a page is used, so a large arena costs what its users fill.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.backbone import KeyValues
from model.config import ModelConfig

PAGE_ROWS = 16
"""Rows per page: a user wastes half of it on average, twice (recents and tokens)."""
_FIRST_NBYTES = 1 << 30
"""Address space taken at first, as much as states may fill by default: a larger arena has to copy a full one."""
_META = 6
TIME, ORDINAL, POSITION, AGE, ITEM_ROW, TYPE_ROW = range(_META)
"""Rows of the metadata: event time in ms, ordinal, position, age of a token's group, model rows of the item and type."""


class Arena:
    """Keys, values and metadata in pages.

    Args:
        config: Shapes and dtype.

    Attributes:
        page_nbytes: Memory of one page, bytes.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._layers = config.n_layers
        self._d_kv = config.d_kv
        self._compute_dtype = np.dtype(config.compute_dtype)
        self._kv = self._new_kv(0)
        self._meta = self._new_meta(0)
        self._free: list[int] = []
        self._used = 0
        row = 2 * config.n_layers * config.d_kv * self._compute_dtype.itemsize + _META * 8
        self.page_nbytes = PAGE_ROWS * row

    @property
    def n_pages(self) -> int:
        """Pages that exist."""
        return self._meta.shape[1]

    @property
    def used_nbytes(self) -> int:
        """Memory of the pages in use, bytes."""
        return self._used * self.page_nbytes

    def take(self, count: int) -> list[int]:
        """Numbers of ``count`` pages, now in use; the arena doubles where none are free."""
        if count > len(self._free):
            needed = self.n_pages + count - len(self._free)
            self._grow(max(_FIRST_NBYTES // self.page_nbytes, 2 * self.n_pages, needed))
        self._used += count
        cut = len(self._free) - count
        pages = self._free[cut:]
        del self._free[cut:]
        return pages

    def give(self, pages: Iterable[int]) -> None:
        """Take pages back."""
        before = len(self._free)
        self._free.extend(pages)
        self._used -= len(self._free) - before

    def write_meta(self, rows: Tensor, meta: Tensor) -> None:
        """Set metadata int64 [6, N] of rows int64 [N], numbered through all pages."""
        self._meta.view(_META, -1).index_copy_(1, rows, meta)

    def write(self, layer: int, rows: Tensor, new: KeyValues) -> None:
        """Set one layer's keys and values, each [N, d_kv], of rows int64 [N]."""
        for side, values in enumerate((new.k, new.v)):
            self._kv[layer, side].view(-1, self._d_kv).index_copy_(0, rows, values)

    def read_meta(self, pages: Tensor) -> Tensor:
        """Metadata int64 [6, B, P * PAGE_ROWS] of pages int64 [B, P]."""
        found = self._meta.index_select(1, pages.flatten())
        return found.view(_META, len(pages), -1)

    def read(self, layer: int, pages: Tensor) -> KeyValues:
        """One layer's keys and values, each [B, P * PAGE_ROWS, d_kv], of pages int64 [B, P]."""
        shape = (len(pages), pages.shape[1] * PAGE_ROWS, self._d_kv)
        flat = pages.flatten()
        k, v = (self._kv[layer, side].index_select(0, flat).view(shape) for side in (0, 1))
        return KeyValues(k, v)

    def meta_of(self, rows: Tensor) -> Tensor:
        """Metadata int64 [6, N] of rows int64 [N]."""
        return self._meta.view(_META, -1).index_select(1, rows)

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copy keys and values of rows int64 [N] to other rows."""
        for layer in range(self._layers):
            for side in (0, 1):
                flat = self._kv[layer, side].view(-1, self._d_kv)
                flat.index_copy_(0, target, flat.index_select(0, source))

    def _grow(self, n_pages: int) -> None:
        have = self.n_pages
        if n_pages <= have:
            return
        kv = self._new_kv(n_pages)
        kv[:, :, :have] = self._kv
        meta = self._new_meta(n_pages)
        meta[:, :have] = self._meta
        self._kv, self._meta = kv, meta
        self._free = [*range(n_pages - 1, have - 1, -1), *self._free]

    def _new_kv(self, n_pages: int) -> Tensor:
        # zeros, for what a mask leaves out is still multiplied; numpy's cost no memory until used
        shape = (self._layers, 2, n_pages, PAGE_ROWS * self._d_kv)
        return torch.from_numpy(np.zeros(shape, self._compute_dtype))

    def _new_meta(self, n_pages: int) -> Tensor:
        return torch.from_numpy(np.zeros((_META, n_pages, PAGE_ROWS), np.int64))


def page_table(pages: Iterable[list[int]], rows: int) -> Tensor:
    """Pages per user as one table int64 [B, P] for up to ``rows`` rows; missing ones repeat page 0.

    Args:
        pages: Page numbers per user.
        rows: Most rows any of them holds.
    """
    width = -(-rows // PAGE_ROWS)
    lists = [[*own[:width], *[0] * (width - len(own))] for own in pages]
    return torch.tensor(lists, dtype=torch.int64).view(len(lists), width)


def row_numbers(pages: list[int], start: int, stop: int) -> NDArray[np.int64]:
    """Arena rows int64 [stop - start] of one user's rows ``start..stop``."""
    places = np.arange(start, stop)
    found: NDArray[np.int64] = np.asarray(pages, np.int64)[places // PAGE_ROWS] * PAGE_ROWS
    return found + places % PAGE_ROWS
