"""Token chains kept between ticks."""

from __future__ import annotations

import numpy as np

from model.engine import TokenBlock
from storage.records import HistoryKey
from stream.segments import Chain, ChainCache


def chain(*segments: int) -> Chain:
    blocks = [
        TokenBlock(
            segment=number,
            kv=np.zeros((2, 2, 2, 8), np.float16),
            time_ms=number,
            ordinal=number,
            outputs=np.zeros((2, 8), np.float32),
        )
        for number in segments
    ]
    key = HistoryKey(1, 0, 0, 0, displaced=False, off=segments[-1])
    return Chain(blocks, key)


def test_a_chain_comes_back_once_and_only_if_it_ends_with_the_newest_group() -> None:
    kept = ChainCache(1 << 20, window=None)
    kept.put(7, chain(0, 1))
    found = kept.take(7, 2)
    assert found is not None
    assert [block.segment for block in found.blocks] == [0, 1]
    assert kept.take(7, 2) is None
    kept.put(7, chain(0, 1))
    assert kept.take(7, 3) is None  # another writer added a group
    assert kept.nbytes == 0


def test_only_the_groups_a_segment_reads_are_kept() -> None:
    kept = ChainCache(1 << 20, window=2)
    kept.put(7, chain(0, 1, 2, 3))
    found = kept.take(7, 4)
    assert found is not None
    assert [block.segment for block in found.blocks] == [2, 3]


def test_memory_stays_within_its_limit_and_the_oldest_chains_go_first() -> None:
    size = chain(0).nbytes
    kept = ChainCache(3 * size, window=None)
    for user in range(5):
        kept.put(user, chain(0))
    assert kept.nbytes == 3 * size
    assert [kept.take(user, 1) is None for user in range(5)] == [True, True, False, False, False]
    tiny = ChainCache(0, window=None)
    tiny.put(1, chain(0))
    assert tiny.take(1, 1) is None
