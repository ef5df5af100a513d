"""A log up to a date: the same records however they are polled, and a later run goes on from there."""

import json
from pathlib import Path

import pytest

from stream.events import Partition
from stream.sources.bounded import BoundedSource
from stream.sources.file import FileSource
from stream.sources.memory import MemorySource
from tests.contracts import source_contract as contract
from tests.contracts.source_logs import Case, expected, jsonl_bytes, make_records

LOG = Partition("log", 0)
START = 1_700_000_000_000


def record(ts: int, **changes: object) -> bytes:
    return json.dumps({
        "user_id": "u", "item_id": "i", "event_type": "view", "ts": ts, "event_id": str(ts), **changes,
    }).encode()  # fmt: skip


def memory(*lines: bytes, part: Partition = LOG) -> MemorySource:
    return MemorySource([(part, line) for line in lines], ended=True)


class TestBounded(contract.SourceContract):
    """With a bound past its end a log is what it was."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> Case:
        records = make_records(40)
        path = tmp_path / "log.jsonl"
        path.write_bytes(jsonl_bytes(records))
        return Case(
            open=lambda: BoundedSource(FileSource(path), START * 2),
            log={Partition("log.jsonl", 0): expected(records)},
        )


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_bad_records_before_the_bound_belong_to_it_whatever_the_batch(size):
    lines = [record(1_000), b"{", record(2_000), b"{", record(9_000), record(3_000), b"{"]
    source = BoundedSource(memory(*lines), 5_000)
    batches = contract.read_all(source, polls=20, size=size)
    assert sum(batch.records for batch in batches) == 4
    assert sum(len(batch.dead) for batch in batches) == 2
    assert batches[-1].exhausted
    assert source.poll(5).records == 0


def test_a_run_without_the_bound_goes_on_where_it_ended():
    log = memory(record(1_000), record(9_000), record(3_000))
    bounded = BoundedSource(log, 5_000)
    bounded.poll(10)
    log.seek({LOG: 1})
    assert log.poll(10).interactions["ts"].to_pylist() == [9_000, 3_000]


def test_seeking_lifts_the_end():
    source = BoundedSource(memory(record(1_000), record(9_000)), 5_000)
    assert source.poll(10).exhausted
    source.seek({LOG: 0})
    assert source.poll(10).interactions["ts"].to_pylist() == [1_000]


def test_a_bound_past_the_log_changes_nothing():
    batch = BoundedSource(memory(record(1_000), record(2_000)), START).poll(10)
    assert batch.records == 2
    assert batch.exhausted
