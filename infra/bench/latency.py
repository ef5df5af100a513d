"""From an event's due time to its slate on the topic, over the same service without a model.

Load is open loop: an event counts from when it was to be sent. Every run is a service of its own, on two cores that
broker, service, producer and reader share.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from infra.bench.bus import PARTITIONS, broker_of, fill, new_topics
from infra.bench.cases import BACKLOG, CASES, HITS, PLAIN, ROOM, Case
from infra.bench.crowd import SPREAD, Crowd, store_answered
from infra.bench.driver import Answered, Load, Reader
from infra.bench.plain import PlainStarter
from infra.bench.result import Findings, Gate, Row, at_least, at_most, estimated, exactly
from infra.bench.timing import percentile
from infra.deployment.children import Starter
from infra.deployment.serving import Serving
from infra.deployment.site import Site, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from infra.bench.room import Room
    from stream.kafka.config import KafkaConfig

P50_LIMIT, P99_LIMIT, PARTS_LIMIT = 2.0, 3.0, 0.9
_READY_S, _SETTLE_S = 120.0, 120.0
_MS = 1000.0
_NAMES = ("interactions_topic", "items_topic", "slates_topic", "group")
_BATCHES, _MEANWHILE = "freshet_compress_seconds_count", "batches meanwhile"
_PARTS = {
    "poll": "log to polled",
    "store": "stored in DuckDB",
    "wait": "until its answer begins: delivery, take window, queue",
    "apply": "token groups taken in, waiting for a tick",
    "score": "state found or loaded, extended, read out",
    "sink": "slates acknowledged",
}


@dataclass(frozen=True, slots=True)
class _Times:
    warm_s: float
    measured_s: float


@dataclass(slots=True)
class _Ran:
    """What services of one case did while they were measured."""

    sent: int = 0
    answered: list[Answered] = field(default_factory=list)
    figures: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def latency_ms(self) -> NDArray[np.float64]:
        return np.array([_MS * (one.read - one.due) for one in self.answered])

    def hit_share(self) -> float:
        hits, misses = (
            self.figures[f'freshet_cache_lookups_total{{outcome="{name}"}}']
            for name in ("hit", "miss")
        )
        return hits / (hits + misses) if hits + misses else 0.0

    def parts_ms(self) -> dict[str, float]:
        """Mean milliseconds of a slate by part."""
        logged = [_MS * (one.logged - one.due) for one in self.answered]
        parts = {"due to log": float(np.mean(logged))}
        slates = self.figures["freshet_slates_total"]
        for part, what in _PARTS.items():
            seconds = self.figures[f'freshet_slate_seconds_total{{part="{part}"}}']
            parts[what] = _MS * seconds / slates if slates else 0.0
        return parts

    def explained(self) -> float:
        """Share of the mean that the parts add up to; above it counts like below it."""
        whole = float(self.latency_ms().mean())
        return 1 - abs(whole - sum(self.parts_ms().values())) / whole


def run(room: Room) -> Findings:
    """Measure every case at every rate, each in a service of its own."""
    rates = room.size((100, 500), (40,))
    times = room.size(_Times(6, 20), _Times(2, 2))
    cases = room.size(CASES, tuple(CASES[number] for number in (0, 1, 2, 4)))
    crowd = room.size(
        Crowd(active=400, archive=4_000, active_events=192, archive_events=320, items=5_000),
        Crowd(active=120, archive=20, active_events=20, archive_events=192, items=200),
    )
    rows: list[Row] = []
    gates: list[Gate] = []
    with broker_of(room) as bootstrap:
        stage = _Stage(room, bootstrap, crowd, times)
        for rate in rates:
            ran: dict[str, _Ran] = {}
            for case in cases:
                room.note(f"{rate} events/s, {case.name}")
                stage.measure(case, rate, ran.setdefault(case.name, _Ran()))
            rows += _rows(rate, ran)
            gates += _gates(rate, ran)
    return Findings(
        settings={
            "events/s": list(rates),
            "active users": crowd.active,
            "further users": crowd.archive,
            "events of each before": f"{crowd.active_events} to {crowd.active_events + SPREAD - 1} and {crowd.archive_events}",
            "catalogue": crowd.items,
            "partitions": PARTITIONS,
            "seconds measured": times.measured_s,
            "states in memory where they do not fit": ROOM,
            "weights": "random, shipped shape",
        },
        rows=rows,
        gates=gates,
        remarks=[
            "From the moment an event was due to be sent to the moment a consumer of the topic of slates had its slate."
            " Broker, service, producer and reader share the cores.",
            "The baseline is the same process without a model: the same thread stores, the same agent delivers with the"
            " same take window, waits until events are stored, and sends a message of a slate's size per event,"
            " acknowledged by all replicas.",
            "Parts are means: due to log is the producer's and the broker's, the others are the service's own metric"
            " freshet_slate_seconds_total. A slate can be read before its write is acknowledged.",
        ],
    )


class _Stage:
    """A broker with histories in it, stored in a database that all measured services use one after the other."""

    def __init__(self, room: Room, bootstrap: str, crowd: Crowd, times: _Times) -> None:
        self._folder = room.folder
        self._bootstrap = bootstrap
        self._crowd = crowd
        self._times = times
        self._runs = count()
        self._model = crowd.model(room.folder / "model.safetensors")
        self._config, self._plain = new_topics(bootstrap), new_topics(bootstrap)
        room.note("filling the topic")
        ends = fill(self._config, crowd.history())
        room.note("storing it")
        store_answered(self._config, self._folder / "freshet.duckdb", self._model, ends)

    def measure(self, case: Case, rate: int, ran: _Ran) -> None:
        """Start a service, send it events for a while, and add what it did to `ran`."""
        config = self._plain if case.plain else self._config
        name = f"run{next(self._runs)}"
        warm, measured = int(rate * self._times.warm_s), int(rate * self._times.measured_s)
        users = case.users(warm + measured, self._crowd.active)
        with self._service(case, config) as service, closing(Reader(config)) as reader:
            Load(config, rate).run(self._crowd.live(users[:warm], f"{name}w"))
            service.wait_until(lambda: reader.count >= warm, _SETTLE_S, "answering what warms up")
            before = service.figures()
            load = Load(config, rate)
            load.run(self._crowd.live(users[warm:], name))
            during = service.figures()
            service.wait_until(
                lambda: reader.count >= warm + measured, _SETTLE_S, "answering what is measured"
            )
            after = service.figures()
            ran.sent += measured
            ran.answered += load.answered(reader.first())
        for series, value in after.items():
            ran.figures[series] += value - before.get(series, 0.0)
        ran.figures[_MEANWHILE] += during.get(_BATCHES, 0.0) - before.get(_BATCHES, 0.0)

    @contextmanager
    def _service(self, case: Case, config: KafkaConfig) -> Iterator[Serving]:
        port = free_port()
        told: dict[str, object] = {
            **{f"kafka.{name}": getattr(config, name) for name in _NAMES},
            **case.settings(),
        }
        if case.plain:
            given = told | {"kafka.bootstrap_servers": self._bootstrap, "live.http_port": port}
            starter = PlainStarter(self._folder, self._folder / "plain.duckdb", given)
            service = Serving(starter, [], port)
        else:
            db = self._folder / "freshet.duckdb"
            site = Site(
                db=db, bootstrap=self._bootstrap, model=self._model, port=port, settings=told
            )
            service = Serving(Starter(self._folder, cold=True), site.run(), port)
        try:
            service.wait_until(lambda: service.ready, _READY_S, "starting")
            yield service
        finally:
            service.kill() if case.plain else service.terminate()


def _rows(rate: int, ran: dict[str, _Ran]) -> list[Row]:
    found, plain = [], ran[PLAIN].latency_ms()
    for rank in (50, 99):
        part = f"{rate} events/s: p{rank}"
        for name, one in ran.items():
            estimate = percentile(one.latency_ms(), rank)
            found.append(estimated(part, name, estimate, "ms"))
        part = f"{rate} events/s: p{rank} over the baseline"
        for name, one in ran.items():
            if name != PLAIN:
                over = float(np.percentile(one.latency_ms(), rank) / np.percentile(plain, rank))
                found.append(Row(part=part, what=name, value=over, unit="x"))
    for name, one in ran.items():
        if name == PLAIN:
            continue
        part = f"{rate} events/s, {name}: mean of a slate"
        whole = float(one.latency_ms().mean())
        parts = one.parts_ms()
        parts["read before its acknowledgement (-), or not explained"] = whole - sum(parts.values())
        parts["due to read"] = whole
        found += [Row(part=part, what=what, value=ms, unit="ms") for what, ms in parts.items()]
        found.append(
            Row(part=part, what="states found in memory", value=one.hit_share(), unit="share")
        )
    batches = ran[BACKLOG].figures[_MEANWHILE]
    what = f"compressed meanwhile, {rate} events/s"
    return [*found, Row(part="backlog", what=what, value=batches, unit="batches of segments")]


def _gates(rate: int, ran: dict[str, _Ran]) -> list[Gate]:
    plain, hits = (ran[name].latency_ms() for name in (PLAIN, HITS))
    gates = []
    for rank, limit in ((50, P50_LIMIT), (99, P99_LIMIT)):
        over = float(np.percentile(hits, rank) / np.percentile(plain, rank))
        gates.append(at_most(f"{rate} events/s, {HITS}: p{rank} over the baseline", over, limit))
    explained = min(one.explained() for name, one in ran.items() if name != PLAIN)
    line = f"{rate} events/s: share of the mean that parts explain, least of all cases"
    gates.append(at_least(line, explained, PARTS_LIMIT))
    line = f"{rate} events/s: batches of segments compressed while measured"
    gates.append(at_least(line, ran[BACKLOG].figures[_MEANWHILE], 1))
    sent, answered = (
        sum(value)
        for value in zip(*((one.sent, len(one.answered)) for one in ran.values()), strict=True)
    )
    gates.append(exactly(f"{rate} events/s: events answered of those sent", answered, sent))
    return gates
