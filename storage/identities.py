"""External ids of users and items to dense internal ones, kept in memory and in the file."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.database import Tx
from storage.dictionary import Dictionary
from storage.errors import IdentityError
from storage.records import PartitionKey, Reader

Strings: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray
Integers: TypeAlias = Sequence[int] | npt.NDArray[np.int64] | pa.Array | pa.ChunkedArray


class Identities:
    """The dictionaries of one database; the writer assigns, any thread looks up."""

    def __init__(self, users: Dictionary, item_ids: Dictionary) -> None:
        self._users = users
        self._items = item_ids
        self._item_names: list[str] = []  # as many as were asked for
        self._codes: dict[PartitionKey, int] = {}
        self._partitions: list[PartitionKey] = []
        self._homes = np.empty(max(1024, 2 * len(users)), np.int32)
        self._lock = threading.RLock()
        self._settled = len(item_ids)

    @classmethod
    def load(cls, reader: Reader) -> Identities:
        """Read the dictionaries from the file.

        Raises:
            IdentityError: Internal ids have holes or external ids repeat.
        """
        users = reader.query("SELECT user_idx, user_id, topic, part FROM users ORDER BY user_idx")
        items = reader.query("SELECT item_idx, item_id FROM items ORDER BY item_idx")
        found = cls(_dense(users, "user"), _dense(items, "item"))
        found._set_homes(0, _strings(users["topic"]), _integers(users["part"]))
        return found

    def assign_users(
        self, tx: Tx, user_ids: Strings, topics: Strings, parts: Integers, ts_ms: Integers
    ) -> npt.NDArray[np.int64]:
        """Return the internal id of each row's user, making new ones in the transaction.

        The partition of a user's first row becomes its home. When the transaction is rolled back, the
        new ids are forgotten.

        Args:
            tx: The transaction.
            user_ids: External ids, one per row, in log order; no nulls.
            topics: Topic per row.
            parts: Partition number per row.
            ts_ms: Event time per row.
        """
        size = self.n_users
        tx.on_rollback(lambda: self._cut_users(size))
        with self._lock:
            indexes, fresh = self._users.encode(_strings(user_ids))
        if len(fresh):
            rows, numbers = pa.array(fresh, pa.int64()), np.arange(size, self.n_users)
            topic, part = _strings(topics).take(rows), _integers(parts).take(rows)
            self._set_homes(size, topic, part)
            new = pa.table({
                "user_idx": numbers,
                "user_id": self._users.names(numbers),
                "topic": topic,
                "part": part.cast(pa.int32()),
                "first_seen_ms": _integers(ts_ms).take(rows),
            })
            tx.insert("users", new)
        return indexes

    def assign_items(
        self, tx: Tx, item_ids: Strings, ts_ms: Integers, source: str = "interaction"
    ) -> npt.NDArray[np.int64]:
        """Return the internal id of each row's item, making new ones in the transaction.

        A new item is available and has no text until `items.upsert` says otherwise.

        Args:
            tx: The transaction.
            item_ids: External ids, one per row, in log order; no nulls.
            ts_ms: Time first seen, one per row; nulls allowed.
            source: What made the item known.
        """
        size = self.n_items
        tx.on_rollback(lambda: self._cut_items(size))
        tx.on_commit(self._settle)
        with self._lock:
            indexes, fresh = self._items.encode(_strings(item_ids))
        if len(fresh):
            numbers = np.arange(size, self.n_items)
            new = pa.table({
                "item_idx": numbers,
                "item_id": self._items.names(numbers),
                "first_seen_ms": _integers(ts_ms).take(pa.array(fresh, pa.int64())),
                "source": pa.array([source] * len(fresh), pa.string()),
            })
            tx.insert("items", new)
        return indexes

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self._users)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self._items)

    @property
    def n_settled_items(self) -> int:
        """Number of items whose transaction is committed: no other item will ever have their internal ids."""
        return self._settled

    @property
    def all_item_ids(self) -> list[str]:
        """External item ids; the place in the list is the internal id."""
        return list(self._named_items())

    def find_user(self, user_id: str) -> int | None:
        """Return the internal id of a user, None when unknown."""
        with self._lock:
            return self._users.find(user_id)

    def find_item(self, item_id: str) -> int | None:
        """Return the internal id of an item, None when unknown."""
        with self._lock:
            return self._items.find(item_id)

    def user_id(self, user_idx: int) -> str:
        """Return the external id of a user."""
        return self._users.name(user_idx)

    def item_id(self, item_idx: int) -> str:
        """Return the external id of an item."""
        return self._items.name(item_idx)

    def user_ids(self, user_idxs: Integers) -> list[str]:
        """Return the external ids of users."""
        found: list[str] = self._users.names(_integers(user_idxs).to_numpy()).to_pylist()
        return found

    def item_ids(self, item_idxs: Integers) -> list[str]:
        """Return the external ids of items."""
        names = self._named_items()
        return [names[place] for place in _integers(item_idxs).to_pylist()]

    def partition(self, user_idx: int) -> PartitionKey:
        """Return the home partition of a user."""
        if not 0 <= user_idx < self.n_users:
            raise IndexError(f"no user {user_idx}")
        return self._partitions[int(self._homes[user_idx])]

    def foreign(
        self, user_idx: npt.NDArray[np.int64], topics: Strings, parts: Integers
    ) -> npt.NDArray[np.bool_]:
        """Return which rows did not come from their user's home partition."""
        codes = np.full(len(user_idx), -1, np.int32)
        for home, rows in _by_partition(_strings(topics), _integers(parts)):
            codes[rows] = self._codes.get(home, -1)
        return np.asarray(self._homes[user_idx] != codes, np.bool_)

    @property
    def nbytes(self) -> int:
        """Memory held, bytes, about."""
        names = sum(len(name) + 57 for name in self._item_names)
        return self._users.nbytes + self._items.nbytes + int(self._homes.nbytes) + names

    def _named_items(self) -> list[str]:
        """External item ids by internal one: a catalogue is small, and slates name items all the time."""
        with self._lock:
            have = len(self._item_names)
            if have < self.n_items:
                self._item_names += self._items.names(np.arange(have, self.n_items)).to_pylist()
            return self._item_names

    def _settle(self) -> None:
        self._settled = self.n_items

    def _cut_users(self, size: int) -> None:
        with self._lock:
            self._users.cut(size)

    def _cut_items(self, size: int) -> None:
        with self._lock:
            self._items.cut(size)
            del self._item_names[size:]

    def _set_homes(self, start: int, topics: pa.Array, parts: pa.Array) -> None:
        end = start + len(topics)
        if end > len(self._homes):
            grown = np.empty(2 * end, np.int32)
            grown[: len(self._homes)] = self._homes
            self._homes = grown
        for home, rows in _by_partition(topics, parts):
            self._homes[start:end][rows] = self._code(home)

    def _code(self, home: PartitionKey) -> int:
        code = self._codes.get(home)
        if code is None:
            code = len(self._partitions)
            self._partitions.append(home)
            self._codes[home] = code
        return code


