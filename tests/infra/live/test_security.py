"""One block of settings logs in everywhere: what is read, what Faust delivers, slates, and questions about the log."""

from dataclasses import replace

import pytest
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourceType,
)

from infra.broker.certificates import encrypted_key
from infra.exits import ExitCode
from tests.brokers.backends import USERS
from tests.infra.live.conftest import READY_S, ends_of, query
from tests.stream.kafka.support import read_topic

KEY_PASSWORD = "secret-of-the-key"


@pytest.fixture
def secure(broker):
    if broker.secure is None:
        pytest.skip(f"a broker from {broker.backend} has no listeners with security")
    return broker.secure


def _login(secure, folder, mechanism):
    """A login with a password in a file, over TLS."""
    file = folder / "password"
    file.write_text(f"{USERS['app']}\n")
    return "User:app", {
        "kafka__security_protocol": "SASL_SSL",
        "kafka__sasl_mechanism": mechanism,
        "kafka__sasl_username": "app",
        "kafka__sasl_password_file": file,
        "kafka__ssl_cafile": secure.certificates().authority,
    }


def _certificate(secure, folder):
    """A certificate whose key is encrypted, with its password in a file."""
    files, key, file = secure.certificates(), folder / "client.key", folder / "key-password"
    encrypted_key(files.client_key, key, KEY_PASSWORD)
    file.write_text(f"{KEY_PASSWORD}\n")
    return "User:CN=client", {
        "kafka__security_protocol": "SSL",
        "kafka__ssl_cafile": files.authority,
        "kafka__ssl_certfile": files.client_certificate,
        "kafka__ssl_keyfile": key,
        "kafka__ssl_key_password_file": file,
    }


def _needed(site):
    """What a service needs, the scorer's group last."""
    kafka = {name.removeprefix("kafka."): str(value) for name, value in site.settings.items()}
    topic, group = ResourceType.TOPIC, ResourceType.GROUP
    return [
        (ACLOperation.READ, topic, kafka["interactions_topic"]),
        (ACLOperation.READ, topic, kafka["items_topic"]),
        (ACLOperation.WRITE, topic, kafka["slates_topic"]),
        (ACLOperation.READ, group, kafka["group"]),
        (ACLOperation.READ, group, f"{kafka['group']}-scorer-0-of-1"),
    ]


def _allow(admin, who, *needed):
    admin.create_acls([
        ACL(who, "*", operation, ACLPermissionType.ALLOW, ResourcePattern(kind, name))
        for operation, kind, name in needed
    ])


@pytest.mark.parametrize("how", ["PLAIN", "SCRAM-SHA-512", "MTLS"])
def test_a_service_works_with_what_its_login_allows_and_writes_no_secret(
    deployment, secure, admin, tmp_path, how
):
    tls = how == "MTLS"
    who, settings = _certificate(secure, tmp_path) if tls else _login(secure, tmp_path, how)
    site = replace(
        deployment.site(**settings, live__log_level="debug", live__shed_above=0),
        bootstrap=secure.address("MTLS" if tls else "SASL_SSL"),
    )
    *needed, group_of_scorer = _needed(site)
    _allow(admin, who, *needed)
    refused = deployment.start(site).wait(READY_S)
    assert refused is not None
    assert refused.code == ExitCode.DENIED, refused.error
    assert f"READ group {group_of_scorer[2]}" in refused.said
    _allow(admin, who, group_of_scorer)

    sent = deployment.send(deployment.lines()[:200])
    service = deployment.start(site)
    service.wait_until(lambda: service.caught_up(ends_of(sent)), READY_S, "answering")
    lag = deployment.run(*site.lag())
    assert lag.code == ExitCode.OK, lag.error
    ended = service.terminate()
    assert ended.code == ExitCode.OK, ended.error
    sent |= deployment.send(deployment.lines()[200:250])
    site = site.with_settings(kafka__group=f"later.{site.settings['kafka.group']}")
    _allow(admin, who, *_needed(site)[3:])
    service = deployment.start(site)  # it moves the new group to its own positions
    service.wait_until(lambda: service.caught_up(ends_of(sent)), READY_S, "going on")
    again = service.terminate()
    assert again.code == ExitCode.OK, again.error
    slates = read_topic(deployment.broker.bootstrap, str(site.settings["kafka.slates_topic"]))
    scored = query(deployment.left(), "SELECT count(*) AS n FROM rows_all WHERE scores")[0]["n"]
    assert len(slates) == scored > 150
    written = refused.error + ended.error + again.error + lag.error
    assert '"batch_answered"' in written
    assert not [secret for secret in (*USERS.values(), KEY_PASSWORD) if secret in written]
