"""A log on a real Kafka, recorded and read again."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from kafka import KafkaProducer

from stream.config import FormatsConfig
from stream.errors import GapError
from stream.events import Partition
from stream.formats.decoder import TopicDecoder
from stream.kafka.config import KafkaConfig
from stream.kafka.export import record_topics
from stream.recording import LogRecorder
from stream.sources.recorded import RecordedSource
from tests.stream.kafka.support import read_topic


def good(user, **changes):
    return json.dumps({
        "user_id": user,
        "item_id": "i",
        "ts": 1_700_000_000_000,
        **changes,
    }).encode()


@pytest.fixture
def topics(broker, make_topic):
    """Two topics with good and bad records, a tombstone, and transactions that leave holes."""
    clicks, items = make_topic(partitions=2), make_topic()
    plain = KafkaProducer(bootstrap_servers=broker.bootstrap)
    for number in range(20):
        headers = [("n", str(number).encode())]
        plain.send(clicks, good(f"u{number}"), key=b"k", headers=headers, partition=number % 2)
    plain.send(clicks, b"{", key=b"bad", partition=0)
    plain.send(items, b'{"item_id":"i","text":"mug"}', key=b"i")
    plain.send(items, None, key=b"i")
    plain.close()
    atomic = KafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id=f"tx-{clicks}")
    atomic.init_transactions()
    for commit in (False, True):
        atomic.begin_transaction()
        atomic.send(clicks, good("committed" if commit else "aborted"), partition=1).get(10)
        atomic.commit_transaction() if commit else atomic.abort_transaction()
    atomic.close()
    return KafkaConfig(
        bootstrap_servers=broker.bootstrap, interactions_topic=clicks, items_topic=items
    )


def export(config, out, **more):
    with LogRecorder(out, items_topic=config.items_topic) as recorder:
        spans = record_topics(config, recorder, **more)
        return spans, recorder.finish(spans)


def test_a_recorded_log_holds_what_an_independent_consumer_reads(topics, tmp_path):
    spans, done = export(topics, tmp_path / "log.parquet")
    rows = pq.read_table(tmp_path / "log.parquet").to_pylist()
    read = [
        record
        for topic in (topics.interactions_topic, topics.items_topic)
        for record in read_topic(topics.bootstrap_servers, topic)
    ]
    theirs = {
        (r.topic, r.partition, r.offset): (r.timestamp, r.key, r.value, r.headers) for r in read
    }
    ours = {
        (r["topic"], r["partition"], r["offset"]): (
            r["append_ts"], r["key"], r["raw"], [(h["name"], h["value"]) for h in r["headers"]],
        )
        for r in rows
    }  # fmt: skip
    assert ours == theirs
    assert done.records == len(read) == 24
    assert spans[Partition(topics.interactions_topic, 1)] == (0, 14)  # two records, two markers


def test_a_recorded_log_is_read_with_the_positions_of_the_topics(topics, tmp_path):
    spans, _ = export(topics, tmp_path / "folder")
    decode = TopicDecoder(FormatsConfig(), topics.items_topic)
    batch = RecordedSource(tmp_path / "folder", decode).poll(1_000)
    assert batch.ranges == spans
    assert "committed" in batch.interactions["user_id"].to_pylist()
    assert "aborted" not in batch.interactions["user_id"].to_pylist()
    assert batch.items["available"].to_pylist() == [True, False]
    [letter] = batch.dead
    assert (letter.raw, letter.key, letter.off) == (b"{", b"bad", 10)
    assert letter.append_ms is not None


def test_a_recording_begins_where_it_is_told(topics, tmp_path):
    begin = Partition(topics.interactions_topic, 0)
    spans, done = export(topics, tmp_path / "log.parquet", start={begin: 8})
    assert spans[begin] == (8, 11)
    assert done.records == 16
    with pytest.raises(GapError, match="can not begin at 99"):
        export(topics, tmp_path / "other.parquet", start={begin: 99})
    with pytest.raises(GapError, match="no such partition"):
        export(topics, tmp_path / "other.parquet", start={Partition("x", 0): 0})


def test_a_shard_records_its_own_partitions_and_all_items(topics, tmp_path):
    own = KafkaConfig(
        bootstrap_servers=topics.bootstrap_servers,
        interactions_topic=topics.interactions_topic,
        items_topic=topics.items_topic,
        shard=1,
        shards=2,
    )
    spans, _ = export(own, tmp_path / "log.parquet")
    assert sorted(spans) == sorted([(topics.interactions_topic, 1), (topics.items_topic, 0)])


def test_an_empty_topic_is_recorded_as_one(broker, make_topic, tmp_path):
    config = KafkaConfig(
        bootstrap_servers=broker.bootstrap, interactions_topic=make_topic(), items_topic=""
    )
    spans, done = export(config, tmp_path / "log.parquet")
    assert list(spans.values()) == [(0, 0)]
    assert done.records == 0
