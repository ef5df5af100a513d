"""How clients connect: one block of settings becomes the arguments of every kafka-python client."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from stream.errors import ConfigError
from stream.kafka.logs import keep_requests_out_of_logs

if TYPE_CHECKING:
    from stream.kafka.config import KafkaConfig

# After a long outage a client waits this long at most before it tries again; the default of 30 s
# kept a consumer away for 28 s after its broker was back.
RECONNECT_BACKOFF_MAX_MS = 1_000


def client_arguments(config: KafkaConfig) -> dict[str, object]:
    """Return what every kafka-python client is given: consumer, producer and admin.

    Raises:
        ConfigError: a file of a secret or a certificate can not be read.
    """
    arguments: dict[str, object] = {
        "bootstrap_servers": config.servers,
        "client_id": config.group,
        "security_protocol": config.security_protocol,
        "reconnect_backoff_max_ms": RECONNECT_BACKOFF_MAX_MS,
        "bootstrap_timeout_ms": int(config.connect_timeout_s * 1000),
        "request_timeout_ms": config.request_timeout_ms,
    }
    if config.uses_sasl:
        keep_requests_out_of_logs()
        arguments |= {
            "sasl_mechanism": config.sasl_mechanism,
            "sasl_plain_username": config.sasl_username,
            "sasl_plain_password": password(config),
        }
    if config.uses_tls:
        arguments["ssl_context"] = tls_context(config)
    return arguments


def password(config: KafkaConfig) -> str:
    """Return the login's password, from the setting or its file.

    Raises:
        ConfigError: there is none, or its file can not be read.
    """
    found = config.sasl_password or _read("sasl_password_file", config.sasl_password_file)
    if not found:
        raise ConfigError("kafka.sasl_password: a login needs one; set it or sasl_password_file")
    return found


def secrets(config: KafkaConfig) -> list[str]:
    """Return what must stand in no log, should a library quote it.

    Raises:
        ConfigError: a file of a secret can not be read.
    """
    login = password(config) if config.uses_sasl else config.sasl_password
    return [secret for secret in (login, _key_password(config)) if secret]


def tls_context(config: KafkaConfig) -> ssl.SSLContext:
    """Return how TLS connections are made: whom to trust, and who this client is.

    Raises:
        ConfigError: a certificate or key can not be read, or the key's password is wrong.
    """
    try:
        context = ssl.create_default_context(cafile=config.ssl_cafile or None)
    except OSError as err:
        raise _unreadable("ssl_cafile", config.ssl_cafile, err) from err
    context.check_hostname = config.ssl_check_hostname
    if config.ssl_certfile:
        try:
            # An empty password keeps OpenSSL from asking for one on the terminal.
            context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, _key_password(config))
        except OSError as err:
            where = f"{config.ssl_certfile}, {config.ssl_keyfile}"
            raise _unreadable("ssl_certfile, ssl_keyfile", where, err) from err
    return context


def _key_password(config: KafkaConfig) -> str:
    return config.ssl_key_password or _read("ssl_key_password_file", config.ssl_key_password_file)


def _read(name: str, path: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as err:
        raise _unreadable(name, path, err) from err


def _unreadable(name: str, path: str, err: Exception) -> ConfigError:
    reason = getattr(err, "strerror", None) or getattr(err, "reason", None) or type(err).__name__
    return ConfigError(f"kafka.{name}: {path} can not be used ({reason}); correct the setting")
