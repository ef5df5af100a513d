"""Faust delivers what this shard owns, again after a kill, and acknowledges nothing that failed."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from stream.kafka.preflight import coordinated

DEADLINE_S = 180


@pytest.fixture
def shop(broker, make_topic, tmp_path):
    return Shop(broker.bootstrap, make_topic(partitions=4), tmp_path)


class Shop:
    """A topic, a group, and what processes that pump wrote down about it."""

    def __init__(self, bootstrap, topic, folder):
        self.bootstrap, self.topic, self.folder = bootstrap, topic, folder
        self.group = f"group-of-{topic}"
        self.working = folder / "working"
        self.working.mkdir()

    def produce(self, count):
        producer = KafkaProducer(bootstrap_servers=self.bootstrap)
        for number in range(count):
            producer.send(self.topic, f"{number}".encode(), partition=number % 4)
        producer.close()

    @contextmanager
    def pumping(self, *, shard=0, shards=1, fault=0, assignment_s=15):
        arguments = [
            self.bootstrap,
            self.topic,
            self.group,
            shard,
            shards,
            self.folder,
            fault,
            assignment_s,
        ]
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path])),
        }
        command = [sys.executable, "-W", "ignore", "-m", "tests.stream.kafka.pump_process"]
        with (self.folder / "errors.txt").open("ab") as errors:
            process = subprocess.Popen(
                [*command, *map(str, arguments)], env=env, stderr=errors, cwd=self.working
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def turns(self):
        file = self.folder / "turns.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]

    def scored(self):
        file = self.folder / "scored.json"
        rows = json.loads(file.read_text()) if file.exists() else []
        return {part: off for _, part, off in rows}

    def committed(self, shard=0, shards=1):
        group = f"{self.group}-scorer-{shard}-of-{shards}"
        admin = KafkaAdminClient(
            bootstrap_servers=self.bootstrap
        )  # one that knows no earlier broker
        found = coordinated(lambda: admin.list_group_offsets({group: None})).get(group, {})
        admin.close()
        return {tp.partition: entry.offset for tp, entry in found.items()}

    def errors(self):
        return (self.folder / "errors.txt").read_text()[-2000:]

    def until(self, condition, process):
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert process.poll() is None, self.errors()
            assert time.monotonic() < deadline, (self.scored(), self.errors())
            time.sleep(0.02)


def test_a_killed_process_goes_on_from_what_is_committed_and_misses_nothing(shop):
    shop.produce(400)
    with shop.pumping() as process:
        shop.until(lambda: sum(shop.committed().values()) >= 100, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    committed, answered = shop.committed(), shop.scored()
    before = len(shop.turns())
    assert all(off <= answered.get(part, 0) for part, off in committed.items())

    shop.produce(200)
    with shop.pumping() as process:
        shop.until(lambda: shop.scored() == dict.fromkeys(range(4), 150), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    again = {}
    for turn in shop.turns()[before:]:
        for _, part, off in turn["first"]:
            again.setdefault(part, off)
    assert all(off <= committed.get(part, 0) for part, off in again.items())
    assert any(again.values())  # not from the beginning
    assert shop.committed() == dict.fromkeys(range(4), 150)


def test_a_failure_ends_the_process_with_nothing_of_its_batch_committed(shop):
    shop.produce(200)
    with shop.pumping(fault=1) as process:
        assert process.wait(DEADLINE_S) == 70
    assert "the fault that was asked for" in shop.errors()
    assert not any(shop.committed().values())
    assert shop.scored() == {}

    with shop.pumping() as process:
        shop.until(lambda: shop.scored() == dict.fromkeys(range(4), 50), process)


def test_a_stop_leaves_what_was_answered_committed_and_nothing_is_delivered_again(shop):
    shop.produce(100)
    with shop.pumping() as process:
        shop.until(lambda: sum(shop.scored().values()) >= 20, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    assert shop.committed() == shop.scored()
    before = len(shop.turns())
    shop.produce(4)
    with shop.pumping() as process:
        shop.until(lambda: shop.scored() == dict.fromkeys(range(4), 26), process)
    delivered = sum(turn["events"] for turn in shop.turns())
    assert delivered == 104
    assert len(shop.turns()) > before
    assert not list(shop.working.iterdir())  # it may be a folder that nothing can be written to


def test_a_shard_is_given_its_partitions_and_no_others(shop):
    shop.produce(80)
    with shop.pumping(shard=1, shards=2) as process:
        shop.until(lambda: shop.scored() == {1: 20, 3: 20}, process)
        shop.until(lambda: shop.committed(1, 2) == {1: 20, 3: 20}, process)


def test_a_shard_without_partitions_is_refused(shop):
    with shop.pumping(shard=4, shards=5) as process:
        assert process.wait(DEADLINE_S) != 0
    assert "none for shard 4 of 5" in shop.errors()


def test_what_the_database_says_is_answered_is_not_delivered(shop):
    shop.produce(80)
    known = [[shop.topic, part, 15] for part in range(4)]
    (shop.folder / "scored.json").write_text(json.dumps(known))
    with shop.pumping() as process:
        shop.until(lambda: shop.scored() == dict.fromkeys(range(4), 20), process)
    assert sum(turn["events"] for turn in shop.turns()) == 20


def test_a_pump_that_is_given_no_partition_any_more_fails(shop, admin):
    shop.produce(4)
    with shop.pumping(assignment_s=1) as process:
        shop.until(lambda: len(shop.scored()) == 4, process)
        admin.delete_topics([shop.topic])
        assert process.wait(DEADLINE_S) == 70
    assert "no partition" in shop.errors()


def test_a_broker_that_comes_back_is_used_again(own_broker, tmp_path):
    admin = KafkaAdminClient(bootstrap_servers=own_broker.bootstrap)
    admin.create_topics({"events": {"num_partitions": 4, "replication_factor": 1}})
    admin.wait_for_topics(["events"])
    admin.close()
    shop = Shop(own_broker.bootstrap, "events", tmp_path)
    shop.produce(40)
    with shop.pumping() as process:
        shop.until(lambda: sum(shop.scored().values()) == 40, process)
        own_broker.restart(kill=True)
        shop.produce(40)
        shop.until(lambda: sum(shop.scored().values()) == 80, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    assert shop.committed() == dict.fromkeys(range(4), 20)
