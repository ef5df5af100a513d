"""Counts taken while a log is read once, in memory that does not grow with it.

Counted exactly: records, bad ones, users, items, event types, days, and the order of event times.
What needs a user's events side by side (gaps, ties, repeats) is kept as numbers, at most
`keep_events` of them: beyond that only users whose CRC-32 is divisible by 2, then by 4, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

import numpy as np
import pyarrow.compute as pc

from stream.check.order import Order
from stream.clock import DAY_MS
from stream.events import MAX_TS_MS
from stream.verdicts import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from stream.events import DeadLetter, EventBatch

    Ints = NDArray[np.int64]

KEEP_EVENTS = 4_000_000


class Distinct:
    """Values in the order of their first sight, with a number each and how often each was seen."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self._counts = np.zeros(1024, np.int64)

    @property
    def counts(self) -> Ints:
        """How often each value was seen, int64[n]."""
        return self._counts[: len(self.codes)]

    def add(self, column: pa.ChunkedArray) -> Ints:
        """Count a column's values; returns their numbers, int64[N]."""
        encoded = column.combine_chunks().dictionary_encode()
        known = self.codes
        codes = np.fromiter(
            (known.setdefault(value, len(known)) for value in encoded.dictionary.to_pylist()),
            np.int64,
            len(encoded.dictionary),
        )
        at = encoded.indices.to_numpy().astype(np.int64)
        self.count(codes, np.bincount(at, minlength=len(codes)))
        numbers: Ints = codes[at]
        return numbers

    def count(self, codes: Ints, times: Ints) -> None:
        """Add to the counts of distinct values."""
        if len(self.codes) > len(self._counts):
            self._counts = np.concatenate((
                self._counts, np.zeros(len(self.codes), np.int64)
            ))  # fmt: skip
        self._counts[codes] += times


@dataclass(slots=True)
class BadRecords:
    """Records of one reason that are no interaction, and the first of them."""

    reason: str
    records: int
    first_file: str
    first_row: int
    detail: str


class Kept(NamedTuple):
    """Events kept as numbers, in log order, N each; `event_id` is a hash, 0 for none."""

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    ts: Ints
    event_id: Ints


