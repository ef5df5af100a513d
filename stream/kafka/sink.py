"""Slates as messages of a topic, acknowledged by all replicas before a write returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream.errors import SinkError
from stream.kafka.producer import Message, RecordProducer

if TYPE_CHECKING:
    from stream.kafka.config import KafkaConfig
    from stream.kafka.producer import Headers
    from stream.slates import SlateLines

HEADERS: Headers = [("content-type", b"application/json")]


class KafkaSink:
    """Sends each slate as one message: the key is the user, the value its line.

    One partition holds a user's slates in the order of writing. A write that failed may have sent some
    of its slates; writing them again sends them twice with equal ids.

    Args:
        config: broker, topic, login.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._topic = config.slates_topic
        self._producer = RecordProducer(config)
        self._closed = False

    def write(self, slates: SlateLines) -> None:
        """Send `slates` in order; the broker has acknowledged all of them when this returns.

        Raises:
            SinkError: not all are acknowledged, after `delivery_timeout_ms` at most.
        """
        if self._closed:
            raise SinkError(f"{self._topic}: the sink is closed; open another")
        if slates:
            self._producer.send([
                Message(topic=self._topic, key=user.encode(), value=line, headers=HEADERS)
                for user, line in zip(slates.users, slates.lines(), strict=True)
            ])

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._producer.close()
