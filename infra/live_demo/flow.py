"""The live demo: a broker, a service, a producer; slates arrive while segments are compressed; then everything is counted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra import shipped
from infra.broker.process import Broker
from infra.deployment.children import Starter
from infra.deployment.serving import DeploymentError, Serving
from infra.deployment.site import INTERACTIONS, ITEMS, SLATES, Site, free_port
from infra.live_demo.counting import Watched, counted
from infra.torture.world import left_in
from stream.clock import WallClock, to_ms
from stream.kafka.config import KafkaConfig
from stream.kafka.tail import Tail
from stream.slates import decode_slate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from infra.deployment.serving import Ends
    from infra.live_demo.counting import DemoCounts
    from stream.kafka.tail import Seen
    from stream.slates import Slate

_PARTITIONS = 4
_READY_S, _SETTLE_S, _STEADY_S = 120.0, 180.0, 180.0
_RENEWED = 50
"""Slates with new tokens to wait for."""
_SETTINGS: dict[str, object] = {
    "stream.lateness_ms": 0,  # the shipped log is in time order, the lines of a basket share their time
    "stream.visit_gap_ms": 0,
    "live.tick_interval_s": 2,
    "live.maintain_interval_s": 5,
    "live.log_format": "json",
}
_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """What is sent, and how fast.

    Attributes:
        users: the busiest ones of the shipped log take part.
        history: of each, so many interactions are sent at once ...
        events: ... and then at least this many of all of them at a steady rate, until enough was compressed.
        rate: that rate, records a second.
        segments: so many must have been compressed while slates were written.
        malformed: share of records spoiled on purpose.
    """

    users: int = 40
    history: int = 320
    events: int = 3_000
    rate: float = 100.0
    segments: int = 100
    malformed: float = 0.01


@dataclass(slots=True)
class Look:
    """What can be seen at a moment.

    Attributes:
        phase: what goes on.
        produced: records acknowledged in the phases that are over.
        stored: interactions stored.
        dead: dead letters.
        answered: slates written.
        segments: segments compressed.
        slates: the newest ones on the topic, newest last.
        renewed: slates on the topic that read tokens.
    """

    phase: str = "starting"
    produced: int = 0
    stored: int = 0
    dead: int = 0
    answered: int = 0
    segments: int = 0
    slates: list[Slate] = field(default_factory=list)
    renewed: int = 0


def live_demo(folder: Path, plan: DemoPlan, on_look: Callable[[Look], None]) -> DemoCounts:
    """Run it all in an empty folder.

    Args:
        folder: where the broker's data, slices of the log and the database go.
        plan: what is sent.
        on_look: shown what can be seen, several times a second.

    Raises:
        BrokerUnavailableError: no broker can be started here.
        DeploymentError: a part of it failed.
    """
    started = perf_counter()
    before, after = _slices(folder, plan)
    with Broker(folder / "kafka") as broker:
        site = Site(
            db=left_in(folder).db,
            bootstrap=broker.bootstrap,
            model=shipped.CHECKPOINT,
            port=free_port(),
            settings=_SETTINGS,
        )
        _answer(_started([*site.topics(_PARTITIONS), "--json"]))
        with Tail(KafkaConfig(bootstrap_servers=broker.bootstrap), SLATES) as tail:
            service = Serving(Starter(folder, cold=True), site.run(), site.port)
            try:
                watched = _driven(_Stage(site, service, tail, on_look), plan, before, after)
            finally:
                service.kill()
    return counted(left_in(folder), watched, plan.segments, perf_counter() - started)


class _Stage:
    """What runs, and what was seen of it so far."""

    def __init__(
        self, site: Site, service: Serving, tail: Tail, on_look: Callable[[Look], None]
    ) -> None:
        self.site = site
        self.service = service
        self.tail = tail
        self.seen: list[Seen] = []
        self.look = Look()
        self.failed = 0
        self._on_look = on_look

    def watch(self) -> None:
        """Look once: at the topic, which waits for a moment, and at the figures."""
        came = self.tail.poll()
        self.seen += came
        figures, look = self.service.figures(), self.look

        def figure(name: str, before: int) -> int:
            return int(figures.get(f"freshet_{name}", before))  # no page, no news

        slates = [decode_slate(one.value or b"") for one in came]
        look.slates = [*look.slates, *slates][-_SHOWN:]
        look.renewed += sum(slate.coverage.groups > 0 for slate in slates)
        look.stored = figure('ingest_records_total{outcome="interaction"}', look.stored)
        look.dead = figure('ingest_records_total{outcome="dead"}', look.dead)
        look.answered = figure("slates_total", look.answered)
        look.segments = figure("compress_segments_total", look.segments)
        self._on_look(look)

    def produce(
        self, phase: str, sending: list[str], enough: Callable[[], bool] = lambda: False
    ) -> None:
        """Send something to its end, or until there is enough of it, while watching."""
        self.look.phase = phase
        deadline = monotonic() + _STEADY_S
        producing, stopped = _started([*sending, "--json"]), False
        while producing.poll() is None:
            self.watch()
            if not stopped and (enough() or monotonic() > deadline):
                stopped = True
                producing.send_signal(
                    signal.SIGINT
                )  # it stops, and counts; a second one would kill it
        counts = _answer(producing)
        self.look.produced += int(counts["acknowledged"])
        self.failed += int(counts["failed"])

    def settle(self) -> None:
        """Wait until everything is stored and answered."""
        self.look.phase = "waiting until all is answered"
        ends: Ends = {}
        for topic in (INTERACTIONS, ITEMS):
            with self.following(topic) as log:
                ends |= log.ends()

        def settled() -> bool:
            self.watch()
            return self.service.caught_up(ends)

        self.service.wait_until(settled, _SETTLE_S, "answering everything")

    def following(self, topic: str) -> Tail:
        """Return a tail of a topic."""
        return Tail(KafkaConfig(bootstrap_servers=self.site.bootstrap), topic)


def _driven(stage: _Stage, plan: DemoPlan, before: Path, after: Path) -> Watched:
    """Send everything, wait, stop the service."""
    site, look = stage.site, stage.look
    spoiled = ("--malformed", str(plan.malformed))
    stage.service.wait_until(lambda: bool(stage.service.figures()), _READY_S, "starting")
    stage.produce("the catalog", site.produce("--items", str(shipped.ITEMS)))
    stage.settle()
    stage.produce("histories, as fast as they go", site.produce("--log", str(before), *spoiled))
    stage.settle()
    steady_ms, wanted = to_ms(WallClock().now()), look.stored + plan.events

    def enough() -> bool:
        ready = look.segments >= plan.segments and look.renewed >= _RENEWED
        return ready and look.stored >= wanted

    pace = ("--rate", str(plan.rate), "--seed", "1")
    steady = site.produce("--log", str(after), *pace, *spoiled)
    stage.produce(f"live, {plan.rate:g} a second", steady, enough)
    stage.settle()
    ended = stage.service.terminate()
    stage.seen += stage.tail.rest()
    with stage.following(INTERACTIONS) as log:
        records = log.rest()
    return Watched(
        produced=look.produced,
        failed=stage.failed,
        steady_ms=steady_ms,
        records=records,
        slates=stage.seen,
        exit_code=ended.code,
    )


def _slices(folder: Path, plan: DemoPlan) -> tuple[Path, Path]:
    """Write the histories of the busiest users before the test period, and what they did then."""
    events = pq.read_table(shipped.EVENTS)
    counts = pc.value_counts(events["user_id"]).to_pylist()
    counts.sort(key=lambda found: (-found["counts"], found["values"]))
    busy = pa.array([found["values"] for found in counts[: plan.users]])
    events = events.filter(pc.is_in(events["user_id"], busy))
    cut = shipped.MAIN.cuts.validation_end
    early = events.filter(pc.less(events["ts"], cut))
    users = early["user_id"].to_numpy(zero_copy_only=False)
    left = np.ones(len(users), np.bool_)
    for user in busy.to_pylist():
        left[np.flatnonzero(users == user)[: -plan.history]] = False
    parts = {
        folder / "histories.parquet": early.filter(pa.array(left)),
        folder / "live.parquet": events.filter(pc.greater_equal(events["ts"], cut)),
    }
    for path, table in parts.items():
        pq.write_table(table, path)
    before, after = parts
    return before, after


def _started(argv: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own command line
        [sys.executable, "-m", "infra", *argv],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _answer(command: subprocess.Popen[str]) -> dict[str, float]:
    """Return what a command printed as JSON.

    Raises:
        DeploymentError: it failed.
    """
    out, error = command.communicate()
    if command.returncode:
        lines = error.strip().splitlines() or ["it wrote nothing"]
        raise DeploymentError(f"a command fails with code {command.returncode}: {lines[-1]}")
    found: dict[str, float] = json.loads(out)
    return found
