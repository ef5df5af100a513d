"""Three threads over one pipeline: every scored event is answered or shed, and the journal gives the same slates again."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.engine import SegmentJob, TokenBlock
from storage import faults, journal, positions
from storage import tokens as token_store
from stream.clock import from_ms
from stream.diff import diff
from stream.events import Partition
from stream.journals import PastEntry, past_entries, read_journal, write_journal
from stream.pipeline import Pipeline
from stream.sinks.memory import MemorySink
from stream.slates import Slate
from stream.sources.memory import MemorySource
from tests.stream.support import (
    DAY_MS,
    HOUR_MS,
    START_MS,
    TOPIC,
    Event,
    encode,
    eventful,
    opened,
    part_of,
    pipeline_config,
    tiny_engine,
)

ENGINE = tiny_engine()
PARTS = 3
DEADLINE_S = 120.0
SETTINGS: dict[str, Any] = {"lateness_ms": HOUR_MS, "rotate_rows": 40, "max_users": 4}


def log_of(seed: int, n: int) -> list[tuple[Partition, bytes]]:
    """Events of some users over three partitions, with bad records and item records, in order of arrival."""
    out: list[tuple[Partition, bytes]] = []
    rng = np.random.default_rng(seed)
    for number, one in enumerate(eventful(rng, n)):
        one["user_id"] = f"u{rng.integers(7)}"
        out.append((Partition(TOPIC, part_of(one, PARTS)), encode(one)))
        if number % 9 == 4:
            out.append((Partition(TOPIC, number % PARTS), b"{"))
        if number % 11 == 7:
            item = f"i{number % 24}" if number % 2 else f"new{number}"
            record: Event = {"kind": "item", "item_id": item, "text": f"Lamp {number}"}
            record["available"] = number % 3 != 0
            out.append((Partition("items", 0), encode(record)))
    return out


class Flaky:
    """Compresses like the engine, but dies every third time."""

    def __init__(self) -> None:
        self.calls = 0

    def compress(self, jobs: Sequence[SegmentJob]) -> list[TokenBlock]:
        self.calls += 1
        if self.calls % 3 == 2:
            raise OSError("worker gone")
        return ENGINE.compress(jobs)


class Threads:
    """Threads that end together: the first failure stops the others and is raised."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.failed: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 shown by the test
                self.failed.append(error)
                self.stopped.set()

        self._threads.append(threading.Thread(target=guarded))
        self._threads[-1].start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(DEADLINE_S)
        if self.failed:
            raise self.failed[0]


class Live:
    """Stores, answers and ticks from three threads until everything is stored and answered."""

    def __init__(
        self, pipeline: Pipeline, log: list[tuple[Partition, bytes]], seed: int, shed: float
    ) -> None:
        self._pipeline = pipeline
        self._source = MemorySource(log, ended=True)
        self._stored = threading.Event()
        self._store_draw, self._draw = np.random.default_rng([seed, 0]), np.random.default_rng(seed)
        self._shed = shed
        self._threads = Threads()
        for work in (self._produce, self._score, self._refresh):
            self._threads.start(work)
        self._threads.join()

    def _produce(self) -> None:
        exhausted = False
        while not exhausted and not self._threads.stopped.is_set():
            batch = self._source.poll(int(self._store_draw.integers(1, 12)))
            exhausted = batch.exhausted
            if batch.ranges:
                self._pipeline.store(batch)
        self._stored.set()

    def _score(self) -> None:
        while not self._threads.stopped.is_set():
            done, waiting = self._stored.is_set(), self._pipeline.waiting()
            if done and not waiting:
                self._threads.stopped.set()
            elif done:
                self._pipeline.answer()
            else:
                self._some(waiting)

    def _some(self, waiting: dict[tuple[str, int], tuple[int, int]]) -> None:
        upto = {
            key: int(self._draw.integers(first, end)) + 1
            for key, (first, end) in waiting.items()
            if self._draw.random() < 0.7
        }
        if upto:
            self._pipeline.answer(upto, shed=bool(self._draw.random() < self._shed))
        else:
            self._pipeline.wait_stored({key: end + 1 for key, (_, end) in waiting.items()}, 0.01)

    def _refresh(self) -> None:
        now = START_MS
        while not self._threads.stopped.is_set():
            with suppress(OSError):
                self._pipeline.tick(from_ms(now))
            self._pipeline.maintain()
            now += HOUR_MS


