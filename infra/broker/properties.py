"""What a broker is told: one node, one log directory, as many listeners as are asked for."""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from infra.broker.certificates import Certificates, make_certificates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ListenerName = Literal["PLAINTEXT", "SASL_PLAINTEXT", "SSL", "MTLS", "SASL_SSL"]
SECURE: tuple[ListenerName, ...] = ("PLAINTEXT", "SASL_PLAINTEXT", "SSL", "MTLS", "SASL_SSL")
"""All listeners; on MTLS the client shows a certificate too."""
HOST = "127.0.0.1"
_CONTROLLER = "CONTROLLER"
_PORTS = range(15_000, 32_000)
_PROTOCOLS = {"MTLS": "SSL", _CONTROLLER: "PLAINTEXT"}
_MODULES = "org.apache.kafka.common.security"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOptions:
    """How a broker is set up.

    Attributes:
        listeners: the first one is what `bootstrap` names; PLAINTEXT must be among them, the broker
            itself uses it.
        users: name -> password on the SASL listeners, for PLAIN and SCRAM-SHA-512 alike.
        acls: refuse what no ACL allows, except on PLAINTEXT, whose clients may do everything.
        heap_mb: memory of the Java heap.
        port: of the first listener; 0 takes a free one.
        properties: more lines of the broker's configuration.
    """

    listeners: tuple[ListenerName, ...] = ("PLAINTEXT",)
    users: Mapping[str, str] = field(default_factory=dict)
    acls: bool = False
    heap_mb: int = 256
    port: int = 0
    properties: Mapping[str, str] = field(default_factory=dict)


def free_ports(names: Sequence[str], first: int = 0) -> dict[str, int]:
    """Return a port per name that nothing listened on a moment ago; `first` fixes that of the first.

    They lie below the ports that systems give to outgoing connections, so that no client of another
    program takes one before the broker does.
    """
    ports: dict[str, int] = {names[0]: first} if first else {}
    free = filter(_is_free, random.sample(_PORTS, len(_PORTS)))
    return ports | {name: next(free) for name in names if name not in ports}


def _is_free(port: int) -> bool:
    with socket.socket() as taken:
        try:
            taken.bind((HOST, port))
        except OSError:
            return False
    return True


def listener_ports(options: BrokerOptions) -> dict[str, int]:
    """Return a port per listener, the controller's among them."""
    return free_ports([*options.listeners, _CONTROLLER], options.port)


def broker_properties(
    folder: Path, options: BrokerOptions, ports: Mapping[str, int]
) -> dict[str, str]:
    """Return the broker's configuration; certificates are made where a listener needs them."""
    addresses = {name: f"{name}://{HOST}:{port}" for name, port in ports.items()}
    protocols = ",".join(f"{name}:{_PROTOCOLS.get(name, name)}" for name in ports)
    lines = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "listeners": ",".join(addresses.values()),
        "advertised.listeners": ",".join(addresses[name] for name in options.listeners),
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.listener.names": _CONTROLLER,
        "controller.quorum.bootstrap.servers": f"{HOST}:{ports[_CONTROLLER]}",
        "listener.security.protocol.map": protocols,
        "log.dirs": str(folder / "data"),
        "log.index.size.max.bytes": "1048576",
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.num.partitions": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "broker.heartbeat.interval.ms": "500",
        "broker.session.timeout.ms": "4000",  # a killed broker is let in again after this, not after 9 s
        "num.network.threads": "2",
        "num.io.threads": "2",
    }
    if options.users:
        lines |= _logins(options)
    if any(name in {"SSL", "MTLS", "SASL_SSL"} for name in options.listeners):
        lines |= _tls(make_certificates(folder / "certificates"), options)
    if options.acls:
        lines["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
        lines["super.users"] = "User:ANONYMOUS"
    return lines | dict(options.properties)


def _logins(options: BrokerOptions) -> dict[str, str]:
    known = " ".join(f'user_{name}="{password}"' for name, password in options.users.items())
    lines = {"sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512"}
    for name in options.listeners:
        if name.startswith("SASL"):
            prefix = f"listener.name.{name.lower()}"
            lines[f"{prefix}.plain.sasl.jaas.config"] = (
                f"{_MODULES}.plain.PlainLoginModule required {known};"
            )
            lines[f"{prefix}.scram-sha-512.sasl.jaas.config"] = (
                f"{_MODULES}.scram.ScramLoginModule required;"
            )
    return lines


def _tls(certificates: Certificates, options: BrokerOptions) -> dict[str, str]:
    lines = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates.keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.authority),
    }
    if "MTLS" in options.listeners:
        lines["listener.name.mtls.ssl.client.auth"] = "required"
    return lines
