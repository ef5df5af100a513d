"""Where the time of slates goes, added up part by part."""

from datetime import timedelta

import pyarrow as pa
import pytest

from infra.service.journeys import Journeys
from infra.telemetry import PrometheusMetrics
from stream.clock import ManualClock, from_ms
from stream.slates import Cause, Coverage, Slate, recommendation_id
from stream.summary import Answered

T0_MS = 1_700_000_000_000


def rows(*places: tuple[int, int], logged_ms: int | None = 0, polled_ms: int = 20) -> pa.Table:
    """Return rows at (partition, offset)."""
    n = len(places)
    return pa.table({
        "topic": pa.array(["t"] * n),
        "part": pa.array([part for part, _ in places], pa.int32()),
        "off": pa.array([off for _, off in places], pa.int64()),
        "append_ts_ms": pa.array(
            [None if logged_ms is None else T0_MS + logged_ms] * n, pa.int64()
        ),
        "ingested_at_ms": pa.array([T0_MS + polled_ms] * n, pa.int64()),
    })


def slate(part: int, off: int) -> Slate:
    return Slate(
        id=recommendation_id("t", part, off),
        user_id="u",
        at_ms=T0_MS,
        cause=Cause(topic="t", partition=part, offset=off, ts=T0_MS),
        items=(),
        model_version="",
        coverage=Coverage(groups=0, recents=0),
        reason="popular",
        readout="popular",
    )


class Scene:
    """Journeys with a clock that is set by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock(from_ms(T0_MS))
        self.metrics = PrometheusMetrics()
        self.journeys = Journeys(self.metrics, self.clock)

    def at(self, ms: int) -> Journeys:
        self.clock.set(from_ms(T0_MS) + timedelta(milliseconds=ms))
        return self.journeys

    def parts(self) -> dict[str, float]:
        """Milliseconds by part."""
        lines = self.metrics.page().decode().splitlines()
        found = (line.partition('freshet_slate_seconds_total{part="')[2] for line in lines)
        pairs = (one.partition('"} ') for one in found if one)
        return {part: pytest.approx(1000 * float(value)) for part, _, value in pairs}


def test_the_way_of_an_event_is_told_apart_and_adds_up():
    scene, stored = Scene(), rows((0, 7), (1, 3))
    scene.at(50).stored(stored)
    scene.at(60).begin()
    scene.journeys.answered(stored, [slate(0, 7), slate(1, 3)], [])
    scene.journeys.done(
        Answered(slates=2, events=2, applied_s=0.001, seconds={"score": 0.004, "sink": 0.006})
    )
    expected = {"poll": 40, "store": 60, "wait": 20, "apply": 2, "score": 8, "sink": 12}
    assert scene.parts() == expected


def test_a_row_without_a_slate_does_not_count():
    scene, stored = Scene(), rows((0, 7), (0, 8))
    scene.at(50).stored(stored)
    scene.at(60).begin()
    scene.journeys.answered(stored, [slate(0, 8)], [])
    scene.journeys.done(Answered(slates=1, events=2))
    assert scene.parts() == {"poll": 20, "store": 30, "wait": 10, "apply": 0, "score": 0, "sink": 0}


def test_every_batch_has_its_own_time_of_storing():
    scene = Scene()
    early, late = rows((0, 7)), rows((0, 8))
    scene.at(30).stored(early)
    scene.at(40).stored(late)
    scene.at(50).begin()
    scene.journeys.answered(pa.concat_tables([early, late]), [slate(0, 7), slate(0, 8)], [])
    scene.journeys.done(Answered(slates=2, events=2))
    assert scene.parts()["store"] == 30
    assert scene.parts()["wait"] == 30


def test_a_row_stored_before_the_process_began_waited_since_it_was_polled():
    scene, stored = Scene(), rows((0, 7), logged_ms=None)
    scene.at(60).begin()
    scene.journeys.answered(stored, [slate(0, 7)], [])
    scene.journeys.done(Answered(slates=1, events=1))
    assert scene.parts() == {"poll": 0, "store": 0, "wait": 40, "apply": 0, "score": 0, "sink": 0}
