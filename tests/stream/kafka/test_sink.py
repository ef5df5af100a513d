"""Slates on a topic of a real Kafka keep what every sink promises."""

import pytest
from kafka import KafkaAdminClient

from infra.exits import ExitCode, exit_code
from stream.errors import SinkError
from stream.kafka.config import KafkaConfig
from stream.kafka.sink import KafkaSink
from stream.slates import SlateLines, decode_slate
from tests.contracts.sink_contract import SinkCase, SinkContract, slate
from tests.stream.kafka.support import read_topic


class TestKafkaSink(SinkContract):
    @pytest.fixture
    def case(self, broker, make_topic):
        topic = make_topic()
        config = KafkaConfig(bootstrap_servers=broker.bootstrap, slates_topic=topic)

        def stored():
            return [decode_slate(record.value) for record in read_topic(broker.bootstrap, topic)]

        return SinkCase(open=lambda: KafkaSink(config), stored=stored, outlives=True)


def test_a_users_slates_share_a_partition_and_the_key_is_the_user(broker, make_topic):
    topic = make_topic(partitions=3)
    sink = KafkaSink(KafkaConfig(bootstrap_servers=broker.bootstrap, slates_topic=topic))
    sink.write(SlateLines([slate(number) for number in range(12)]))
    sink.close()
    records = read_topic(broker.bootstrap, topic)
    parts = {}
    for record in records:
        found = decode_slate(record.value)
        assert record.key == found.user_id.encode()
        parts.setdefault(found.user_id, set()).add(record.partition)
    assert len(records) == 12
    assert all(len(found) == 1 for found in parts.values())


def test_a_topic_that_is_not_there_is_an_error_that_names_it(broker):
    config = KafkaConfig(
        bootstrap_servers=broker.bootstrap, slates_topic="nobody.made.this", delivery_timeout_ms=500
    )
    sink = KafkaSink(config)
    with pytest.raises(SinkError, match=r"nobody\.made\.this") as caught:
        sink.write(SlateLines([slate(0)]))
    assert exit_code(caught.value) == ExitCode.BROKER
    sink.close()


def test_slates_that_a_dead_broker_did_not_take_are_refused_and_can_be_written_again(own_broker):
    admin = KafkaAdminClient(bootstrap_servers=own_broker.bootstrap)
    admin.create_topics({"slates": {"num_partitions": 1, "replication_factor": 1}})
    admin.close()
    config = KafkaConfig(
        bootstrap_servers=own_broker.bootstrap,
        slates_topic="slates",
        delivery_timeout_ms=2000,
        connect_timeout_s=1,
    )
    sink = KafkaSink(config)
    sink.write(SlateLines([slate(0)]))
    own_broker.kill()
    with pytest.raises(SinkError) as caught:
        sink.write(SlateLines([slate(1), slate(2)]))
    assert caught.value.retry_after_s is not None
    own_broker.start()
    sink.write(SlateLines([slate(1), slate(2)]))
    sink.close()
    stored = [decode_slate(record.value) for record in read_topic(own_broker.bootstrap, "slates")]
    assert stored == [slate(0), slate(1), slate(2)]