def ids(slates: Sequence[Slate]) -> Counter[tuple[str, int, int]]:
    causes = [slate.cause for slate in slates]
    return Counter((one.topic, one.partition, one.offset) for one in causes if one is not None)


@pytest.mark.parametrize(("seed", "shed"), [(1, 0.0), (2, 0.5)])
def test_three_threads_answer_everything_and_their_journal_gives_the_same_slates(
    tmp_path: Path, seed: int, shed: float
) -> None:
    log, sink = log_of(seed, 150), MemorySink()
    config = pipeline_config(ENGINE, **SETTINGS)
    compressor = Flaky()
    heard: list[int] = []
    with opened(
        tmp_path / "live.db", ENGINE, config, sink=sink, compressor=compressor, ticks="calls"
    ) as pipeline:
        pipeline.on_answered(lambda rows, *_: heard.append(rows.num_rows))
        Live(pipeline, log, seed, shed)
        assert pipeline.waiting() == {}
        rows = pipeline.db.query("SELECT topic, part, off FROM rows_all WHERE scores").to_pylist()
        total = pipeline.db.query("SELECT count(*) AS n FROM rows_all")["n"][0].as_py()
        sheds = journal.entries(pipeline.db, "shed")
        entries = list(past_entries(pipeline.db))
        made = token_store.digest(pipeline.db, "tiny")
        write_journal(entries, tmp_path / "journal.jsonl")
    answered = ids(sink.slates)
    assert max(answered.values()) == 1
    left = {(r["topic"], r["part"], r["off"]) for r in rows} - answered.keys()
    assert len(left) == sum(entry.detail["count"] for entry in sheds)
    for topic, part, off in left:
        assert any(
            e.ref == f"{topic}/{part}" and e.detail["from"] <= off < e.detail["to"] for e in sheds
        )
    assert (len(left) > 0) == (shed > 0)
    assert sum(heard) == total
    assert compressor.calls > 3
    assert sum(e.kind == "group_visible" for e in entries) > 3
    assert any(slate.coverage.groups for slate in sink.slates)

    again = read_journal(tmp_path / "journal.jsonl")
    assert again == entries
    slates, tokens = rerun(tmp_path / "again.db", log, again)
    report = diff(sink.slates, slates)
    assert report.equal, (report.counts, report.examples[:3])
    assert report.compared == len(sink.slates)
    assert tokens == made


