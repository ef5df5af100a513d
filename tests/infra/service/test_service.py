"""The running service over a log in memory: it stores, answers, ticks, shows its health, ends as asked."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import msgspec
import numpy as np
import pytest

from infra.service.assembling import Beside, assemble
from infra.service.service import Service
from infra.telemetry import PrometheusMetrics
from storage import positions
from storage.database import Database
from storage.errors import DiskFullError, FatalStorageError
from storage.identities import Identities
from stream.clock import WallClock
from stream.config import LiveConfig
from stream.errors import SinkError
from stream.events import Partition
from stream.pipeline import Pipeline
from stream.sinks.memory import MemorySink
from stream.sources.memory import MemorySource
from tests.stream.support import (
    HOUR_MS,
    TOPIC,
    encode,
    memory_source,
    pipeline_config,
    random_log,
    tiny_engine,
)

ENGINE = tiny_engine()
LOG = random_log(np.random.default_rng(4), 60, users=3, step_ms=6 * HOUR_MS)
WAIT_S = 30.0


def until(condition: Callable[[], Any]) -> Any:
    """Wait for a condition with a deadline."""
    end = monotonic() + WAIT_S
    while monotonic() < end:
        found = condition()
        if found:
            return found
        sleep(0.005)
    raise AssertionError("it did not come")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status_of(w: World) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(w.get("/status")[1])
    return found


@dataclass
class World:
    """A service and what it is made of."""

    service: Service
    pipeline: Any
    source: MemorySource
    sink: Any
    metrics: PrometheusMetrics
    port: int
    pages: dict[str, tuple[int, str]] = field(default_factory=dict)

    def run(self, *steps: Callable[[], object]) -> None:
        """Run the service here, and the steps one after the other beside it; then it is asked to end."""
        raised: list[BaseException] = []

        def beside() -> None:
            try:
                for step in steps:
                    step()
            except BaseException as err:  # noqa: BLE001 raised in the test
                raised.append(err)
            self.service.stop()

        thread = threading.Thread(target=beside)
        thread.start()
        try:
            self.service.run()
        finally:
            thread.join(WAIT_S)
            if raised:
                raise raised[0]

    def get(self, page: str) -> tuple[int, str]:
        """Return status and text of a page; 0 before it is served."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{page}", timeout=5) as found:
                return found.status, found.read().decode()
        except urllib.error.HTTPError as err:
            return err.code, err.read().decode()
        except OSError:
            return 0, ""

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def answered(self, count: int) -> Callable[[], object]:
        return lambda: until(lambda: len(self.sink.slates) >= count)


@contextmanager
def world(
    folder: Path,
    *,
    source: MemorySource | None = None,
    sink: Any = None,
    live: LiveConfig | None = None,
    pipeline: type[Pipeline] = Pipeline,
    score: bool = True,
    **parts: Any,
) -> Iterator[World]:
    with ExitStack() as resources:
        db = resources.enter_context(
            Database.open(folder / "x.duckdb", now=WallClock().now(), memory_limit="256MB")
        )
        port = free_port()
        made = MemorySource([(Partition(TOPIC, 0), encode(one)) for one in LOG])
        source, sink, metrics = source or made, sink or MemorySink(), PrometheusMetrics()
        running = pipeline(
            db=db,
            identities=Identities.load(db),
            engine=ENGINE,
            config=pipeline_config(ENGINE, max_batch_records=25, score=score),
            clock=WallClock(),
            source=source,
            sink=sink,
            ticks="calls",
        )
        service = assemble(
            running,
            source,
            live=live or LiveConfig(poll_ms=5, http_port=port),
            clock=WallClock(),
            metrics=metrics,
            resources=resources.pop_all(),
            **parts,
        )
        try:
            yield World(service, running, source, sink, metrics, port)
        finally:
            db.close()


