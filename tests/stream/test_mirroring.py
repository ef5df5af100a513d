from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from storage import dead_letters, faults
from storage.database import Database
from stream.dead_rows import letters_of, rows_of
from stream.errors import SinkError
from stream.events import DeadLetter
from stream.mirroring import Mirroring

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Taken:
    """A mirror in memory that can be away."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []
        self.away = False
        self.retry_after_s: float | None = 1.0

    def write(self, letters: Sequence[DeadLetter]) -> None:
        if self.away:
            raise SinkError("away", retry_after_s=self.retry_after_s)
        self.letters += letters


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database.open(tmp_path / "a.db", now=NOW) as opened:
        yield opened


def letter(part: int, off: int) -> DeadLetter:
    headers = [("a", b"\xff"), ("b", None)]
    return DeadLetter("clicks", part, off, "malformed", "x", b"{", b"k", headers, 1_000, 1)


def store(db: Database, *letters: DeadLetter) -> None:
    with db.transaction() as tx:
        dead_letters.append(tx, rows_of(letters, NOW))


def test_letters_come_back_from_their_rows_as_they_were() -> None:
    letters = [letter(0, 1), DeadLetter("clicks", 0, 2, "malformed", "", None, size=0, headers=[])]
    rows = rows_of(letters, NOW)
    assert letters_of(rows) == letters


def test_every_letter_is_sent_once_and_later_ones_by_later_runs(db: Database) -> None:
    taken = Taken()
    store(db, letter(0, 5), letter(1, 2))
    mirroring = Mirroring(db, taken)
    assert (mirroring.run(), mirroring.run()) == (2, 0)
    store(db, letter(0, 9))
    assert mirroring.run() == 1
    assert Mirroring(db, taken).run() == 0
    assert [(one.part, one.off) for one in taken.letters] == [(0, 5), (1, 2), (0, 9)]


def test_what_a_mirror_did_not_take_is_sent_by_the_next_run(db: Database) -> None:
    taken = Taken()
    store(db, letter(0, 5))
    taken.away = True
    mirroring = Mirroring(db, taken)
    with pytest.raises(SinkError):
        mirroring.run()
    taken.away = False
    assert mirroring.run() == 1


def test_a_crash_before_the_mark_sends_again(db: Database) -> None:
    taken = Taken()
    store(db, letter(0, 5))

    def die(point: str, spoil: object) -> None:
        assert point == "mirror.sent"
        raise KeyboardInterrupt

    faults.install(die)
    try:
        with pytest.raises(KeyboardInterrupt):
            Mirroring(db, taken).run()
    finally:
        faults.install(None)
    assert Mirroring(db, taken).run() == 1
    assert len(taken.letters) == 2


def test_keeping_up_makes_up_for_a_mirror_that_was_away(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    taken = Taken()
    store(db, letter(0, 5))
    mirroring = Mirroring(db, taken)
    taken.away = True
    mirroring.keep_up(0)  # what was stored before the process started
    assert [record.message for record in caplog.records] == ["mirror_away"]
    taken.away = False
    mirroring.keep_up(0)
    assert len(taken.letters) == 1
    store(db, letter(0, 6))
    mirroring.keep_up(0)  # nobody said that there is one
    assert len(taken.letters) == 1
    mirroring.keep_up(1)
    assert [one.off for one in taken.letters] == [5, 6]


def test_a_mirror_that_will_never_take_them_ends_the_run(db: Database) -> None:
    taken = Taken()
    store(db, letter(0, 5))
    taken.away, taken.retry_after_s = True, None
    with pytest.raises(SinkError, match="away"):
        Mirroring(db, taken).keep_up(1)