def _dense(table: pa.Table, what: str) -> Dictionary:
    numbers = table[f"{what}_idx"].to_numpy()
    names = Dictionary(_strings(table[f"{what}_id"]))
    if not np.array_equal(numbers, np.arange(len(numbers))) or len(names) != len(numbers):
        raise IdentityError(
            f"the {what}s table has holes or repeats in its ids; restore a copy or replay the log"
        )
    return names


def _by_partition(
    topics: pa.Array, parts: pa.Array
) -> list[tuple[PartitionKey, npt.NDArray[np.bool_] | slice]]:
    """Return the partitions that rows come from, each with its rows."""
    if not len(topics):
        return []
    coded = topics.dictionary_encode()
    names = coded.dictionary.to_pylist()
    topic_of = coded.indices.to_numpy(zero_copy_only=False)
    numbers = parts.to_numpy(zero_copy_only=False)
    if len(names) == 1 and (numbers == numbers[0]).all():
        return [((names[0], int(numbers[0])), slice(None))]
    return [
        ((name, int(part)), (topic_of == place) & (numbers == part))
        for place, name in enumerate(names)
        for part in np.unique(numbers[topic_of == place])
    ]


def _combined(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _strings(values: Strings) -> pa.Array:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return _combined(values).cast(pa.string())
    return pa.array(values, pa.string())


def _integers(values: Integers) -> pa.Array:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return _combined(values).cast(pa.int64())
    return pa.array(values, pa.int64())
