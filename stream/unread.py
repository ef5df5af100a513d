"""Token groups between their transaction and the moment readers take them in."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.tokens import GroupRow


@dataclass(slots=True)
class Made:
    """What a refresh run made.

    Attributes:
        users: internal ids of those it compressed, or tried to.
        groups: their new groups, oldest first; None where they have to be read from the store.
    """

    users: list[int]
    groups: dict[int, list[GroupRow]] | None = field(default_factory=dict)
    nbytes: int = 0


class Unread:
    """Keeps what runs made until it is taken, in bounded memory; one thread adds while another takes.

    Args:
        max_bytes: groups beyond it are read from the store.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._made: dict[int, Made] = {}
        self.nbytes = 0

    def begin(self, run_id: int, users: Sequence[int]) -> None:
        """A run will compress segments of some users."""
        with self._lock:
            self._made[run_id] = Made(list(users))

    def add(self, groups: Sequence[GroupRow]) -> None:
        """Groups were stored, those of a user oldest first."""
        with self._lock:
            for group in groups:
                made = self._made.get(group.run_id)
                if made is None or made.groups is None:
                    continue
                made.groups.setdefault(group.user_idx, []).append(group)
                made.nbytes += group.nbytes
                self.nbytes += group.nbytes
                if self.nbytes > self._max_bytes:
                    self.nbytes -= made.nbytes
                    made.groups = None

    def take(self, run_id: int) -> Made | None:
        """What a run of this process made; once."""
        with self._lock:
            made = self._made.pop(run_id, None)
            if made is not None and made.groups is not None:
                self.nbytes -= made.nbytes
            return made
