"""What tests of the live log share: reading a topic with an independent client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kafka import KafkaConsumer, TopicPartition

if TYPE_CHECKING:
    from kafka.consumer.fetcher import ConsumerRecord


def read_topic(bootstrap: str, topic: str) -> list[ConsumerRecord]:
    """Return all committed records of a topic, partition by partition."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="none",
    )
    try:
        parts = sorted(consumer.partitions_for_topic(topic) or ())
        found: list[ConsumerRecord] = []
        for part in parts:
            partition = TopicPartition(topic, part)
            end = consumer.end_offsets([partition])[partition]
            consumer.assign([partition])
            consumer.seek_to_beginning(partition)
            while consumer.position(partition) < end:
                for records in consumer.poll(1000).values():
                    found.extend(records)
        return found
    finally:
        consumer.close()
