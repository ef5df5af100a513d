"""When a process is alive, and when it is ready: with a clock that tests turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.service.health import Health, writable


class Clock:
    """Seconds that only a test lets pass."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock)


def test_a_start_may_take_any_time_and_a_loop_that_hangs_after_it_may_not(
    health: Health, clock: Clock
) -> None:
    health.watch("ingest", 60.0)
    clock.now += 1_000
    assert health.not_alive() == []
    health.begin()
    clock.now += 60
    assert health.not_alive() == []
    clock.now += 1
    assert health.not_alive() == ["ingest: no turn for 61.0 s, more than 60 s"]
    health.beat("ingest")
    assert health.not_alive() == []


def test_a_loop_that_starts_later_is_watched_from_then_on(health: Health, clock: Clock) -> None:
    health.begin()
    clock.now += 500
    health.watch("score", 10.0)
    assert health.ages() == {"score": 0.0}
    clock.now += 11
    assert len(health.not_alive()) == 1


def test_ready_means_that_every_condition_is_met_and_every_check_passes(health: Health) -> None:
    found: list[str | None] = ["no partitions"]
    health.expect("positions loaded", "first poll")
    health.check_ready(lambda: found[0])
    health.met("first poll")
    assert health.not_ready() == ["not yet: positions loaded", "no partitions"]
    health.met("positions loaded")
    found[0] = None
    assert health.not_ready() == []


def test_a_file_that_is_not_there_can_not_be_written(tmp_path: Path) -> None:
    file = tmp_path / "x.duckdb"
    assert str(file) in str(writable(file)())
    file.touch()
    assert writable(file)() is None
