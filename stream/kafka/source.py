"""The source that reads Kafka: assigned partitions from stored offsets, never a group, never a silent reset."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from kafka import TopicPartition
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError, RetriableError

from stream.errors import BrokerError, GapError, LostRecordsError, StreamError
from stream.events import INTERACTION_SCHEMA, ITEM_SCHEMA, EventBatch, Partition
from stream.kafka.watch import Progress, Watch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kafka import KafkaConsumer
    from kafka.consumer.fetcher import ConsumerRecord

    from stream.kafka.report import OffsetReport
    from stream.sources.records import Decode, Records

_log = logging.getLogger(__name__)
_ASK_MS = 2_000  # how long the watch waits for an answer about ends
CLOSE_S = 5.0


class KafkaSource:
    """Partitions of a running log, read with one consumer in one thread.

    A poll's ranges end where the consumer stands: after records of transactions that were taken back and
    after transaction markers, which are no records and hold offsets.

    Args:
        consumer: reads committed records and knows no reset of offsets; closed with the source.
        start: offset per partition at which reading begins.
        decode: turns records into columns.
        report: tells the group what is stored; None tells nobody.
        stall_s: seconds without a record after which a partition that has more is stalled; 0 never looks.
        outage_s: seconds the broker may be gone; 0 waits without a bound.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        start: Mapping[Partition, int],
        decode: Decode,
        *,
        report: OffsetReport | None = None,
        stall_s: float = 60.0,
        outage_s: float = 0.0,
    ) -> None:
        self._consumer = consumer
        self._decode = decode
        self._report = report
        self._next = dict(sorted(start.items()))
        self._held = False
        self._watch = Watch(self._ends_if_reachable, stall_s=stall_s, outage_s=outage_s)
        self.progress: Mapping[Partition, Progress] = {
            partition: Progress(offset, None) for partition, offset in self._next.items()
        }
        consumer.assign([TopicPartition(*partition) for partition in self._next])
        self._move(self._next)

    def partitions(self) -> tuple[Partition, ...]:
        """Return the assigned partitions, sorted."""
        return tuple(self._next)

    def poll(self, max_records: int, timeout_s: float = 0.0) -> EventBatch:
        """Return the next committed records, at most `max_records`; never exhausted.

        While the broker can not be reached it returns nothing and keeps trying.

        Raises:
            ValueError: `max_records` is below 1.
            LostRecordsError: the log dropped the next records before they were read.
            GapError: the log was cut below what was read.
            StalledError: the log has more records and none arrive.
            BrokerError: the broker refuses, or has been gone for longer than allowed.
        """
        if max_records < 1:
            raise ValueError(f"max_records must be at least 1, not {max_records}")
        if self._held:
            self._consumer.resume(*self._consumer.assignment())
            self._held = False
        fetched = self._fetch(max_records, timeout_s)
        batch = self._batch(fetched)
        full = sum(map(len, fetched.values())) >= max_records
        self._watch.polled(self.progress, full=full)
        return batch

    def hold(self) -> None:
        """Keep the connection without taking records, where the store takes none for long; `poll` goes on.

        To be called about once a second. Pausing is for all partitions or none: a partition that is paused
        alone while some of its records are fetched may never return another one.
        """
        if not self._held:
            self._consumer.pause(*self._consumer.assignment())
            self._held = True
        if self._fetch(1, 0.0):  # none are expected; taking one would lose it
            self._move(self._next)
        self._watch.rest()

    def seek(self, next_offsets: Mapping[Partition, int]) -> None:
        """Continue the named partitions at these offsets; the others stay where they are.

        Raises:
            LostRecordsError: the log no longer has the records from there on.
            GapError: a partition is not assigned, or ends before the offset.
            BrokerError: the broker does not answer.
        """
        for partition in next_offsets:
            if partition not in self._next:
                raise GapError(f"{partition}: not among this shard's partitions; use its database")
        begins, ends = self.bounds(next_offsets)
        for partition, offset in next_offsets.items():
            check_offset(partition, offset, begins[partition], ends[partition])
        self._move(next_offsets)

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """Tell the group what is stored, without waiting; failures are logged."""
        if self._report is not None:
            self._report.commit(next_offsets)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Disconnect within about `timeout_s` seconds; safe to call twice."""
        if self._report is not None:
            self._report.close(timeout_s)
        self._consumer.close(autocommit=False, timeout_ms=int(timeout_s * 1000))

    def bounds(
        self, partitions: Iterable[Partition]
    ) -> tuple[dict[Partition, int], dict[Partition, int]]:
        """Return per partition the first offset the log holds and the one after its last readable record.

        Raises:
            BrokerError: the broker does not answer.
        """
        return bounds(self._consumer, partitions)

    def _move(self, next_offsets: Mapping[Partition, int]) -> None:
        for partition, offset in next_offsets.items():
            self._consumer.seek(TopicPartition(*partition), offset)
            self._next[partition] = offset
        self._watch.rest()

    def _fetch(
        self, max_records: int, timeout_s: float
    ) -> Mapping[TopicPartition, list[ConsumerRecord]]:
        try:
            found: Mapping[TopicPartition, list[ConsumerRecord]] = self._consumer.poll(
                timeout_ms=int(timeout_s * 1000), max_records=max_records
            )
        except OffsetOutOfRangeError as err:
            raise self._out_of_range() from err
        except LogTruncationError as err:
            raise GapError(
                f"the log was cut below what was read ({err}); rebuild from the topic into a new database"
            ) from err
        except RetriableError as err:
            _log.warning("the broker can not be read, trying on: %s", err)
            return {}
        except KafkaError as err:
            raise BrokerError(
                f"the log can not be read ({err}); correct that and start again"
            ) from err
        return found

    def _batch(self, fetched: Mapping[TopicPartition, list[ConsumerRecord]]) -> EventBatch:
        parts: list[Records] = []
        ranges: dict[Partition, tuple[int, int]] = {}
        progress: dict[Partition, Progress] = {}
        for partition, first in self._next.items():
            place = TopicPartition(*partition)
            after = self._consumer.position(place)
            progress[partition] = Progress(after, self._consumer.highwater(place))
            if after == first:
                continue
            ranges[partition] = (first, after)
            if found := fetched.get(place):
                parts.append(self._decoded(partition, found))
        self._next |= {partition: after for partition, (_, after) in ranges.items()}
        self.progress = progress
        return EventBatch(
            interactions=pa.concat_tables([
                INTERACTION_SCHEMA.empty_table(),
                *(part.interactions for part in parts),
            ]),
            items=pa.concat_tables([ITEM_SCHEMA.empty_table(), *(part.items for part in parts)]),
            dead=[letter for part in parts for letter in part.dead],
            ranges=ranges,
            originals=[part.originals for part in parts if part.originals is not None],
        )

    def _decoded(self, partition: Partition, found: list[ConsumerRecord]) -> Records:
        return self._decode(
            partition,
            np.fromiter((record.offset for record in found), np.int64, len(found)),
            [record.value for record in found],
            [record.key for record in found],
            [record.headers for record in found],
            [record.timestamp if record.timestamp >= 0 else None for record in found],
        )

    def _out_of_range(self) -> StreamError:
        """What to say of positions the log does not have."""
        begins, ends = self.bounds(self._next)
        for partition, offset in self._next.items():
            try:
                check_offset(partition, offset, begins[partition], ends[partition])
            except GapError as err:
                return err
        return BrokerError("the broker refused an offset that it holds; start again")

    def _ends_if_reachable(self) -> dict[Partition, int] | None:
        try:
            return _ends(self._consumer, self._next, _ASK_MS)
        except KafkaError:
            return None


def check_offset(partition: Partition, offset: int, begin: int, end: int) -> None:
    """Refuse an offset at which the log can not be read on.

    Raises:
        LostRecordsError: records from the offset on are gone.
        GapError: the log ends before the offset, so it is another one.
    """
    if offset < begin:
        raise LostRecordsError(
            f"{partition}: records {offset}..{begin - 1} are gone, the log begins at {begin}: it was kept for"
            " less time than nothing was read; --accept-data-loss goes on there and notes the loss"
        )
    if offset > end:
        raise GapError(
            f"{partition}: stored up to {offset}, the log ends at {end}: the topic was made anew or cut;"
            " read it into a new database"
        )


def bounds(
    consumer: KafkaConsumer, partitions: Iterable[Partition]
) -> tuple[dict[Partition, int], dict[Partition, int]]:
    """Return per partition the first offset the log holds and the one after its last readable record.

    Raises:
        BrokerError: the broker does not answer.
    """
    wanted = list(partitions)
    try:
        found = consumer.beginning_offsets([TopicPartition(*partition) for partition in wanted])
        begins = {Partition(*place): offset for place, offset in found.items()}
        return begins, _ends(consumer, wanted)
    except KafkaError as err:
        raise BrokerError(
            f"the broker does not say what the log holds ({err}); start again"
        ) from err


def _ends(
    consumer: KafkaConsumer, partitions: Iterable[Partition], timeout_ms: int | None = None
) -> dict[Partition, int]:
    found = consumer.end_offsets([TopicPartition(*p) for p in partitions], timeout_ms=timeout_ms)
    return {Partition(*place): offset for place, offset in found.items()}
