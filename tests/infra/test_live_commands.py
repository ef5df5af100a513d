"""The commands of the live path on a real Kafka: topics, produce, lag; exit codes and no secrets."""

import json
from uuid import uuid4

import pytest
from kafka import KafkaProducer

from infra.broker.properties import free_ports
from infra.cli import run
from infra.exits import ExitCode
from tests.brokers.backends import USERS
from tests.stream.kafka.support import read_topic

TOPICS = ("INTERACTIONS_TOPIC", "ITEMS_TOPIC")


@pytest.fixture
def names(broker, monkeypatch):
    tag = uuid4().hex[:8]
    values = {
        "BOOTSTRAP_SERVERS": broker.bootstrap,
        "INTERACTIONS_TOPIC": f"events.{tag}",
        "ITEMS_TOPIC": f"items.{tag}",
        "SLATES_TOPIC": f"slates.{tag}",
        "GROUP": f"group.{tag}",
    }
    for key, value in values.items():
        monkeypatch.setenv(f"FRESHET_KAFKA__{key}", value)
    return values


def printed(capsys, *arguments):
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_topics_then_a_log_then_what_is_left_to_read(names, tmp_path, capsys):
    log, items = tmp_path / "log.jsonl", tmp_path / "items.jsonl"
    run(["generate", str(log), "--users", "10", "--events", "200", "--items-out", str(items),
         "--quiet"])  # fmt: skip
    capsys.readouterr()
    code, made = printed(capsys, "topics", "create", "--partitions", "2")
    assert (code, [topic["created"] for topic in made]) == (0, [True] * 3)
    code, made = printed(capsys, "topics", "create", "--partitions", "3")
    assert code == ExitCode.FOUND
    assert made[0]["differs"] == ["2 partitions, not 3"]

    code, counts = printed(
        capsys, "produce", "--log", str(log), "--items", str(items), "--malformed", "0.1",
        "--max-records", "150",
    )  # fmt: skip
    assert code == 0
    assert counts["sent"] == counts["acknowledged"] == 300
    assert counts["interactions"] + counts["malformed"] == 150 == counts["items"]
    assert counts["malformed"] > 0

    code, rows = printed(capsys, "lag")
    assert code == 0
    ends = {}
    for row in rows:
        ends[row["topic"]] = ends.get(row["topic"], 0) + row["end"]
    assert ends == {names["INTERACTIONS_TOPIC"]: 150, names["ITEMS_TOPIC"]: 150}


def test_a_recorded_log_is_copied_into_topics_with_other_partitions(
    names, broker, tmp_path, capsys, monkeypatch
):
    log, out = tmp_path / "log.jsonl", tmp_path / "out"
    run(["generate", str(log), "--users", "7", "--events", "120", "--quiet"])
    capsys.readouterr()
    printed(capsys, "topics", "create", "--partitions", "2")
    with log.open("ab") as file:
        file.write(b'{"kind": "item", "item_id": "i1", "text": "mug", "ts": 1700000000000}\n')
    printed(capsys, "produce", "--log", str(log), "--malformed", "0.1", "--quiet")
    bad = KafkaProducer(bootstrap_servers=broker.bootstrap)
    bad.send(names["ITEMS_TOPIC"], b"no item", key=b"i2").get(30)
    bad.close()
    code, recorded = printed(capsys, "export-log", "--out", str(out))
    assert code == 0
    old = {name: read_topic(broker.bootstrap, names[name]) for name in TOPICS}
    for name in TOPICS:
        names[name] += ".new"
        monkeypatch.setenv(f"FRESHET_KAFKA__{name}", names[name])
    printed(capsys, "topics", "create", "--partitions", "5")
    code, counts = printed(capsys, "produce", "--log", str(out))
    assert code == 0
    assert counts["acknowledged"] == recorded["records"]
    new = {name: read_topic(broker.bootstrap, names[name]) for name in TOPICS}
    for name in TOPICS:
        assert by_user(new[name]) == by_user(old[name])
    assert len({record.partition for record in new["INTERACTIONS_TOPIC"]}) > 2


def by_user(records):
    """Return what every key's records say, in the order of their partition."""
    found = {}
    for record in sorted(records, key=lambda one: (one.partition, one.offset)):
        try:
            said = json.loads(record.value)
        except ValueError:
            said = record.value
        found.setdefault(record.key, []).append(said)
    return found


def test_tables_are_printed_for_people(names, capsys):
    assert run(["topics", "create"]) == 0
    assert run(["lag"]) == 0
    assert names["INTERACTIONS_TOPIC"] in capsys.readouterr().out


def test_an_unreachable_broker_has_a_line_and_a_code(tmp_path, capsys, monkeypatch):
    (port,) = free_ports(["closed"]).values()
    monkeypatch.setenv("FRESHET_KAFKA__BOOTSTRAP_SERVERS", f"127.0.0.1:{port}")
    log = tmp_path / "log.jsonl"
    log.write_text('{"user_id":"u","item_id":"i","ts":1}\n')
    for line in (["topics", "create"], ["lag"], ["produce", "--log", str(log)]):
        assert run(line) == ExitCode.UNREACHABLE
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"127.0.0.1:{port}" in error


def test_a_wrong_password_is_not_repeated(broker, names, capsys, monkeypatch):
    if broker.secure is None:
        pytest.skip(f"a broker from {broker.backend} has no listener with logins")
    secret = "not-the-password"
    for key, value in {
        "BOOTSTRAP_SERVERS": broker.secure.address("SASL_PLAINTEXT"),
        "SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "SASL_USERNAME": next(iter(USERS)),
        "SASL_PASSWORD": secret,
        "CONNECT_TIMEOUT_S": "1",
    }.items():
        monkeypatch.setenv(f"FRESHET_KAFKA__{key}", value)
    assert run(["--debug", "lag"]) == ExitCode.LOGIN
    found = capsys.readouterr()
    assert run(["config", "show", "kafka"]) == 0
    shown = capsys.readouterr()
    assert "***" in shown.out
    assert secret not in "".join((*found, *shown))


def test_nothing_to_send_is_refused(capsys):
    assert run(["produce"]) == ExitCode.USAGE
    assert run(["produce", "--log", "x", "--rate", "1", "--as-recorded"]) == ExitCode.USAGE
    assert run(["topics", "create", "--topic-config", "novalue"]) == ExitCode.USAGE
