"""Cuts of the log: what follows from how far it is taken, read back as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream.cuts import Cut, read_cut
from tests.stream.support import (
    HOUR_MS,
    START_MS,
    TOPIC,
    Event,
    event,
    memory_source,
    opened,
    pipeline_config,
    random_log,
    tiny_engine,
)

KEY = (TOPIC, 0)


def test_a_cut_only_rises() -> None:
    cut = Cut(5, {KEY: 7})
    cut.rise({KEY: 3, (TOPIC, 1): 2, (TOPIC, 2): 0})
    assert cut.next_offsets == {KEY: 7, (TOPIC, 1): 2}
    assert cut.clock_ms is None
    cut.see(KEY, 100, 4)
    cut.see((TOPIC, 1), 90, 9)
    cut.see(KEY, 50, 2)
    assert (cut.clock_ms, cut.n_items) == (100, 9)
    assert cut.watermarks() == {KEY: 95, (TOPIC, 1): 85}
    copy = cut.copy()
    cut.rise({KEY: 99})
    assert copy.next_offsets[KEY] == 7


@pytest.mark.parametrize("parts", [1, 3])
def test_a_cut_read_back_is_the_one_that_was_walked(tmp_path: Path, parts: int) -> None:
    """At every batch end, with late events and with items known by records alone."""
    log: list[Event] = []
    for number, one in enumerate(random_log(np.random.default_rng(3), 40, users=5)):
        log.append(one)
        if number % 6 == 5:
            log.append({"kind": "item", "item_id": f"new{number}", "text": "Lamp"})
    engine = tiny_engine()
    config = pipeline_config(engine, score=False, lateness_ms=HOUR_MS, max_batch_records=7)
    seen: list[Cut] = []
    source = memory_source(log, parts=parts)
    with opened(tmp_path / "a.db", engine, config, source=source) as pipeline:
        pipeline.run(on_progress=lambda _: seen.append(pipeline.ingest.cut()))
        for cut in seen:
            assert read_cut(pipeline.db, cut.next_offsets, HOUR_MS) == cut
    assert len(seen) > 5
    assert seen[-1].clock_ms == max(one.get("ts", START_MS) for one in log)


def test_rows_left_unanswered_are_read_back_when_they_do_not_fit_into_memory(
    tmp_path: Path,
) -> None:
    log = [event(f"u{k % 5}", f"i{k % 9}", START_MS + k * HOUR_MS) for k in range(60)]
    engine = tiny_engine()
    config = pipeline_config(engine)
    passed: list[int] = []
    source = memory_source(log)
    with opened(tmp_path / "a.db", engine, config, ticks="calls") as pipeline:
        pipeline._parts.ahead._most = 10
        pipeline.on_answered(lambda rows, *_: passed.extend(rows["off"].to_pylist()))
        for size in (7, 9, 20):
            pipeline.store(source.poll(size))
        assert pipeline.waiting() == {KEY: (0, 36)}
        pipeline.answer({KEY: 5})
        assert pipeline.waiting() == {KEY: (5, 36)}
        pipeline.answer({KEY: 30})
        pipeline.store(source.poll(100))
        pipeline.answer()
        assert pipeline.waiting() == {}
    assert passed == list(range(60))
