"""A stored batch as arrays, on its way through the scorer. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from storage.records import HistoryKey
from stream.history import history_key
from stream.slates import Cause

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from storage.identities import Identities

    Ints = NDArray[np.int64]
    Flags = NDArray[np.bool_]

EVERYTHING = 1 << 62
"""As an exclusive offset: everything that is stored."""


@dataclass(frozen=True, slots=True)
class Codes:
    """A column of few distinct strings: their names and the code of each row, -1 for null."""

    names: list[str]
    code: Ints

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Codes:
        """Encode a column."""
        coded = column.combine_chunks().dictionary_encode()
        return cls(coded.dictionary.to_pylist(), _ints(pc.fill_null(coded.indices, -1)))

    def name(self, row: int) -> str | None:
        """The string of a row."""
        code = int(self.code[row])
        return None if code < 0 else self.names[code]


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows of a stored batch in its order, N entries per array, whether they enter the history or not.

    `keys` [N, 6] are history keys; `session_id` and `event_id` are None where no row has one. `as_of` is the
    exclusive offset in the user's own partition up to which the state before the row was stored: the row's own,
    or everything where the row came from another partition, whose offsets say nothing of it.
    """

    user_idx: Ints
    item_idx: Ints
    event_type: Codes
    ts_ms: Ints
    weight: NDArray[np.float64]
    keys: Ints
    in_history: Flags
    scores: Flags
    session_id: Codes | None
    event_id: list[str | None] | None
    topic: Codes
    part: Ints
    off: Ints
    as_of: Ints

    @classmethod
    def of(cls, table: pa.Table, identities: Identities) -> StoredRows:
        """The columns of a table of interactions that the scorer reads."""
        users, off = _ints(table["user_idx"]), _ints(table["off"])
        away = identities.foreign(users, table["topic"], table["part"])
        return cls(
            user_idx=users,
            item_idx=_ints(table["item_idx"]),
            event_type=Codes.of(table["event_type"]),
            ts_ms=_ints(table["ts_ms"]),
            weight=table["weight"].to_numpy(),
            keys=np.stack([_ints(table[name]) for name in HistoryKey._fields], axis=1),
            in_history=table["in_history"].to_numpy(),
            scores=table["scores"].to_numpy(),
            session_id=None if _all_null(table["session_id"]) else Codes.of(table["session_id"]),
            event_id=None if _all_null(table["event_id"]) else table["event_id"].to_pylist(),
            topic=Codes.of(table["topic"]),
            part=_ints(table["part"]),
            off=off,
            as_of=np.where(away, EVERYTHING, off),
        )

    def __len__(self) -> int:
        return len(self.user_idx)

    def key(self, row: int) -> HistoryKey:
        """History key of a row."""
        return history_key(self.keys[row])

    def session(self, row: int) -> str | None:
        """Session of a row."""
        return None if self.session_id is None else self.session_id.name(row)

    def causes(self, rows: Ints) -> list[Cause]:
        """The records of some rows as causes of slates."""
        topics, events = self.topic.names, self.event_id
        columns = zip(
            rows.tolist(),
            self.topic.code[rows].tolist(),
            self.part[rows].tolist(),
            self.off[rows].tolist(),
            self.ts_ms[rows].tolist(),
            strict=True,
        )
        return [
            Cause(
                topic=topics[topic],
                partition=part,
                offset=off,
                event_id=None if events is None else events[row],
                ts=ts,
            )
            for row, topic, part, off, ts in columns
        ]


def _ints(column: pa.ChunkedArray | pa.Array) -> Ints:
    return np.asarray(column.to_numpy(zero_copy_only=False).astype(np.int64))


def _all_null(column: pa.ChunkedArray) -> bool:
    return bool(column.null_count == len(column))
