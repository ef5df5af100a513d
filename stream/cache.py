"""User states in bounded memory: the least recently used ones leave first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream.state import UserState


CACHE_KEY = "state_cache"
"""Meta key of what the cache held when the newest scoring run ended."""


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Where a cache stands: what it holds, what it may hold, how often it helped.

    Attributes:
        users: states in memory.
        max_users: most of them.
        bytes: their memory, keys and values included.
        max_bytes: most of it.
        arena_bytes: keys and values in use, those of states just being loaded included.
        hits: users found in memory, once per stretch of events.
        misses: users that had to be loaded.
        evictions: states that left for others.
    """

    users: int
    max_users: int
    bytes: int
    max_bytes: int
    arena_bytes: int
    hits: int
    misses: int
    evictions: int


class StateCache:
    """States by internal user id, within a number of users and a number of bytes.

    A state is derived from storage: dropping it changes no score.
    """

    def __init__(self, max_users: int, max_bytes: int) -> None:
        self.max_users = max_users
        self.max_bytes = max_bytes
        self.nbytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._states: OrderedDict[int, UserState] = OrderedDict()
        self._sizes: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, user: int) -> bool:
        return user in self._states

    def __getitem__(self, user: int) -> UserState:
        return self._states[user]

    def values(self) -> list[UserState]:
        """All states, the least recently used first."""
        return list(self._states.values())

    def use(self, users: Iterable[int]) -> list[int]:
        """Mark users as used now; returns those that are not here."""
        missing = []
        for user in users:
            if user in self._states:
                self._states.move_to_end(user)
                self.hits += 1
            else:
                missing.append(user)
        self.misses += len(missing)
        return missing

    def put(self, state: UserState) -> None:
        """Keep a state, or count anew one that has changed its size."""
        user = state.user_idx
        size = state.nbytes
        self.nbytes += size - self._sizes.get(user, 0)
        self._sizes[user] = size
        self._states[user] = state

    def drop(self, users: Iterable[int]) -> None:
        """Forget users."""
        for user in users:
            if self._states.pop(user, None) is not None:
                self.nbytes -= self._sizes.pop(user)

    def make_room(self, users: int) -> None:
        """Let the least recently used leave until so many more users fit, as large as those here are on average."""
        if not self._states:
            return
        expected = users * (self.nbytes // len(self._states))
        while self._states and (
            len(self._states) + users > self.max_users or self.nbytes + expected > self.max_bytes
        ):
            self.drop([next(iter(self._states))])
            self.evictions += 1

    def report(self, arena_bytes: int) -> CacheUse:
        """Where the cache stands, given what the arena of keys and values takes."""
        return CacheUse(
            users=len(self),
            max_users=self.max_users,
            bytes=self.nbytes,
            max_bytes=self.max_bytes,
            arena_bytes=arena_bytes,
            hits=self.hits,
            misses=self.misses,
            evictions=self.evictions,
        )
