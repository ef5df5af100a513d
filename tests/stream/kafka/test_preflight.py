"""One line and one exit code per cause, on a real Kafka with logins, TLS and ACLs; no secret anywhere."""

import logging

import pytest
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourceType,
)

from infra.broker.properties import free_ports
from infra.exits import ExitCode, exit_code
from stream.errors import DeniedError, LoginError, TlsError, TopicError, UnreachableError
from stream.kafka.config import KafkaConfig
from stream.kafka.preflight import Access, access_of_run, addresses, preflight
from stream.kafka.sink import KafkaSink
from stream.slates import SlateLines
from tests.brokers.backends import USERS
from tests.contracts.sink_contract import slate
from tests.stream.kafka.support import read_topic

NOTHING = Access()
WRONG = "wrong-secret"


@pytest.fixture
def secure(broker):
    if broker.secure is None:
        pytest.skip(f"a broker from {broker.backend} has no listeners with security")
    return broker.secure


def settings(secure, listener, **more):
    return KafkaConfig(
        bootstrap_servers=secure.address(listener), connect_timeout_s=1.5, **login(listener), **more
    )


def login(listener):
    return {"security_protocol": "SSL" if listener == "MTLS" else listener}


def trusted(secure):
    return {"ssl_cafile": str(secure.certificates().authority)}


def identity(secure):
    files = secure.certificates()
    return {"ssl_certfile": str(files.client_certificate), "ssl_keyfile": str(files.client_key)}


def app(password=USERS["app"], mechanism="PLAIN"):
    return {"sasl_username": "app", "sasl_password": password, "sasl_mechanism": mechanism}


def allow(admin, operation, kind, name):
    pattern = ResourcePattern(kind, name)
    admin.create_acls([ACL("User:app", "*", operation, ACLPermissionType.ALLOW, pattern)])


