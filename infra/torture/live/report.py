"""A whole run against a live service: its deaths, then the books, then two replays of the log it read."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from infra.broker.process import Broker
from infra.deployment.children import Starter
from infra.deployment.serving import DeploymentError
from infra.deployment.site import INTERACTIONS, ITEMS, SLATES, Site, free_port
from infra.torture.live.accounts import answers_of, balance, read_books, read_log, same_log
from infra.torture.live.lives import Stage, Tally, finish, live_and_die
from infra.torture.live.plan import CLASSES, plan
from infra.torture.live.readback import librdkafka, read_back
from infra.torture.live.traffic import Topics, Traffic
from infra.torture.report import Report
from infra.torture.verdict import Check, slates_agree
from infra.torture.world import left_in, made_world

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.deployment.serving import Ends, Serving
    from infra.torture.live.accounts import Log
    from infra.torture.world import Left, World

_USERS = 16
_PARTITIONS = 4
_CATCH_UP_S = 300.0
SETTINGS: dict[str, object] = {
    "stream.max_batch_records": 64,
    "stream.lateness_ms": 60_000,
    "stream.visit_gap_ms": 1_800_000,
    "refresh.batch_users": 2,
    "database.rotate_rows": 256,
    "database.max_runs": 3,
    "database.checkpoint_bytes": 0,
    "live.tick_interval_s": 1,
    "live.maintain_interval_s": 1,
    "live.take_max": 64,
    "live.shed_above": 300,
    "live.log_format": "json",
}
"""Small numbers, so that a short life sees batches, ticks, rotations and shedding."""


_REPLAYED: dict[str, object] = {
    "stream__max_batch_records": 5_000,
    "refresh__batch_users": 64,
    "database__rotate_rows": 20_000,
}
"""Larger numbers for its replays: they change nothing but the time these take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTorture:
    """What to do.

    Attributes:
        kills: services to kill.
        seed: of the plan, the log and the transactions.
        events: distinct good interactions of the log; the run ends when it is through with the kills.
        rate: records sent a second.
        cold: start Python anew for every service.
    """

    kills: int
    seed: int
    events: int
    rate: float
    cold: bool = False


def torture_live(
    folder: Path,
    what: LiveTorture,
    on_step: Callable[[int, str], None] = lambda _done, _note: None,
) -> Report:
    """Run it all in an empty folder.

    Args:
        folder: where broker, logs, databases and slates go.
        what: how many kills, of what.
        on_step: called with the kills so far and what comes now.

    Raises:
        BrokerUnavailableError: no broker can be started here.
        MissingExtraError: the second client is not installed.
    """
    librdkafka()
    started, tally = perf_counter(), Tally()
    world = made_world(folder / "log", events=what.events, users=_USERS, seed=what.seed)
    log: Log = {}
    checks: list[Check] = []
    failure = None
    with Broker(folder / "kafka") as broker:
        site = Site(
            db=left_in(folder / "live").db,
            bootstrap=broker.bootstrap,
            model=world.model,
            port=free_port(),
            settings=SETTINGS,
        )
        try:
            log = _tortured(folder, what, world, site, broker, tally, checks, on_step)
        except (DeploymentError, TimeoutError, RuntimeError) as error:
            failure = str(error)
    planned = {death.kind for death in plan(what.kills, what.seed)}
    return Report(
        seed=what.seed,
        kills=tally.kills,
        records=sum(map(len, log.values())),
        rounds=tally.lives,
        missed=tally.missed,
        classes={kind: tally.classes[kind] for kind in CLASSES if kind in planned},
        points={kind: dict(tally.points[kind].most_common()) for kind in CLASSES},
        checks=checks,
        failure=failure,
        wall_s=perf_counter() - started,
    )


def _tortured(
    folder: Path,
    what: LiveTorture,
    world: World,
    site: Site,
    broker: Broker,
    tally: Tally,
    checks: list[Check],
    on_step: Callable[[int, str], None],
) -> Log:
    """Let services die, let the last one catch up, then fill in the checks; return the log."""
    topics = Topics(INTERACTIONS, ITEMS)
    starter = Starter(folder, cold=what.cold)
    _done(starter, site.topics(_PARTITIONS))
    traffic = Traffic(
        _whole_log(folder / "traffic.jsonl", world), site.bootstrap, topics,
        rate=what.rate, seed=what.seed,
    )  # fmt: skip
    stage = Stage(site, broker, starter, traffic)
    with ExitStack() as stack:
        stack.callback(traffic.end)
        traffic.start()
        deaths = plan(what.kills, what.seed)
        live_and_die(stage, deaths, tally, lambda: on_step(tally.kills, "kills"))
    on_step(tally.kills, "catching up")
    sent = traffic.stop()
    log = read_log(site.bootstrap, topics)
    ended = finish(stage, lambda: _ends(log), _ticks, _CATCH_UP_S)
    live = left_in(folder / "live")
    on_step(tally.kills, "reading back")
    copied = [record.value for record in read_back(site.bootstrap, SLATES)]
    live.slates.write_bytes(b"".join((value or b"") + b"\n" for value in copied))
    checks += balance(log, sent, read_books(live), answers_of(copied))
    checks += [
        Check(
            "broker killed and started again",
            tally.outages >= sum(death.outage is not None for death in deaths),
            {"times": tally.outages},
        ),
        Check("the last service drains", ended.code == 0, {"exit code": ended.code}),
    ]
    on_step(tally.kills, "replaying its log")
    checks += _replayed(folder, site, starter, live)
    return log


def _replayed(folder: Path, site: Site, starter: Starter, live: Left) -> list[Check]:
    """Return the checks of two replays of the log as it was exported: on its own, and with the live journal."""
    exported = folder / "exported.parquet"
    _done(starter, site.export(exported))
    site = site.with_settings(**_REPLAYED)
    alone, led = left_in(folder / "alone"), left_in(folder / "led")
    _done(starter, site.replay(exported, alone.db, "--no-score", "--finish"))
    _done(
        starter,
        site.replay(exported, led.db, "--journal", str(live.db), "--slates", str(led.slates)),
    )
    found = slates_agree(live, led)
    name = "live = replay with its journal"
    return [
        *same_log(live, alone, "replay"),
        Check(name, found.ok, found.counts, found.places, found.text),
    ]


def _whole_log(path: Path, world: World) -> Path:
    """Write items and events as one log, items first."""
    parts = [Path(part).read_bytes() for part in (world.items, world.log) if part]
    path.write_bytes(b"".join(parts))
    return path


def _ends(log: Log) -> Ends:
    return {key: max(values) + 1 for key, values in log.items() if values}


def _ticks(service: Serving) -> float:
    return service.figures().get("freshet_tick_seconds_count", 0.0)


def _done(starter: Starter, argv: list[str]) -> None:
    """Run a command that must end well.

    Raises:
        DeploymentError: it did not.
    """
    ended = starter.run(argv)
    if ended.code:
        raise DeploymentError(f"`freshet {argv[0]}` fails with code {ended.code}: {ended.said}")
