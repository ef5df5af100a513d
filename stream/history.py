"""Stored history rows as arrays per user: visits, keys, model rows. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from model.engine import Rows
from storage.records import HistoryKey

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from model.engine import Engine


_KEY_COLUMNS = HistoryKey._fields
ROW_COLUMNS = (
    "user_idx",
    "item_idx",
    "event_type",
    "ts_ms",
    "weight",
    "session_id",
    "topic",
    "part",
    *_KEY_COLUMNS,
)
"""What `rows_by_user` reads, and what orders and bounds it."""


@dataclass(frozen=True, slots=True)
class UserRows:
    """Rows of one user in history order, one array entry per interaction.

    `h_ts` is the time the model sees, `ts` the event's own; both milliseconds. `first` is the ordinal of the first row.
    """

    first: int
    item_idx: NDArray[np.int64]
    event_type: list[str]
    ts: NDArray[np.int64]
    h_ts: NDArray[np.int64]
    weight: NDArray[np.float64]
    session_id: list[str | None]
    keys: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.item_idx)

    def slice(self, start: int, stop: int | None = None) -> UserRows:
        """Rows `start:stop` of this run."""
        cut = slice(start, stop)
        return UserRows(
            self.first + start,
            self.item_idx[cut],
            self.event_type[cut],
            self.ts[cut],
            self.h_ts[cut],
            self.weight[cut],
            self.session_id[cut],
            self.keys[cut],
        )

    def starting_at(self, first: int) -> UserRows:
        """The same rows, the first of which has ordinal `first`."""
        return replace(self, first=first)

    def before(self, off: int | None) -> UserRows:
        """Rows stored below a log offset; None keeps all."""
        if off is None:
            return self
        kept = np.flatnonzero(self.keys[:, 5] < off)
        if len(kept) == len(self):
            return self
        return UserRows(
            self.first,
            self.item_idx[kept],
            [self.event_type[i] for i in kept],
            self.ts[kept],
            self.h_ts[kept],
            self.weight[kept],
            [self.session_id[i] for i in kept],
            self.keys[kept],
        )

    def key(self, i: int) -> HistoryKey:
        """History key of row i."""
        return history_key(self.keys[i])

    def visit_start(self, end: int, gap_ms: int) -> int:
        """Index at which the visit that ends with row `end - 1` starts."""
        i = end - 1
        while i > 0 and self._continues(i, gap_ms):
            i -= 1
        return max(i, 0)

    def _continues(self, i: int, gap_ms: int) -> bool:
        session, previous = self.session_id[i], self.session_id[i - 1]
        if session is not None and previous is not None:
            return session == previous
        return bool(self.h_ts[i] - self.h_ts[i - 1] <= gap_ms)


def history_key(key: NDArray[np.int64]) -> HistoryKey:
    """A row of history keys as one record."""
    h_ts, h_seq, h_part, h_off, displaced, off = key.tolist()
    return HistoryKey(h_ts, h_seq, h_part, h_off, bool(displaced), off)


def rows_by_user(table: pa.Table) -> dict[int, UserRows]:
    """Split storage rows, sorted by user and history order, into one `UserRows` per user; `first` is 0."""
    if not table.num_rows:
        return {}
    users = _ints(table, "user_idx")
    columns: dict[str, Any] = {
        name: _ints(table, name) for name in ("item_idx", "ts_ms", "h_ts_ms")
    }
    weight = table["weight"].to_numpy().astype(np.float64)
    types, sessions = table["event_type"].to_pylist(), table["session_id"].to_pylist()
    keys = np.stack([_ints(table, name) for name in _KEY_COLUMNS], axis=1)
    starts = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1]]))
    out: dict[int, UserRows] = {}
    for start, stop in zip(starts, [*starts[1:], len(users)], strict=True):
        cut = slice(int(start), int(stop))
        out[int(users[start])] = UserRows(
            0,
            columns["item_idx"][cut],
            types[cut],
            columns["ts_ms"][cut],
            columns["h_ts_ms"][cut],
            weight[cut],
            sessions[cut],
            keys[cut],
        )
    return out


def _ints(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(table[name].to_numpy(zero_copy_only=False).astype(np.int64))


EMPTY = UserRows(
    0,
    np.empty(0, np.int64),
    [],
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    np.empty(0),
    [],
    np.empty((0, 6), np.int64),
)
"""A user without stored history."""


def model_rows(item_rows: NDArray[np.int64], engine: Engine, rows: UserRows) -> Rows:
    """The arrays the model reads for a run of interactions.

    Args:
        item_rows: model row of every item, indexed by internal id.
        engine: the model version that reads them.
        rows: the interactions.
    """
    return Rows(
        item_row=item_rows[rows.item_idx],
        type_row=engine.type_rows(rows.event_type),
        time_ms=rows.h_ts,
        ordinal=np.arange(rows.first, rows.first + len(rows), dtype=np.int64),
    )