def refused(config, access=NOTHING):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - every test looks at kind and text
        preflight(config, access)
    text = str(caught.value)
    assert "\n" not in text
    assert not [secret for secret in (*USERS.values(), WRONG) if secret in text]
    return caught.value


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
@pytest.mark.parametrize("listener", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_a_good_login_passes(secure, listener, mechanism):
    more = trusted(secure) if listener == "SASL_SSL" else {}
    preflight(settings(secure, listener, **app(mechanism=mechanism), **more), NOTHING)


def test_tls_passes_with_and_without_a_client_certificate(secure):
    preflight(settings(secure, "SSL", **trusted(secure)), NOTHING)
    preflight(settings(secure, "MTLS", **trusted(secure), **identity(secure)), NOTHING)


def test_nobody_at_the_address_is_unreachable():
    (port,) = free_ports(["closed"]).values()
    found = refused(KafkaConfig(bootstrap_servers=f"127.0.0.1:{port}"))
    assert isinstance(found, UnreachableError)
    assert exit_code(found) == ExitCode.UNREACHABLE
    assert f"127.0.0.1:{port}" in str(found)


def test_one_broker_of_several_is_enough(broker):
    (port,) = free_ports(["closed"]).values()
    servers = f"127.0.0.1:{port}, {broker.bootstrap}"
    preflight(KafkaConfig(bootstrap_servers=servers), NOTHING)


def test_addresses_take_the_usual_port_where_none_is_given():
    config = KafkaConfig(bootstrap_servers="one, two:19092,[::1]:9093")
    assert addresses(config) == [("one", 9092), ("two", 19092), ("::1", 9093)]


@pytest.mark.parametrize(
    ("listener", "ours", "says"),
    [
        ("SSL", lambda s: {"ssl_cafile": str(s.certificates().stranger)}, "not trusted"),
        ("SSL", lambda _: {}, "not trusted"),
        ("MTLS", trusted, "client certificate"),
    ],
    ids=["other authority", "authorities of the system", "no client certificate"],
)
def test_a_tls_failure_names_its_kind(secure, listener, ours, says):
    found = refused(settings(secure, listener, **ours(secure)))
    assert isinstance(found, TlsError)
    assert exit_code(found) == ExitCode.TLS
    assert says in str(found)


def test_speaking_tls_to_a_listener_without_and_the_other_way_round(secure):
    to_plain = KafkaConfig(
        bootstrap_servers=secure.address("PLAINTEXT"), security_protocol="SSL", **trusted(secure)
    )
    assert isinstance(refused(to_plain), TlsError)
    to_tls = KafkaConfig(bootstrap_servers=secure.address("SSL"), connect_timeout_s=1.5)
    assert isinstance(refused(to_tls), TlsError)


@pytest.mark.parametrize(
    ("password", "mechanism"),
    [(WRONG, "PLAIN"), (WRONG, "SCRAM-SHA-512"), (USERS["app"], "SCRAM-SHA-256")],
    ids=["password", "scram password", "mechanism not enabled"],
)
def test_a_refused_login_lists_the_causes_that_look_alike(secure, password, mechanism):
    found = refused(settings(secure, "SASL_PLAINTEXT", **app(password, mechanism)))
    assert isinstance(found, LoginError)
    assert exit_code(found) == ExitCode.LOGIN
    for cause in ("'app'", "password", mechanism, "can not tell these apart"):
        assert cause in str(found)


def test_a_listener_that_wants_a_login_says_so(secure):
    config = KafkaConfig(bootstrap_servers=secure.address("SASL_PLAINTEXT"), connect_timeout_s=1.5)
    found = refused(config)
    assert isinstance(found, LoginError)
    assert "security_protocol is PLAINTEXT" in str(found)


def test_a_missing_acl_is_named_with_its_operation(secure, admin, make_topic):
    topic = make_topic()
    config = settings(secure, "SASL_PLAINTEXT", **app(mechanism="SCRAM-SHA-512"))
    assert "READ topic" in str(refused(config, Access(reads=(topic,))))
    allow(admin, ACLOperation.READ, ResourceType.TOPIC, topic)
    allow(admin, ACLOperation.DESCRIBE, ResourceType.TOPIC, topic)
    preflight(config, Access(reads=(topic,)))

    found = refused(config, Access(writes=(topic,)))
    assert isinstance(found, DeniedError)
    assert exit_code(found) == ExitCode.DENIED
    assert f"WRITE topic {topic}" in str(found)

    group = f"group-of-{topic}"
    assert f"READ group {group}" in str(refused(config, Access(groups=(group,))))
    allow(admin, ACLOperation.READ, ResourceType.GROUP, group)
    preflight(config, Access(reads=(topic,), groups=(group,)))


def test_a_run_asks_for_all_it_does(broker, make_topic):
    topics = {
        "interactions_topic": make_topic(partitions=2),
        "items_topic": make_topic(),
        "slates_topic": make_topic(),
    }
    config = KafkaConfig(bootstrap_servers=broker.bootstrap, **topics)
    access = access_of_run(config)
    assert {*access.reads, *access.writes} == set(topics.values())
    assert access.groups == ("freshet", "freshet-scorer-0-of-1")
    preflight(config, access)
    storing = access_of_run(config, slates=False, score=False)
    assert topics["slates_topic"] not in storing.writes
    assert storing.groups == ("freshet",)


def test_a_missing_topic_names_the_command_that_makes_it(broker):
    config = KafkaConfig(bootstrap_servers=broker.bootstrap)
    found = refused(config, Access(reads=("nobody.made.this",)))
    assert isinstance(found, TopicError)
    assert exit_code(found) == ExitCode.TOPIC
    assert "freshet topics create" in str(found)


def test_no_secret_is_in_the_log_at_any_level(secure, admin, make_topic, caplog):
    topic = make_topic()
    allow(admin, ACLOperation.WRITE, ResourceType.TOPIC, topic)
    with caplog.at_level(logging.DEBUG):
        for mechanism in ("PLAIN", "SCRAM-SHA-512"):
            good = settings(
                secure, "SASL_PLAINTEXT", **app(mechanism=mechanism), slates_topic=topic
            )
            preflight(good, Access(writes=(topic,)))
            sink = KafkaSink(good)
            sink.write(SlateLines([slate(1)]))
            sink.close()
            refused(settings(secure, "SASL_PLAINTEXT", **app(WRONG, mechanism)))
    assert len(read_topic(secure.bootstrap, topic)) == 2
    assert caplog.records
    for secret in (*USERS.values(), WRONG):
        assert secret not in caplog.text
