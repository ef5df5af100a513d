"""Stored events in, slates out: states moved by new interactions, read out, filtered, ranked."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from stream.advance import Advance
from stream.cache import StateCache
from stream.loading import LoadRequest, StateLoader, StateMode, token_block
from stream.rank import Top, named, top
from stream.readings import portions, reason
from stream.slates import Slate, recommendation_ids, request_id
from stream.stored import StoredRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from model.engine import Engine
    from storage.identities import Identities
    from storage.tokens import GroupRow
    from stream.advance import ReadOutChoice
    from stream.cache import CacheUse
    from stream.config import ServingConfig
    from stream.readings import Readings
    from stream.shared import Shared
    from stream.slates import Cause, Coverage, ScoredItem
    from stream.state import UserState
    from stream.unread import Made

CHUNK_ROWS = 2_048
"""Events scored together; results do not depend on it."""
_LOAD_USERS = 256
"""Users loaded by one read; a stretch of events has at most so many."""
_NEAR_SCORES = 1 << 19
"""So many scores stay near the processor."""
_FEW_ROWS = 48
"""So many rows share one reading of the items' vectors, where those are too many to stay near it."""
_MOST_SCORES = 1 << 24
"""No more scores are held at once."""


def rows_at_once(n_items: int) -> int:
    """How many rows are scored over a catalogue at once, so that it is fast and memory is bounded."""
    width = max(1, n_items)
    return max(1, min(max(_FEW_ROWS, _NEAR_SCORES // width), _MOST_SCORES // width))


@dataclass(frozen=True, slots=True)
class StateRequest:
    """A question to the production scorer: what would this user be shown at this time, from this state?"""

    user_idx: int
    at_ms: int
    as_of: int | None = None
    mode: StateMode = "tokens"
    swap_user_idx: int | None = None
    readout: ReadOutChoice = "auto"


@dataclass(frozen=True, slots=True)
class StateScores:
    """Final scores before filters, float32 [R, V].

    Columns are `item_ids`; `candidate` says which may be shown; `coverage` [R] is what each row was read from.
    """

    scores: NDArray[np.float32]
    item_ids: list[str]
    candidate: NDArray[np.bool_]
    coverage: list[Coverage]


class Scorer:
    """Keeps user states in bounded memory and turns stored events into slates.

    A state is derived from storage: evicting it changes no score, an interaction that arrives out of order or a recent
    window that outgrows its limit reloads it. Of users first seen by this process every stored row passes through here, or is
    named as skipped, so they start without asking storage.
    """

    def __init__(
        self,
        loader: StateLoader,
        identities: Identities,
        engine: Engine,
        shared: Shared,
        config: ServingConfig,
        visit_gap_ms: int,
    ) -> None:
        self._loader = loader
        self._ids = identities
        self._engine = engine
        self._shared = shared
        self._config = config
        self._states = StateCache(config.max_users, config.max_bytes)
        self._first_new = identities.n_users
        self._met = bytearray()
        self._advance = Advance(loader, self._states, engine, shared, visit_gap_ms)

    def cache_use(self) -> CacheUse:
        """What the cache of user states holds, and how often it helped."""
        return self._states.report(self._engine.arena.used_nbytes)

    def forget(self, users: Iterable[int]) -> None:
        """Drop states; they are loaded again when needed."""
        self._states.drop(users)

    def skipped(self, rows: pa.Table) -> None:
        """Rows were stored that will not be scored: their users' states come from storage."""
        for user in pc.unique(rows["user_idx"]).to_pylist():
            self._is_new(user)
            self._states.drop([user])

    def published(self, run_id: int, made: Made) -> None:
        """The groups a refresh run stored for some users are readable from here on: cached states take them in."""
        cached = [user for user in made.users if user in self._states]
        for start in range(0, len(cached), _LOAD_USERS):
            part = cached[start : start + _LOAD_USERS]
            groups = made.groups
            if groups is None:
                groups = self._loader.groups_of_run(run_id, part)
            fitting = {
                user: groups[user]
                for user in part
                if user in groups and _follow(self._states[user], groups[user])
            }
            self._states.drop(user for user in part if user not in fitting)
            self._take_in(fitting)

    def _take_in(self, groups: Mapping[int, Sequence[GroupRow]]) -> None:
        """Put groups in the place of the raw rows they stand for."""
        states = [self._states[user] for user in groups]
        blocks = [[token_block(group) for group in own] for own in groups.values()]
        first = [own[-1].ordinal + 1 for own in blocks]
        swapped = self._engine.swap([state.cache for state in states], blocks, first)
        for state, own, (cache, hidden) in zip(states, groups.values(), swapped, strict=True):
            state.cache = cache
            state.groups = cache.n_tokens // self._engine.config.n_tokens
            state.covered_through_ms = own[-1].last.h_ts_ms
            state.first_recent = own[-1].last_ordinal + 1
            state.left_out = 0
            state.hidden = hidden[-1].float().numpy().copy() if len(hidden) else None
            self._states.put(state)

    def score_rows(self, table: pa.Table) -> Iterator[list[Slate]]:
        """Slates for the scored rows of a stored batch, in its order, some at a time; other rows only move the states."""
        rows = StoredRows.of(table, self._ids)
        for start, stop in self._stretches(rows):
            self._ensure(rows, start, stop)
            for first in range(start, stop, CHUNK_ROWS):
                readings = self._advance.over(rows, first, min(first + CHUNK_ROWS, stop))
                slates = self._slates(readings, rows)
                yield [slates[row] for row in sorted(slates)]
            self._states.make_room(0)

    def score_states(self, requests: Sequence[StateRequest]) -> StateScores:
        """Scores of every known item for states loaded as of given positions; changes no cached state."""
        out = np.empty((len(requests), self._shared.n_items), dtype=np.float32)
        coverage: dict[int, Coverage] = {}
        for start in range(0, len(requests), _LOAD_USERS):
            places = range(start, min(start + _LOAD_USERS, len(requests)))
            for part in self._asked([requests[place] for place in places], places):
                out[part.row] = self._scores(part)
                coverage |= zip(part.row.tolist(), part.coverage(), strict=True)
        now = self._shared.now()
        ids = now.candidates.item_ids if now.candidates else []
        covered = [coverage[place] for place in range(len(requests))]
        return StateScores(out, ids, now.known & now.available, covered)

    def slate(self, request: StateRequest, *, top_k: int | None = None) -> Slate:
        """One slate for a request, from the state in storage."""
        return self._slates(self._asked([request], [0]), None, top_k=top_k)[0]

    def _asked(self, requests: Sequence[StateRequest], places: Sequence[int]) -> list[Readings]:
        states: list[UserState] = self._loader.load([
            LoadRequest(r.user_idx, r.as_of, r.mode, r.swap_user_idx) for r in requests
        ])
        times, kinds = [r.at_ms for r in requests], [r.readout for r in requests]
        return self._advance.request(states, times, kinds, places)

    def _stretches(self, rows: StoredRows) -> Iterator[tuple[int, int]]:
        """Consecutive rows whose users are loaded together and fit the cache together."""
        most = max(1, min(_LOAD_USERS, self._config.max_users))
        start = 0
        while start < len(rows):
            _, first = np.unique(rows.user_idx[start:], return_index=True)
            first.sort()
            stop = start + int(first[most]) if len(first) > most else len(rows)
            yield start, stop
            start = stop

    def _ensure(self, rows: StoredRows, start: int, stop: int) -> None:
        """Load the states of a stretch that are not in memory, each as of its user's first row there."""
        users, first = np.unique(rows.user_idx[start:stop], return_index=True)
        order = np.argsort(first)
        offsets = dict(
            zip(users[order].tolist(), rows.as_of[start + first[order]].tolist(), strict=True)
        )
        missing = self._states.use(offsets)
        self._states.make_room(len(missing))
        missing = [user for user in offsets if user not in self._states]
        new = {user for user in missing if self._is_new(user)}
        known = [LoadRequest(user, offsets[user]) for user in missing if user not in new]
        for state in [*self._loader.empty(new), *self._loader.load(known)]:
            self._states.put(state)

    def _is_new(self, user: int) -> bool:
        """Whether a user was first seen by this process and is met for the first time: all his rows are to come."""
        place = user - self._first_new
        if place < 0:
            return False
        self._met.extend(bytes(max(0, place + 1 - len(self._met))))
        first, self._met[place] = not self._met[place], True
        return first

    def _scores(
        self,
        readings: Readings,
        shown: NDArray[np.bool_] | None = None,
        *,
        seen: bool = True,
    ) -> NDArray[np.float32]:
        """Final scores [R, V]; -inf where items are not shown, or are seen and seen ones are not to be."""
        candidates = self._shared.now().candidates
        width = self._shared.n_items
        if candidates is None or not len(readings):
            return np.zeros((len(readings), width), dtype=np.float32)
        features = readings.told.features(width)
        scores = candidates.scores(readings.kind, readings.hidden, features, shown)
        if not seen:  # the features name every item of the whole history
            scores.put(features.pairs(width).cell, -np.inf)
        return scores

    def _slates(
        self, readings: Sequence[Readings], rows: StoredRows | None, *, top_k: int | None = None
    ) -> dict[int, Slate]:
        """Slates by the row or place that the readings answer."""
        candidates = self._shared.now().candidates
        item_ids = candidates.item_ids if candidates else []
        out: dict[int, Slate] = {}
        for kind in dict.fromkeys(part.kind for part in readings):
            parts = [part for part in readings if part.kind == kind]
            items = iter(named(self._tops(parts, top_k or self._config.top_k), item_ids))
            for part in parts:
                own = list(islice(items, len(part)))
                out |= zip(part.row.tolist(), self._written(part, rows, own), strict=True)
        return out

    def _tops(self, parts: Sequence[Readings], k: int) -> list[Top]:
        """Best items under hard filters, as many rows at once as stay near the processor with their scores."""
        allowed = self._shared.allowed(self._config.deny)
        seen = not self._config.filter_seen
        step = rows_at_once(len(allowed))
        return [top(self._scores(part, allowed, seen=seen), k) for part in portions(parts, step)]

    def _written(
        self,
        readings: Readings,
        rows: StoredRows | None,
        items: Sequence[tuple[ScoredItem, ...]],
    ) -> list[Slate]:
        users, times = readings.user_idx.tolist(), readings.at_ms.tolist()
        names = {user: self._ids.user_id(user) if user >= 0 else "" for user in set(users)}
        causes: Sequence[Cause | None]
        if rows is None:
            causes = [None] * len(readings)
            ids = [request_id(names[user], at) for user, at in zip(users, times, strict=True)]
        else:
            causes = found = rows.causes(readings.row)
            ids = recommendation_ids((one.topic, one.partition, one.offset) for one in found)
        cut_ms, version, kind = self._shared.now().cut_ms, self._engine.version, readings.kind
        columns = zip(
            ids,
            users,
            times,
            readings.n_history.tolist(),
            causes,
            items,
            readings.coverage(),
            strict=True,
        )
        return [
            Slate(
                id=slate_id,
                user_id=names[user],
                at_ms=at_ms,
                cause=cause,
                items=shown,
                model_version=version,
                coverage=coverage,
                reason=reason(coverage, n_history),
                readout=kind,
                popularity_cut_ms=cut_ms,
            )
            for slate_id, user, at_ms, n_history, cause, shown, coverage in columns
        ]


def _follow(state: UserState, groups: Sequence[GroupRow]) -> bool:
    """Whether groups cover what follows the state's own, all that it left out, and nothing beyond its history."""
    starts = [group.last_ordinal + 1 - group.n_items for group in groups]
    ends = [group.last_ordinal + 1 for group in groups]
    return (
        starts == [state.first_recent - state.left_out, *ends[:-1]]
        and state.first_recent <= ends[-1] <= state.n_history
    )
