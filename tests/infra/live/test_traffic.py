"""What a producer was told, held against what a second client reads."""

from infra.torture.live.readback import read_back
from infra.torture.live.traffic import Topics, Traffic
from infra.torture.world import made_world


def _sent(broker, make_topic, tmp_path, seed):
    world = made_world(tmp_path / "log", events=400, users=6, seed=seed)
    topics = Topics(make_topic(3), make_topic(2))
    traffic = Traffic(tmp_path / "log" / "log.jsonl", broker.bootstrap, topics, rate=1e6, seed=seed)
    traffic.start()
    assert traffic.wait_for(10**9, 60)
    assert world.items is not None
    return topics, traffic.stop()


def test_every_acknowledged_record_is_read_back_and_none_that_was_taken_back(
    broker, make_topic, tmp_path
):
    topics, sent = _sent(broker, make_topic, tmp_path, seed=4)
    found = {
        (topic, record.part, record.off): record.value
        for topic in (topics.interactions, topics.items)
        for record in read_back(broker.bootstrap, topic)
    }
    assert found == sent.acknowledged
    assert sent.transactions
    assert sent.taken_back
    assert not sent.taken_back & found.keys()


def test_a_user_stays_in_one_partition(broker, make_topic, tmp_path):
    topics, _ = _sent(broker, make_topic, tmp_path, seed=5)
    homes = {}
    for record in read_back(broker.bootstrap, topics.interactions):
        if record.key is not None:
            homes.setdefault(record.key, set()).add(record.part)
    assert len(homes) == 6
    assert all(len(parts) == 1 for parts in homes.values())
