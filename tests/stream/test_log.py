"""A whole log as tables."""

import json

import pytest

from stream.config import StreamConfig
from stream.errors import DeadShareError, SourceError
from stream.events import Partition
from stream.log import read_log
from stream.sources.memory import MemorySource


def source(*records: object) -> MemorySource:
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records]
    return MemorySource([(Partition("log", 0), line) for line in lines], ended=True)


def event(ts: int = 1, **changes: object) -> dict[str, object]:
    return {"user_id": "u", "item_id": "i", "event_type": "view", "ts": ts, **changes}


def test_everything_is_read_in_log_order():
    read = read_log(source(event(3), event(1), b"{", event(2)), StreamConfig())
    assert read.interactions["ts"].to_pylist() == [3, 1, 2]
    assert (read.records, read.dead, read.duplicates) == (4, 1, 0)


def test_a_repeated_event_id_of_a_user_is_left_out_and_others_stay():
    rows = [
        event(1, event_id="a"),
        event(2),
        event(3, event_id="a"),
        event(4, event_id="a", user_id="v"),
        event(5),
    ]
    read = read_log(source(*rows), StreamConfig())
    assert read.interactions["ts"].to_pylist() == [1, 2, 4, 5]
    assert read.duplicates == 1


def test_items_in_the_log_are_returned_beside_interactions():
    read = read_log(
        source({"kind": "item", "item_id": "i", "text": "lamp"}, event()), StreamConfig()
    )
    assert read.items["text"].to_pylist() == ["lamp"]
    assert read.interactions.num_rows == 1


def test_too_many_bad_records_are_refused():
    config = StreamConfig(max_dead_share=0.4, min_dead_records=2)
    with pytest.raises(DeadShareError, match="2 of 3 records are bad"):
        read_log(source(event(), b"{", b"{"), config)
    assert read_log(source(event(), event(), b"{"), config).dead == 1


def test_an_empty_log_is_refused_with_the_first_reason():
    with pytest.raises(SourceError, match="no interaction and no item"):
        read_log(source(), StreamConfig())
    with pytest.raises(SourceError, match=r"no item: .*truncated"):
        read_log(source(b"{"), StreamConfig())


def test_progress_counts_records():
    seen: list[int] = []
    read_log(source(event(1), event(2)), StreamConfig(), on_progress=seen.append)
    assert seen[-1] == 2
