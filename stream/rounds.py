"""Rounds of users to compress: one that fails is halved until the user is found that makes it fail.

A user to blame is left out of the tick, and noted; after repeated failures no further attempt is made under this
model version. Where nothing succeeds nobody is blamed: then it is what compresses that is broken.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from storage import runs
from stream.errors import CompressError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from storage.database import Database, Tx
    from stream.segments import Due

_MOST_FAILURES = 12  # of a tick: halving a round of 256 users takes 9 to find one


class Rounds:
    """Users of one tick, handed out round by round.

    Args:
        due: in order.
        size: users per round.
        patient: whether to go on after a round that fails.
    """

    def __init__(self, due: Sequence[Due], size: int, *, patient: bool) -> None:
        starts = range(0, len(due), size)
        self._waiting: deque[Sequence[Due]] = deque(due[start : start + size] for start in starts)
        self._total = len(due)
        self._patient = patient
        self._failures = 0
        self.first = True
        self.done: set[int] = set()
        self.suspects: dict[int, CompressError] = {}

    def next(self) -> tuple[Sequence[Due], bool]:
        """Return the users of the next round, and whether it is the last; it may be empty then."""
        part = self._waiting.popleft() if self._waiting else []
        return part, not self._waiting

    def succeeded(self, part: Sequence[Due]) -> None:
        """Note users whose groups are stored."""
        self.first = False
        self.done.update(due.user_idx for due in part)

    def failed(self, part: Sequence[Due], error: CompressError) -> None:
        """Try the users of a failed round in smaller ones.

        Raises:
            CompressError: the error itself, if there is no patience for it, or it was one too many.
        """
        self._failures += 1
        if not self._patient or not error.again or self._failures > _MOST_FAILURES:
            raise error
        if len(part) == 1:
            self.suspects[part[0].user_idx] = error
            return
        half = len(part) // 2
        self._waiting.extendleft((part[half:], part[:half]))

    def blamed(self) -> dict[int, CompressError]:
        """Return the users that failed alone, with their errors, where others did not fail or there are none."""
        return self.suspects if self.done or self._total == 1 else {}


class Setbacks:
    """Users whose compression failed before, as the database holds them.

    Args:
        db: the shard's database.
        version: the model version that failed.
    """

    def __init__(self, db: Database, version: str) -> None:
        self._db = db
        self._version = version
        found = runs.failures(db, version)
        self._failing = {row.user_idx for row in found}
        self._out = {row.user_idx for row in found if row.quarantined}

    def without(self, due: Sequence[Due]) -> list[Due]:
        """Return the segments of users for whom attempts are still made."""
        return [one for one in due if one.user_idx not in self._out]

    def blame(self, errors: dict[int, CompressError], at: datetime) -> None:
        """Note a failure of each user."""
        if not errors:
            return
        with self._db.transaction() as tx:
            for user, error in errors.items():
                runs.record_failure(tx, user, self._version, str(error), at)
        self._failing |= set(errors)
        self._out = {r.user_idx for r in runs.failures(self._db, self._version) if r.quarantined}

    def clear(self, tx: Tx, users: Iterable[int]) -> None:
        """Forget the failures of users whose groups a transaction stores."""
        for user in self._failing.intersection(users):
            runs.clear_failure(tx, user, self._version)
            tx.on_commit(partial(self._failing.discard, user))
