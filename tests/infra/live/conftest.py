"""Services as processes of their own on the shared broker, each with topics that nobody else uses."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from infra.databases import reading
from infra.deployment.children import Ended, Starter
from infra.deployment.serving import Serving
from infra.deployment.site import Site, free_port
from infra.settings import load
from infra.torture.live.report import SETTINGS
from infra.torture.live.traffic import Place, Topics, Traffic
from infra.torture.verdict import plain_environ
from infra.torture.world import Left, World, left_in, made_world
from tests.brokers.backends import TestBroker

READY_S = 60.0


@dataclass
class Deployment:
    """A world, its topics, and the services started on them."""

    folder: Path
    broker: TestBroker
    topics: Topics
    world: World
    services: list[Serving] = field(default_factory=list)
    sites: int = 0

    def site(self, name: str = "live", **settings: object) -> Site:
        names = {
            "kafka__interactions_topic": self.topics.interactions,
            "kafka__items_topic": self.topics.items,
            "kafka__slates_topic": f"{self.topics.interactions}.slates",
            "kafka__group": f"group.{self.topics.interactions}",
        }
        made = Site(
            db=self.left(name).db,
            bootstrap=self.broker.bootstrap,
            model=self.world.model,
            port=free_port(),
            settings=SETTINGS,
        )
        return made.with_settings(**{**names, **settings})

    def left(self, name: str = "live") -> Left:
        return left_in(self.folder / name)

    def starter(self) -> Starter:
        self.sites += 1
        return Starter(self.left(f"process{self.sites}").folder)

    def run(self, *argv: str) -> Ended:
        """Run a command to its end."""
        return self.starter().run(argv)

    def start(self, site: Site, *more: str, **how: object) -> Serving:
        service = Serving(self.starter(), site.run(*more), site.port, **how)
        self.services.append(service)
        return service

    def send(self, lines: list[bytes], rate: float = 1e6) -> dict[Place, bytes]:
        """Send lines, none of them in transactions that are taken back; return them by position."""
        log = self.folder / f"sent.{uuid4().hex}"
        log.write_bytes(b"\n".join(lines))
        traffic = Traffic(
            log, self.broker.bootstrap, self.topics, rate=rate, seed=0, transactions=False
        )
        traffic.start()
        assert traffic.wait_for(len(lines), READY_S)
        return traffic.stop().acknowledged

    def lines(self) -> list[bytes]:
        """Return the world's log, good and bad."""
        return Path(self.world.log).read_bytes().splitlines()


@pytest.fixture
def deployment(
    broker: TestBroker, make_topic: Callable[..., str], admin, tmp_path: Path
) -> Iterator[Deployment]:
    """Topics of four partitions, a log of 800 events and an untrained model."""
    topics = Topics(make_topic(4), make_topic(1))
    shape = {"num_partitions": 4, "replication_factor": 1}
    admin.create_topics({f"{topics.interactions}.slates": shape})
    world = made_world(tmp_path / "log", events=800, users=8, seed=2)
    made = Deployment(tmp_path, broker, topics, world)
    yield made
    for service in made.services:
        service.kill()


def ends_of(places: dict[Place, bytes]) -> dict[tuple[str, int], int]:
    """Return the offset after the last of these records per topic and partition."""
    ends: dict[tuple[str, int], int] = {}
    for topic, part, off in places:
        ends[topic, part] = max(ends.get((topic, part), 0), off + 1)
    return ends


def query(left: Left, sql: str) -> list[dict]:
    """Return rows of a database that nobody has open."""
    with reading(left.db, load(environ=plain_environ())) as db:
        return db.query(sql).to_pylist()
