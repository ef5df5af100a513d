"""Slates as messages of a topic, acknowledged by all replicas before a write returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from stream.errors import SinkError
from stream.kafka.connection import client_arguments
from stream.slates import encode_slate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream.kafka.config import KafkaConfig
    from stream.slates import Slate

HEADERS = [("content-type", b"application/json")]
_RETRY_S = 1.0
_BATCH_BYTES = 65_536
_PATIENCE_S = 5.0  # beyond the delivery timeout, for the client's own bookkeeping


def producer_arguments(config: KafkaConfig) -> dict[str, object]:
    """Return what every producer is given: acknowledged by all replicas, no duplicates by repeats.

    Raises:
        ConfigError: a file of the settings can not be read.
    """
    return client_arguments(config) | {
        "acks": "all",
        "enable_idempotence": True,
        "allow_auto_create_topics": False,
        "batch_size": _BATCH_BYTES,
        "delivery_timeout_ms": config.delivery_timeout_ms,
        "request_timeout_ms": min(config.request_timeout_ms, config.delivery_timeout_ms),
        "max_block_ms": config.delivery_timeout_ms,
    }


class KafkaSink:
    """Sends each slate as one message: the key is the user, the value `encode_slate`.

    One partition holds a user's slates in the order of writing. A write that failed may have sent some
    of its slates; writing them again sends them twice with equal ids.

    Args:
        config: broker, topic, login.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._arguments = producer_arguments(config)
        self._producer: Any = None  # kafka-python has no types
        self._closed = False

    def write(self, slates: Sequence[Slate]) -> None:
        """Send `slates` in order; the broker has acknowledged all of them when this returns.

        Raises:
            SinkError: not all are acknowledged, after `delivery_timeout_ms` at most.
        """
        if self._closed:
            raise SinkError(f"{self._name}: the sink is closed; open another")
        if not slates:
            return
        try:
            self._send(slates)
        except KafkaError as err:
            # What the old producer still holds must not be sent after newer slates of the same users.
            self._drop(0.0)
            raise SinkError(
                f"{self._name}: slates not acknowledged ({type(err).__name__}: {err}); the broker"
                " must be there and accept them",
                retry_after_s=_RETRY_S if getattr(err, "retriable", False) else None,
            ) from err

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._drop(_PATIENCE_S)

    @property
    def _name(self) -> str:
        return f"{self._config.bootstrap_servers} {self._config.slates_topic}"

    def _send(self, slates: Sequence[Slate]) -> None:
        if self._producer is None:
            self._producer = KafkaProducer(**self._arguments)
        topic = self._config.slates_topic
        sent = [
            self._producer.send(
                topic, key=slate.user_id.encode(), value=encode_slate(slate), headers=HEADERS
            )
            for slate in slates
        ]
        self._producer.flush(self._config.delivery_timeout_ms / 1000 + _PATIENCE_S)
        for future in sent:
            future.get(0)  # done by now: raises what went wrong

    def _drop(self, timeout_s: float) -> None:
        if self._producer is not None:
            self._producer.close(timeout=timeout_s)
            self._producer = None
