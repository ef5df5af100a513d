"""Ragged arrays laid flat: many ranges of rows, one after the other. Pure numpy."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["flat", "ranges"]

Ints: TypeAlias = NDArray[np.int64]


def flat(start: Ints | int, sizes: Ints) -> Ints:
    """The rows ``start``, ``start + 1``, .. of each range, as many as its size, int64 [sum of sizes]."""
    ends = sizes.cumsum()
    found: Ints = np.arange(sizes.sum()) + np.repeat(start + sizes - ends, sizes)
    return found


def ranges(start: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """Every row of the ranges ``start:stop``, int64 [N] each: the number of its range, and the row itself.

    A range that ends before it starts has no rows.
    """
    sizes = np.maximum(stop - start, 0)
    return np.repeat(np.arange(len(sizes)), sizes), flat(start, sizes)