def test_every_stored_event_is_answered_and_a_signal_ends_it_clean(tmp_path: Path):
    with world(tmp_path) as w:
        w.run(w.answered(len(LOG)), lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert w.service.clean
        assert len({slate.id for slate in w.sink.slates}) == len(LOG)
        assert w.source.committed == {Partition(TOPIC, 0): len(LOG)}
        assert w.value("freshet_ingest_records_total", outcome="interaction") == len(LOG)
        assert w.value("freshet_event_to_recommendation_seconds_count") == len(LOG)
    with Database.open(tmp_path / "x.duckdb", now=WallClock().now()) as db:
        assert positions.scored_offsets(db) == positions.next_offsets(db) == {(TOPIC, 0): len(LOG)}
    assert not (tmp_path / "x.duckdb.wal").exists()


def test_what_passed_without_a_score_is_not_answered_by_a_later_start(tmp_path: Path):
    """Nor shed: nobody asked for a slate."""
    live = LiveConfig(poll_ms=5, http_port=0, shed_above=1)
    with world(tmp_path, score=False, live=live) as w:
        passed = {(TOPIC, 0): len(LOG)}
        w.run(lambda: until(lambda: positions.scored_offsets(w.pipeline.db) == passed))
        assert not w.sink.slates
        assert not w.pipeline.waiting()
        assert w.value("freshet_shed_events_total", reason="overload") == 0
    more = LOG[: len(LOG) // 2]
    log = [(Partition(TOPIC, 0), encode(one)) for one in [*LOG, *more]]
    with world(tmp_path, source=MemorySource(log)) as w:
        w.run(w.answered(1), lambda: until(lambda: not w.pipeline.waiting()))
        causes = {slate.cause.offset for slate in w.sink.slates}
        assert min(causes) >= len(LOG)


def test_a_second_start_goes_on_where_the_first_ended(tmp_path: Path):
    partition = Partition(TOPIC, 0)
    with world(tmp_path, source=memory_source(LOG[:20], ended=False)) as w:
        w.run(w.answered(20))
        first = list(w.sink.slates)
    with world(tmp_path) as w:
        w.run(w.answered(len(LOG) - 20))
        assert w.source.committed == {partition: len(LOG)}
        ids = [slate.id for slate in (*first, *w.sink.slates)]
    assert len(ids) == len(set(ids)) == len(LOG)


def test_pages_say_what_is_missing_until_it_is_there(tmp_path: Path):
    go_on = threading.Event()

    class Slow(Pipeline):
        def resume(self) -> None:
            go_on.wait(WAIT_S)
            super().resume()

    def check() -> None:
        until(lambda: w.get("/livez") == (200, "ok\n"))
        assert w.get("/readyz") == (503, "not yet: positions loaded\nnot yet: first poll\n")
        go_on.set()
        until(lambda: w.get("/readyz") == (200, "ok\n"))

    with world(tmp_path, pipeline=Slow) as w:
        w.run(check)
        assert w.get("/livez")[0] == 0


def test_figures_and_status_are_served(tmp_path: Path):
    def check() -> None:
        code, page = w.get("/metrics")
        assert code == 200
        assert f'freshet_consumer_position{{partition="0",topic="{TOPIC}"}} {len(LOG)}.0' in page
        assert 'freshet_database_bytes{part="file"}' in page
        assert "freshet_live_hits_total" in page
        done = {"topic": TOPIC, "partition": 0, "stored": len(LOG), "answered": len(LOG)}
        status = until(lambda: (found := status_of(w))["partitions"] == [done] and found)
        assert set(status["loops"]) == {"ingest", "refresh", "score"}

    with world(tmp_path) as w:
        w.run(w.answered(len(LOG)), check)


def test_ticks_compress_what_is_due_while_events_are_answered(tmp_path: Path):
    live = LiveConfig(poll_ms=5, http_port=0, tick_interval_s=1)
    with world(tmp_path, live=live) as w:
        w.run(
            w.answered(len(LOG)),
            lambda: until(lambda: w.value("freshet_compress_segments_total") > 0),
        )
        assert w.value("freshet_scheduler_runs_total", job="tick", outcome="ok") > 0


@pytest.mark.parametrize("error", [DiskFullError, FatalStorageError])
def test_what_ends_a_thread_ends_the_service_with_that_error(
    tmp_path: Path, error: type[Exception]
):
    class Broken(Pipeline):
        def store(self, _batch: Any) -> Any:
            raise error("that was it")

    with world(tmp_path, pipeline=Broken) as w, pytest.raises(error, match="that was it"):
        w.service.run()
    assert w.service.clean


def test_a_sink_that_is_busy_is_asked_again(tmp_path: Path):
    class Busy(MemorySink):
        refusals = 3

        def write(self, slates: Any) -> None:
            if self.refusals:
                self.refusals -= 1
                raise SinkError("the broker is away", retry_after_s=0.01)
            super().write(slates)

    with world(tmp_path, sink=Busy()) as w:
        w.run(w.answered(len(LOG)))
        assert w.value("freshet_sink_retries_total") == 3
    assert len({slate.id for slate in w.sink.slates}) == len(LOG)


def test_a_signal_ends_it_well_although_the_sink_is_away(tmp_path: Path):
    """The next start answers what could not be written."""

    class Away(MemorySink):
        def write(self, _slates: Any) -> None:
            raise SinkError("the broker is away", retry_after_s=0.01)

    with world(tmp_path, sink=Away()) as w:
        w.run(
            lambda: until(lambda: w.value("freshet_sink_retries_total") > 3),
            lambda: os.kill(os.getpid(), signal.SIGTERM),
        )
    with world(tmp_path) as w:
        w.run(w.answered(len(LOG)))
    assert len({slate.id for slate in w.sink.slates}) == len(LOG)


def test_a_backlog_stays_in_the_log_while_answers_do_not_keep_up(tmp_path: Path):
    inside, go_on = threading.Event(), threading.Event()
    held: list[int] = []

    class Slow(MemorySink):
        def write(self, slates: Any) -> None:
            inside.set()
            go_on.wait(WAIT_S)
            super().write(slates)

    def check() -> None:
        until(lambda: inside.is_set() and held.count(25) > 3)
        assert max(held) == 25, "what is being answered, no more"
        assert w.value("freshet_ingest_holding") == 1
        go_on.set()

    live = LiveConfig(poll_ms=5, http_port=0, hold_above=10)
    beside = Beside(hold=lambda: held.append(w.pipeline.ingest.next_offsets[TOPIC, 0]))
    with world(tmp_path, sink=Slow(), live=live, beside=beside) as w:
        w.run(check, w.answered(len(LOG)))
        assert w.value("freshet_ingest_holding") == 0
        assert w.value("freshet_shed_events_total", reason="overload") == 0
    assert len({slate.id for slate in w.sink.slates}) == len(LOG)


def test_a_sink_that_is_gone_ends_the_service(tmp_path: Path):
    class Gone(MemorySink):
        def write(self, _slates: Any) -> None:
            raise SinkError("refused")

    with world(tmp_path, sink=Gone()) as w, pytest.raises(SinkError, match="refused"):
        w.service.run()


def test_a_drain_is_bounded_and_says_that_something_hangs(tmp_path: Path):
    inside, go_on = threading.Event(), threading.Event()

    class Hanging(MemorySink):
        def write(self, _slates: Any) -> None:
            inside.set()
            go_on.wait(WAIT_S)

    live = LiveConfig(poll_ms=5, http_port=0, drain_s=1.0)
    with world(tmp_path, sink=Hanging(), live=live) as w:
        started = monotonic()
        w.run(lambda: inside.wait(WAIT_S))
        assert monotonic() - started < WAIT_S / 2
        assert not w.service.clean
        go_on.set()


class Joining:
    """A pump that never comes to its start: the broker went away meanwhile."""

    def __init__(self, *_: Any) -> None:
        self.joining = threading.Event()
        self.given_up = False

    async def start(self, _failed: Any, /) -> None:
        self.joining.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.given_up = True

    def wake(self) -> None: ...

    async def stop(self, _timeout_s: float, /) -> bool:
        return True


def test_a_signal_ends_a_start_that_waits_for_the_broker(tmp_path: Path):
    pump = Joining()
    with world(tmp_path, pump=lambda *_: pump) as w:
        w.run(lambda: pump.joining.wait(WAIT_S))
        assert pump.given_up
        assert w.service.clean


def test_what_ends_a_thread_ends_a_start_that_waits_for_the_broker(tmp_path: Path):
    pump = Joining()

    class Broken(Pipeline):
        def store(self, _batch: Any) -> Any:
            pump.joining.wait(WAIT_S)
            raise DiskFullError("that was it")

    with (
        world(tmp_path, pipeline=Broken, pump=lambda *_: pump) as w,
        pytest.raises(DiskFullError, match="that was it"),
    ):
        w.service.run()
    assert pump.given_up


def test_a_second_signal_ends_at_once(tmp_path: Path):
    inside, go_on = threading.Event(), threading.Event()

    class Hanging(MemorySink):
        def write(self, _slates: Any) -> None:
            inside.set()
            go_on.wait(WAIT_S)

    with world(tmp_path, sink=Hanging()) as w:
        with pytest.raises(KeyboardInterrupt):
            w.run(
                lambda: inside.wait(WAIT_S),
                lambda: os.kill(os.getpid(), signal.SIGTERM),
                lambda: os.kill(os.getpid(), signal.SIGINT),
            )
        assert not w.service.clean
        go_on.set()


def test_an_address_that_is_taken_is_one_line(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        live = LiveConfig(http_port=taken.getsockname()[1])
        with world(tmp_path, live=live) as w, pytest.raises(Exception, match=r"live\.http_port"):
            w.service.run()
