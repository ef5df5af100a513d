"""Recorded logs for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stream.config import FormatsConfig
from stream.events import Headers, Partition
from stream.formats.decoder import TopicDecoder
from stream.recording import LogRecorder
from stream.sources.recorded import RecordedSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ITEMS_TOPIC = "items"
DECODE = TopicDecoder(FormatsConfig(), ITEMS_TOPIC)


@dataclass(frozen=True)
class Held:
    """One record as a broker holds it."""

    partition: Partition
    off: int
    value: bytes | None
    append_ms: int | None = None
    key: bytes | None = None
    headers: Headers = ()


def record(
    out: Path,
    records: Sequence[Held],
    ranges: dict[Partition, tuple[int, int]] | None = None,
    *,
    piece: int = 7,
) -> Path:
    """Write a recorded log; records are taken a few at a time, partition by partition."""
    by_partition: dict[Partition, list[Held]] = {}
    for held in records:
        by_partition.setdefault(held.partition, []).append(held)
    with LogRecorder(out, items_topic=ITEMS_TOPIC) as recorder:
        for partition, log in by_partition.items():
            for at in range(0, len(log), piece):
                part = log[at : at + piece]
                recorder.add(
                    partition,
                    [held.off for held in part],
                    [held.append_ms for held in part],
                    [held.headers for held in part],
                    [held.key for held in part],
                    [held.value for held in part],
                )
        spans = {p: (log[0].off, log[-1].off + 1) for p, log in by_partition.items()}
        recorder.finish({**spans, **(ranges or {})})
    return out


def open_recorded_log(path: Path) -> RecordedSource:
    return RecordedSource(path, DECODE)
