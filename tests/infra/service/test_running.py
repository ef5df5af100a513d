"""`freshet run` as a process beside a real Kafka: slates arrive, signals end it, a restart goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pyarrow.parquet as pq
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from infra.exits import ExitCode
from infra.shipped import CHECKPOINT, EVENTS
from stream.slates import Slate, decode_slate, recommendation_id
from tests.brokers.backends import TestBroker

WAIT_S = 120.0
COUNT = 2_000
HALF = COUNT // 2


def until(condition: Callable[[], Any], process: subprocess.Popen[bytes] | None = None) -> Any:
    """Wait for a condition with a deadline, and for no process that has ended."""
    end = monotonic() + WAIT_S
    while monotonic() < end:
        found = condition()
        if found:
            return found
        assert process is None or process.poll() is None, "it has ended"
        sleep(0.05)
    raise AssertionError("it did not come")


class Topics:
    """What a test sends and reads."""

    def __init__(self, broker: TestBroker, make_topic: Callable[..., str]) -> None:
        self.bootstrap = broker.bootstrap
        self.interactions = make_topic(2)
        self.items = make_topic(1)
        self.slates_topic = make_topic(1)
        self.sent: set[tuple[int, int]] = set()
        self.slates: list[Slate] = []
        self._consumer = KafkaConsumer(bootstrap_servers=self.bootstrap, auto_offset_reset="none")
        place = TopicPartition(self.slates_topic, 0)
        self._consumer.assign([place])
        self._consumer.seek(place, 0)

    def close(self) -> None:
        self._consumer.close()

    def send(self, events: list[dict[str, Any]]) -> None:
        producer = KafkaProducer(bootstrap_servers=self.bootstrap, acks="all")
        futures = [
            producer.send(
                self.interactions, key=one["user_id"].encode(), value=json.dumps(one).encode()
            )
            for one in events
        ]
        producer.flush()
        self.sent |= {(found.partition, found.offset) for found in (f.get(0) for f in futures)}
        producer.close()

    def received(self, count: int) -> bool:
        for records in self._consumer.poll(50).values():
            self.slates += [decode_slate(record.value) for record in records]
        return len(self.slates) >= count


@pytest.fixture
def topics(broker: TestBroker, make_topic: Callable[..., str]) -> Iterator[Topics]:
    made = Topics(broker, make_topic)
    yield made
    made.close()


def shipped_events(count: int) -> list[dict[str, Any]]:
    table = pq.read_table(EVENTS).slice(0, count)
    rows = table.select(["user_id", "item_id", "ts"]).to_pylist()
    return [{**row, "event_type": "interaction"} for row in rows]


@contextmanager
def running(folder: Path, topics: Topics, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a process; its lines go to a file of the folder."""
    settings = [
        f"kafka.bootstrap_servers={topics.bootstrap}",
        f"kafka.interactions_topic={topics.interactions}",
        f"kafka.items_topic={topics.items}",
        f"kafka.slates_topic={topics.slates_topic}",
        f"kafka.group={topics.interactions}",
        "stream.lateness_ms=0",
        "stream.visit_gap_ms=0",
        "live.http_port=0",
        "live.tick_interval_s=1",
        "live.shed_above=0",
        *more,
    ]
    line = [sys.executable, "-m", "infra", "run", "--db", str(folder / "x.duckdb")]
    line += ["--model", str(CHECKPOINT)]
    for setting in settings:
        line += ["--set", setting]
    with (folder / "log.jsonl").open("ab") as log:
        process = subprocess.Popen(line, stderr=log, cwd=Path(__file__).parents[3])
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(WAIT_S)


def starts(folder: Path) -> int:
    return (folder / "log.jsonl").read_text().count('"started"')


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_every_event_is_answered_once_across_a_drain_and_a_kill(tmp_path: Path, topics: Topics):
    events = shipped_events(COUNT)
    topics.send(events[:HALF])
    with running(tmp_path, topics) as process:
        until(lambda: topics.received(HALF), process)
        process.send_signal(signal.SIGTERM)
        started = monotonic()
        assert process.wait(WAIT_S) == 0
        assert monotonic() - started < 20
    assert not (tmp_path / "x.duckdb.wal").exists()
    assert not (tmp_path / "x.duckdb.sock").exists()
    topics.send(events[HALF:])
    with running(tmp_path, topics) as process:
        until(lambda: topics.received(HALF + 200), process)
        process.kill()
    with running(tmp_path, topics) as process:
        until(lambda: starts(tmp_path) == 3, process)  # before, SIGINT ends any Python
        wanted = {recommendation_id(topics.interactions, *place) for place in topics.sent}
        until(lambda: topics.received(0) and {s.id for s in topics.slates} >= wanted, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0
    assert {slate.id for slate in topics.slates} == wanted
    by_id: dict[str, Slate] = {}
    for slate in topics.slates:  # a repeat is the same answer
        assert by_id.setdefault(slate.id, slate).cause == slate.cause
    found = lines(tmp_path)
    assert {"started", "batch_stored", "batch_answered", "stopped"} <= {x["event"] for x in found}
    assert all({"at", "level", "component"} <= set(line) for line in found)


def test_a_broker_that_is_not_there_is_one_line_and_its_own_code(tmp_path: Path):
    line = [sys.executable, "-m", "infra", "run", "--db", str(tmp_path / "x.duckdb")]
    line += ["--set", "kafka.bootstrap_servers=127.0.0.1:9", "--set", "live.http_port=0"]
    done = subprocess.run(
        line, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False,
        env={**os.environ, "FRESHET_KAFKA__CONNECT_TIMEOUT_S": "2"},
    )  # fmt: skip
    assert done.returncode == ExitCode.UNREACHABLE
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "x.duckdb").exists()
