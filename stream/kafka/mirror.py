"""Bad records as messages: mirrored to a topic of their own, or produced again where they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from stream.errors import SinkError
from stream.kafka.sink import producer_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream.events import DeadLetter
    from stream.kafka.config import KafkaConfig

    Headers = list[tuple[str, bytes | None]]

_RETRY_S = 1.0
_PATIENCE_S = 5.0  # beyond the delivery timeout, for the client's own bookkeeping
_OURS = "freshet."


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
            SinkError: not all are acknowledged, after `delivery_timeout_ms` at most.
        """
        try:
            if self._producer is None:
                self._producer = KafkaProducer(**self._arguments)
            sent = [self._handed_over(message) for message in messages]
            self._producer.flush(self._config.delivery_timeout_ms / 1000 + _PATIENCE_S)
            for future in sent:
                future.get(0)  # done by now: raises what went wrong
        except (KafkaError, ValueError) as err:  # a name that is no topic's is a ValueError
            self._drop(0.0)
            raise SinkError(
                f"{self._config.bootstrap_servers} {messages[0].topic}: records not acknowledged"
                f" ({type(err).__name__}: {err}); the topic must be there and take them",
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


class KafkaMirror:
    """Sends bad records to the topic `kafka.dead_topic`, with the reason in headers.

    Args:
        config: broker, login and topic.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._topic = config.dead_topic
        self._producer = RecordProducer(config)

    def write(self, letters: Sequence[DeadLetter]) -> None:
        """Send `letters`; the broker has acknowledged all of them when this returns.

        Raises:
            SinkError: not all are acknowledged.
        """
        self._producer.send([mirrored(letter, self._topic) for letter in letters])

    def close(self) -> None:
        """Close the connection."""
        self._producer.close()


def mirrored(letter: DeadLetter, topic: str) -> Message:
    """Return a bad record as a message of the mirror: its key and headers, and freshet.* headers beside them."""
    headers: Headers = [
        *letter.headers,
        ("freshet.error", letter.reason.encode()),
        ("freshet.detail", letter.detail.encode()),
        *_position("source", letter),
    ]
    if not is_whole(letter):
        headers.append(("freshet.source.size", str(letter.size or 0).encode()))
    return Message(topic=topic, key=letter.key, value=letter.raw, headers=headers)


def produced_again(letter: DeadLetter, topic: str | None = None) -> Message:
    """Return a bad record as it was, to be sent to its topic or to another one.

    It keeps the time at which the log first took it: records without a time of their own take theirs
    from there.
    """
    own = [(name, value) for name, value in letter.headers if not name.startswith(_OURS)]
    return Message(
        topic=topic or letter.topic,
        key=letter.key,
        value=letter.raw,
        headers=[*own, *_position("replayed", letter)],
        timestamp_ms=letter.append_ms,
    )


def is_whole(letter: DeadLetter) -> bool:
    """Return whether a bad record's own bytes are kept, and all of them."""
    return letter.size is not None and letter.size == len(letter.raw or b"")


def _position(what: str, letter: DeadLetter) -> Headers:
    return [
        (f"freshet.{what}.topic", letter.topic.encode()),
        (f"freshet.{what}.partition", str(letter.part).encode()),
        (f"freshet.{what}.offset", str(letter.off).encode()),
    ]
