from __future__ import annotations

import pytest

from stream.errors import GapError
from stream.events import Partition
from stream.sources.memory import MemorySource

A, B = Partition("a", 0), Partition("b", 1)


def record(ts: int) -> bytes:
    return b'{"user_id":"u","item_id":"i","ts":%d}' % ts


def test_records_come_in_the_order_they_were_appended() -> None:
    source = MemorySource([(B, record(1)), (A, record(2)), (B, record(3))])
    assert source.poll(2).interactions["ts"].to_pylist() == [1, 2]
    assert source.poll(2).ranges == {B: (1, 2)}


def test_an_open_log_waits_and_an_ended_one_is_exhausted() -> None:
    source = MemorySource()
    assert not source.poll(5).exhausted
    source.append(A, record(1), append_ms=9)
    batch = source.poll(5)
    assert batch.interactions["append_ts"].to_pylist() == [9]
    assert not batch.exhausted
    source.end()
    assert source.poll(5).exhausted
    with pytest.raises(ValueError, match="ended"):
        source.append(A, record(2))


def test_a_log_whose_beginning_expired_is_a_gap() -> None:
    source = MemorySource([(A, record(1))], first={A: 40})
    assert source.poll(5).ranges == {A: (40, 41)}
    with pytest.raises(GapError, match=r"39 is outside 40\.\.41"):
        source.seek({A: 39})


def test_commits_are_remembered() -> None:
    source = MemorySource([(A, record(1))])
    source.commit({A: 1})
    assert source.committed == {A: 1}
