"""How much of each user's history lies before the watermark, and how much of that is compressed: counts in memory.

Kept up to date as rows pass and groups are written, so that a tick asks the database nothing to find what is due.
Derived: a restart counts the stored rows and groups once. One thread may tell of rows while another one plans.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from storage import backlog, tokens
from stream.judge import partition_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from storage.records import PartitionKey, Reader
    from stream.cuts import Cut

_FEW = 1024
_COLUMNS = ["user_idx", "h_ts_ms", "topic", "part"]


class Backlog:
    """Counts per user, arrays indexed by internal id; 8 bytes a user and 16 per row not yet before the watermark.

    Args:
        segment_len: interactions per segment.
        r_min: newest interactions that stay raw.
    """

    def __init__(self, segment_len: int, r_min: int) -> None:
        self._n = segment_len
        self._r_min = r_min
        self._lock = threading.Lock()
        self._before = np.zeros(_FEW, np.int32)
        self._groups = np.zeros(_FEW, np.int32)
        self._open: dict[PartitionKey, list[NDArray[np.int64]]] = {}

    def load(self, reader: Reader, version: str, cut: Cut) -> None:
        """Count what is stored below a cut: rows before its watermarks, the rows after them; groups of a model version."""
        watermarks, below = cut.watermarks(), cut.next_offsets
        counts = backlog.due_counts(reader, watermarks, positions=below)
        users = counts["user_idx"].to_numpy()
        self._reserve(users)
        self._before[users] = counts["n_before"].to_numpy()
        groups = tokens.group_counts(reader, version)
        users = np.fromiter(groups.keys(), np.int64, len(groups))
        self._reserve(users)
        self._groups[users] = np.fromiter(groups.values(), np.int32, len(groups))
        self._add(backlog.open_rows(reader, watermarks, positions=below))

    def take(self, rows: pa.Table) -> None:
        """Take in further rows."""
        self._add(rows.select(_COLUMNS).filter(rows["in_history"]))

    def settle(self, watermarks: Mapping[PartitionKey, int]) -> None:
        """Count the rows that the watermarks have passed; watermarks only ever move forward."""
        for partition, mark in watermarks.items():
            with self._lock:
                parts = self._open.pop(partition, [])
            if not parts:
                continue
            users, times = np.concatenate(parts, axis=1)
            passed = times < mark
            self._reserve(users)
            np.add.at(self._before, users[passed], 1)
            if not passed.all():
                left = np.stack([users[~passed], times[~passed]])
                with self._lock:
                    self._open.setdefault(partition, []).append(left)

    def due(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Users with due segments that have no group, ascending: internal ids, first and last such segment."""
        users = np.flatnonzero(self._before - self._r_min >= (self._groups + 1) * self._n)
        first = self._groups[users].astype(np.int64)
        last = (self._before[users].astype(np.int64) - self._r_min) // self._n - 1
        return users, first, last

    def compressed(self, users: NDArray[np.int64], groups: NDArray[np.int64]) -> None:
        """Note how many groups some users have now."""
        self._reserve(users)
        self._groups[users] = groups

    def _add(self, rows: pa.Table) -> None:
        pair = np.stack([
            rows[name].to_numpy(zero_copy_only=False).astype(np.int64)
            for name in ("user_idx", "h_ts_ms")
        ])
        for partition, where in partition_rows(rows):
            with self._lock:
                self._open.setdefault(partition, []).append(pair[:, where])

    def _reserve(self, users: NDArray[np.int64]) -> None:
        wanted = int(users.max(initial=-1)) + 1
        if wanted > len(self._before):
            more = max(wanted, 3 * len(self._before) // 2) - len(self._before)
            self._before = np.concatenate([self._before, np.zeros(more, np.int32)])
            self._groups = np.concatenate([self._groups, np.zeros(more, np.int32)])
