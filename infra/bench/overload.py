"""Three times the highest rate that a service keeps up with, for a minute: nothing lost, everything accounted for.

The rate is searched for in the same run: doubled while the lag stays bounded, halved into, then confirmed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from time import monotonic, sleep
from typing import TYPE_CHECKING

from infra.bench.bus import PARTITIONS, broker_of, new_topics
from infra.bench.crowd import Crowd
from infra.bench.flood import Flood
from infra.bench.result import Findings, Gate, Row, at_least, at_most, exactly
from infra.deployment.children import Starter
from infra.deployment.serving import Serving
from infra.deployment.site import Site, free_port
from infra.torture.live.accounts import answered, answers_of, read_books
from infra.torture.live.readback import read_back
from infra.torture.world import left_in

if TYPE_CHECKING:
    from infra.bench.room import Room
    from infra.torture.world import Left
    from stream.kafka.config import KafkaConfig

TIMES, MEMORY_LIMIT, SENT_LIMIT = 3, 1.1, 0.95
_BEHIND_S = 2.0
"""A lag is bounded while it stays below the events of so many seconds."""
_READY_S, _DRAIN_S = 120.0, 600.0
_LOOK_S = 0.25
_STEP = 0.85
_MIB = 1 << 20
_SHED, _RESIDENT = "freshet_shed_events_total", "process_resident_memory_bytes"
_SETTINGS: dict[str, object] = {"database.memory_limit": "256MB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Rates in events a second, times in seconds."""

    first: float
    doublings: int
    halvings: int
    probe_s: float
    steady_s: float
    overload_s: float


@dataclass(slots=True)
class _Watched:
    """What was seen while events were sent: seconds since the first, events behind, resident bytes, and what was sent."""

    at_s: list[float] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    acknowledged: int = 0
    seconds: float = 0.0

    def peak(self, first: float, last: float) -> float:
        """Most resident bytes between two shares of the time."""
        cut = self.at_s[-1]
        return max(
            bytes_
            for at, bytes_ in zip(self.at_s, self.resident, strict=True)
            if first * cut <= at <= last * cut
        )


def run(room: Room) -> Findings:
    """Find the rate, confirm it, send three times as much, then count everything."""
    plan = room.size(
        _Plan(first=250, doublings=6, halvings=3, probe_s=8, steady_s=30, overload_s=60),
        _Plan(first=30, doublings=1, halvings=0, probe_s=2, steady_s=2, overload_s=3),
    )
    crowd = Crowd(
        active=room.size(1_000, 50), archive=0, active_events=0, archive_events=0, items=5_000
    )
    with broker_of(room) as bootstrap:
        config = new_topics(bootstrap)
        left = left_in(room.folder)
        service = _service(room, config, left, crowd)
        try:
            service.wait_until(lambda: service.ready, _READY_S, "starting")
            bench = _Bench(room, service, config, crowd)
            rate, steady = bench.sustainable(plan)
            shed = service.figures().get(_SHED, 0.0)
            room.note(f"{TIMES} times {rate:.0f} events/s")
            over = bench.send(TIMES * rate, plan.overload_s)
            behind, drained_s = bench.drain()
            shed = service.figures().get(_SHED, 0.0) - shed
            ended = service.terminate()
        finally:
            service.kill()
        room.note("counting")
        gates = _gates(plan, rate, over, ended.code, behind)
        gates += _balance(config, left, bench.acknowledged)
    return Findings(
        settings={
            "users": crowd.active,
            "catalogue": crowd.items,
            "partitions": PARTITIONS,
            "bounded": f"less than {_BEHIND_S:g} s of events behind, for {plan.steady_s:g} s",
            "shed above": "20,000 events waiting (the default)",
            "DuckDB memory limit": "256MB",
            "weights": "random, shipped shape",
        },
        rows=_rows(rate, steady, over, shed, drained_s),
        gates=gates,
        remarks=[
            "Behind is what the broker has acknowledged less what is answered: slates acknowledged, or shed and"
            " written down as such. Above the bound only each user's newest event is answered.",
            "Memory is that of the service's process, highest in the second half of the overload over highest in the"
            " first half.",
        ],
    )