class Tally:
    """Counts a log batch by batch.

    Args:
        in_history: whether events of a type enter the history.
        jump_ms: how far ahead of the newest event time a record may be.
        keep_events: events kept side by side before users are sampled.
    """

    def __init__(
        self, in_history: Callable[[str], bool], jump_ms: int, keep_events: int = KEEP_EVENTS
    ) -> None:
        self.records = self.item_records = self.blank = self.returns = 0
        self.with_event_id = self.with_session = 0
        self.bad: dict[str, BadRecords] = {}
        self.users, self.items, self.types = Distinct(), Distinct(), Distinct()
        self.days = np.zeros(MAX_TS_MS // DAY_MS + 1, np.int64)
        self.whole_days = True
        self.first_ms, self.last_ms = MAX_TS_MS, NEVER
        self.plain, self.guarded = Order(), Order(jump_ms)
        self.late_in_file = 0
        self.halvings = 0
        self._history = np.zeros(0, np.int64)
        self._member: list[bool] = []
        self._file = Order()
        self._in_history = in_history
        self._limit = keep_events
        self._hashes = np.zeros(1024, np.int64)
        self._hashed = 0
        self._blocks: list[Kept] = []
        self._size = 0
        self.cut_files: list[str] = []
        self._last: tuple[str, int, int] | None = (
            None  # file, its next row, row of its last malformed record
        )

    @property
    def interactions(self) -> int:
        """Good records of interactions."""
        return int(self.types.counts.sum())

    @property
    def histories(self) -> Ints:
        """Length of each user's history, int64[users]; second copies count."""
        return self._history[: len(self.users.codes)]

    @property
    def bad_records(self) -> int:
        """Records that are nothing."""
        return sum(found.records for found in self.bad.values())

    def begin_file(self) -> None:
        """Begin with the next file: its order is looked at on its own, too."""
        self.late_in_file += self._file.late
        self._file = Order()
        if self._last is not None and self._last[1] == self._last[2] + 1:
            self.cut_files.append(self._last[0])
        self._last = None

    def end(self) -> None:
        """Finish: no more batches."""
        self.begin_file()

    def add(self, batch: EventBatch, path: Path) -> None:
        """Count what was read from a file."""
        for letter in batch.dead:
            self._add_bad(letter, path)
        rows = batch.interactions
        after = max(batch.next_offsets.values(), default=0)
        broken = [letter.off for letter in batch.dead if letter.reason == "malformed"]
        if after:
            alone = broken and (len(broken) == 1 or broken[-2] != broken[-1] - 1)
            self._last = (str(path), after, broken[-1] if alone else -1)
        self.records += batch.records
        self.item_records += len(batch.items)
        self.blank += batch.records - len(rows) - len(batch.items) - len(batch.dead)
        if len(rows):
            self._add_rows(rows)

    def kept(self) -> Kept:
        """Return the events kept, in log order."""
        if not self._blocks:
            none = np.zeros(0, np.int64)
            return Kept(none.astype(np.int32), none.astype(np.int32), none, none)
        return Kept(*(np.concatenate(column) for column in zip(*self._blocks, strict=True)))

    def release(self) -> None:
        """Forget the events kept."""
        self._blocks = []

    def _add_bad(self, letter: DeadLetter, path: Path) -> None:
        detail = " ".join(letter.detail.split())[:200]
        found = self.bad.setdefault(
            letter.reason, BadRecords(letter.reason, 0, str(path), letter.off + 1, detail)
        )
        found.records += 1

    def _add_rows(self, rows: pa.Table) -> None:
        ts = rows["ts"].to_numpy()
        users, items = self.users.add(rows["user_id"]), self.items.add(rows["item_id"])
        types = self.types.add(rows["event_type"])
        self._add_times(ts)
        returned = rows["value"].to_numpy() < 0
        self.returns += int(returned.sum())
        self.with_event_id += len(rows) - rows["event_id"].null_count
        self.with_session += len(rows) - rows["session_id"].null_count
        fresh = _last(self.types.codes, len(self.types.codes) - len(self._member))
        self._member += [self._in_history(name) for name in fresh]
        self._add_history(users[np.array(self._member, bool)[types] & ~returned])
        self._keep(rows, users, items, ts)

    def _add_times(self, ts: Ints) -> None:
        self.first_ms = min(self.first_ms, int(ts.min()))
        self.last_ms = max(self.last_ms, int(ts.max()))
        self.whole_days &= bool((ts % DAY_MS == 0).all())
        self.days += np.bincount(ts // DAY_MS, minlength=len(self.days))
        for order in (self.plain, self.guarded, self._file):
            order.add(ts)

    def _add_history(self, users: Ints) -> None:
        missing = len(self.users.codes) - len(self._history)
        if missing > 0:
            room = max(missing, len(self._history))
            self._history = np.concatenate((self._history, np.zeros(room, np.int64)))
        codes, times = np.unique(users, return_counts=True)
        self._history[codes] += times

    def _keep(self, rows: pa.Table, users: Ints, items: Ints, ts: Ints) -> None:
        self._hash_users()
        chosen = np.flatnonzero(self._sampled(users))
        ids = pc.take(rows["event_id"], chosen).to_pylist()
        hashes = np.fromiter((0 if i is None else hash(i) or 1 for i in ids), np.int64, len(ids))
        narrow = users[chosen].astype(np.int32), items[chosen].astype(np.int32)
        self._blocks.append(Kept(*narrow, ts[chosen], hashes))
        self._size += len(chosen)
        while self._size > self._limit and self.halvings < 31:
            self.halvings += 1
            self._blocks = [_rows_of(block, self._sampled(block.user)) for block in self._blocks]
            self._size = sum(len(block.ts) for block in self._blocks)

    def _sampled(self, users: NDArray[np.integer]) -> NDArray[np.bool_]:
        sampled: NDArray[np.bool_] = (self._hashes[users] & ((1 << self.halvings) - 1)) == 0
        return sampled

    def _hash_users(self) -> None:
        count = len(self.users.codes)
        if count > len(self._hashes):
            more = np.zeros(count, np.int64)
            self._hashes = np.concatenate((self._hashes, more))
        names = _last(self.users.codes, count - self._hashed)
        self._hashes[self._hashed : count] = [crc32(name.encode()) for name in names]
        self._hashed = count


def _rows_of(block: Kept, mask: NDArray[np.bool_]) -> Kept:
    return Kept(block.user[mask], block.item[mask], block.ts[mask], block.event_id[mask])


def _last(codes: dict[str, int], count: int) -> list[str]:
    """Return the newest `count` keys, oldest of them first."""
    newest = [name for name, _ in zip(reversed(codes), range(count), strict=False)]
    return newest[::-1]


def most_common(found: Distinct, count: int) -> list[tuple[str, int]]:
    """Return the most frequent values with how often they were seen."""
    order = np.argsort(-found.counts, kind="stable")[:count]
    wanted = set(order.tolist())
    names = {code: name for name, code in found.codes.items() if code in wanted}
    return [(names[code], int(found.counts[code])) for code in order.tolist()]


def bad_by_size(tally: Tally) -> list[BadRecords]:
    """Return the bad records by reason, the most frequent reason first."""
    return sorted(tally.bad.values(), key=lambda bad: -bad.records)
