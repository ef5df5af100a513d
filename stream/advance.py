"""Moves user states over stored rows, many users at once, and reads them where a row is scored."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from model.engine import Rows
from model.ragged import flat
from stream.facts import RowFacts
from stream.loading import LoadRequest, StateLoader
from stream.readings import Readings, state_columns, state_values
from stream.state import close_visits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.engine import Engine, TokenBlock
    from storage.records import HistoryKey
    from stream.cache import StateCache
    from stream.facts import Facts
    from stream.shared import Shared
    from stream.state import UserState
    from stream.stored import StoredRows

    Ints = NDArray[np.int64]

ReadOutChoice: TypeAlias = Literal["visit", "line", "auto"]
"""Which read-out answers: "auto" asks the newest row inside a visit, else a request row."""


@dataclass(frozen=True, slots=True)
class _Order:
    """Rows of a chunk by user, in log order per user, [n] per array; `row` is the place in the batch.

    `visit_starts` are rows that do not belong to the visit of the row before; `stop` is where the stretch of rows ends that,
    from a row on, simply continue one another; `taken` are items, times and weights as a visit takes them.
    """

    rows: StoredRows
    row: Ints
    item_idx: Ints
    types: Ints
    h_ts: Ints
    taken: tuple[list[int], list[int], list[float]]
    starts: Ints
    in_history: NDArray[np.bool_]
    visit_starts: list[int]
    stop: Ints

    @classmethod
    def of(cls, rows: StoredRows, start: int, stop: int, type_rows: Ints, gap_ms: int) -> _Order:
        row = start + np.argsort(rows.user_idx[start:stop], kind="stable")
        users, keys, in_history = rows.user_idx[row], rows.keys[row], rows.in_history[row]
        new_user = np.ones(len(row), dtype=bool)
        new_user[1:] = users[1:] != users[:-1]
        follows = ~new_user
        follows[1:] &= _ascending(keys)
        same_visit = ~new_user
        same_visit[1:] &= _continues(rows, row, gap_ms)
        breaks = np.append(np.flatnonzero(~(follows & in_history)), len(row))
        stops = breaks[np.searchsorted(breaks, np.arange(len(row)), side="right")]
        return cls(
            rows,
            row,
            rows.item_idx[row],
            type_rows[rows.event_type.code[row]],
            keys[:, 0],
            (rows.item_idx[row].tolist(), rows.ts_ms[row].tolist(), rows.weight[row].tolist()),
            np.flatnonzero(new_user),
            in_history,
            np.flatnonzero(~same_visit).tolist(),
            stops,
        )

    def key(self, i: int) -> HistoryKey:
        return self.rows.key(int(self.row[i]))

    def session(self, i: int) -> str | None:
        return self.rows.session(int(self.row[i]))


@dataclass(slots=True)
class _Run:
    """What is left of one user's rows in a chunk."""

    state: UserState
    at: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows `lo:hi` of one user and one visit; their hidden rows start at `hidden`."""

    state: UserState
    lo: int
    hi: int
    hidden: int


class Advance:
    """Extends cached states by rows; reloads those that rows do not simply continue."""

    def __init__(
        self,
        loader: StateLoader,
        cache: StateCache,
        engine: Engine,
        shared: Shared,
        visit_gap_ms: int,
    ) -> None:
        self._loader = loader
        self._cache = cache
        self._engine = engine
        self._shared = shared
        self._rule = loader.rule
        self._gap_ms = visit_gap_ms

    def over(self, rows: StoredRows, start: int, stop: int) -> list[Readings]:
        """Move the cached states of rows `start:stop` over them; every user's state must be there."""
        type_rows = self._engine.type_rows(rows.event_type.names)
        order = _Order.of(rows, start, stop, type_rows, self._gap_ms)
        ends = [*order.starts[1:].tolist(), stop - start]
        users = rows.user_idx[order.row[order.starts]].tolist()
        runs = [
            _Run(self._cache[user], lo, hi)
            for user, lo, hi in zip(users, order.starts.tolist(), ends, strict=True)
        ]
        out: list[Readings] = []
        while runs:
            out += self._extend(order, runs)
            runs = [run for run in runs if run.at < run.stop]
            out += self._heads(order, [r for r in runs if not _continues_history(order, r)])
            runs = [run for run in runs if run.at < run.stop]
        return out

    def _extend(self, order: _Order, runs: Sequence[_Run]) -> list[Readings]:
        """Extend all users at once by the rows that simply continue their history."""
        runs = [run for run in runs if _continues_history(order, run)]
        if not runs:
            return []
        r_max = self._rule.r_max
        again = self._shorten([run.state for run in runs if run.state.recents >= r_max])
        picked = [
            (run, min(int(order.stop[run.at]) - run.at, r_max - run.state.recents)) for run in runs
        ]
        item_rows = self._shared.item_rows()[order.item_idx]
        rows = []
        for run, n in picked:
            new = _model_rows(order, item_rows, run, n)
            kept = again.get(run.state.user_idx)
            rows.append(new if kept is None else kept.then(new))
        hidden = self._engine.extend([run.state.cache for run, _ in picked], rows)
        vectors = np.concatenate([
            out[len(out) - n :].float().numpy() for out, (_, n) in zip(hidden, picked, strict=True)
        ])
        rounds: list[list[_Piece]] = []
        place = 0
        for run, n in picked:
            for turn, piece in enumerate(_pieces(order, run, n, place)):
                rounds += [[] for _ in range(turn + 1 - len(rounds))]
                rounds[turn].append(piece)
            place += n
        reading = self._read(order, rounds, vectors)
        place = 0
        for run, n in picked:
            place += n
            run.at += n
            run.state.last_key = order.key(run.at - 1)
            run.state.hidden = vectors[place - 1].copy()  # not a view that keeps the batch's rows
            self._cache.put(run.state)
        return [reading] if len(reading) else []

    def _shorten(self, states: Sequence[UserState]) -> dict[int, Rows]:
        """Leave the oldest segment's worth out of full recent windows, at once and never row by row.

        Returns:
            By user, the rows that stay: their caches are empty until these are pushed again.
        """
        n = self._rule.segment_len
        nothing: list[list[TokenBlock]] = [[] for _ in states]
        caches, rows = self._engine.restart(
            [state.cache for state in states],
            nothing,
            [state.first_recent + n for state in states],
        )
        for state, cache in zip(states, caches, strict=True):
            state.cache = cache
            state.first_recent += n
            state.left_out += n
        return {state.user_idx: own for state, own in zip(states, rows, strict=True)}

    def _read(
        self, order: _Order, rounds: Sequence[Sequence[_Piece]], vectors: NDArray[np.float32]
    ) -> Readings:
        """Take the stretches of visits, at most one per user and round, and read their scored rows."""
        ref_ms = self._loader.ref_ms()
        pieces = [piece for some in rounds for piece in some]
        before: list[tuple[int, ...]] = []
        facts: list[Facts] = []
        counts: list[int] = []
        for some in rounds:
            close_visits([piece.state for piece in some if self._closes(order, piece)], ref_ms)
            for piece in some:
                before.append(state_values(piece.state))
                counts += _take(order, piece)
                facts.append(piece.state.line_facts())
        sizes = np.array([piece.hi - piece.lo for piece in pieces])
        which, step = np.repeat(np.arange(len(pieces)), sizes), flat(0, sizes)
        i = np.array([piece.lo for piece in pieces])[which] + step
        visible = np.array(counts)
        scored = order.rows.scores[order.row[i]]
        if not scored.all():
            which, step, i, visible = which[scored], step[scored], i[scored], visible[scored]
        columns = {name: column[which] for name, column in state_columns(before).items()}
        columns["recents"] += step + 1
        columns["n_history"] += step + 1
        at_ms = order.h_ts[i]
        return Readings(
            kind="line",
            row=order.row[i],
            at_ms=at_ms,
            hidden=vectors[np.array([piece.hidden for piece in pieces])[which] + step],
            told=RowFacts(facts, which, at_ms, visible, ref_ms),
            **columns,
        )

    def _closes(self, order: _Order, piece: _Piece) -> bool:
        """Whether a piece starts another visit than its user is in."""
        visit = piece.state.visit
        return bool(visit.items) and not visit.continues(
            int(order.h_ts[piece.lo]), order.session(piece.lo), self._gap_ms
        )

    def _heads(self, order: _Order, runs: Sequence[_Run]) -> list[Readings]:
        """Rows that do not simply continue: reload the state with them, or read it without a new row."""
        heads = [(run, int(order.row[run.at])) for run in runs]
        rows = order.rows
        reload = [(run, row) for run, row in heads if rows.in_history[row]]
        offsets = [int(rows.as_of[row]) for _, row in reload]
        loaded = self._loader.load([
            LoadRequest(run.state.user_idx, off + 1, event=off)
            for (run, _), off in zip(reload, offsets, strict=True)
        ])
        for (run, _), state in zip(reload, loaded, strict=True):
            run.state = state
            self._cache.put(state)
        for run in runs:
            run.at += 1
        asked = [(run.state, row) for run, row in heads if rows.scores[row]]
        states = [state for state, _ in asked]
        return self.request(
            states,
            [max(int(rows.ts_ms[row]), _newest(state)) for state, row in asked],
            ["line" if rows.in_history[row] else "auto" for _, row in asked],
            [row for _, row in asked],
        )

    def request(
        self,
        states: Sequence[UserState],
        times_ms: Sequence[int],
        kinds: Sequence[ReadOutChoice],
        rows: Sequence[int],
    ) -> list[Readings]:
        """Read states at given times, without a new row: the newest row inside a visit, else a request row."""
        lines: list[int] = []
        asking: list[int] = []
        for i, (state, at, kind) in enumerate(zip(states, times_ms, kinds, strict=True)):
            inside = kind == "line" or (kind == "auto" and state.in_visit(at, self._gap_ms))
            (lines if inside and state.hidden is not None else asking).append(i)
        at_ms, row = np.array(times_ms, np.int64), np.array(rows, np.int64)
        out = []
        if lines:
            part = [states[i] for i in lines]
            hidden = np.stack([state.hidden for state in part if state.hidden is not None])
            facts = [state.line_facts() for state in part]
            out.append(self._readings("line", part, at_ms[lines], row[lines], hidden, facts))
        if asking:
            part = [states[i] for i in asking]
            found = self._engine.request([state.cache for state in part], at_ms[asking])
            hidden = found.float().numpy()
            facts = [state.request_facts(self._loader.ref_ms()) for state in part]
            out.append(self._readings("visit", part, at_ms[asking], row[asking], hidden, facts))
        return out

    def _readings(
        self,
        kind: Literal["visit", "line"],
        states: Sequence[UserState],
        at_ms: Ints,
        row: Ints,
        hidden: NDArray[np.float32],
        facts: Sequence[Facts],
    ) -> Readings:
        visible = np.array([len(fact.visit) for fact in facts], np.int64)
        which = np.arange(len(facts))
        told = RowFacts(facts, which, at_ms, visible, self._loader.ref_ms())
        columns = state_columns([state_values(state) for state in states])
        return Readings(kind=kind, row=row, at_ms=at_ms, hidden=hidden, told=told, **columns)


