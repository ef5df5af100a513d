"""`freshet dlq` and `freshet export-log` from the command line."""

import json

import pytest
from kafka import KafkaProducer

from infra.exits import ExitCode
from stream.events import Partition
from tests.stream.kafka.support import read_topic
from tests.stream.recorded import Held, record

GOOD = {"user_id": "u", "item_id": "i", "event_type": "view", "ts": 1_700_000_000_000}
KAFKA = ("--set", "kafka.items_topic=''")


@pytest.fixture
def db(freshet, tmp_path):
    log = tmp_path / "log.jsonl"
    bad = ["{", json.dumps({**GOOD, "item_id": 7}), "{ again"]
    log.write_text("\n".join([json.dumps(GOOD), *bad]))
    path = tmp_path / "x.duckdb"
    assert freshet("replay", log, "--db", path, "--quiet").code == ExitCode.OK
    return path


def test_dead_letters_are_listed_with_counts_and_filters(freshet, db):
    found = freshet("dlq", "list", "--db", db, "--json").json
    assert [(row["reason"], row["n"]) for row in found["counts"]] == [
        ("malformed", 2),
        ("bad_type", 1),
    ]
    assert [letter["off"] for letter in found["letters"]] == [3, 2, 1]
    only = freshet("dlq", "list", "--db", db, "--reason", "bad_type", "--json").json["letters"]
    assert [letter["off"] for letter in only] == [2]
    assert not freshet("dlq", "list", "--db", db, "--replayed", "--json").json["letters"]
    text = freshet("dlq", "list", "--db", db, "--limit", "1").out
    assert "log.jsonl[0]@3" in text
    assert "log.jsonl[0]@2" not in text


def test_one_dead_letter_is_shown_with_all_it_came_with(freshet, db):
    found = freshet("dlq", "show", "log.jsonl", "0", "2", "--db", db, "--json").json
    assert found["reason"] == "bad_type"
    assert json.loads(found["raw"])["item_id"] == 7
    assert found["size"] == len(found["raw"])
    missing = freshet("dlq", "show", "log.jsonl", "0", "9", "--db", db)
    assert missing.code == ExitCode.INPUT
    assert "log.jsonl[0]@9" in missing.err


def test_a_replay_of_dead_letters_wants_a_choice(freshet, db):
    assert freshet("dlq", "replay", "--db", db).code == ExitCode.USAGE


def test_chosen_dead_letters_are_produced_again_once(freshet, db, broker, make_topic):
    topic = make_topic()
    to = ("--topic", topic, "--set", f"kafka.bootstrap_servers='{broker.bootstrap}'", "--json")
    replay = ("dlq", "replay", "--db", db, "--reason", "malformed", *to)
    assert freshet(*replay).json == {"replayed": 2, "cut": 0}
    assert freshet(*replay).json == {"replayed": 0, "cut": 0}
    assert freshet(*replay, "--again").json == {"replayed": 2, "cut": 0}
    assert [r.value for r in read_topic(broker.bootstrap, topic)] == [b"{", b"{ again"] * 2
    marked = freshet("dlq", "list", "--db", db, "--replayed", "--json").json["letters"]
    assert [letter["off"] for letter in marked] == [3, 1]
    assert len(freshet("dlq", "list", "--db", db, "--open", "--json").json["letters"]) == 1


def test_where_dead_letters_can_not_be_sent_is_a_line_and_a_code(freshet, db, broker):
    at = ("--set", f"kafka.bootstrap_servers='{broker.bootstrap}'")
    missing = freshet("dlq", "replay", "--db", db, "--all", "--topic", "nobody.made.this", *at)
    assert missing.code == ExitCode.TOPIC
    nowhere = ("--set", "kafka.bootstrap_servers=127.0.0.1:9", "--set", "kafka.connect_timeout_s=1")
    away = freshet("dlq", "replay", "--db", db, "--all", *nowhere)
    assert away.code == ExitCode.UNREACHABLE
    assert missing.err.count("\n") == away.err.count("\n") == 1
    assert len(freshet("dlq", "list", "--db", db, "--open", "--json").json["letters"]) == 3


def test_an_exported_log_is_replayed_with_its_partitions_and_dead_letters(
    freshet, broker, make_topic, tmp_path
):
    topic = make_topic(partitions=2)
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
    for number in range(12):
        value = json.dumps({**GOOD, "user_id": f"u{number % 2}"}).encode()
        producer.send(topic, value, partition=number % 2)
    producer.send(topic, b"{", key=b"k", headers=[("h", b"1")], partition=1)
    producer.close()
    kafka = (
        "--set", f"kafka.bootstrap_servers='{broker.bootstrap}'",
        "--set", f"kafka.interactions_topic='{topic}'", *KAFKA,
    )  # fmt: skip
    out = tmp_path / "log"
    done = freshet("export-log", "--out", out, *kafka, "--json").json
    assert done["records"] == 13
    assert done["ranges"] == [[topic, 0, 0, 6], [topic, 1, 0, 7]]
    db = tmp_path / "again.duckdb"
    replayed = freshet("replay", out, "--db", db, "--json").json
    assert (replayed["interactions"], replayed["dead"]) == (12, 1)
    found = freshet("dlq", "show", topic, "1", "6", "--db", db, "--json").json
    assert (found["raw"], found["key"], found["headers"]) == ("{", "k", '[["h","1"]]')
    assert found["appended_at"] is not None
    again = freshet("replay", out, "--db", db, "--json").json
    assert again["records"] == 0
    refused = freshet("export-log", "--out", out, *kafka)
    assert refused.code == ExitCode.INPUT
    assert "already" in refused.err


def test_an_offset_to_begin_at_has_a_form(freshet, tmp_path):
    for text in ("clicks=3", "clicks:x=3", "clicks:0"):
        done = freshet("export-log", "--out", tmp_path / "log", "--offset", text)
        assert done.code == ExitCode.USAGE
        assert "topic:partition=offset" in done.err


def test_a_recorded_log_is_read_by_what_reads_logs(freshet, tmp_path):
    rows = [json.dumps({**GOOD, "user_id": f"u{n % 3}", "item_id": f"i{n % 5}"}) for n in range(9)]
    held = [Held(Partition("clicks", 4), 10 + n, row.encode()) for n, row in enumerate(rows)]
    path = record(tmp_path / "log.parquet", held)
    db = tmp_path / "x.duckdb"
    assert freshet("replay", path, "--db", db, "--quiet").code == ExitCode.OK
    places = freshet("sql", "select part, next_off from ingest_lag", "--db", db, "--json").json
    assert places["rows"] == [{"part": 4, "next_off": 19}]
