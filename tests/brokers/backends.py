"""Where a Kafka for tests comes from: one that is given, one from jars, one in a container."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import docker
from docker.errors import DockerException
from testcontainers.core.container import DockerContainer
from testcontainers.core.waiting_utils import wait_for_logs

from infra.broker.jars import LIBS_VARIABLE, libraries
from infra.broker.process import Broker
from infra.broker.properties import HOST, SECURE, BrokerOptions, free_ports
from infra.errors import BrokerUnavailableError
from infra.parents import hold

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXTERNAL_VARIABLE = "FRESHET_BOOTSTRAP"
USERS = {"app": "app-secret", "guest": "guest-secret"}
"""Logins of the SASL listeners of a broker from jars; nothing is allowed to them until a test says so."""
OPTIONS = BrokerOptions(listeners=SECURE, users=USERS, acls=True)
IMAGE = "apache/kafka:4.1.1"


@dataclass(frozen=True)
class TestBroker:
    """A running Kafka.

    Attributes:
        backend: "external", "jars" or "docker".
        bootstrap: address of a listener without security.
        secure: the broker from jars with its listeners, logins and certificates; None for others.
            Every test of the run uses it: a test that ends or restarts a broker starts its own.
    """

    __test__ = False
    backend: str
    bootstrap: str
    secure: Broker | None = None


class External:
    """Any broker, named by an environment variable."""

    name = "external"

    def why_not(self) -> str | None:
        return None if os.environ.get(EXTERNAL_VARIABLE) else f"{EXTERNAL_VARIABLE} is not set"

    @contextmanager
    def running(self, folder: Path) -> Iterator[TestBroker]:
        yield TestBroker(self.name, os.environ[EXTERNAL_VARIABLE])


class Jars:
    """A broker from jars; the workers of one run share it, and it ends with the last of them."""

    name = "jars"

    def why_not(self) -> str | None:
        if shutil.which("java") is None:
            return "java is not installed"
        try:
            libraries(os.environ)
        except BrokerUnavailableError as err:
            return str(err)
        return None

    @contextmanager
    def running(self, folder: Path) -> Iterator[TestBroker]:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            broker = Broker(folder / "kafka", OPTIONS)
            try:
                held = hold(broker.holders)
            except OSError:
                broker.start()
                held = hold(broker.holders)
        try:
            yield TestBroker(self.name, broker.bootstrap, broker)
        finally:
            os.close(held)
            broker.leave()


class Docker:
    """Apache Kafka's own image, where a Docker engine answers."""

    name = "docker"

    def why_not(self) -> str | None:
        try:
            docker.from_env(timeout=3).ping()
        except DockerException as err:
            return f"no Docker engine answers: {type(err).__name__}"
        return None

    @contextmanager
    def running(self, folder: Path) -> Iterator[TestBroker]:
        (port,) = free_ports(["PLAINTEXT"]).values()  # the advertised port must be known first
        environment = {
            "KAFKA_NODE_ID": "1",
            "KAFKA_PROCESS_ROLES": "broker,controller",
            "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
            "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://{HOST}:{port}",
            "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
            "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
            "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "1",
            "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
            "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        }
        container = DockerContainer(IMAGE).with_bind_ports(9092, port)
        for key, value in environment.items():
            container = container.with_env(key, value)
        with container:
            wait_for_logs(container, "Kafka Server started", timeout=120)
            yield TestBroker(self.name, f"{HOST}:{port}")


BACKENDS = (External(), Jars(), Docker())
REMEDY = f"install Java 17 and Maven, set {LIBS_VARIABLE} or {EXTERNAL_VARIABLE}, or run Docker"
