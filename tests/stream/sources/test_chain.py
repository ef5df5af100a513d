from __future__ import annotations

import pytest

from stream.config import FileConfig
from stream.errors import ConfigError, GapError
from stream.events import Partition
from stream.sources.chain import ChainSource
from stream.sources.memory import MemorySource

ITEMS, EVENTS = Partition("items", 0), Partition("events", 0)


def chain() -> ChainSource:
    items = MemorySource([(ITEMS, b'{"item_id":"i"}')], config=FileConfig(kind="item"), ended=True)
    events = MemorySource([(EVENTS, b'{"user_id":"u","item_id":"i","ts":1}')] * 2, ended=True)
    return ChainSource([items, events])


def test_items_come_before_events() -> None:
    source = chain()
    first = source.poll(10)
    assert (len(first.items), len(first.interactions), first.exhausted) == (1, 0, False)
    second = source.poll(10)
    assert (len(second.items), len(second.interactions), second.exhausted) == (0, 2, True)


def test_each_source_gets_its_own_positions() -> None:
    source = chain()
    source.seek({ITEMS: 1, EVENTS: 1})
    assert source.poll(10).ranges == {EVENTS: (1, 2)}
    with pytest.raises(GapError, match="elsewhere"):
        source.seek({Partition("elsewhere", 0): 0})


def test_two_sources_cannot_share_a_partition() -> None:
    with pytest.raises(ConfigError, match="two sources"):
        ChainSource([MemorySource([(ITEMS, b"{}")]), MemorySource([(ITEMS, b"{}")])])
