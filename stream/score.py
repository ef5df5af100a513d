"""Stored events in, slates out: token caches extended by new interactions, read out, ranked, filtered."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from model.features import stack_rows
from stream.history import UserRows, model_rows, table_rows
from stream.loading import LoadRequest, StateLoader, StateMode
from stream.rank import top_items
from stream.slates import (
    Cause,
    Coverage,
    ReasonCode,
    ScoredItem,
    Slate,
    recommendation_id,
    request_id,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from model.engine import Engine
    from model.readout import Kind
    from storage.identities import Identities
    from stream.config import ServingConfig
    from stream.history import StoredRow
    from stream.shared import Shared
    from stream.state import SparseRow, UserState

_CHUNK_ROWS = 256
"""Events scored together; results do not depend on it."""


@dataclass(frozen=True, slots=True)
class StateRequest:
    """A question to the production scorer: what would this user be shown at this time, from this state?"""

    user_idx: int
    at_ms: int
    as_of: int | None = None
    mode: StateMode = "tokens"
    swap_user_idx: int | None = None
    readout: Literal["visit", "line", "auto"] = "auto"


@dataclass(frozen=True, slots=True)
class StateScores:
    """Final scores before filters, float32 [R, V].

    Columns are `item_ids`; `candidate` says which may be shown; `coverage` [R] is what each row was read from.
    """

    scores: NDArray[np.float32]
    item_ids: list[str]
    candidate: NDArray[np.bool_]
    coverage: list[Coverage]


@dataclass(frozen=True, slots=True)
class _Reading:
    """A scored row: everything the slate says, taken when the state stood there."""

    user_idx: int
    at_ms: int
    kind: Kind
    hidden: NDArray[np.float32]
    features: SparseRow
    coverage: Coverage
    reason: ReasonCode
    seen: NDArray[np.int64] | None


class Scorer:
    """Keeps user states in bounded memory and turns stored events into slates.

    A state is derived from storage: evicting it changes no score, an interaction that arrives out of order or a recent
    window that outgrows its limit reloads it.
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
        self._gap_ms = visit_gap_ms
        self._states: OrderedDict[int, UserState] = OrderedDict()
        self._bytes = 0
        self.evictions = 0

    @property
    def cached_users(self) -> int:
        """User states in memory."""
        return len(self._states)

    @property
    def cached_bytes(self) -> int:
        """Memory held by user states, bytes."""
        return self._bytes

    def invalidate(self, users: Iterable[int]) -> None:
        """Drop states that new token groups have outdated; they are loaded again when needed."""
        for user in users:
            self._drop(user)

    def score_rows(self, table: pa.Table) -> list[Slate]:
        """Slates for the scored rows of a stored batch, in its order; other rows only move the states."""
        slates: list[Slate] = []
        for start in range(0, table.num_rows, _CHUNK_ROWS):
            rows = table_rows(table.slice(start, _CHUNK_ROWS))
            readings = self._advance(rows)
            kept = [(row, reading) for row, reading in zip(rows, readings, strict=True) if reading]
            slates.extend(self._slates([reading for _, reading in kept], [row for row, _ in kept]))
            self._evict()
        return slates

    def score_states(self, requests: Sequence[StateRequest]) -> StateScores:
        """Scores of every known item for states loaded as of given positions; changes no cached state."""
        out = np.empty((len(requests), self._shared.n_items), dtype=np.float32)
        coverage: list[Coverage] = []
        for start in range(0, len(requests), _CHUNK_ROWS):
            part = requests[start : start + _CHUNK_ROWS]
            states = self._loader.load([
                LoadRequest(r.user_idx, r.as_of, r.mode, r.swap_user_idx) for r in part
            ])
            readings = self._request(states, [r.at_ms for r in part], [r.readout for r in part])
            out[start : start + len(part)] = self._scores(readings)
            coverage.extend(reading.coverage for reading in readings)
        now = self._shared.now()
        ids = now.candidates.item_ids if now.candidates else []
        return StateScores(out, ids, now.known & now.available, coverage)

    def slate(self, request: StateRequest, *, top_k: int | None = None) -> Slate:
        """One slate for a request, from the state in storage."""
        states = self._loader.load([
            LoadRequest(request.user_idx, request.as_of, request.mode, request.swap_user_idx)
        ])
        readings = self._request(states, [request.at_ms], [request.readout])
        return self._slates(readings, [None], top_k=top_k)[0]

    def _advance(self, rows: Sequence[StoredRow]) -> list[_Reading | None]:
        """Move the users' states over the rows, in order per user, and read them where a row is scored."""
        self._ensure(rows)
        readings: list[_Reading | None] = [None] * len(rows)
        queues: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            queues.setdefault(row.user_idx, []).append(i)
        while queues:
            self._extend_simple(rows, queues, readings)
            self._handle_heads(rows, queues, readings)
            queues = {user: queue for user, queue in queues.items() if queue}
        return readings

    def _ensure(self, rows: Sequence[StoredRow]) -> None:
        first_off: dict[int, int] = {}
        for row in rows:
            first_off.setdefault(row.user_idx, row.off)
        missing = [u for u in first_off if u not in self._states]
        for state in self._loader.load([LoadRequest(u, first_off[u]) for u in missing]):
            self._keep(state)
        for user in first_off:
            self._states.move_to_end(user)

    def _extend_simple(
        self,
        rows: Sequence[StoredRow],
        queues: dict[int, list[int]],
        readings: list[_Reading | None],
    ) -> None:
        """Extend all users at once by the rows that simply continue their history."""
        picked = [(u, self._simple_prefix(rows, self._states[u], q)) for u, q in queues.items()]
        picked = [(user, prefix) for user, prefix in picked if prefix]
        if not picked:
            return
        states = [self._states[user] for user, _ in picked]
        runs = [
            UserRows.of([rows[i].history for i in prefix], first=state.n_history)
            for state, (_, prefix) in zip(states, picked, strict=True)
        ]
        item_rows = self._shared.item_rows()
        before = sum(state.nbytes for state in states)
        hidden = self._engine.extend(
            [state.cache for state in states],
            [model_rows(item_rows, self._engine, r) for r in runs],
        )
        for state, (user, prefix), out in zip(states, picked, hidden, strict=True):
            for i, vector in zip(prefix, out.float().numpy(), strict=True):
                state.push(rows[i].history, self._gap_ms)
                state.hidden = vector.copy()  # not a view that keeps the batch's rows
                if rows[i].scores:
                    readings[i] = self._read(state, rows[i].history.key.h_ts_ms, "line")
            del queues[user][: len(prefix)]
        self._bytes += sum(state.nbytes for state in states) - before

    def _simple_prefix(
        self, rows: Sequence[StoredRow], state: UserState, queue: Sequence[int]
    ) -> list[int]:
        prefix: list[int] = []
        room = self._config.r_max - state.recents
        newest = state.last_key
        for i in queue[: max(room, 0)]:
            row = rows[i]
            if not row.in_history or (newest is not None and row.history.key < newest):
                break
            prefix.append(i)
            newest = row.history.key
        return prefix

    def _handle_heads(
        self,
        rows: Sequence[StoredRow],
        queues: dict[int, list[int]],
        readings: list[_Reading | None],
    ) -> None:
        """Rows that do not simply continue: reload the state with them, or read it without a new row."""
        heads = [queue.pop(0) for queue in queues.values() if queue]
        reload = [i for i in heads if rows[i].in_history]
        loaded = self._loader.load([LoadRequest(rows[i].user_idx, rows[i].off + 1) for i in reload])
        for state in loaded:
            self._drop(state.user_idx)
            self._keep(state)
        asked = [i for i in heads if rows[i].scores]
        states = [self._states[rows[i].user_idx] for i in asked]
        times = [
            max(rows[i].history.ts_ms, _newest(state))
            for i, state in zip(asked, states, strict=True)
        ]
        kinds: list[Literal["visit", "line", "auto"]] = [
            "line" if rows[i].in_history else "auto" for i in asked
        ]
        for i, reading in zip(asked, self._request(states, times, kinds), strict=True):
            readings[i] = reading

    def _request(
        self,
        states: Sequence[UserState],
        times_ms: Sequence[int],
        kinds: Sequence[Literal["visit", "line", "auto"]],
    ) -> list[_Reading]:
        """Read states at given times: the newest row inside a visit, else a request row."""
        lines = [
            state.hidden is not None
            and (kind == "line" or (kind == "auto" and state.in_visit(at, self._gap_ms)))
            for state, at, kind in zip(states, times_ms, kinds, strict=True)
        ]
        asking = [i for i, line in enumerate(lines) if not line]
        rows: dict[int, NDArray[np.float32]] = {}
        if asking:
            hidden = self._engine.request(
                [states[i].cache for i in asking], np.array([times_ms[i] for i in asking], np.int64)
            )
            rows = dict(zip(asking, hidden.float().numpy(), strict=True))
        return [
            self._read(state, at, "visit" if i in rows else "line", rows.get(i))
            for i, (state, at) in enumerate(zip(states, times_ms, strict=True))
        ]

    def _read(
        self,
        state: UserState,
        at_ms: int,
        kind: Kind,
        hidden: NDArray[np.float32] | None = None,
    ) -> _Reading:
        vector = state.hidden if hidden is None else hidden
        if vector is None:
            vector = np.zeros(self._engine.config.d_model, dtype=np.float32)
        line = kind == "line"
        features = state.line_features(at_ms) if line else state.request_features(at_ms)
        return _Reading(
            user_idx=state.user_idx,
            at_ms=at_ms,
            kind=kind,
            hidden=vector,
            features=features,
            coverage=_coverage(state, at_ms),
            reason=_reason(state),
            seen=state.seen() if self._config.filter_seen else None,
        )

    def _scores(self, readings: Sequence[_Reading]) -> NDArray[np.float32]:
        """Final scores [R, V] before filters."""
        candidates = self._shared.now().candidates
        width = self._shared.n_items
        out = np.zeros((len(readings), width), dtype=np.float32)
        if candidates is None or not readings:
            return out
        kinds: tuple[Kind, ...] = ("visit", "line")
        for kind in kinds:
            picked = [i for i, reading in enumerate(readings) if reading.kind == kind]
            if not picked:
                continue
            sparse = stack_rows([_known(readings[i].features, width) for i in picked])
            hidden = np.stack([readings[i].hidden for i in picked])
            out[picked] = candidates.scores(kind, hidden, sparse)
        return out

    def _slates(
        self,
        readings: Sequence[_Reading],
        rows: Sequence[StoredRow | None],
        *,
        top_k: int | None = None,
    ) -> list[Slate]:
        if not readings:
            return []
        scores = self._scores(readings)
        allowed = self._shared.allowed(self._config.deny)
        candidates = self._shared.now().candidates
        ids = candidates.item_ids if candidates else []
        return [
            self._slate(
                reading,
                row,
                top_items(line, allowed, reading.seen, ids, top_k or self._config.top_k),
            )
            for reading, row, line in zip(readings, rows, scores, strict=True)
        ]

    def _slate(
        self, reading: _Reading, row: StoredRow | None, items: tuple[ScoredItem, ...]
    ) -> Slate:
        user_id = self._ids.user_id(reading.user_idx) if reading.user_idx >= 0 else ""
        cause = None if row is None else _cause(row)
        return Slate(
            id=request_id(user_id, reading.at_ms)
            if row is None
            else recommendation_id(row.topic, row.part, row.off),
            user_id=user_id,
            at_ms=reading.at_ms,
            cause=cause,
            items=items,
            model_version=self._engine.version,
            coverage=reading.coverage,
            reason=reading.reason,
            readout=reading.kind,
            popularity_cut_ms=self._shared.now().cut_ms,
        )

    def _keep(self, state: UserState) -> None:
        self._states[state.user_idx] = state
        self._bytes += state.nbytes

    def _drop(self, user: int) -> None:
        state = self._states.pop(user, None)
        if state is not None:
            self._bytes -= state.nbytes

    def _evict(self) -> None:
        limits = self._config
        while self._states and (
            len(self._states) > limits.max_users or self._bytes > limits.max_bytes
        ):
            self._drop(next(iter(self._states)))
            self.evictions += 1


def _newest(state: UserState) -> int:
    return state.last_key.h_ts_ms if state.last_key is not None else 0


def _known(features: SparseRow, width: int) -> SparseRow:
    """Leave out items that are no candidates yet: first seen since the last tick."""
    items, x = features
    kept = items < width
    return (items, x) if kept.all() else (items[kept], x[kept])


def _coverage(state: UserState, at_ms: int) -> Coverage:
    covered = state.covered_through_ms
    return Coverage(
        groups=state.groups,
        covered_through_ms=covered,
        age_s=None if covered is None else (at_ms - covered) / 1000,
        recents=state.recents,
        left_out=state.left_out,
    )


def _reason(state: UserState) -> ReasonCode:
    if not state.n_history:
        return "cold_user"
    if state.left_out:
        return "stale_tokens"
    return "personal" if state.groups else "recent_only"


def _cause(row: StoredRow) -> Cause:
    return Cause(
        topic=row.topic,
        partition=row.part,
        offset=row.off,
        event_id=row.event_id,
        ts=row.history.ts_ms,
    )
