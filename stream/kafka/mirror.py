"""Bad records as messages: mirrored to a topic of their own, or produced again where they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream.kafka.producer import Message, RecordProducer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream.events import DeadLetter
    from stream.kafka.config import KafkaConfig
    from stream.kafka.producer import Headers

_OURS = "freshet."


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
