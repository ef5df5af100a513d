"""Past states of users as a server would hold them: token groups plus raw recents.

Validation and calibration read hidden rows through the serving engine (compress, extend,
request), so what is judged and calibrated is what will be served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.asof import Histories
from model.engine import Engine, KVCache, Rows, SegmentJob, TokenBlock

__all__ = ["Mode", "StateReader", "States", "choose_states"]

Ints = NDArray[np.int64]
Mode: TypeAlias = Literal["tokens", "recents", "swapped"]

_CHUNK = 64


@dataclass(frozen=True, slots=True)
class States:
    """States to score, with what came next.

    Attributes:
        user: int64 [S].
        position: int64 [S], the state is the user's history rows before this row.
        time_ms: int64 [S], when the next items came.
        in_visit: bool [S], the state ends inside the visit its targets belong to.
        target_state: int64 [T], state of each target.
        target: int64 [T], candidate column.
    """

    user: Ints
    position: Ints
    time_ms: Ints
    in_visit: NDArray[np.bool_]
    target_state: Ints
    target: Ints

    def where(self, keep: NDArray[np.bool_]) -> States:
        """The states with a flag, and their targets."""
        number = np.cumsum(keep) - 1
        kept = keep[self.target_state]
        return States(
            self.user[keep],
            self.position[keep],
            self.time_ms[keep],
            self.in_visit[keep],
            number[self.target_state[kept]],
            self.target[kept],
        )


def choose_states(
    histories: Histories,
    begin_ms: int,
    end_ms: int,
    users: Ints,
    *,
    per_user: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[States, States]:
    """Next-visit and next-line states in a period.

    A next-visit state lies before a visit and has its distinct items as targets; a next-line
    state lies before any row and has that row's item.

    Args:
        histories: all rows.
        begin_ms: start of the period.
        end_ms: end of the period, exclusive.
        users: the users to take states from.
        per_user: most (visit, item) targets and most lines per user.
        rng: source of the choice.

    Returns:
        Visit states and line states.
    """
    starts = np.concatenate([[True], histories.visit[1:] != histories.visit[:-1]])
    inside = (histories.ts >= begin_ms) & (histories.ts < end_ms)
    visit_pairs: list[Ints] = []
    line_rows: list[Ints] = []
    for user in users:
        first, stop = int(histories.ptr[user]), int(histories.ptr[user + 1])
        rows = first + np.flatnonzero(inside[first:stop])
        if not rows.shape[0] or rows[0] == first:
            rows = rows[rows > first]
        if not rows.shape[0]:
            continue
        line_rows.append(np.sort(rng.permutation(rows)[: per_user[1]]))
        visit_pairs.append(_visit_pairs(histories, rows, starts, per_user[0], rng))
    pairs = np.concatenate(visit_pairs) if visit_pairs else np.zeros((0, 2), np.int64)
    lines = np.concatenate(line_rows) if line_rows else np.zeros(0, np.int64)
    return _visit_states(histories, pairs), _line_states(histories, lines, starts)


def _visit_pairs(
    histories: Histories,
    rows: Ints,
    starts: NDArray[np.bool_],
    limit: int,
    rng: np.random.Generator,
) -> Ints:
    """Distinct (visit start, item) pairs of one user, at most ``limit`` of them."""
    begin = rows[starts[rows]]
    if not begin.shape[0]:
        return np.zeros((0, 2), np.int64)
    owned = rows[rows >= begin[0]]
    owner = begin[np.searchsorted(begin, owned, side="right") - 1]
    pairs = np.unique(np.stack([owner, histories.item[owned]], axis=1), axis=0)
    chosen: Ints = pairs[np.sort(rng.permutation(pairs.shape[0])[:limit])]
    return chosen


def _visit_states(histories: Histories, pairs: Ints) -> States:
    rows, number = np.unique(pairs[:, 0], return_inverse=True)
    return States(
        _users(histories, rows),
        rows,
        histories.ts[rows],
        np.zeros(rows.shape[0], bool),
        number.reshape(-1).astype(np.int64),
        pairs[:, 1],
    )


def _line_states(histories: Histories, rows: Ints, starts: NDArray[np.bool_]) -> States:
    number = np.arange(rows.shape[0])
    users = _users(histories, rows)
    return States(users, rows, histories.ts[rows], ~starts[rows], number, histories.item[rows])


def _users(histories: Histories, rows: Ints) -> Ints:
    return (np.searchsorted(histories.ptr, rows, side="right") - 1).astype(np.int64)


class StateReader:
    """Hidden rows of states, with the partition and the stored groups that serving would have.

    Args:
        engine: the model as served.
        histories: all rows.
        item_row: int64 [V], model row of each candidate column.
    """

    def __init__(self, engine: Engine, histories: Histories, item_row: Ints) -> None:
        self._engine = engine
        self._histories = histories
        self._item_row = item_row
        self._groups: dict[int, list[TokenBlock]] = {}

    def due(self, user: Ints, position: Ints) -> Ints:
        """Closed segments of each state: all older than the newest ``r_min`` rows."""
        config = self._engine.config
        seen = position - self._histories.ptr[user]
        due: Ints = np.maximum(0, seen - config.r_min) // config.segment_len
        return due

    def hidden(self, states: States, mode: Mode = "tokens") -> Tensor:
        """Hidden rows [S, d]: the newest row inside a visit, else a request row.

        Args:
            states: the states.
            mode: with the user's own token groups, without any, or with another user's.
        """
        due = self.due(states.user, states.position)
        if mode != "recents":
            self._compress(states.user, due)
        out = torch.zeros(states.user.shape[0], self._engine.config.d_model)
        requests = np.flatnonzero(~states.in_visit)
        requests = requests[np.argsort(states.position[requests])]
        for first in range(0, requests.shape[0], _CHUNK):
            part = requests[first : first + _CHUNK]
            caches, _ = self._extend(states.user[part], due[part], states.position[part], mode)
            out[torch.from_numpy(part)] = self._engine.request(caches, states.time_ms[part])
        self._read_lines(states, due, mode, out)
        return out

    def _read_lines(self, states: States, due: Ints, mode: Mode, out: Tensor) -> None:
        """Hidden rows inside visits: states over the same groups share one extension."""
        chosen = np.flatnonzero(states.in_visit)
        key = np.stack([states.user[chosen], due[chosen]], axis=1)
        pairs, number = np.unique(key, axis=0, return_inverse=True)
        number = number.reshape(-1)
        end = np.zeros(pairs.shape[0], np.int64)
        np.maximum.at(end, number, states.position[chosen])
        for first in range(0, pairs.shape[0], _CHUNK):
            user, closed = pairs[first : first + _CHUNK].T
            _, rows = self._extend(user, closed, end[first : first + _CHUNK], mode)
            inside = np.flatnonzero((number >= first) & (number < first + _CHUNK))
            for state in chosen[inside].tolist():
                pair = int(number[np.searchsorted(chosen, state)]) - first
                back = int(end[first + pair] - states.position[state])
                out[state] = rows[pair][-1 - back]

    def _extend(
        self, user: Ints, due: Ints, position: Ints, mode: Mode
    ) -> tuple[list[KVCache], list[Tensor]]:
        """Caches of some users with the given groups, extended by the raw rows after them."""
        caches, recents = [], []
        for u, closed, end in zip(user.tolist(), due.tolist(), position.tolist(), strict=True):
            caches.append(self._engine.new_cache(self._stored(u, closed, mode)))
            begin = int(self._histories.ptr[u]) + closed * self._engine.config.segment_len
            recents.append(self._rows(u, begin, end))
        return caches, self._engine.extend(caches, recents)

    def _stored(self, user: int, closed: int, mode: Mode) -> list[TokenBlock]:
        if mode == "recents" or not closed:
            return []
        if mode == "tokens":
            return self._groups[user][:closed]
        others = [u for u, groups in self._groups.items() if u != user and len(groups) >= closed]
        if not others:
            return []
        return self._groups[others[user % len(others)]][:closed]

    def _rows(self, user: int, begin: int, end: int) -> Rows:
        histories = self._histories
        return Rows(
            item_row=self._item_row[histories.item[begin:end]],
            type_row=histories.type_row[begin:end],
            time_ms=histories.ts[begin:end],
            ordinal=np.arange(begin, end) - histories.ptr[user],
        )

    def _compress(self, users: Ints, due: Ints) -> None:
        """Compress all due segments, one segment of every user at a time."""
        need: dict[int, int] = {}
        for user, count in zip(users.tolist(), due.tolist(), strict=True):
            need[user] = max(need.get(user, 0), count)
        for user in need:
            self._groups.setdefault(user, [])
        size = self._engine.config.segment_len
        while True:
            waiting = [user for user, count in need.items() if len(self._groups[user]) < count]
            if not waiting:
                return
            jobs = []
            for user in waiting:
                segment = len(self._groups[user])
                begin = int(self._histories.ptr[user]) + segment * size
                rows = self._rows(user, begin, begin + size)
                jobs.append(SegmentJob(segment=segment, groups=self._groups[user], rows=rows))
            for user, block in zip(waiting, self._engine.compress(jobs), strict=True):
                self._groups[user].append(block)
