"""Following a topic."""

from infra.torture.live.readback import read_back
from infra.torture.live.traffic import Topics, Traffic
from infra.torture.world import made_world
from stream.kafka.config import KafkaConfig
from stream.kafka.tail import Tail


def test_it_sees_what_another_client_reads_and_what_comes_later(broker, make_topic, tmp_path):
    made_world(tmp_path / "log", events=300, users=4, seed=6)
    topics = Topics(make_topic(3), make_topic(1))
    config = KafkaConfig(bootstrap_servers=broker.bootstrap)
    with Tail(config, topics.interactions) as tail:
        assert tail.poll() == []
        log = tmp_path / "log" / "log.jsonl"
        traffic = Traffic(log, broker.bootstrap, topics, rate=1e6, seed=6)
        traffic.start()
        assert traffic.wait_for(10**9, 60)
        traffic.stop()
        seen = tail.rest()
    found = read_back(broker.bootstrap, topics.interactions)
    theirs = {(record.part, record.off): (record.at_ms, record.value) for record in found}
    assert {(one.part, one.off): (one.at_ms, one.value) for one in seen} == theirs
    assert len(seen) == len(theirs) > 100
