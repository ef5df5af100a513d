"""One life of a service after another, each with its end; traffic goes on all the time."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic, sleep
from typing import TYPE_CHECKING

from infra.deployment.serving import DeploymentError, Serving
from infra.torture.live.plan import CLASSES, Death

if TYPE_CHECKING:
    from collections.abc import Iterable

    from infra.broker.process import Broker
    from infra.deployment.children import Ended, Starter
    from infra.deployment.serving import Ends
    from infra.deployment.site import Site
    from infra.fuse import Fuse
    from infra.torture.live.traffic import Traffic

BACKLOG = 400
"""Records that wait for a service that is to die while it catches up."""
_LIFE_S = 25.0
"""A service that was not hit so long after its first batch is killed where it stands."""
_RANDOM_S = 6.0
_READY_S = 90.0
_MISSES = 4
_CHECKPOINT_MS = 4.0
_WATCH_S, _LOOK_S = 0.001, 0.1


@dataclass(slots=True)
class Tally:
    """Where services died.

    Attributes:
        classes: deaths per class.
        points: per class, deaths per point; where the parent killed, the last point passed.
        missed: deaths outside of what their class means, made again.
        outages: times the broker was killed and started again.
        lives: services started.
    """

    classes: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(CLASSES, 0)))
    points: dict[str, Counter[str]] = field(
        default_factory=lambda: {kind: Counter() for kind in CLASSES}
    )
    missed: int = 0
    outages: int = 0
    lives: int = 0

    @property
    def kills(self) -> int:
        """Deaths where they were planned."""
        return self.classes.total()


@dataclass(frozen=True, slots=True)
class Stage:
    """Who takes part.

    Attributes:
        site: the service's.
        broker: the broker.
        starter: of services.
        traffic: the producer.
    """

    site: Site
    broker: Broker
    starter: Starter
    traffic: Traffic


def live_and_die(
    stage: Stage, deaths: Iterable[Death], tally: Tally, on_death: Callable[[], None]
) -> None:
    """Let services die as planned; a death that missed its place is tried again a few times.

    Raises:
        DeploymentError: a service ended by itself, or did not come up.
    """
    waiting = deque((death, 0) for death in deaths)
    while waiting:
        death, misses = waiting.popleft()
        if not stage.traffic.running:
            raise DeploymentError(
                f"the log is at its end after {tally.kills} kills; make a longer one"
            )
        if death.kind == "catch-up":
            stage.traffic.wait_for(BACKLOG, _READY_S)
        ended, hit = _life(stage, death, tally)
        tally.lives += 1
        if hit:
            tally.classes[death.kind] += 1
            point = death.fuse or death.watch
            tally.points[death.kind][point.point if point else ended.last or "start"] += 1
            on_death()
        else:
            tally.missed += 1
            if misses < _MISSES:
                # At last right at its place: on a busy machine a checkpoint is over before a thread has begun.
                moment = death.moment / 2 if misses + 1 < _MISSES else 0.0
                waiting.append((replace(death, moment=moment), misses + 1))


def finish(
    stage: Stage, ends: Callable[[], Ends], ticks: Callable[[Serving], float], timeout_s: float
) -> Ended:
    """Let a last service catch up, see a tick begin after that, and end it as an operator does.

    Args:
        stage: who takes part; the traffic has ended.
        ends: what must be stored and answered.
        ticks: how many ticks a service has finished.
        timeout_s: how long that may take.

    Raises:
        DeploymentError: it did not get there.
    """
    service = _start(stage, None)
    goal = ends()
    service.wait_until(lambda: service.caught_up(goal), timeout_s, "catching up at the end")
    seen = ticks(service)
    # The tick that is under way may have been planned before the last record: the one after it was not.
    service.wait_until(lambda: ticks(service) >= seen + 2, timeout_s, "the last tick")
    return service.terminate()


def _life(stage: Stage, death: Death, tally: Tally) -> tuple[Ended, bool]:
    """Return how a service ended, and whether that was as planned."""
    if death.outage is not None:
        return _through_outage(stage, death, tally), True
    fuse = death.fuse
    if fuse is not None and death.moment:
        fuse = replace(fuse, delay_ms=max(0.001, death.moment * _CHECKPOINT_MS))
    service = _start(stage, fuse)
    if death.watch is not None:
        return _watched(service, death.watch)
    if fuse is None:
        service.wait_until(lambda: service.passed("ingest.commit") > 0, _READY_S, "a first batch")
        sleep(death.moment * _RANDOM_S)
        return service.kill(), True
    ended = _burnt(service)
    if ended is None:
        return service.kill(), False
    if not ended.killed:
        raise DeploymentError(f"the service ends by itself, code {ended.code}: {ended.said}")
    return ended, not fuse.delay_ms or _inside_checkpoint(stage.starter)


def _burnt(service: Serving) -> Ended | None:
    """Return how a service with a fuse ended, None if it lives on."""
    deadline = monotonic() + _READY_S
    while not service.passed("ingest.commit") and monotonic() < deadline:
        if (ended := service.wait(_LOOK_S)) is not None:
            return ended
    return service.wait(_LIFE_S)


def _start(stage: Stage, fuse: Fuse | None) -> Serving:
    return Serving(stage.starter, stage.site.run(), stage.site.port, fuse=fuse)


def _watched(service: Serving, watch: Fuse) -> tuple[Ended, bool]:
    """Kill a service while its worker compresses."""
    deadline = monotonic() + _READY_S
    while service.passed(watch.point) < watch.nth:
        if (ended := service.wait(_WATCH_S)) is not None:
            raise DeploymentError(f"the service ends by itself, code {ended.code}: {ended.said}")
        if monotonic() > deadline:
            return service.kill(), False
    ended = service.kill()
    return ended, service.passed("tick.compressed") < service.passed(watch.point)


def _inside_checkpoint(starter: Starter) -> bool:
    passed = [point for _, point in starter.trace() if point.startswith("checkpoint")]
    return bool(passed) and passed[-1] == "checkpoint.begin"


def _through_outage(stage: Stage, death: Death, tally: Tally) -> Ended:
    """Kill the broker under a service; the service dies before the broker is back, or goes on by itself."""
    service = _start(stage, None)
    service.wait_until(lambda: service.ready, _READY_S, "being ready")
    service.wait_until(lambda: service.passed("sink.written") > 1, _READY_S, "first slates")
    stage.broker.kill()
    tally.outages += 1
    sleep(death.moment)
    if death.outage == "shared":
        ended = service.kill()
        stage.broker.start()
        return ended
    stage.broker.start()
    before = service.passed("ingest.commit")
    service.wait_until(
        lambda: service.passed("ingest.commit") > before + 1, _READY_S, "going on after an outage"
    )
    return service.kill()
