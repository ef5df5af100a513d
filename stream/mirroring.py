"""Sends stored dead letters to wherever others watch for them, each at least once.

The table is the truth; what was sent is marked by position, so a mirror that was switched on later, or was away,
catches up, and a crash between sending and marking sends again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import msgspec

from storage import dead_letters
from storage.faults import reach
from stream.dead_rows import letters_of
from stream.errors import SinkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.database import Database
    from storage.records import PartitionKey
    from stream.events import DeadLetter

logger = logging.getLogger(__name__)
MARKS_KEY = "dead_mirrored"
"""Meta key: per partition the offset after the last dead letter that was sent, as [topic, part, offset]."""
_BATCH = 500


class Mirror(Protocol):
    """Takes dead letters."""

    def write(self, letters: Sequence[DeadLetter]) -> None:
        """Take `letters`; they are safe when this returns.

        Raises:
            SinkError: not all of them are.
        """
        ...


class Mirroring:
    """Brings a mirror up to date with the table of dead letters.

    Args:
        db: the database; marks are kept in it.
        mirror: where dead letters go.
    """

    def __init__(self, db: Database, mirror: Mirror) -> None:
        self._db = db
        self._mirror = mirror
        stored = msgspec.json.decode(
            db.get_meta(MARKS_KEY) or b"[]", type=list[tuple[str, int, int]]
        )
        self._marks: dict[PartitionKey, int] = {(topic, part): off for topic, part, off in stored}
        self._behind = True  # what an earlier process stored may not have been sent

    def keep_up(self, dead: int) -> None:
        """Send what is missing after a batch with so many bad records was stored.

        A mirror that is away is logged and made up for by a later call.

        Raises:
            SinkError: the mirror refuses, and would again.
        """
        if not (dead or self._behind):
            return
        try:
            self.run()
        except SinkError as err:
            if err.retry_after_s is None:
                raise
            logger.warning("mirror_away", extra={"error": str(err)})
            self._behind = True
        else:
            self._behind = False

    def run(self) -> int:
        """Send what was stored since the last call, or was never sent; returns how many letters.

        To be called at the start and after every stored batch with bad records, by one thread.

        Raises:
            SinkError: the mirror did not take them; the next call sends them again.
        """
        sent = 0
        while True:
            letters = letters_of(dead_letters.beyond(self._db, self._marks, limit=_BATCH))
            if not letters:
                return sent
            self._mirror.write(letters)
            reach("mirror.sent")
            marks = self._marks | {(d.topic, d.part): d.off + 1 for d in letters}
            rows = [(*key, off) for key, off in sorted(marks.items())]
            with self._db.transaction() as tx:
                self._db.set_meta(tx, MARKS_KEY, msgspec.json.encode(rows).decode())
            self._marks = marks
            sent += len(letters)
