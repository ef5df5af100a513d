"""Which event ids may have been stored before: a filter in memory that spares the search for duplicates.

It never misses an id that was added; about one in a hundred thousand it takes for known wrongly, and the search then says
so. Derived: a restart fills it from the store, when the first event with an id arrives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage import interactions
from storage.dictionary import hashes

if TYPE_CHECKING:
    import pyarrow as pa

    from storage.records import Reader

Keys: TypeAlias = NDArray[np.uint64]

_BYTES_PER_ID = 4
_WORDS = 3  # per id, with four bits in each
_BITS = 4
_FIRST_IDS = 1 << 18
_GROWTH = 4
_USERS_PER_READ = 20_000
_ODD = np.uint64(0x9E3779B97F4A7C15)
_SALTS = np.arange(1, _WORDS + 1, dtype=np.uint64) * _ODD
_HALF = np.uint64(32)
_ONE = np.uint64(1)
_SIX = np.uint64(63)


class SeenIds:
    """Layers of a Bloom filter, each four times as large as the one before; about 4 bytes per id.

    Args:
        max_bytes: memory; once it is used, more ids only mean more searches.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._layers = [_Layer(min(_FIRST_IDS, max_bytes // _BYTES_PER_ID))]

    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        return sum(layer.nbytes for layer in self._layers)

    def load(self, reader: Reader) -> None:
        """Add every stored id."""
        for start in range(0, interactions.user_count(reader), _USERS_PER_READ):
            table = interactions.event_ids(reader, start, start + _USERS_PER_READ)
            if table.num_rows:
                self.add(id_keys(table["user_idx"].to_numpy(), table["event_id"].combine_chunks()))

    def maybe(self, keys: Keys) -> NDArray[np.bool_]:
        """Which ids may have been added, bool [N], by their `id_keys`."""
        known = np.zeros(len(keys), dtype=bool)
        for layer in self._layers:
            known |= layer.holds(keys)
        return known

    def add(self, keys: Keys) -> None:
        """Take in ids by their `id_keys`."""
        while len(keys):
            last = self._layers[-1]
            room = last.capacity - last.count
            if self.nbytes + _GROWTH * last.nbytes > self._max_bytes:
                room = len(keys)  # the last layer that memory allows
            elif room <= 0:
                self._layers.append(_Layer(_GROWTH * last.capacity))
                continue
            last.add(keys[:room])
            keys = keys[room:]


class _Layer:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        self._words = np.zeros(max(1, capacity * _BYTES_PER_ID // 8), np.uint64)

    @property
    def nbytes(self) -> int:
        return int(self._words.nbytes)

    def holds(self, keys: Keys) -> NDArray[np.bool_]:
        left = np.arange(len(keys))
        for turn in range(_WORDS):
            place, bits = self._place(keys[left], turn)
            left = left[(self._words[place] & bits) == bits]
        known = np.zeros(len(keys), dtype=bool)
        known[left] = True
        return known

    def add(self, keys: Keys) -> None:
        for turn in range(_WORDS):
            place, bits = self._place(keys, turn)
            np.bitwise_or.at(self._words, place, bits)
        self.count += len(keys)

    def _place(self, keys: Keys, turn: int) -> tuple[NDArray[np.int64], Keys]:
        """Return each key's word of a turn, and its bits in it."""
        drawn = _mixed(keys + _SALTS[turn])
        place = ((drawn >> _HALF) * np.uint64(len(self._words))) >> _HALF
        bits = np.zeros(len(keys), np.uint64)
        for bit in range(_BITS):
            bits |= _ONE << ((drawn >> np.uint64(6 * bit)) & _SIX)
        return place.astype(np.int64), bits


def id_keys(users: NDArray[np.int64], event_ids: pa.Array) -> Keys:
    """Return a 64-bit key per event id of a user, uint64 [N]; the ids without nulls."""
    return _mixed(hashes(event_ids) ^ (users.astype(np.uint64) * _ODD))


def _mixed(keys: Keys) -> Keys:
    keys = (keys ^ (keys >> _HALF)) * _ODD
    keys = (keys ^ (keys >> np.uint64(29))) * _ODD
    return np.asarray(keys ^ (keys >> _HALF), np.uint64)
