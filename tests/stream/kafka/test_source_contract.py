"""The Kafka source against the contract of all sources, on a real broker, and against planted faults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient

from stream.events import Partition
from tests.brokers.backends import TestBroker
from tests.contracts import source_contract as contract
from tests.contracts.faulty_source import FAULTS, Fault, FaultySource
from tests.contracts.source_logs import Case, expected, jsonl_bytes, make_records
from tests.stream.kafka.logs import opening, producing, send, settings
from tests.stream.sources.test_contract import BREAKS

Log: TypeAlias = dict[Partition, list[str | None]]


@pytest.fixture(scope="module")
def dealt(broker: TestBroker, admin: KafkaAdminClient) -> Log:
    """Records dealt to two partitions of a topic."""
    return _write(broker, admin, parts=2)


@pytest.fixture(scope="module")
def single(broker: TestBroker, admin: KafkaAdminClient) -> Log:
    return _write(broker, admin, parts=1)


def _write(broker: TestBroker, admin: KafkaAdminClient, *, parts: int) -> Log:
    topic = f"contract.{uuid4().hex[:8]}"
    admin.create_topics({topic: {"num_partitions": parts, "replication_factor": 1}})
    records = make_records(60)
    log: Log = {}
    with producing(broker) as producer:
        for part in range(parts):
            own = [r for i, r in enumerate(records) if (i % 3) % parts == part]
            send(producer, topic, part, [jsonl_bytes([record]).strip() for record in own])
            log[Partition(topic, part)] = expected(own)
    return log


@pytest.fixture
def case(request: pytest.FixtureRequest, broker: TestBroker) -> Iterator[Case]:
    log = request.getfixturevalue(request.param)
    (topic,) = {partition.topic for partition in log}
    ends = {partition: len(records) for partition, records in log.items()}
    with opening(settings(broker, topic), ends) as open_source:
        yield Case(open_source, log, one_order=len(log) == 1)


@pytest.mark.parametrize("case", ["single", "dealt"], indirect=True)
class TestKafka(contract.SourceContract):
    pass


@pytest.mark.parametrize("case", ["dealt"], indirect=True)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_contract_notices_the_planted_fault(fault: Fault, case: Case) -> None:
    (check,) = (check for check in contract.CHECKS if check.__name__ == BREAKS[fault])
    with pytest.raises(AssertionError):
        check(Case(lambda: FaultySource(case.open, fault), case.log, one_order=False))