def _continues_history(order: _Order, run: _Run) -> bool:
    """Whether a run's next row simply continues its user's history."""
    newest = run.state.last_key
    return bool(order.in_history[run.at]) and (newest is None or order.key(run.at) > newest)


def _model_rows(order: _Order, item_rows: Ints, run: _Run, n: int) -> Rows:
    cut = slice(run.at, run.at + n)
    first = run.state.n_history
    return Rows(item_rows[cut], order.types[cut], order.h_ts[cut], np.arange(first, first + n))


def _pieces(order: _Order, run: _Run, n: int, hidden: int) -> list[_Piece]:
    """The rows of a run cut where a new visit starts."""
    stop = run.at + n
    starts = order.visit_starts
    inner = starts[bisect_right(starts, run.at) : bisect_left(starts, stop)]
    edges = [run.at, *inner, stop]
    return [_Piece(run.state, lo, hi, hidden + lo - run.at) for lo, hi in pairwise(edges)]


def _take(order: _Order, piece: _Piece) -> list[int]:
    """Add a piece to its user's visit; returns the distinct items seen after each row."""
    state, cut = piece.state, slice(piece.lo, piece.hi)
    items, ts_ms, weights = order.taken
    counts = state.visit.add(items[cut], ts_ms[cut], weights[cut])
    state.visit.ends_with(int(order.h_ts[piece.hi - 1]), order.session(piece.hi - 1))
    state.n_history += len(counts)
    return counts


def _newest(state: UserState) -> int:
    return state.last_key.h_ts_ms if state.last_key is not None else 0


def _ascending(keys: Ints) -> NDArray[np.bool_]:
    """Whether each key but the first is not below the one before it."""
    step = keys[1:] - keys[:-1]
    first = (step != 0).argmax(axis=1)
    return np.asarray(np.take_along_axis(step, first[:, None], axis=1)[:, 0] >= 0)


def _continues(rows: StoredRows, row: Ints, gap_ms: int) -> NDArray[np.bool_]:
    """Whether each row but the first belongs to the visit of the one before it."""
    h_ts = rows.keys[row, 0]
    near: NDArray[np.bool_] = h_ts[1:] - h_ts[:-1] <= gap_ms
    if rows.session_id is None:
        return near
    code = rows.session_id.code[row]
    both = (code[1:] >= 0) & (code[:-1] >= 0)
    return np.asarray(np.where(both, code[1:] == code[:-1], near), np.bool_)
