"""JSON records of the topics into columns; every record is a row or a dead letter, for each holds a position."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream.config import FileConfig
from stream.sources.json_records import JsonDecoder
from stream.sources.records import dead_letter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from stream.events import DeadLetter, Partition
    from stream.kafka.config import KafkaConfig
    from stream.sources.records import Records

_NO_VALUE = "no value: a tombstone takes back no interaction"


class JsonTopics:
    """Decodes records whose values are JSON objects; those of the item topic are items unless they say otherwise."""

    def __init__(self, config: KafkaConfig) -> None:
        self._items_topic = config.items_topic
        self._items = JsonDecoder(FileConfig(kind="item"))
        self._interactions = JsonDecoder(FileConfig())

    def __call__(
        self,
        partition: Partition,
        offsets: NDArray[np.int64],
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None],  # noqa: ARG002 - JSON needs neither
        headers: Sequence[Sequence[tuple[str, bytes]]],  # noqa: ARG002
        append_ts_ms: Sequence[int | None],
    ) -> Records:
        """Return a row or a dead letter for every record."""
        decoder = self._items if partition.topic == self._items_topic else self._interactions
        lines = [value or b"" for value in values]
        found = decoder.decode(partition, offsets, lines, append_ts_ms)
        empty = [
            self._empty(partition, int(offsets[row]), value)
            for row, value in enumerate(values)
            if value is None or not value.strip()
        ]
        if empty:
            found.dead = sorted([*found.dead, *empty], key=lambda letter: letter.off)
        return found

    def _empty(self, partition: Partition, offset: int, value: bytes | None) -> DeadLetter:
        detail = _NO_VALUE if value is None else "an empty value"
        return dead_letter(partition, offset, "malformed", detail, value or b"")
