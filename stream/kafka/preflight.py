"""Before anything is read or written: is the broker there, is TLS right, the login, the ACLs, the topics?"""

from __future__ import annotations

import logging
import ssl
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from kafka import KafkaAdminClient
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    GroupAuthorizationFailedError,
    KafkaError,
    KafkaTimeoutError,
    NotCoordinatorError,
)

from stream.errors import (
    BrokerError,
    DeniedError,
    LoginError,
    TlsError,
    TopicError,
    UnreachableError,
)
from stream.kafka.connection import client_arguments, tls_context
from stream.kafka.greeting import NoAnswerError, greet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stream.kafka.config import KafkaConfig

R = TypeVar("R")

_UNKNOWN_TOPIC, _TOPIC_DENIED = 3, 29
_COORDINATOR_S, _COORDINATOR_POLL_S = 10.0, 0.1
_DEFAULT_PORT = 9092


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a command is going to do.

    Attributes:
        reads: topics it reads.
        writes: topics it writes.
        groups: consumer groups it commits positions for.
    """

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


def access_of_run(config: KafkaConfig, *, slates: bool = True, score: bool = True) -> Access:
    """Return what a running service does.

    Args:
        config: topics and groups.
        slates: whether slates go to their topic.
        score: whether anything is answered: then it is a member of the scorer's group.
    """
    writes = (config.slates_topic if slates else "", config.dead_topic)
    return Access(
        reads=config.topics,
        writes=tuple(topic for topic in writes if topic),
        groups=(config.group, config.scorer_group) if score else (config.group,),
    )


def preflight(config: KafkaConfig, access: Access) -> None:
    """Return when everything that `access` names can be done.

    Raises:
        ConfigError: a file of the settings can not be read.
        UnreachableError: no broker of the settings answers.
        TlsError: no encrypted connection comes about.
        LoginError: the login is refused, or none is made and the broker wants one.
        DeniedError: an ACL is missing; the message names operation and topic or group.
        TopicError: a topic is missing.
    """
    with connected(config) as admin, explained(config):
        _check_topics(admin, config, access)
        for group in access.groups:
            _check_group(admin, config, group)


@contextmanager
def explained(config: KafkaConfig) -> Iterator[None]:
    """Turn what a client library raises into an error that names the broker.

    Raises:
        BrokerError: a request failed, or the connection was lost.
    """
    try:
        yield
    except KafkaError as err:
        raise BrokerError(
            f"{config.bootstrap_servers}: a request failed ({type(err).__name__}: {err}); look at the"
            " broker's log, and run again"
        ) from err


@contextmanager
def connected(config: KafkaConfig) -> Iterator[Any]:
    """Yield an admin client of kafka-python whose connection is known to work.

    Raises:
        ConfigError: as `preflight`.
        UnreachableError: as `preflight`.
        TlsError: as `preflight`.
        LoginError: as `preflight`.
    """
    arguments = client_arguments(config)
    _greet_one(config)
    with _quiet("kafka"):  # what it would log, line by line, is what is raised here in one
        try:
            admin = KafkaAdminClient(**arguments)
        except KafkaTimeoutError as err:
            raise _no_login(config) from err
    try:
        yield admin
    finally:
        admin.close()


def reachable(config: KafkaConfig) -> bool:
    """Return whether one of the brokers answers."""
    try:
        _greet_one(config)
    except BrokerError:
        return False
    return True


def addresses(config: KafkaConfig) -> list[tuple[str, int]]:
    """Return (host, port) of the brokers to ask first; a missing port is 9092."""
    found = []
    for server in config.servers:
        host, colon, port = server.rpartition(":")
        if colon and port.isdigit():
            found.append((host.strip("[]"), int(port)))
        else:
            found.append((server, _DEFAULT_PORT))
    return found


def _greet_one(config: KafkaConfig) -> None:
    """Return when one of the brokers has answered; raise what the last one failed with."""
    failure: BrokerError | None = None
    context = tls_context(config) if config.uses_tls else None
    for host, port in addresses(config):
        try:
            greet(host, port, context=context, timeout_s=config.connect_timeout_s)
        except ssl.SSLError as err:
            failure = _tls_failed(f"{host}:{port}", err)
        except NoAnswerError as err:
            failure = _no_answer(f"{host}:{port}", config, err)
        except OSError as err:
            if not isinstance(failure, TlsError):
                failure = UnreachableError(
                    f"{host}:{port}: no broker answers ({err.strerror or err}); check"
                    " kafka.bootstrap_servers, and that the broker runs"
                )
        else:
            return
    if failure is not None:
        raise failure


def _tls_failed(where: str, err: ssl.SSLError) -> TlsError:
    if isinstance(err, ssl.SSLCertVerificationError):
        remedy = "check kafka.ssl_cafile, and that bootstrap_servers names the certificate's host"
        return TlsError(f"{where}: its certificate is not trusted ({err.verify_message}); {remedy}")
    reason = (err.reason or str(err)).replace("_", " ").lower()
    return TlsError(
        f"{where}: no TLS connection ({reason}): the listener speaks no TLS, or wants a client"
        " certificate that it trusts (kafka.ssl_certfile, kafka.ssl_keyfile), or another TLS version"
    )


def _no_answer(where: str, config: KafkaConfig, err: NoAnswerError) -> BrokerError:
    if config.uses_tls:
        return TlsError(
            f"{where}: the connection ended after the TLS handshake ({err}): the broker wants a"
            " client certificate that it trusts (kafka.ssl_certfile, kafka.ssl_keyfile)"
        )
    return TlsError(
        f"{where}: reached, and no answer of a Kafka broker ({err}): the listener wants TLS"
        f" (kafka.security_protocol is {config.security_protocol}), or something else listens there"
    )


def _no_login(config: KafkaConfig) -> LoginError:
    if config.uses_sasl:
        return LoginError(
            f"{config.bootstrap_servers}: the login of {config.sasl_username!r} failed: wrong user or"
            f" password, {config.sasl_mechanism} is not enabled there, or the listener takes no login;"
            " the client can not tell these apart: check kafka.sasl_* and the broker's log"
        )
    return LoginError(
        f"{config.bootstrap_servers}: the broker answers and then closes the connection: the listener"
        f" wants a login (kafka.security_protocol is {config.security_protocol}), or its advertised"
        " address can not be reached from here; the client can not tell these apart"
    )


def _check_topics(admin: Any, config: KafkaConfig, access: Access) -> None:  # noqa: ANN401 - kafka-python has no types
    names = list(dict.fromkeys((*access.reads, *access.writes)))
    if not names:
        return
    found = {topic["name"]: topic for topic in admin.describe_topics(names)}
    for wanted, operation in ((access.reads, "READ"), (access.writes, "WRITE")):
        for name in wanted:
            _check_topic(found[name], name, operation, config)


def _check_topic(topic: dict[str, Any], name: str, operation: str, config: KafkaConfig) -> None:
    code, allowed = topic["error_code"], topic["authorized_operations"]
    if code == _TOPIC_DENIED:
        raise _denied(config, operation, f"topic {name}", "or the topic does not exist")
    if code == _UNKNOWN_TOPIC:
        raise TopicError(
            f"topic {name} does not exist on {config.bootstrap_servers}; `freshet topics create`"
            " makes it"
        )
    if allowed is not None and operation not in allowed:
        raise _denied(config, operation, f"topic {name}")


def _check_group(admin: Any, config: KafkaConfig, group: str) -> None:  # noqa: ANN401
    try:
        found = coordinated(
            lambda: admin.describe_groups([group], include_authorized_operations=True)[group]
        )
    except GroupAuthorizationFailedError as err:
        raise _denied(config, "READ", f"group {group}") from err
    allowed = found["authorized_operations"]
    if allowed is not None and "READ" not in allowed:
        raise _denied(config, "READ", f"group {group}")


def coordinated(call: Callable[[], R]) -> R:
    """Return what a request about a group returns; the first one of a broker waits for its coordinator.

    Raises:
        KafkaError: the request failed, or there is no coordinator after ten seconds.
    """
    deadline = time.monotonic() + _COORDINATOR_S
    while True:
        try:
            return call()
        except (CoordinatorNotAvailableError, NotCoordinatorError, CoordinatorLoadInProgressError):
            if time.monotonic() > deadline:
                raise
            time.sleep(_COORDINATOR_POLL_S)


def _denied(config: KafkaConfig, operation: str, what: str, also: str = "") -> DeniedError:
    who = f"user {config.sasl_username!r}" if config.uses_sasl else "this client"
    return DeniedError(
        f"{who} may not {operation} {what} on {config.bootstrap_servers}"
        f"{', ' if also else ''}{also}: add an ACL that allows {operation}"
    )


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
