"""External ids of users and items to dense internal ones, kept in memory and in the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.database import Tx
from storage.errors import IdentityError
from storage.records import PartitionKey, Reader

Strings: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray
Integers: TypeAlias = Sequence[int] | npt.NDArray[np.int64] | pa.Array | pa.ChunkedArray


class _Dictionary:
    """Strings numbered from 0 in order of first sight."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids
        self.index = {name: place for place, name in enumerate(ids)}

    def encode(self, names: pa.Array) -> tuple[npt.NDArray[np.int64], list[int]]:
        """Return the indexes of `names` and, for each new name, the row where it first stands."""
        coded = names.dictionary_encode()
        rows = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        known = np.empty(len(coded.dictionary), np.int64)
        fresh: list[int] = []
        for place, name in enumerate(coded.dictionary.to_pylist()):
            found = self.index.get(name)
            if found is None:
                found = len(self.ids)
                self.ids.append(name)
                self.index[name] = found
                fresh.append(place)
            known[place] = found
        if fresh:
            first_rows = np.unique(rows, return_index=True)[1]
            fresh = [int(first_rows[place]) for place in fresh]
        return known[rows], fresh

    def cut(self, size: int) -> None:
        """Forget the names from index `size` on."""
        for name in self.ids[size:]:
            del self.index[name]
        del self.ids[size:]


class Identities:
    """The dictionaries of one database; the writer assigns, any thread looks up."""

    def __init__(self, users: list[str], homes: list[PartitionKey], item_ids: list[str]) -> None:
        self._users = _Dictionary(users)
        self._items = _Dictionary(item_ids)
        self._codes: dict[PartitionKey, int] = {}
        self._partitions: list[PartitionKey] = []
        self._homes = np.empty(max(1024, 2 * len(users)), np.int32)
        for place, home in enumerate(homes):
            self._homes[place] = self._code(home)

    @classmethod
    def load(cls, reader: Reader) -> Identities:
        """Read the dictionaries from the file.

        Raises:
            IdentityError: Internal ids have holes or external ids repeat.
        """
        users = reader.query("SELECT user_idx, user_id, topic, part FROM users ORDER BY user_idx")
        items = reader.query("SELECT item_idx, item_id FROM items ORDER BY item_idx")
        user_ids = _dense(users, "user")
        homes = list(zip(users["topic"].to_pylist(), users["part"].to_pylist(), strict=True))
        return cls(user_ids, homes, _dense(items, "item"))

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
        tx.on_rollback(lambda: self._users.cut(size))
        indexes, fresh = self._users.encode(_strings(user_ids))
        if fresh:
            rows = pa.array(fresh, pa.int64())
            new = pa.table({
                "user_idx": pa.array(range(size, self.n_users), pa.int64()),
                "user_id": pa.array(self._users.ids[size:], pa.string()),
                "topic": _strings(topics).take(rows),
                "part": _integers(parts).take(rows).cast(pa.int32()),
                "first_seen_ms": _integers(ts_ms).take(rows),
            })
            self._set_homes(size, new["topic"].to_pylist(), new["part"].to_pylist())
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
        tx.on_rollback(lambda: self._items.cut(size))
        indexes, fresh = self._items.encode(_strings(item_ids))
        if fresh:
            new = pa.table({
                "item_idx": pa.array(range(size, self.n_items), pa.int64()),
                "item_id": pa.array(self._items.ids[size:], pa.string()),
                "first_seen_ms": _integers(ts_ms).take(pa.array(fresh, pa.int64())),
                "source": pa.array([source] * len(fresh), pa.string()),
            })
            tx.insert("items", new)
        return indexes

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self._users.ids)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self._items.ids)

    @property
    def all_item_ids(self) -> list[str]:
        """External item ids; the place in the list is the internal id."""
        return list(self._items.ids)

    def find_user(self, user_id: str) -> int | None:
        """Return the internal id of a user, None when unknown."""
        return self._users.index.get(user_id)

    def find_item(self, item_id: str) -> int | None:
        """Return the internal id of an item, None when unknown."""
        return self._items.index.get(item_id)

    def user_id(self, user_idx: int) -> str:
        """Return the external id of a user."""
        return self._users.ids[user_idx]

    def item_id(self, item_idx: int) -> str:
        """Return the external id of an item."""
        return self._items.ids[item_idx]

    def user_ids(self, user_idxs: Integers) -> list[str]:
        """Return the external ids of users."""
        ids = self._users.ids
        return [ids[place] for place in _integers(user_idxs).to_pylist()]

    def item_ids(self, item_idxs: Integers) -> list[str]:
        """Return the external ids of items."""
        ids = self._items.ids
        return [ids[place] for place in _integers(item_idxs).to_pylist()]

    def partition(self, user_idx: int) -> PartitionKey:
        """Return the home partition of a user."""
        if not 0 <= user_idx < self.n_users:
            raise IndexError(f"no user {user_idx}")
        return self._partitions[int(self._homes[user_idx])]

    def foreign(
        self, user_idx: npt.NDArray[np.int64], topics: Strings, parts: Integers
    ) -> npt.NDArray[np.bool_]:
        """Return which rows did not come from their user's home partition."""
        coded = _strings(topics).dictionary_encode()
        numbers = _integers(parts).to_numpy(zero_copy_only=False)
        codes = np.full(len(numbers), -1, np.int32)
        names = coded.dictionary.to_pylist()
        topic_of = coded.indices.to_numpy(zero_copy_only=False)
        for place, name in enumerate(names):
            for part in np.unique(numbers[topic_of == place]):
                code = self._codes.get((name, int(part)), -1)
                codes[(topic_of == place) & (numbers == part)] = code
        return np.asarray(self._homes[user_idx] != codes, np.bool_)

    def _set_homes(self, start: int, topics: list[str], parts: list[int]) -> None:
        if start + len(topics) > len(self._homes):
            grown = np.empty(2 * (start + len(topics)), np.int32)
            grown[: len(self._homes)] = self._homes
            self._homes = grown
        for place, home in enumerate(zip(topics, parts, strict=True), start):
            self._homes[place] = self._code(home)

    def _code(self, home: PartitionKey) -> int:
        code = self._codes.get(home)
        if code is None:
            code = len(self._partitions)
            self._partitions.append(home)
            self._codes[home] = code
        return code


def _dense(table: pa.Table, what: str) -> list[str]:
    numbers = table[f"{what}_idx"].to_numpy()
    names: list[str] = table[f"{what}_id"].to_pylist()
    if not np.array_equal(numbers, np.arange(len(numbers))) or len(set(names)) != len(names):
        raise IdentityError(
            f"the {what}s table has holes or repeats in its ids; restore a copy or replay the log"
        )
    return names


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
