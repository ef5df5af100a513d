"""Reads topics to where they end now and hands everything to a recorder, bad records too."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from kafka import TopicPartition
from kafka.errors import RetriableError

from stream.errors import BrokerError, GapError
from stream.events import Partition
from stream.kafka.admin import partition_counts
from stream.kafka.preflight import Access, explained, preflight
from stream.kafka.starting import consumer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stream.kafka.config import KafkaConfig
    from stream.recording import LogRecorder

_POLL_MS = 500
_POLL_RECORDS = 5_000
_SILENCE_S = 60.0


def record_topics(
    config: KafkaConfig,
    recorder: LogRecorder,
    *,
    start: Mapping[Partition, int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[Partition, tuple[int, int]]:
    """Record the shard's partitions of the interactions and all items, up to where they end now.

    Args:
        config: broker, topics and shard.
        recorder: takes the records.
        start: offsets to begin at; partitions without one begin at the first record there is.
        on_progress: called with the offsets read so far and those to be read in all.

    Returns:
        Partition -> (first, end) of the offsets read; some of them hold no record.

    Raises:
        BrokerError: as `preflight`, or the broker sends nothing for a minute.
        GapError: the log no longer has, or does not have yet, a record to begin at.
        SinkError: the recorder can not write.
    """
    preflight(config, Access(reads=config.topics))
    counts = partition_counts(config, config.topics)
    wanted = [
        Partition(topic, part)
        for topic, count in counts.items()
        for part in range(count)
        if topic == config.items_topic or config.owns(part)
    ]
    with explained(config):
        consumer = consumer_of(config)
        try:
            spans = _spans(consumer, wanted, start or {})
            _read(consumer, spans, recorder, on_progress)
        finally:
            consumer.close(autocommit=False, timeout_ms=5_000)
    return spans


def _spans(
    consumer: Any,  # noqa: ANN401 - kafka-python has no types
    wanted: list[Partition],
    start: Mapping[Partition, int],
) -> dict[Partition, tuple[int, int]]:
    """Return per partition where to begin and where it ends: behind the last committed record."""
    places = [TopicPartition(*partition) for partition in wanted]
    begins, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
    unknown = set(start) - set(wanted)
    if unknown:
        raise GapError(f"{min(unknown)}: no such partition to begin in; name one that is read")
    spans: dict[Partition, tuple[int, int]] = {}
    for partition, place in zip(wanted, places, strict=True):
        first, begin, end = start.get(partition, begins[place]), begins[place], ends[place]
        if not begin <= first <= end:
            raise GapError(
                f"{partition}: can not begin at {first}, the log holds {begin}..{end}; begin within that"
            )
        spans[partition] = (first, end)
    return spans


def _read(
    consumer: Any,  # noqa: ANN401
    spans: Mapping[Partition, tuple[int, int]],
    recorder: LogRecorder,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    places = {partition: TopicPartition(*partition) for partition in spans}
    consumer.assign(list(places.values()))
    for partition, (first, _) in spans.items():
        consumer.seek(places[partition], first)
    total = sum(end - first for first, end in spans.values())
    done, heard = -1, monotonic()
    while done < total:
        fetched: dict[Any, list[Any]] = {}
        with suppress(RetriableError):  # the broker may be away for a while
            fetched = consumer.poll(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        for place, records in fetched.items():
            partition = Partition(place.topic, place.partition)
            _record(recorder, partition, [r for r in records if r.offset < spans[partition][1]])
        read = sum(
            min(consumer.position(places[partition]), end) - first
            for partition, (first, end) in spans.items()
        )
        heard = monotonic() if read > done else heard
        done = read
        if on_progress is not None:
            on_progress(done, total)
        if done < total and monotonic() - heard > _SILENCE_S:
            raise BrokerError(
                f"nothing was read for {_SILENCE_S:.0f} s although {total - done} offsets are left;"
                " look at the broker's log, and run again"
            )


def _record(recorder: LogRecorder, partition: Partition, records: list[Any]) -> None:
    if records:
        recorder.add(
            partition,
            [record.offset for record in records],
            [record.timestamp if record.timestamp >= 0 else None for record in records],
            [record.headers for record in records],
            [record.key for record in records],
            [record.value for record in records],
        )