def rerun(
    path: Path, log: list[tuple[Partition, bytes]], entries: Sequence[PastEntry], size: int = 17
) -> tuple[list[Slate], str]:
    """Replay a log, one partition after the other, by the journal of another run."""
    order = sorted(range(len(log)), key=lambda i: (log[i][0].part // 2, i))
    source = MemorySource([log[i] for i in order], ended=True)
    sink = MemorySink()
    config = pipeline_config(ENGINE, **SETTINGS, max_batch_records=size)
    with opened(path, ENGINE, config, source=source, sink=sink, ticks=entries) as pipeline:
        pipeline.run()
        assert pipeline.waiting() == {}
        return sink.slates, token_store.digest(pipeline.db, "tiny")


@pytest.mark.parametrize("settle_ms", [0, 60_000])
def test_a_live_run_that_dies_goes_on_with_the_entries_that_did_not_apply_yet(
    tmp_path: Path, settle_ms: int
) -> None:
    """Stored and ticked, killed before and after answers: one journal, and each event's slate is the same."""
    log = log_of(5, 120)
    config = pipeline_config(ENGINE, **SETTINGS, settle_ms=settle_ms)
    slates: list[Slate] = []
    source, now = MemorySource(log, ended=True), START_MS + DAY_MS
    points = ["scored.commit", "tick.journal", "sink.written", "tick.applied", "nowhere"]
    for point in points:
        sink = MemorySink()
        with (
            suppress(KeyboardInterrupt),
            opened(
                tmp_path / "a.db", ENGINE, config, source=source, sink=sink, ticks="calls"
            ) as pipeline,
        ):
            pipeline.resume()
            while True:
                for _ in range(3):
                    batch = source.poll(9)
                    if batch.ranges:
                        pipeline.store(batch)
                    pipeline.tick(from_ms(now))
                    now += HOUR_MS
                _arm(point)
                pipeline.answer({(TOPIC, 0): pipeline.ingest.next_offsets.get((TOPIC, 0), 0)})
                pipeline.tick(from_ms(now))
                _arm(None)
                pipeline.maintain()
                if batch.exhausted:
                    break
            pipeline.answer()
            pipeline.settle()
        _arm(None)
        slates += sink.slates
    with opened(tmp_path / "a.db", ENGINE, config, ticks="calls") as pipeline:
        entries = list(past_entries(pipeline.db))
        assert pipeline.waiting() == {}
    again, _ = rerun(tmp_path / "b.db", log, entries)
    report = diff(slates, again)
    assert report.equal, (report.counts, report.examples[:3])
    assert report.repeats > 0
    assert report.compared == len(again)


def test_scored_positions_may_stay_behind_answers_but_not_behind_what_was_shed(
    tmp_path: Path,
) -> None:
    """The clock stands still: what is answered after the first time settles when it is asked to, or with a shed."""
    config, part = pipeline_config(ENGINE, **SETTINGS, settle_ms=200), Partition(TOPIC, 0)
    log = [(part, encode(one)) for one in eventful(np.random.default_rng(6), 40)]
    source, sink = MemorySource(log, ended=True), MemorySink()
    with opened(tmp_path / "x.db", ENGINE, config, sink=sink, ticks="calls") as pipeline:

        def answered(*, shed: bool = False) -> tuple[int, int]:
            pipeline.store(source.poll(10))
            pipeline.answer(shed=shed)
            assert pipeline.waiting() == {}
            return settled(), pipeline.ingest.next_offsets[TOPIC, 0]

        def settled() -> int:
            return positions.scored_offsets(pipeline.db).get((TOPIC, 0), 0)

        assert answered() == (10, 10)
        assert answered() == (10, 20)
        pipeline.settle()
        assert settled() == 20
        assert answered() == (20, 30)
        assert answered(shed=True) == (40, 40)
        assert journal.entries(pipeline.db, "shed")
    assert max(ids(sink.slates).values()) == 1


def test_events_whose_slates_are_not_durable_yet_count_as_unanswered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, part = pipeline_config(ENGINE, **SETTINGS), Partition(TOPIC, 0)
    log = [(part, encode(one)) for one in eventful(np.random.default_rng(6), 10)]
    source, sink = MemorySource(log, ended=True), MemorySink()
    seen: list[int] = []
    with opened(tmp_path / "x.db", ENGINE, config, sink=sink, ticks="calls") as pipeline:
        monkeypatch.setattr(sink, "write", lambda _slates: seen.append(pipeline.unanswered()))
        stored = pipeline.store(source.poll(10)).counts.interactions
        assert pipeline.unanswered() == 10
        pipeline.answer()
        assert pipeline.unanswered() == 0
    assert seen == [stored]


def _arm(point: str | None) -> None:
    def die(reached: str, _spoil: faults.Spoil | None) -> None:
        if reached == point:
            raise KeyboardInterrupt

    faults.install(None if point is None else die)
