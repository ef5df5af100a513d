"""The broker from jars: it keeps its data over restarts and ends with whoever started it."""

import os
import select
import signal
import subprocess
import sys
from uuid import UUID

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from infra.broker.jars import libraries
from infra.broker.process import Broker
from infra.errors import BrokerUnavailableError

STARTER = """
import sys
from pathlib import Path
from infra.broker.process import Broker

broker = Broker(Path(sys.argv[1])).start()
print(broker._server.pid, flush=True)
sys.stdin.read()
"""


def test_jars_are_looked_for_where_the_variable_says(tmp_path):
    with pytest.raises(BrokerUnavailableError, match="FRESHET_KAFKA_LIBS"):
        libraries({"FRESHET_KAFKA_LIBS": str(tmp_path)})


def test_a_killed_broker_comes_back_on_its_port_with_its_data(own_broker):
    address = own_broker.bootstrap
    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.create_topics({"kept": {"num_partitions": 1, "replication_factor": 1}})
    admin.close()
    producer = KafkaProducer(bootstrap_servers=address)
    producer.send("kept", b"one").get(30)
    producer.close()

    own_broker.restart(kill=True)

    assert own_broker.bootstrap == address
    consumer = KafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest")
    consumer.assign([TopicPartition("kept", 0)])
    found = [record.value for records in consumer.poll(30_000).values() for record in records]
    consumer.close()
    assert found == [b"one"]


def test_a_cluster_whose_id_begins_with_a_hyphen_starts(broker, tmp_path, monkeypatch):
    if broker.backend != "jars":
        pytest.skip("not a broker from jars")
    monkeypatch.setattr("uuid.uuid4", lambda: UUID(bytes=b"\xf8" * 16))
    Broker(tmp_path / "kafka").start().stop()
    properties = next((tmp_path / "kafka").rglob("meta.properties")).read_text()
    assert "cluster.id=-Pj4" in properties


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd_open (Linux)")
def test_the_broker_of_a_killed_process_ends_too(broker, tmp_path):
    if broker.backend != "jars":
        pytest.skip("not a broker from jars")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", STARTER, tmp_path / "kafka"]
    with subprocess.Popen(command, env=env, **pipes) as starter:
        server = os.pidfd_open(int(starter.stdout.readline()))
        waiting = select.poll()
        waiting.register(server, select.POLLIN)
        assert not waiting.poll(0)
        starter.send_signal(signal.SIGKILL)
        assert waiting.poll(30_000)
        os.close(server)
