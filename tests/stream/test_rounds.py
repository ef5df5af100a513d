"""What fails to compress: the user is found, left out and noted; a broken compressor blames nobody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from model.engine import SegmentJob, TokenBlock
from storage import runs, tokens
from stream.clock import from_ms
from stream.errors import CompressError
from stream.pipeline import Pipeline
from stream.rounds import Rounds
from stream.segments import Due
from stream.sources.memory import MemorySource
from tests.stream.support import (
    DAY_MS,
    HOUR_MS,
    START_MS,
    Database,
    Identities,
    ManualClock,
    event,
    memory_source,
    pipeline_config,
    tiny_engine,
)

ENGINE = tiny_engine()
USERS = 9
NOW = from_ms(START_MS + 30 * DAY_MS)


class Poisoned:
    """Refuses batches with an item of the poisoned user, or all of them."""

    def __init__(self) -> None:
        self.poison: int | None = None
        self.broken = False
        self.calls = 0

    def compress(self, jobs: Sequence[SegmentJob]) -> list[TokenBlock]:
        self.calls += 1
        if self.broken or any(self.poison in job.rows.item_row for job in jobs):
            raise CompressError("it died")
        return ENGINE.compress(jobs)


@pytest.fixture
def compressor() -> Poisoned:
    made = Poisoned()
    # Model row of item i5: only user 5 has it.
    made.poison = 1 + list(ENGINE.vocabulary).index("i5")
    return made


def log() -> MemorySource:
    events = [
        event(f"u{user}", f"i{user}", START_MS + k * HOUR_MS)
        for k in range(14)
        for user in range(USERS)
    ]
    return memory_source(events)


class Live:
    """A live pipeline over a stored log; what it compresses with may fail."""

    def __init__(self, path: Path, compressor: Poisoned) -> None:
        self.db = Database.open(path, now=NOW, memory_limit="256MB")
        source = log()
        self.pipeline = Pipeline(
            db=self.db,
            identities=Identities.load(self.db),
            engine=ENGINE,
            config=pipeline_config(ENGINE),
            clock=ManualClock(NOW),
            source=source,
            compressor=compressor,
            ticks="calls",
        )
        self.pipeline.resume()
        while not (batch := source.poll(1000)).exhausted or batch.ranges:
            self.pipeline.store(batch)
        self.pipeline.answer({key: end for key, (_, end) in self.pipeline.waiting().items()})

    def users(self) -> set[str]:
        known = tokens.group_counts(self.db, ENGINE.version)
        return {self.pipeline.identities.user_id(user) for user in known}

    def failures(self) -> list[tuple[str, int, bool]]:
        return [
            (self.pipeline.identities.user_id(row.user_idx), row.attempts, row.quarantined)
            for row in runs.failures(self.db, ENGINE.version)
        ]


OTHERS = {f"u{user}" for user in range(USERS)} - {"u5"}


def test_a_user_that_fails_is_found_left_out_and_after_repeats_not_tried_again(
    tmp_path: Path, compressor: Poisoned
) -> None:
    live = Live(tmp_path / "a.db", compressor)
    live.pipeline.tick(NOW)
    assert live.users() == OTHERS
    assert live.failures() == [("u5", 1, False)]
    (run,) = runs.list_runs(live.db)
    assert (run.status, run.users) == ("done", USERS - 1)
    live.pipeline.tick(NOW)
    live.pipeline.tick(NOW)
    assert live.failures() == [("u5", 3, True)]
    calls = compressor.calls
    live.pipeline.tick(NOW)
    assert compressor.calls == calls
    live.db.close()


def test_a_user_that_succeeds_later_is_forgiven(tmp_path: Path, compressor: Poisoned) -> None:
    live = Live(tmp_path / "a.db", compressor)
    live.pipeline.tick(NOW)
    compressor.poison = None
    live.pipeline.tick(NOW)
    assert live.users() == {*OTHERS, "u5"}
    assert live.failures() == []
    live.db.close()


def test_where_nothing_succeeds_nobody_is_blamed_and_the_next_tick_makes_up_for_it(
    tmp_path: Path, compressor: Poisoned
) -> None:
    live = Live(tmp_path / "a.db", compressor)
    compressor.broken = True
    with pytest.raises(CompressError):
        live.pipeline.tick(NOW)
    assert live.users() == set()
    assert live.failures() == []
    assert compressor.calls < 20
    compressor.broken, compressor.poison = False, None
    live.pipeline.tick(NOW)
    assert live.users() == {*OTHERS, "u5"}
    live.db.close()


def test_a_quarantined_user_stays_out_after_a_restart(tmp_path: Path, compressor: Poisoned) -> None:
    live = Live(tmp_path / "a.db", compressor)
    idx = live.pipeline.identities.find_user("u5")
    assert idx is not None
    with live.db.transaction() as tx:
        for _ in range(3):
            runs.record_failure(tx, idx, ENGINE.version, "it died", NOW)
    live.db.close()
    compressor.poison = None
    again = Live(tmp_path / "a.db", compressor)
    again.pipeline.tick(NOW)
    assert again.users() == OTHERS
    again.db.close()


def test_an_impatient_run_ends_with_the_first_failure() -> None:
    rounds = Rounds([Due(1, 0, 0), Due(2, 0, 0)], 2, patient=False)
    part, last = rounds.next()
    assert (len(part), last) == (2, True)
    with pytest.raises(CompressError):
        rounds.failed(part, CompressError("it died"))


def test_a_compressor_that_was_stopped_is_not_tried_again() -> None:
    rounds = Rounds([Due(1, 0, 0), Due(2, 0, 0)], 1, patient=True)
    with pytest.raises(CompressError):
        rounds.failed(rounds.next()[0], CompressError("stopped", again=False))
