"""Bad records leave for a topic, and come back, as they were."""

from __future__ import annotations

import pytest

from stream.errors import SinkError
from stream.events import DeadLetter
from stream.kafka.config import KafkaConfig
from stream.kafka.mirror import KafkaMirror, is_whole, mirrored, produced_again
from stream.kafka.producer import RecordProducer
from tests.stream.kafka.support import read_topic

LETTER = DeadLetter(
    topic="clicks",
    part=3,
    off=42,
    reason="malformed",
    detail="größer als erwartet",
    raw=b"\xff{",
    key=b"\x00k",
    headers=[("a", b"1"), ("a", b"\xfe"), ("b", None), ("freshet.replayed.offset", b"7")],
    append_ms=1_700_000_000_123,
    size=2,
)
SENT = [(name, value or b"") for name, value in LETTER.headers]  # the client has no null headers


def test_a_mirrored_record_says_what_was_wrong_and_where(broker, make_topic):
    topic = make_topic()
    mirror = KafkaMirror(KafkaConfig(bootstrap_servers=broker.bootstrap, dead_topic=topic))
    mirror.write([LETTER])
    mirror.close()
    [record] = read_topic(broker.bootstrap, topic)
    assert (record.key, record.value) == (LETTER.key, LETTER.raw)
    assert record.headers[: len(LETTER.headers)] == SENT
    assert record.headers[len(LETTER.headers) :] == [
        ("freshet.error", b"malformed"),
        ("freshet.detail", "größer als erwartet".encode()),
        ("freshet.source.topic", b"clicks"),
        ("freshet.source.partition", b"3"),
        ("freshet.source.offset", b"42"),
    ]


def test_a_record_is_produced_again_as_it_was(broker, make_topic):
    topic = make_topic()
    producer = RecordProducer(KafkaConfig(bootstrap_servers=broker.bootstrap))
    tombstone = DeadLetter("clicks", 0, 1, "missing_field", "no key", None, size=0)
    producer.send([produced_again(LETTER, topic), produced_again(tombstone, topic)])
    producer.close()
    first, second = read_topic(broker.bootstrap, topic)
    assert (first.key, first.value, first.timestamp) == (LETTER.key, LETTER.raw, LETTER.append_ms)
    assert first.headers == [
        *SENT[:3],
        ("freshet.replayed.topic", b"clicks"),
        ("freshet.replayed.partition", b"3"),
        ("freshet.replayed.offset", b"42"),
    ]
    assert (second.key, second.value) == (None, b"")


def test_a_record_goes_back_to_its_own_topic_unless_told_otherwise():
    assert produced_again(LETTER).topic == "clicks"
    assert produced_again(LETTER, "fixed").topic == "fixed"


@pytest.mark.parametrize(
    ("raw", "size", "whole"),
    [(b"ab", 2, True), (b"ab", 3, False), (None, 0, True), (b"ab", None, False)],
)
def test_a_cut_record_says_how_long_it_was(raw, size, whole):
    letter = DeadLetter("clicks", 0, 1, "too_large", "", raw, size=size)
    assert is_whole(letter) is whole
    headers = dict(mirrored(letter, "dead").headers)
    assert ("freshet.source.size" in headers) is not whole


def test_a_mirror_topic_that_is_not_there_is_named(broker):
    config = KafkaConfig(
        bootstrap_servers=broker.bootstrap, dead_topic="nobody.made.this", delivery_timeout_ms=500
    )
    mirror = KafkaMirror(config)
    with pytest.raises(SinkError, match=r"nobody\.made\.this"):
        mirror.write([LETTER])
    mirror.close()


def test_a_name_that_can_be_no_topic_is_refused(broker):
    producer = RecordProducer(KafkaConfig(bootstrap_servers=broker.bootstrap))
    with pytest.raises(SinkError, match=r"my log\.jsonl"):
        producer.send([produced_again(LETTER, "my log.jsonl")])
    producer.close()
