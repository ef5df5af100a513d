"""Which event ids may have been stored before: a filter in memory that spares the search for duplicates.

It never misses an id that was added; about one in a hundred thousand it takes for known wrongly, and the search then says
so. Derived: a restart fills it from the store, when the first event with an id arrives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storage import interactions
from storage.dictionary import hashes

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from storage.records import Reader

_BITS_PER_ID = 24
_PROBES = 12
_FIRST_IDS = 1 << 18
_GROWTH = 4
_USERS_PER_READ = 20_000
_ODD = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


class SeenIds:
    """Layers of a Bloom filter, each four times as large as the one before; 3 to 4 bytes per id.

    Args:
        max_bytes: memory; once it is used, more ids only mean more searches.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._layers = [_Layer(min(_FIRST_IDS, 8 * max_bytes // _BITS_PER_ID))]

    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        return sum(layer.nbytes for layer in self._layers)

    def load(self, reader: Reader) -> None:
        """Add every stored id."""
        for start in range(0, interactions.user_count(reader), _USERS_PER_READ):
            table = interactions.event_ids(reader, start, start + _USERS_PER_READ)
            if table.num_rows:
                self.add(table["user_idx"].to_numpy(), table["event_id"].combine_chunks())

    def maybe(self, users: NDArray[np.int64], event_ids: pa.Array) -> NDArray[np.bool_]:
        """Which of the users' event ids may have been added, bool [N]."""
        keys = _keys(users, event_ids)
        known = np.zeros(len(keys), dtype=bool)
        for layer in self._layers:
            known |= layer.holds(keys)
        return known

    def add(self, users: NDArray[np.int64], event_ids: pa.Array) -> None:
        """Take in event ids of users, N each; the ids without nulls."""
        last = self._layers[-1]
        if last.count >= last.capacity and self.nbytes + _GROWTH * last.nbytes <= self._max_bytes:
            last = _Layer(_GROWTH * last.capacity)
            self._layers.append(last)
        last.add(_keys(users, event_ids))


class _Layer:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        self._bits = np.zeros(max(1, capacity * _BITS_PER_ID // 8), np.uint8)

    @property
    def nbytes(self) -> int:
        return int(self._bits.nbytes)

    def holds(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        known = np.zeros(len(keys), dtype=bool)
        left = np.arange(len(keys))
        for probe in range(_PROBES):
            byte, bit = self._place(keys[left], probe)
            left = left[(self._bits[byte] & bit) != 0]
        known[left] = True
        return known

    def add(self, keys: NDArray[np.uint64]) -> None:
        for probe in range(_PROBES):
            byte, bit = self._place(keys, probe)
            np.bitwise_or.at(self._bits, byte, bit)
        self.count += len(keys)

    def _place(
        self, keys: NDArray[np.uint64], probe: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        step = (keys >> _HALF) | np.uint64(1)
        at = (keys + np.uint64(probe) * step) % np.uint64(8 * len(self._bits))
        bit = np.left_shift(np.uint8(1), (at & np.uint64(7)).astype(np.uint8))
        return (at >> np.uint64(3)).astype(np.int64), bit


def _keys(users: NDArray[np.int64], event_ids: pa.Array) -> NDArray[np.uint64]:
    keys = (hashes(event_ids) ^ users.astype(np.uint64)) * _ODD
    return np.asarray((keys ^ (keys >> _HALF)) * _ODD, np.uint64)
