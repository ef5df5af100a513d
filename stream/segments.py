"""What a tick reads: rows of due segments as the arrays a model takes, and the token chains they continue."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.engine import Rows, TokenBlock
from storage import backlog
from storage.records import HistoryKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from model.engine import Engine
    from storage.records import Reader

_KEY_BYTES = 512  # of a chain besides its arrays


@dataclass(frozen=True, slots=True)
class Due:
    """Segments of one user that are due and not stored: numbers first..last, one after the other."""

    user_idx: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(slots=True)
class Chain:
    """A user's newest token blocks, oldest first, and the place of the last interaction they cover."""

    blocks: list[TokenBlock]
    last: HistoryKey | None

    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        return _KEY_BYTES + sum(block.kv.nbytes + block.outputs.nbytes for block in self.blocks)


class ChainCache:
    """Chains of users compressed lately, so that their next segment reads no groups from the store.

    Args:
        max_bytes: memory of the chains kept; the ones used longest ago go first.
        window: groups a segment reads; None for all.
    """

    def __init__(self, max_bytes: int, window: int | None) -> None:
        self._max_bytes = max_bytes
        self._window = window
        self._chains: OrderedDict[int, Chain] = OrderedDict()
        self.nbytes = 0

    def take(self, user: int, groups: int) -> Chain | None:
        """Remove and return a user's chain; None where there is none that ends with its newest of `groups` groups."""
        chain = self._chains.pop(user, None)
        if chain is None:
            return None
        self.nbytes -= chain.nbytes
        return chain if chain.blocks[-1].segment == groups - 1 else None

    def put(self, user: int, chain: Chain) -> None:
        """Keep a chain whose groups are stored."""
        if self._window is not None:
            del chain.blocks[: -self._window]
        self._chains[user] = chain
        self.nbytes += chain.nbytes
        while self.nbytes > self._max_bytes:
            _, oldest = self._chains.popitem(last=False)
            self.nbytes -= oldest.nbytes


class SegmentRows:
    """Rows of the due segments of some users.

    Args:
        reader: where to read.
        engine: the model version that will read them.
        item_rows: model row of every item, indexed by internal id.
        due: which segments.
        chains: per user the groups before them.
    """

    def __init__(
        self,
        reader: Reader,
        engine: Engine,
        item_rows: NDArray[np.int64],
        due: Sequence[Due],
        chains: Mapping[int, Chain],
    ) -> None:
        self._n = n = engine.config.segment_len
        self._due = {d.user_idx: d for d in due}
        table = backlog.uncovered_rows(
            reader,
            {d.user_idx: chains[d.user_idx].last for d in due},
            {d.user_idx: len(d) * n for d in due},
        )
        types = table["event_type"].combine_chunks().dictionary_encode()
        type_rows = engine.type_rows(types.dictionary.to_pylist())
        self._type_row = type_rows[types.indices.to_numpy()]
        self._item_row = item_rows[table["item_idx"].to_numpy()]
        self._keys = np.stack(
            [
                table[name].to_numpy(zero_copy_only=False).astype(np.int64)
                for name in HistoryKey._fields
            ],
            axis=1,
        )
        users, starts = np.unique(table["user_idx"].to_numpy(), return_index=True)
        self._starts = dict(zip(users.tolist(), starts.tolist(), strict=True))

    def keys(self, user: int, segment: int) -> NDArray[np.int64]:
        """History keys of a segment's rows, int64 [n, 6]."""
        return self._keys[self._where(user, segment)]

    def rows(self, user: int, segment: int) -> Rows:
        """A segment as the model reads it."""
        where = self._where(user, segment)
        return Rows(
            item_row=self._item_row[where],
            type_row=self._type_row[where],
            time_ms=self._keys[where, 0],
            ordinal=np.arange(segment * self._n, (segment + 1) * self._n, dtype=np.int64),
        )

    def _where(self, user: int, segment: int) -> slice:
        start = self._starts[user] + (segment - self._due[user].first) * self._n
        return slice(start, start + self._n)
