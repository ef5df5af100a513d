"""User states from storage, as of a log position: token groups, recent window, counters, visits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from model.engine import TokenBlock
from model.features import DECAY_DAYS
from storage import counters as counter_store
from storage import interactions, tokens, visibility
from stream.counters import Counters, terms
from stream.history import EMPTY, ROW_COLUMNS, UserRows, model_rows, rows_by_user
from stream.state import UserState, Visit
from stream.stored import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from model.engine import Engine
    from storage.database import Database, Snapshot
    from storage.identities import Identities
    from storage.records import PartitionKey
    from storage.tokens import GroupRow
    from stream.shared import Shared

StateMode = Literal["tokens", "recents", "swap", "full"]


FULL_ROWS = 512
"""Newest interactions the "full" variant reads raw: the longest windows of training."""


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """One state to load.

    `as_of` is the exclusive upper offset in the user's partition, None for everything stored. `mode` is what production
    reads ("tokens") or a variant for evaluation: the same recent window without tokens ("recents"), with another user's
    tokens ("swap", from `swap_user_idx`), or the newest raw history as one segment ("full"). `event` is the offset of the
    event the state is for, where rows up to that event itself are read: groups that apply only after it are not.
    """

    user_idx: int
    as_of: int | None = None
    mode: StateMode = "tokens"
    swap_user_idx: int | None = None
    event: int | None = None


@dataclass(frozen=True, slots=True)
class WindowRule:
    """The recent window: at most r_max rows, shortened by whole segments of n; `full_max` bounds the "full" variant."""

    segment_len: int
    r_max: int
    window: int | None
    full_max: int = FULL_ROWS


@dataclass(slots=True)
class _Read:
    """What one read transaction returned for the users of a load."""

    groups: dict[int, list[GroupRow]]
    rows: dict[int, UserRows]
    whole: set[int]
    counters: dict[int, Counters]


class StateLoader:
    """Loads many users with a few queries inside one read transaction.

    Attributes:
        rule: how long recent windows are.
    """

    def __init__(
        self,
        db: Database,
        identities: Identities,
        engine: Engine,
        shared: Shared,
        rule: WindowRule,
        visit_gap_ms: int,
    ) -> None:
        self._db = db
        self._ids = identities
        self._engine = engine
        self._shared = shared
        self.rule = rule
        self._gap_ms = visit_gap_ms
        self._ref_ms: int | None = None

    def load(self, requests: Sequence[LoadRequest]) -> list[UserState]:
        """States in the order of the requests; users may repeat, each time as of another offset."""
        found: dict[int, UserState] = {}
        for places in self._rounds(requests):
            states = self._load([requests[place] for place in places])
            found |= zip(places, states, strict=True)
        return [found[place] for place in range(len(requests))]

    def empty(self, users: Iterable[int]) -> list[UserState]:
        """States of users without history; storage is not asked."""
        read = _Read({user: [] for user in users}, {}, set(), {})
        return [self._build(LoadRequest(user), read)[0] for user in users]

    def ref_ms(self) -> int:
        """Reference time of all counters; fixed by a database's first append."""
        if self._ref_ms is None:
            self._ref_ms = counter_store.counter_ref_ms(self._db)
        return self._ref_ms or 0

    def groups_of_run(self, run_id: int, users: Sequence[int]) -> dict[int, list[GroupRow]]:
        """The groups that a refresh run stored for some users, oldest first."""
        out: dict[int, list[GroupRow]] = {}
        for group in tokens.groups_of_run(self._db, self._engine.version, run_id, users):
            out.setdefault(group.user_idx, []).append(group)
        return out

    def _rounds(self, requests: Sequence[LoadRequest]) -> list[list[int]]:
        """Places of the requests one read can serve: none has a user as of two sets of visible groups."""
        bounds: dict[int, set[int]] = {}
        for request in requests:
            bounds.setdefault(request.user_idx, set()).add(_groups_bound(request))
        several = [(user, b) for user, found in bounds.items() if len(found) > 1 for b in found]
        visible = (
            visibility.visible_groups(self._db, self._engine.version, several) if several else {}
        )
        rounds: list[list[int]] = []
        served: dict[int, list[int]] = {}
        for place, request in enumerate(requests):
            groups = visible.get((request.user_idx, _groups_bound(request)), 0)
            counts = served.setdefault(request.user_idx, [])
            if groups not in counts:
                counts.append(groups)
            turn = counts.index(groups)
            rounds += [[] for _ in range(turn + 1 - len(rounds))]
            rounds[turn].append(place)
        return rounds

    def _load(self, requests: Sequence[LoadRequest]) -> list[UserState]:
        read = self._read(requests)
        states, pending = [], []
        for request in requests:
            state, recents = self._build(request, read)
            states.append(state)
            pending.append(recents)
        self._extend(states, pending)  # at once: passes are made of users of similar length
        return states

    def _extend(self, states: Sequence[UserState], recents: Sequence[UserRows]) -> None:
        item_rows = self._shared.item_rows()
        rows = [model_rows(item_rows, self._engine, r) for r in recents]
        hidden = self._engine.extend([s.cache for s in states], rows)
        for state, out in zip(states, hidden, strict=True):
            if len(out):
                state.hidden = out[-1].float().numpy().copy()  # not a view that keeps them all

    def _read(self, requests: Sequence[LoadRequest]) -> _Read:
        as_of: dict[int, int] = {}
        shown: dict[int, int] = {}
        repeated: set[int] = set()
        for request in requests:
            user, bound = request.user_idx, _bound(request)
            if user in as_of or request.mode == "full":
                repeated.add(user)
            as_of[user] = max(bound, as_of.get(user, bound))
            shown[user] = max(_groups_bound(request), shown.get(user, 0))
        users = sorted(as_of)
        swaps = {r.swap_user_idx for r in requests if r.swap_user_idx is not None}
        group_as_of = {**dict.fromkeys(swaps, EVERYTHING), **shown}
        home = {user: self._ids.partition(user) for user in group_as_of if user >= 0}
        with self._db.snapshot() as snapshot:
            groups = self._groups(snapshot, group_as_of, home)
            rows, whole = self._rows(snapshot, users, repeated, groups, as_of, home)
            summed = [u for u in users if groups[u] and u not in whole]
            counters = self._counters(snapshot, summed, rows, as_of, home)
        return _Read(groups, rows, whole, counters)

    def _groups(
        self,
        snapshot: Snapshot,
        as_of: Mapping[int, int],
        home: Mapping[int, PartitionKey],
    ) -> dict[int, list[GroupRow]]:
        users, version = sorted(as_of), self._engine.version
        found = tokens.load_groups(
            snapshot, users, version, newest=self.rule.window, as_of=as_of, home=home
        )
        out: dict[int, list[GroupRow]] = {user: [] for user in users}
        for group in found:
            out[group.user_idx].append(group)
        return out

    def _rows(
        self,
        snapshot: Snapshot,
        users: Sequence[int],
        repeated: set[int],
        groups: Mapping[int, list[GroupRow]],
        as_of: Mapping[int, int],
        home: Mapping[int, PartitionKey],
    ) -> tuple[dict[int, UserRows], set[int]]:
        """Recent rows per user; whole histories where the two newest visits reach into closed segments."""
        simple = [u for u in users if u not in repeated]
        before = {u: groups[u][-2] for u in simple if len(groups[u]) > 1}  # one closed segment, too
        found_rows = interactions.load_recents(
            snapshot,
            simple,
            after={u: group.last for u, group in before.items()},
            as_of=as_of,
            home=home,
            columns=ROW_COLUMNS,
        )
        rows = rows_by_user(found_rows)
        whole = set(repeated)
        for user in simple:
            found = rows.get(user, EMPTY)
            first = before[user].last_ordinal + 1 if user in before else 0
            rows[user] = found.starting_at(first)
            if not first or not self._visits_inside(found):
                whole.add(user)
        missing = sorted(user for user in whole if user in before or user in repeated)
        if missing:
            history = interactions.load_history(
                snapshot, missing, as_of=as_of, home=home, columns=ROW_COLUMNS
            )
            rows |= rows_by_user(history)
        return rows, whole

    def _visits_inside(self, rows: UserRows) -> bool:
        """Whether the rows hold the two newest visits whole: older rows exist before them."""
        newest = rows.visit_start(len(rows), self._gap_ms)
        return newest > 0 and rows.visit_start(newest, self._gap_ms) > 0

    def _counters(
        self,
        snapshot: Snapshot,
        users: Sequence[int],
        rows: Mapping[int, UserRows],
        as_of: Mapping[int, int],
        home: Mapping[int, PartitionKey],
    ) -> dict[int, Counters]:
        """Counters before the newest visit of each user with token groups, from the store's aggregates."""
        if not users:
            return {}
        before = {
            u: rows[u].key(rows[u].visit_start(len(rows[u]), self._gap_ms))
            for u in users
            if len(rows[u])
        }
        table = counter_store.load_counters(
            snapshot, list(users), as_of=as_of, before=before, home=home
        )
        return _counters_by_user(table)

    def _build(self, request: LoadRequest, read: _Read) -> tuple[UserState, UserRows]:
        user = request.user_idx
        groups = [] if request.mode == "full" else read.groups[user]
        rows = read.rows.get(user, EMPTY)
        counters = read.counters.get(user)
        if user in read.whole:
            rows = rows.before(request.as_of)
        start = rows.visit_start(len(rows), self._gap_ms)
        if counters is None:
            counters = self._count(rows.slice(0, start))
        first = groups[-1].last_ordinal + 1 if groups else 0
        recents, left_out = self._window(rows, first, request.mode)
        visit = _visit(rows, start)
        previous = rows.visit_start(start, self._gap_ms)
        blocks = self._blocks(request, read)
        state = UserState(
            user_idx=user,
            cache=self._engine.new_cache(blocks),
            counters=counters,
            visit=visit,
            last_visit=_distinct(rows.item_idx[previous:start]),
            last_key=rows.key(len(rows) - 1) if len(rows) else None,
            n_history=rows.first + len(rows),
            first_recent=recents.first,
            left_out=left_out,
            groups=len(blocks),
            covered_through_ms=groups[-1].last.h_ts_ms if blocks and groups else None,
        )
        return state, recents

    def _window(self, rows: UserRows, first: int, mode: StateMode) -> tuple[UserRows, int]:
        """The rows the cache holds, and how many uncovered ones were left out (whole segments, oldest first)."""
        if mode == "full":
            return rows.slice(max(0, len(rows) - self.rule.full_max)), 0
        recents = rows.slice(first - rows.first)
        over = len(recents) - self.rule.r_max
        if over <= 0:
            return recents, 0
        n = self.rule.segment_len
        left_out = -(-over // n) * n
        return recents.slice(left_out), left_out

    def _blocks(self, request: LoadRequest, read: _Read) -> list[TokenBlock]:
        groups = read.groups[request.user_idx]
        if request.mode in {"recents", "full"}:
            return []
        if request.mode == "tokens":
            return [token_block(group) for group in groups]
        foreign = read.groups[request.swap_user_idx] if request.swap_user_idx is not None else []
        paired = min(len(groups), len(foreign))  # the newest ones, in the places of the user's own
        return [
            token_block(own, kv_of=other)
            for own, other in zip(
                groups[-paired:] if paired else [], foreign[-paired:] if paired else [], strict=True
            )
        ]

    def _count(self, rows: UserRows) -> Counters:
        counters = Counters()
        counters.add(rows.item_idx, terms(rows.ts, rows.weight, self.ref_ms()))
        return counters


def _bound(request: LoadRequest) -> int:
    return EVERYTHING if request.as_of is None else request.as_of


def _groups_bound(request: LoadRequest) -> int:
    return _bound(request) if request.event is None else request.event


def token_block(group: GroupRow, kv_of: GroupRow | None = None) -> TokenBlock:
    """A stored group as the model reads it; `kv_of` puts another group's keys and values in its place."""
    source = kv_of or group
    return TokenBlock(
        segment=group.segment,
        kv=source.kv_array(),
        time_ms=group.last.h_ts_ms,
        ordinal=group.last_ordinal,
        outputs=source.outputs,
    )


def _counters_by_user(table: pa.Table) -> dict[int, Counters]:
    users = table["user_idx"].to_numpy()
    item_idx = table["item_idx"].to_numpy()
    names = ["n", *(f"s{int(days)}" for days in DECAY_DAYS)]
    sums = np.stack([table[name].to_numpy() for name in names], axis=1)
    if not len(users):
        return {}
    starts = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1]])).tolist()
    return {
        int(users[start]): Counters(item_idx[start:stop].copy(), sums[start:stop].copy())
        for start, stop in zip(starts, [*starts[1:], len(users)], strict=True)
    }


def _visit(rows: UserRows, start: int) -> Visit:
    """The visit that the rows from `start` on make up."""
    visit = Visit()
    if start < len(rows):
        visit.add(*(column[start:].tolist() for column in (rows.item_idx, rows.ts, rows.weight)))
        visit.ends_with(int(rows.h_ts[-1]), rows.session_id[-1])
    return visit


def _distinct(items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each item once, in order of first sight."""
    return np.array(list(dict.fromkeys(items.tolist())), np.int64)
