"""Settings of the live log: which broker, which topics, which part of them, and how to log in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

SecurityProtocol = Literal["PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

SECRETS = frozenset({"sasl_password", "ssl_key_password"})
"""Settings whose values are shown to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConfig:
    """Which broker, which topics, which part of them, and how to log in.

    A shard owns the partitions whose number modulo `shards` is `shard`, and one database. Items are
    read by every shard.

    Attributes:
        bootstrap_servers: host:port of one or more brokers, joined by commas.
        interactions_topic: what users did; keyed by user.
        items_topic: the catalog; keyed by item. Empty reads none.
        slates_topic: what is recommended; keyed by user.
        dead_topic: bad records are also sent here; empty sends none.
        group: consumer group of reported positions; the scorer's begins with it too.
        shard: which shard this process is, from 0.
        shards: how many there are.
        security_protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
        sasl_mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, with SASL_PLAINTEXT and SASL_SSL.
        sasl_username: the login.
        sasl_password: its password; never shown. Better in the environment than in a file that is shared.
        sasl_password_file: a file that holds the password instead.
        ssl_cafile: PEM file of the authorities to trust; empty trusts those of the system.
        ssl_certfile: PEM file of this client's certificate, for brokers that ask for one.
        ssl_keyfile: PEM file of its key.
        ssl_key_password: password of that key; never shown.
        ssl_key_password_file: a file that holds it instead.
        ssl_check_hostname: whether the broker's certificate must name the host it was reached by.
        connect_timeout_s: how long a first connection may take.
        request_timeout_ms: how long one request may take.
        delivery_timeout_ms: how long a message may take to be acknowledged, repeats included.
        stall_s: a partition with readable records that gave none for so long ends the process; 0 never does.
        outage_limit_s: so long the broker may be gone before reading ends the process; 0 waits without a bound.
    """

    bootstrap_servers: str = "127.0.0.1:9092"
    interactions_topic: str = "freshet.interactions"
    items_topic: str = "freshet.items"
    slates_topic: str = "freshet.recommendations"
    dead_topic: str = ""
    group: str = "freshet"
    shard: int = 0
    shards: int = 1
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism = "PLAIN"
    sasl_username: str = ""
    sasl_password: str = field(default="", repr=False)
    sasl_password_file: str = ""
    ssl_cafile: str = ""
    ssl_certfile: str = ""
    ssl_keyfile: str = ""
    ssl_key_password: str = field(default="", repr=False)
    ssl_key_password_file: str = ""
    ssl_check_hostname: bool = True
    connect_timeout_s: float = 10.0
    request_timeout_ms: int = 30_000
    delivery_timeout_ms: int = 120_000
    stall_s: float = 60.0
    outage_limit_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no client can use; no message repeats a secret."""
        for name in ("bootstrap_servers", "interactions_topic", "slates_topic", "group"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} must not be empty")
        for name in ("connect_timeout_s", "request_timeout_ms", "delivery_timeout_ms"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, not {getattr(self, name)}")
        if not 0 <= self.shard < self.shards:
            raise ValueError(f"shard must be between 0 and shards - 1, not {self.shard}")
        self._check_login()

    def _check_login(self) -> None:
        if self.uses_sasl and not self.sasl_username:
            raise ValueError(f"{self.security_protocol} needs sasl_username")
        for name in SECRETS:
            if getattr(self, name) and getattr(self, f"{name}_file"):
                raise ValueError(f"give {name} or {name}_file, not both")
        if bool(self.ssl_certfile) != bool(self.ssl_keyfile):
            raise ValueError("ssl_certfile and ssl_keyfile belong together")

    @property
    def uses_sasl(self) -> bool:
        """Whether a login is made."""
        return self.security_protocol.startswith("SASL")

    @property
    def uses_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.security_protocol.endswith("SSL")

    @property
    def servers(self) -> list[str]:
        """The brokers to ask first."""
        return [server.strip() for server in self.bootstrap_servers.split(",") if server.strip()]

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that are read: interactions, and items where there are any."""
        return (self.interactions_topic, *([self.items_topic] if self.items_topic else []))

    @property
    def scorer_group(self) -> str:
        """Consumer group in which the scorer of this shard remembers what was answered."""
        return f"{self.group}-scorer-{self.shard}-of-{self.shards}"

    def owns(self, partition: int) -> bool:
        """Return whether this shard owns a partition of the interactions."""
        return partition % self.shards == self.shard
