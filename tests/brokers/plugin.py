"""Fixtures of tests that need a real Kafka, and a line in the summary about which one they had."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient

from infra.broker.process import Broker
from tests.brokers.backends import BACKENDS, REMEDY, TestBroker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

REPORT = "backends.json"
REQUIRE_VARIABLE = "FRESHET_REQUIRE"


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBroker]:
    """A real Kafka, one for the whole run; skips with the reasons where none can be had."""
    folder = _shared_folder(tmp_path_factory.getbasetemp())
    reasons: dict[str, str] = {}
    for backend in BACKENDS:
        reason = backend.why_not()
        if reason is not None:
            reasons[backend.name] = reason
            continue
        _report(folder, backend.name, reasons)
        with backend.running(folder) as running:
            yield running
        return
    _report(folder, None, reasons)
    text = "no Kafka: " + "; ".join(f"{name}: {why}" for name, why in reasons.items())
    if "kafka" in os.environ.get(REQUIRE_VARIABLE, "").split(","):
        pytest.fail(f"{text}. {REQUIRE_VARIABLE} says it is required: {REMEDY}")
    pytest.skip(text)


@pytest.fixture
def own_broker(broker: TestBroker, tmp_path: Path) -> Iterator[Broker]:
    """A broker from jars for one test that ends and restarts it."""
    if broker.backend != "jars":
        pytest.skip(f"a broker from {broker.backend} can not be restarted by a test")
    with Broker(tmp_path / "kafka") as own:
        yield own


@pytest.fixture(scope="session")
def admin(broker: TestBroker) -> Iterator[KafkaAdminClient]:
    """An admin client that may do everything."""
    client = KafkaAdminClient(bootstrap_servers=broker.bootstrap, reconnect_backoff_max_ms=1000)
    yield client
    client.close()


@pytest.fixture
def make_topic(admin: KafkaAdminClient, request: pytest.FixtureRequest) -> Callable[..., str]:
    """Makes a topic nobody else uses and returns its name."""

    def make(partitions: int = 1, **config: str) -> str:
        plain = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name)[:40].strip("-")
        name = f"{plain}.{uuid4().hex[:8]}"
        configs = {key.replace("_", "."): value for key, value in config.items()}
        shape = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
        admin.create_topics({name: shape})
        admin.wait_for_topics([name])
        return name

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    config = terminalreporter.config
    if hasattr(config, "workerinput"):
        return
    factory = getattr(config, "_tmp_path_factory", None)
    report = None if factory is None else factory.getbasetemp() / "broker" / REPORT
    if report is None or not report.exists():
        return
    known = json.loads(report.read_bytes())
    ran = known["ran"] or "none"
    others = "; ".join(f"{name} ({why})" for name, why in known["not"].items())
    terminalreporter.write_line(f"broker backends run: {ran}; not run: {others or 'not needed'}")


def _shared_folder(basetemp: Path) -> Path:
    """Return one folder for all workers of a run: pytest-xdist gives each a folder inside the run's own."""
    run = basetemp.parent if "PYTEST_XDIST_WORKER" in os.environ else basetemp
    return run / "broker"


def _report(folder: Path, ran: str | None, reasons: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [backend.name for backend in BACKENDS]
    if ran is not None:  # what comes after the first that works is not even asked
        rest = chosen[chosen.index(ran) + 1 :]
        reasons = reasons | dict.fromkeys(rest, f"{ran} is there")
    (folder / f"{REPORT}.{os.getpid()}").write_text(json.dumps({"ran": ran, "not": reasons}))
    (folder / f"{REPORT}.{os.getpid()}").rename(folder / REPORT)
