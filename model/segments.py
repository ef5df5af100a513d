"""Slots, segments and what each slot may read.

A user's history is cut into closed segments, each followed by K token slots, and one open
segment of raw recent items. Request slots ask "what next, at this time?"::

    S0 items  T0 tokens | S1 items  T1 tokens | open items
       a b c  * *       |    d e f  * *       |   g h ?

A slot reads key slots of its own segment that are not later than itself (tokens come after the
items), and the tokens of earlier segments, at most ``window`` segments back. Requests read but
are never keys. Raw items of an earlier segment are seen by nobody; so tokens of a closed segment
never change again, and the open segment needs nothing but stored tokens.

Rows are laid out so that no dense T x T attention is needed: all segments of all users lie in
padded blocks of similar width, ``n_keys`` key slots (items, then tokens) followed by requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from model.config import ModelConfig
from model.errors import ShapeError

Ints: TypeAlias = NDArray[np.int64]

ITEM, TOKEN, REQUEST, PAD = 0, 1, 2, -1
_SPLIT = 0.6
"""A segment narrower than this share of its block's width starts a new block."""


def _none() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSlots:
    """One window of one user: N items in history order and how they are cut.

    Attributes:
        item_row: int64 [N], rows of the item row space.
        type_row: int64 [N], event type rows.
        time_ms: int64 [N], event times, not decreasing.
        ordinal: int64 [N], index in the user's whole history; jumps where items are left out.
        closed: int64 [m], lengths of the closed segments; the remaining items are open.
        request_time_ms: int64 [Q], times of the requests.
        request_at: int64 [Q], number of items before each request, 0..N.
        request_segment: int64 [Q], segment each request reads; by default that of the item
            just before it.
        hide_newest: Newest token groups that the open segment does not see.
    """

    item_row: Ints
    type_row: Ints
    time_ms: Ints
    ordinal: Ints
    closed: Ints = field(default_factory=_none)
    request_time_ms: Ints = field(default_factory=_none)
    request_at: Ints = field(default_factory=_none)
    request_segment: Ints | None = None
    hide_newest: int = 0

    def __post_init__(self) -> None:
        n = len(self.item_row)
        if {len(self.type_row), len(self.time_ms), len(self.ordinal)} != {n}:
            raise ShapeError("slots: item, type, time and ordinal arrays differ in length")
        if len(self.closed) and (self.closed.min() < 1 or self.closed.sum() > n):
            raise ShapeError(f"slots: closed segments {self.closed.tolist()} do not fit {n} items")
        if len(self.request_at) != len(self.request_time_ms):
            raise ShapeError("slots: request_at and request_time_ms differ in length")
        if len(self.request_at) and not 0 <= self.request_at.min() <= self.request_at.max() <= n:
            raise ShapeError(f"slots: a request lies outside 0..{n}; count the items before it")


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Padded segments of similar width inside a layout.

    Attributes:
        start: First flat row.
        n_segments: Segments S.
        n_keys: Key slots per segment (items and tokens, padded).
        width: Rows per segment M, requests included.
        token_rows: int64 [S, T], flat rows of the visible tokens of earlier segments, oldest
            first; padding repeats row 0.
        token_age: int64 [S, T], 1 for the newest visible group, 0 for padding.
    """

    start: int
    n_segments: int
    n_keys: int
    width: int
    token_rows: Ints
    token_age: Ints

    @property
    def stop(self) -> int:
        """One past the last flat row."""
        return self.start + self.n_segments * self.width


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A ragged batch as flat rows, R of them, padding included.

    Attributes:
        kind: int8 [R], ITEM, TOKEN, REQUEST or PAD.
        user: int64 [R], index into the users given.
        segment: int64 [R], segment number within the window.
        source: int64 [R], index into that user's items, requests, or the K tokens; -1 for pads.
        item_row: int64 [R], 0 where there is no item.
        type_row: int64 [R], 0 where there is no item.
        time_ms: int64 [R].
        ordinal: int64 [R].
        position: int64 [R], index inside the segment for items and requests, -1 for tokens.
        last_key: int64 [R], last key slot of the own segment that the row reads, -1 for none.
        blocks: Where the padded segments lie.
    """

    kind: NDArray[np.int8]
    user: Ints
    segment: Ints
    source: Ints
    item_row: Ints
    type_row: Ints
    time_ms: Ints
    ordinal: Ints
    position: Ints
    last_key: Ints
    blocks: tuple[Block, ...]

    @property
    def n_rows(self) -> int:
        """Flat rows R, padding included."""
        return len(self.kind)

    def rows_of(self, kind: int) -> Ints:
        """Flat indices of the rows of one kind."""
        return np.flatnonzero(self.kind == kind).astype(np.int64)


@dataclass(slots=True)
class _Segment:
    """One segment before it is placed: which rows it has and whose tokens it reads."""

    user: int
    number: int
    first: int
    length: int
    closed: bool
    reads: range
    requests: Ints
    n_keys: int
    row: int = 0


