"""The pipeline as a whole: stops, refusals, restarts, requests, intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage import journal, models, positions
from storage.counters import counter_ref_ms
from storage.errors import FencedError
from storage.identities import Identities
from stream.clock import ManualClock
from stream.config import EventType
from stream.errors import ConfigError, DeadShareError, SinkError
from stream.events import Partition
from stream.pipeline import Pipeline
from stream.sinks.jsonl import JsonlSink, read_slates
from stream.sinks.memory import MemorySink
from stream.slates import SlateLines, recommendation_id, request_id
from stream.sources.memory import MemorySource
from tests.stream.support import (
    DAY_MS,
    HOUR_MS,
    NOW,
    START_MS,
    TOPIC,
    encode,
    memory_source,
    opened,
    outcome,
    pipeline_config,
    random_log,
    tiny_engine,
)

ENGINE = tiny_engine()
LOG = random_log(np.random.default_rng(4), 30, users=2, step_ms=6 * HOUR_MS)


@pytest.mark.parametrize("size", [5, 1000])
def test_too_many_bad_records_stop_the_run_at_the_one_too_many(tmp_path: Path, size: int) -> None:
    log: list[Any] = [*LOG[:10], *[b"{"] * 5, *LOG[10:]]
    config = pipeline_config(ENGINE, max_batch_records=size, max_dead_run=4)
    sink = MemorySink()
    with opened(
        tmp_path / "a.db", ENGINE, config, source=memory_source(log), sink=sink
    ) as pipeline:
        with pytest.raises(DeadShareError, match=r"4 records in a row are bad.*dlq list") as found:
            pipeline.run()
        assert (found.value.dead, found.value.records) == (4, 14)
        assert len(sink.slates) == 10
        assert pipeline.db.query("SELECT count(*) AS n FROM dead_letters")["n"].to_pylist() == [4]
    config = pipeline_config(ENGINE, max_dead_run=1000)
    with opened(
        tmp_path / "a.db", ENGINE, config, source=memory_source(log), sink=sink
    ) as pipeline:
        pipeline.run()
        assert len(outcome(pipeline, []).rows) == len(LOG)
        dead = pipeline.db.query("SELECT off FROM dead_letters ORDER BY off")["off"].to_pylist()
        assert dead == [10, 11, 12, 13, 14]
    assert len({slate.id for slate in sink.slates}) == len(sink.slates) == len(LOG)


@pytest.mark.parametrize(
    "changes",
    [
        {"lateness_ms": 5},
        {"max_jump_ms": 1},
        {"max_ahead_ms": 1},
        {"event_types": {"view": EventType(weight=2.0)}},
        {"unlisted": "neither"},
    ],
    ids=str,
)
def test_settings_that_decided_what_is_stored_cannot_change(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with opened(tmp_path / "a.db", ENGINE, pipeline_config(ENGINE)):
        pass
    with (
        pytest.raises(ConfigError, match=rf"was built with {next(iter(changes))} = "),
        opened(tmp_path / "a.db", ENGINE, pipeline_config(ENGINE, **changes)),
    ):
        pass


@pytest.mark.parametrize(
    ("engine", "changes", "message"),
    [
        ({}, {"segment_len": 8}, r"trained with refresh\.segment_len = 4"),
        ({}, {"visit_gap_ms": 0}, r"trained with stream\.visit_gap_ms = 1800000"),
        ({}, {"r_max": 17}, r"serving\.r_max 17 is longer than the 16"),
        ({}, {"r_max": 7}, r"serving\.r_max 7 is below"),
        ({"segment_len": 2}, {"segment_len": 4}, r"trained with refresh\.segment_len = 2"),
    ],
)
def test_a_model_that_cannot_serve_the_settings_is_refused(
    tmp_path: Path, engine: dict[str, int], changes: dict[str, int], message: str
) -> None:
    model = tiny_engine(**engine)
    with (
        pytest.raises(ConfigError, match=message),
        opened(tmp_path / "a.db", model, pipeline_config(model, **changes)),
    ):
        pass


def test_another_version_starts_without_tokens_and_makes_its_own(tmp_path: Path) -> None:
    other = tiny_engine(seed=1, version="other")
    config = pipeline_config(ENGINE, score=False)
    with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(LOG)) as pipeline:
        pipeline.run()
        pipeline.finish()
        first = outcome(pipeline, [])
        assert pipeline.recommend("u0").reason == "personal"
    with opened(tmp_path / "a.db", other, config) as pipeline:
        before = pipeline.recommend("u0")
        assert (before.model_version, before.coverage.groups) == ("other", 0)
        pipeline.finish()
        after = pipeline.recommend("u0")
        assert (after.model_version, after.reason) == ("other", "personal")
        assert {row.version for row in models.list_models(pipeline.db)} == {"tiny", "other"}
    with opened(tmp_path / "a.db", ENGINE, config) as pipeline:
        assert outcome(pipeline, []).tokens == first.tokens


def test_slates_carry_their_cause_and_repeatable_ids(tmp_path: Path) -> None:
    path = tmp_path / "slates.jsonl"
    sink = JsonlSink(path)
    config = pipeline_config(ENGINE, slate_log=7)
    with opened(
        tmp_path / "a.db", ENGINE, config, source=memory_source(LOG), sink=sink
    ) as pipeline:
        pipeline.run()
        asked = pipeline.recommend("u0", at_ms=START_MS + 99 * DAY_MS, top_k=3)
        logged = pipeline.db.query("SELECT slate_id FROM slates ORDER BY off")
    sink.close()
    slates = list(read_slates(path))
    for off, (slate, one) in enumerate(zip(slates, LOG, strict=True)):
        assert slate.cause is not None
        assert (slate.cause.offset, slate.cause.event_id) == (off, one["event_id"])
        assert slate.id == recommendation_id(TOPIC, 0, off)
        assert (slate.user_id, slate.at_ms) == (one["user_id"], one["ts"])
        assert slate.model_version == "tiny"
    assert logged["slate_id"].to_pylist() == [slate.id for slate in slates[-7:]]
    assert asked.id == request_id("u0", START_MS + 99 * DAY_MS)
    assert (asked.cause, len(asked.items)) == (None, 3)


def test_an_unknown_user_is_answered_and_stays_unknown(tmp_path: Path) -> None:
    with opened(
        tmp_path / "a.db", ENGINE, pipeline_config(ENGINE, score=False), source=memory_source(LOG)
    ) as pipeline:
        assert pipeline.recommend("early").items == ()
        pipeline.run()
        slate = pipeline.recommend("stranger")
        assert (slate.user_id, slate.reason, slate.readout) == ("stranger", "cold_user", "visit")
        assert len(slate.items) == 6
        assert pipeline.identities.find_user("stranger") is None


def test_without_a_model_popular_items_are_served_and_said_to_be(tmp_path: Path) -> None:
    sink = MemorySink()
    config = pipeline_config(top_k=3)
    with opened(tmp_path / "a.db", None, config, source=memory_source(LOG), sink=sink) as pipeline:
        pipeline.run()
        pipeline.finish()
        last = pipeline.recommend("u0")
        counts = pipeline.db.query(
            "SELECT item_id, sum(weight) AS n FROM rows_ms JOIN items USING (item_idx) "
            "WHERE ts_ms < ? GROUP BY item_id, item_idx ORDER BY n DESC, item_idx",
            [last.popularity_cut_ms],
        )
    assert {slate.reason for slate in sink.slates} == {"popular"}
    assert len(sink.slates) == len(LOG)
    assert (last.readout, last.model_version) == ("popular", "")
    assert [one.item_id for one in last.items] == counts["item_id"].to_pylist()[:3]


def test_intervals_between_ticks_touch_and_cover_the_log(tmp_path: Path) -> None:
    """The hook runs before a tick changes anything: what it sees is what production scored with."""
    calls: list[tuple[int, int, int | None, int]] = []
    config = pipeline_config(ENGINE, tick_interval_s=DAY_MS // 1000)
    source = memory_source(LOG)
    with opened(tmp_path / "a.db", ENGINE, config, source=source) as pipeline:
        log = Partition(TOPIC, 0)

        def note(first: Any, after: Any) -> None:
            calls.append((
                first.get(log, 0),
                after[log],
                pipeline.shared.now().cut_ms,
                len(journal.entries(pipeline.db, "popularity")),
            ))

        pipeline.run(on_interval=note)
        assert positions.scored_offsets(pipeline.db) == {(TOPIC, 0): len(LOG)}
    assert calls[0] == (0, 1, None, 0)
    assert [one[0] for one in calls[1:]] == [one[1] for one in calls[:-1]]
    assert calls[-1][1] == len(LOG)
    for first, after, cut, ticks in calls[1:]:
        # the first row of an interval comes after its tick, the last one crosses the next midnight
        newest = max(one["ts"] for one in LOG[:first])
        assert cut == newest - newest % DAY_MS
        inside = {one["ts"] // DAY_MS for one in LOG[first : after - 1]}
        assert inside <= {newest // DAY_MS}
        assert ticks == calls.index((first, after, cut, ticks))


def test_finishing_twice_changes_nothing(tmp_path: Path) -> None:
    config = pipeline_config(ENGINE, score=False, tick_interval_s=10**8)
    with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(LOG)) as pipeline:
        assert pipeline.finish() is None
        pipeline.run()
        first = pipeline.finish()
        assert first is not None
        assert first.segments >= 4
        tokens = outcome(pipeline, []).tokens
        second = pipeline.finish()
        assert second is not None
        assert second.segments == 0
        assert outcome(pipeline, []).tokens == tokens


def test_a_pipeline_without_a_source_answers_but_does_not_run(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db", ENGINE, pipeline_config(ENGINE)) as pipeline:
        with pytest.raises(ConfigError, match="no source"):
            pipeline.run()
        assert pipeline.recommend("u").reason == "cold_user"


def test_a_summary_counts_what_was_done(tmp_path: Path) -> None:
    log: list[Any] = [*LOG[:6], b"{", {"kind": "item", "item_id": "x"}, *LOG[6:]]
    seen = []
    config = pipeline_config(ENGINE, max_batch_records=8, min_dead_records=5)
    with opened(
        tmp_path / "a.db", ENGINE, config, source=memory_source(log), sink=MemorySink()
    ) as pipeline:
        summary = pipeline.run(on_progress=lambda s: seen.append(s.records))
        assert (summary.records, summary.interactions) == (len(log), len(LOG))
        assert (summary.dead, summary.slates) == (1, len(LOG))
        assert summary.ticks > 3
        assert summary.segments > 0
    assert seen == sorted(seen)
    assert seen[-1] == len(log)


def test_counters_have_their_reference_time_when_items_were_stored_first(tmp_path: Path) -> None:
    items = [{"kind": "item", "item_id": f"i{k}", "text": f"Lamp {k}"} for k in range(3)]
    config = pipeline_config(ENGINE)
    with opened(tmp_path / "a.db", ENGINE, config, source=memory_source(LOG)) as pipeline:
        records = [(Partition("items", 0), encode(one)) for one in items]
        pipeline.load(MemorySource(records, ended=True))
        assert counter_ref_ms(pipeline.db) is None
        pipeline.run()
        assert counter_ref_ms(pipeline.db) == LOG[0]["ts"] // DAY_MS * DAY_MS


def test_a_pipeline_that_was_taken_over_can_move_no_position(tmp_path: Path) -> None:
    """Two pipelines of one process, on one open database: the one that started last owns it."""
    config = pipeline_config(ENGINE, max_batch_records=10)
    sinks = [MemorySink(), MemorySink()]
    with opened(
        tmp_path / "a.db", ENGINE, config, source=memory_source(LOG), sink=sinks[0]
    ) as first:
        first.run(max_records=10)
        second = Pipeline(
            db=first.db,
            identities=Identities.load(first.db),
            engine=ENGINE,
            config=config,
            clock=ManualClock(NOW),
            source=memory_source(LOG),
            sink=sinks[1],
        )
        second.run(max_records=10)
        before = positions.next_offsets(first.db), positions.scored_offsets(first.db)
        ends = {(TOPIC, 0): 20}
        assert before == (ends, ends)
        stale = first.ingest.next_offsets
        with pytest.raises(FencedError, match="a later pipeline took epoch 2"):
            first.store(memory_source(LOG).poll(20))
        assert first.ingest.next_offsets == stale == {(TOPIC, 0): 10}
        assert (positions.next_offsets(first.db), positions.scored_offsets(first.db)) == before
        second.run()
        assert len(outcome(second, []).rows) == len(LOG)


def test_slates_that_a_sink_refused_are_written_by_the_next_answer(tmp_path: Path) -> None:
    class Refusing(MemorySink):
        refuse = True

        def write(self, slates: SlateLines) -> None:
            if self.refuse:
                self.refuse = False
                raise SinkError("the broker is away", retry_after_s=1.0)
            super().write(slates)

    sink, source = Refusing(), memory_source(LOG)
    with opened(
        tmp_path / "a.db", ENGINE, pipeline_config(ENGINE), source=source, sink=sink
    ) as pipeline:
        pipeline.resume()
        pipeline.store(source.poll(len(LOG)))
        with pytest.raises(SinkError):
            pipeline.answer()
        assert positions.scored_offsets(pipeline.db) == {}
        assert not pipeline.wait_answered(0.0)  # what is in hand is not durable
        pipeline.answer()
        assert pipeline.wait_answered(0.0)
        assert positions.scored_offsets(pipeline.db) == {(TOPIC, 0): len(LOG)}
    assert len({slate.id for slate in sink.slates}) == len(sink.slates) == len(LOG)
