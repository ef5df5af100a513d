"""What is produced can be read back exactly, keyed, paced, and spoiled only as asked."""

import threading
from dataclasses import replace

import msgspec
import pytest

from stream.clock import ManualClock, from_ms
from stream.config import FileConfig
from stream.errors import ConfigError
from stream.kafka.config import KafkaConfig
from stream.kafka.produce import Pace, Sender
from stream.sources.file import FileSource
from tests.stream.kafka.support import read_topic

NOW_MS = 1_800_000_000_000


@pytest.fixture
def config(broker, make_topic):
    return KafkaConfig(
        bootstrap_servers=broker.bootstrap,
        interactions_topic=make_topic(partitions=2),
        items_topic=make_topic(),
    )


def events(count, gap_ms=1000):
    return [
        {"user_id": f"u{n % 5}", "item_id": f"i{n}", "event_type": "view", "ts": n * gap_ms}
        for n in range(count)
    ]


def written(folder, records, name="log.jsonl"):
    lines = [r if isinstance(r, bytes) else msgspec.json.encode(r) for r in records]
    (folder / name).write_bytes(b"\n".join(lines) + b"\n")
    return FileSource(folder / name, FileConfig())


def sent(config, source, pace=None, **more):
    sender = Sender(config, clock=ManualClock(from_ms(NOW_MS)), **more)
    sender.send(source, pace or Pace())
    return sender.close()


def found(config):
    return read_topic(config.bootstrap_servers, config.interactions_topic)


def test_every_record_arrives_once_with_its_fields_and_keyed_by_its_user(config, tmp_path):
    log = events(50)
    log[3] |= {"value": 2.5, "session_id": "s", "event_id": "e", "props": {"a": [1]}, "seq": 9}
    heard = []
    counts = sent(config, written(tmp_path, log), on_acknowledged=lambda *at: heard.append(at))
    assert (counts.sent, counts.acknowledged, counts.failed, counts.interactions) == (50, 50, 0, 50)
    records = found(config)
    by_item = {event["item_id"]: event for event in log}
    assert len(records) == 50
    for record in records:
        value = msgspec.json.decode(record.value)
        assert value == by_item.pop(value["item_id"])
        assert record.key == value["user_id"].encode()
    assert sorted(heard) == sorted((r.topic, r.partition, r.offset) for r in records)


def test_items_go_to_their_own_topic(config, tmp_path):
    item = {"kind": "item", "item_id": "lamp", "text": "a lamp", "available": False}
    counts = sent(config, written(tmp_path, [*events(2), item]))
    assert (counts.interactions, counts.items) == (2, 1)
    (record,) = read_topic(config.bootstrap_servers, config.items_topic)
    assert (record.key, msgspec.json.decode(record.value)) == (b"lamp", item)


def test_bad_records_of_the_file_are_sent_as_they_are(config, tmp_path):
    counts = sent(config, written(tmp_path, [b"{broken", *events(1)]))
    assert (counts.bad_in_file, counts.interactions, counts.acknowledged) == (1, 1, 2)
    assert b"{broken" in {record.value for record in found(config)}


def test_a_seed_spoils_the_same_messages_and_no_reader_accepts_them(config, tmp_path):
    pace = Pace(malformed=0.3, seed=4)
    counts = sent(config, written(tmp_path, events(100)), pace)
    assert counts.malformed + counts.interactions == counts.acknowledged == 100
    assert 15 <= counts.malformed <= 45
    first = sorted(record.value for record in found(config))
    kept = tmp_path / "read-back.jsonl"
    kept.write_bytes(b"\n".join(first) + b"\n")
    assert len(FileSource(kept, FileConfig()).poll(1000).dead) == counts.malformed

    again = sent(config, written(tmp_path, events(100)), pace)
    assert again.malformed == counts.malformed
    assert sorted(record.value for record in found(config)) == sorted(first + first)


def test_times_can_be_those_of_sending(config, tmp_path):
    sent(config, written(tmp_path, events(3)), Pace(shift_to_now=True))
    assert {msgspec.json.decode(record.value)["ts"] for record in found(config)} == {NOW_MS}


def test_a_rate_and_the_recorded_gaps_say_when_a_message_is_due():
    rate = Pace(rate=4)
    assert [rate.due_s(n, None, None) for n in (0, 4, 6)] == [0.0, 1.0, 1.5]
    recorded = Pace(as_recorded=True, speed=2)
    assert recorded.due_s(7, 13_000, 3_000) == 5.0
    assert recorded.due_s(7, None, 3_000) == 0.0


def test_a_rate_is_kept(config, tmp_path):
    counts = sent(config, written(tmp_path, events(40)), Pace(rate=80))
    assert counts.seconds >= 39 / 80
    assert counts.acknowledged == 40


def test_stopping_still_counts_what_was_sent(config, tmp_path):
    stop = threading.Event()
    heard = []

    def hear(*at):
        heard.append(at)
        stop.set()

    counts = sent(
        config,
        written(tmp_path, events(500)),
        Pace(rate=50),
        stop=stop,
        on_acknowledged=hear,
    )
    assert 0 < counts.sent == counts.acknowledged < 500
    assert len(found(config)) == counts.sent == len(heard)


@pytest.mark.parametrize(
    "wrong", [{"rate": 0}, {"rate": 1, "as_recorded": True}, {"speed": 0}, {"malformed": 1.5}]
)
def test_paces_that_contradict_themselves_are_refused(wrong):
    with pytest.raises(ConfigError):
        Pace(**wrong)


def test_an_item_without_a_topic_of_items_is_refused(config, tmp_path):
    source = written(tmp_path, [{"kind": "item", "item_id": "i"}])
    nowhere = replace(config, items_topic="")
    with pytest.raises(ConfigError, match="items_topic"):
        sent(nowhere, source)