class _Bench:
    """A service under load."""

    def __init__(self, room: Room, service: Serving, config: KafkaConfig, crowd: Crowd) -> None:
        self._room = room
        self._service = service
        self._config = config
        self._crowd = crowd
        self._names = count()
        self.acknowledged = 0

    def sustainable(self, plan: _Plan) -> tuple[float, _Watched]:
        """Return the highest rate whose lag stayed bounded for the whole time, and what was seen then."""
        rate, failed = plan.first, 0.0
        self._keeps_up(rate, plan.probe_s)  # states are loaded, pages are hot
        for _ in range(plan.doublings):
            if not self._keeps_up(2 * rate, plan.probe_s):
                failed = 2 * rate
                break
            rate *= 2
        for _ in range(plan.halvings if failed else 0):
            middle = (rate + failed) / 2
            if self._keeps_up(middle, plan.probe_s):
                rate = middle
            else:
                failed = middle
        while True:
            watched = self.send(rate, plan.steady_s)
            self.drain()
            if self._bounded(watched, rate) or self._room.quick:
                return rate, watched
            rate *= _STEP

    def send(self, rate: float, seconds: float) -> _Watched:
        """Send at a rate for a time and watch."""
        before, watched = self.acknowledged, _Watched()
        flood = Flood(
            self._config, self._crowd, rate=rate, seconds=seconds, name=f"o{next(self._names)}"
        )
        flood.go()
        begun = monotonic()
        while flood.running:
            resident, done = self._service.figures().get(_RESIDENT), self._answered()
            if resident is not None and done is not None:  # a page may be late under load
                watched.at_s.append(monotonic() - begun)
                watched.behind.append(before + flood.acknowledged - done)
                watched.resident.append(resident)
            self._service.wait_until(lambda: True, 1.0, "under load")  # ends here if it has ended
            sleep(_LOOK_S)
        found = flood.result()
        self.acknowledged += found.acknowledged
        watched.acknowledged, watched.seconds = found.acknowledged, found.seconds
        return watched

    def drain(self) -> tuple[int, float]:
        """Wait until everything is answered; return how many events are not, and the seconds it took."""
        begun = monotonic()
        self._service.wait_until(
            lambda: (self._answered() or 0) >= self.acknowledged, _DRAIN_S, "answering what is left"
        )
        return self.acknowledged - (self._answered() or 0), monotonic() - begun

    def _keeps_up(self, rate: float, seconds: float) -> bool:
        self._room.note(f"{rate:.0f} events/s for {seconds:g} s")
        watched = self.send(rate, seconds)
        self.drain()
        return self._bounded(watched, rate)

    def _bounded(self, watched: _Watched, rate: float) -> bool:
        return max(watched.behind, default=0) <= _BEHIND_S * rate

    def _answered(self) -> int | None:
        """Offsets answered of the topic, over its partitions; it holds nothing but events. None without a page."""
        _, ends = self._service.positions()
        topic = self._config.interactions_topic
        return sum(off for (name, _), off in ends.items() if name == topic) if ends else None


def _service(room: Room, config: KafkaConfig, left: Left, crowd: Crowd) -> Serving:
    port = free_port()
    names = ("interactions_topic", "items_topic", "slates_topic", "group")
    site = Site(
        db=left.db,
        bootstrap=config.bootstrap_servers,
        model=crowd.model(room.folder / "model.safetensors"),
        port=port,
        settings={f"kafka.{name}": getattr(config, name) for name in names} | _SETTINGS,
    )
    return Serving(Starter(room.folder, cold=True), site.run(), port)


def _rows(
    rate: float, steady: _Watched, over: _Watched, shed: float, drained_s: float
) -> list[Row]:
    part, sent = "sustainable", f"{TIMES} times as much"
    return [
        Row(part=part, what="rate", value=rate, unit="events/s"),
        Row(part=part, what="most events behind", value=max(steady.behind), unit="events"),
        Row(part=part, what="peak memory", value=max(steady.resident) / _MIB, unit="MiB"),
        Row(part=sent, what="sent and acknowledged", value=over.acknowledged, unit="events"),
        Row(part=sent, what="rate", value=over.acknowledged / over.seconds, unit="events/s"),
        Row(part=sent, what="most events behind", value=max(over.behind), unit="events"),
        Row(part=sent, what="events shed", value=shed, unit="events"),
        Row(part=sent, what="peak memory", value=max(over.resident) / _MIB, unit="MiB"),
        Row(part=sent, what="drained after", value=drained_s, unit="s"),
    ]


def _gates(plan: _Plan, rate: float, over: _Watched, code: int, behind: int) -> list[Gate]:
    wanted = TIMES * rate * plan.overload_s
    return [
        at_least("overload: sent of what was to be sent", over.acknowledged / (rate * TIMES * over.seconds), SENT_LIMIT),
        exactly("overload: events acknowledged", over.acknowledged, int(wanted)),
        exactly("overload: exit code of the service after it", code, 0),
        at_most(
            "overload: peak memory, second half over first",
            over.peak(0.5, 1.0) / max(1.0, over.peak(0.0, 0.5)),
            MEMORY_LIMIT,
        ),
        exactly("overload: events unanswered after it has drained", behind, 0),
    ]  # fmt: skip


def _balance(config: KafkaConfig, left: Left, acknowledged: int) -> list[Gate]:
    """Hold the database and the topic of slates against what was sent."""
    books = read_books(left)
    slates = (one.value for one in read_back(config.bootstrap_servers, config.slates_topic))
    answers = answers_of(slates)
    stored_once = sum(1 for times in books.stored.values() if times == 1)
    shed = sum(one.count for one in books.shed)
    return [
        exactly("events stored once, of those acknowledged", stored_once, acknowledged),
        exactly(
            "slates with distinct ids and shed events, of events that call for one",
            len(answers.slates) + shed,
            len(books.scored),
        ),
        *(
            exactly(f"audit: {check.name}, breaches", float(not check.ok), 0)
            for check in answered(books, answers)
        ),
    ]
