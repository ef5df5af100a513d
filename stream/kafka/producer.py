"""Messages sent to topics: acknowledged by all replicas before a call returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from kafka import KafkaProducer
from kafka.errors import KafkaError

from stream.errors import UndeliveredError
from stream.kafka.connection import client_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream.kafka.config import KafkaConfig

Headers: TypeAlias = "list[tuple[str, bytes | None]]"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message to send.

    Attributes:
        topic: where to.
        key: as of the record.
        value: as of the record.
        headers: in order.
        timestamp_ms: when the log first took it; None leaves it to the broker.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int | None = None


class RecordProducer:
    """Sends messages as they are; all are acknowledged when `send` returns.

    Args:
        config: broker and login.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._arguments = producer_arguments(config)
        self._producer: Any = None  # kafka-python has no types

    def send(self, messages: Sequence[Message]) -> None:
        """Send messages in order; repeating a call that failed may send some of them twice.

        Raises:
            UndeliveredError: not all are acknowledged, after `delivery_timeout_ms` at most.
        """
        try:
            if self._producer is None:
                self._producer = KafkaProducer(**self._arguments)
            sent = [self._handed_over(message) for message in messages]
            self._producer.flush(self._config.delivery_timeout_ms / 1000 + _PATIENCE_S)
            for future in sent:
                future.get(0)  # done by now: raises what went wrong
        except (KafkaError, ValueError) as err:  # a name that is no topic's is a ValueError
            self._drop(0.0)  # what it still holds must not be sent after newer messages
            raise UndeliveredError(
                f"{self._config.bootstrap_servers} {messages[0].topic}: not acknowledged"
                f" ({type(err).__name__}: {err}); the topic must be there and take messages",
                retry_after_s=_RETRY_S if getattr(err, "retriable", False) else None,
            ) from err

    def close(self) -> None:
        """Close the connection."""
        self._drop(_PATIENCE_S)

    def _handed_over(self, message: Message) -> Any:  # noqa: ANN401
        """Give the client one message; it sends no header without a value, and nothing without key and value."""
        empty = message.key is None and message.value is None
        return self._producer.send(
            message.topic,
            key=message.key,
            value=b"" if empty else message.value,
            headers=[(name, value or b"") for name, value in message.headers],
            timestamp_ms=message.timestamp_ms,
        )

    def _drop(self, timeout_s: float) -> None:
        if self._producer is not None:
            self._producer.close(timeout=timeout_s)
            self._producer = None