def build_layout(users: Sequence[UserSlots], config: ModelConfig) -> Layout:
    """Lay out windows of several users as one ragged batch.

    Args:
        users: One window per entry; the same user may appear several times.
        config: Tokens per segment and the window w.

    Raises:
        ShapeError: If there is nothing to lay out.
    """
    segments = [part for index, user in enumerate(users) for part in _cut(index, user, config)]
    if not segments:
        raise ShapeError("layout: no items and no requests; pass at least one slot")
    token_row: dict[tuple[int, int], int] = {}
    placed: list[tuple[list[_Segment], Block]] = []
    n_rows = 0
    for group in _group_by_width(segments):
        block, n_rows = _place(group, n_rows)
        placed.append((group, block))
        token_row |= {(part.user, part.number): part.row + part.length for part in group}
    rows = _empty(n_rows)
    for group, block in placed:
        for part in group:
            _fill(rows, part, users[part.user], block.n_keys, config.n_tokens)
    blocks = tuple(_with_tokens(*entry, token_row, config.n_tokens) for entry in placed)
    return Layout(**rows, blocks=blocks)


def _cut(index: int, user: UserSlots, config: ModelConfig) -> Iterator[_Segment]:
    """The segments of one window that have any row."""
    n_closed, n_items = len(user.closed), len(user.item_row)
    bounds = np.concatenate([[0], np.cumsum(user.closed), [n_items]]).astype(np.int64)
    home = user.request_segment
    if home is None:
        home = np.searchsorted(bounds[1:-1], user.request_at - 1, side="right")
    for number in range(n_closed + 1):
        first, length = int(bounds[number]), int(bounds[number + 1] - bounds[number])
        closed = number < n_closed
        requests = np.flatnonzero(home == number).astype(np.int64)
        if not (length or len(requests)):
            continue
        newest = number if closed else max(0, n_closed - user.hide_newest)
        oldest = 0 if config.window is None else max(0, newest - config.window)
        n_keys = length + config.n_tokens * closed
        reads = range(oldest, newest)
        yield _Segment(index, number, first, length, closed, reads, requests, n_keys)


def _group_by_width(segments: Iterable[_Segment]) -> list[list[_Segment]]:
    """Segments of similar width together, widest first; the order is stable."""
    groups: list[list[_Segment]] = []
    for part in sorted(segments, key=lambda part: -part.n_keys):
        if not groups or part.n_keys < _SPLIT * groups[-1][0].n_keys:
            groups.append([])
        groups[-1].append(part)
    return groups


def _place(group: list[_Segment], start: int) -> tuple[Block, int]:
    """Give each segment of a block its first row; returns the block and the next free row."""
    n_keys = max(1, group[0].n_keys)
    width = n_keys + max(len(part.requests) for part in group)
    for index, part in enumerate(group):
        part.row = start + index * width
    return Block(start, len(group), n_keys, width, _none(), _none()), start + width * len(group)


def _with_tokens(
    group: list[_Segment], block: Block, token_row: dict[tuple[int, int], int], n_tokens: int
) -> Block:
    """The block with the flat rows of the tokens that each of its segments reads."""
    width = n_tokens * max(len(part.reads) for part in group)
    rows = np.zeros((len(group), width), np.int64)
    age = np.zeros((len(group), width), np.int64)
    for index, part in enumerate(group):
        starts = np.array([token_row[part.user, number] for number in part.reads], np.int64)
        used = n_tokens * len(starts)
        rows[index, :used] = (starts[:, None] + np.arange(n_tokens)).ravel()
        age[index, :used] = np.repeat(np.arange(len(starts), 0, -1), n_tokens)
    return replace(block, token_rows=rows, token_age=age)


def _empty(n_rows: int) -> dict[str, Any]:
    zero = ("user", "segment", "item_row", "type_row", "time_ms", "ordinal")
    rows: dict[str, Any] = {name: np.zeros(n_rows, np.int64) for name in zero}
    rows |= {name: np.full(n_rows, -1, np.int64) for name in ("source", "position", "last_key")}
    return rows | {"kind": np.full(n_rows, PAD, np.int8)}


def _fill(
    rows: dict[str, Any], part: _Segment, user: UserSlots, request_slot: int, n_tokens: int
) -> None:
    """Write one segment's items, tokens and requests into the flat arrays."""
    end, items = part.row + part.length, slice(part.first, part.first + part.length)
    where = slice(part.row, end)
    local = np.arange(part.length)
    _write(rows, where, kind=ITEM, source=part.first + local, position=local, last_key=local)
    for name in ("item_row", "type_row", "time_ms", "ordinal"):
        rows[name][where] = getattr(user, name)[items]
    if part.closed:
        where, index = slice(end, end + n_tokens), np.arange(n_tokens)
        last = items.stop - 1
        _write(rows, where, kind=TOKEN, source=index, last_key=part.length + index)
        _write(rows, where, time_ms=user.time_ms[last], ordinal=user.ordinal[last])
    asked, slot = part.requests, part.row + request_slot
    before = np.clip(user.request_at[asked] - part.first, 0, part.length)
    where = slice(slot, slot + len(asked))
    _write(rows, where, kind=REQUEST, source=asked, position=before, last_key=before - 1)
    _write(rows, where, time_ms=user.request_time_ms[asked])
    _write(rows, where, ordinal=_request_ordinal(user, user.request_at[asked]))
    rows["user"][part.row : slot + len(asked)] = part.user
    rows["segment"][part.row : slot + len(asked)] = part.number


def _request_ordinal(user: UserSlots, before: Ints) -> Ints:
    """One more than the ordinal of the item before each request."""
    if not len(user.ordinal):
        return np.zeros(len(before), np.int64)
    following: Ints = user.ordinal[np.maximum(before - 1, 0)] + (before > 0)
    return following


def _write(rows: dict[str, Any], where: slice, **values: Ints | np.int64 | int) -> None:
    for name, value in values.items():
        rows[name][where] = value
