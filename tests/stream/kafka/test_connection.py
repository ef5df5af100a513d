"""One block of settings becomes the arguments of every client; files hold secrets and certificates."""

import pytest

from stream.errors import ConfigError
from stream.kafka.config import KafkaConfig
from stream.kafka.connection import client_arguments, password, secrets

LOGIN = {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "app"}


def test_every_client_comes_back_soon_after_an_outage():
    arguments = client_arguments(KafkaConfig(bootstrap_servers="a:1, b:2"))
    assert arguments["bootstrap_servers"] == ["a:1", "b:2"]
    assert arguments["reconnect_backoff_max_ms"] == 1000
    assert "sasl_plain_password" not in arguments


def test_a_password_may_stand_in_a_file_with_a_line_end(tmp_path):
    file = tmp_path / "password"
    file.write_text("from a file \n")
    assert password(KafkaConfig(**LOGIN, sasl_password_file=str(file))) == "from a file "


def test_secrets_are_all_known_whether_they_are_set_or_stand_in_files(tmp_path):
    file = tmp_path / "key-password"
    file.write_text("of the key\n")
    assert secrets(KafkaConfig()) == []
    config = KafkaConfig(**LOGIN, sasl_password="of the login", ssl_key_password_file=str(file))
    assert secrets(config) == ["of the login", "of the key"]


def test_a_login_without_a_password_is_refused():
    with pytest.raises(ConfigError, match="sasl_password"):
        client_arguments(KafkaConfig(**LOGIN))


@pytest.mark.parametrize(
    ("name", "protocol"), [("ssl_cafile", "SSL"), ("sasl_password_file", "SASL_PLAINTEXT")]
)
def test_a_file_that_can_not_be_read_is_named(name, protocol, tmp_path):
    config = KafkaConfig(
        security_protocol=protocol, sasl_username="app", **{name: str(tmp_path / "missing")}
    )
    with pytest.raises(ConfigError, match=f"kafka.{name}.*missing.*No such file"):
        client_arguments(config)


def test_a_file_that_is_no_certificate_is_named(tmp_path):
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"wrong\.pem can not be used"):
        client_arguments(KafkaConfig(security_protocol="SSL", ssl_cafile=str(wrong)))
