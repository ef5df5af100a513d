"""A pipeline beside a real Kafka: what Faust delivers is answered when it is stored, and only then."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from time import monotonic

from storage.database import Database
from storage.identities import Identities
from stream.clock import WallClock
from stream.config import PipelineConfig
from stream.kafka.answering import Answerer
from stream.kafka.pump import Pump
from stream.kafka.sink import KafkaSink
from stream.kafka.starting import open_source
from stream.pipeline import Pipeline
from stream.slates import decode_slate
from tests.stream.kafka.logs import decoder, event, producing, send, settings
from tests.stream.kafka.support import read_topic

DEADLINE_S = 90.0


def test_undecided_and_aborted_events_get_no_slate_and_hold_no_other_partition_up(
    broker, make_topic, tmp_path
):
    events, slates = make_topic(partitions=2), make_topic()
    config = settings(broker, events, slates_topic=slates, group=events)
    clock = WallClock()
    with (
        producing(broker) as plain,
        producing(broker, transactional_id=events) as undecided,
        Database.open(tmp_path / "shop.duckdb", now=clock.now()) as db,
        closing(
            open_source(db, config, decoder(config), start="earliest", now=clock.now())
        ) as source,
        closing(KafkaSink(config)) as sink,
    ):
        undecided.begin_transaction()
        send(undecided, events, 0, [event("late", 1), event("late", 2)])
        pipeline = Pipeline(
            db=db,
            identities=Identities.load(db),
            engine=None,
            config=PipelineConfig(),
            clock=clock,
            source=source,
            sink=sink,
            ticks="calls",
        )
        pipeline.resume()
        with Storing(pipeline, source):
            answerer = Answerer(pipeline, topic=events, take_max=10, shed_above=0)
            asyncio.run(pumped(config, answerer, lambda: story(plain, undecided, events, slates)))
        assert not pipeline.waiting()
    users = {decode_slate(record.value).user_id for record in read_topic(broker.bootstrap, slates)}
    assert users == {"here", "after"}


def test_a_stop_is_bounded_although_a_sweep_hangs(broker, make_topic):
    inside, go_on = threading.Event(), threading.Event()

    class Hanging:
        def waiting(self):
            inside.set()
            go_on.wait(DEADLINE_S)
            return {}

        def settle(self):
            pass

    topic = make_topic()
    config = settings(broker, topic, group=topic)
    answerer = Answerer(Hanging(), topic=topic, take_max=10, shed_above=0)

    async def run():
        pump = Pump(config, answerer, take_max=10, take_within_s=0.005, fail=lambda _: None)
        await pump.start()
        assert await asyncio.to_thread(inside.wait, DEADLINE_S)
        assert not await pump.stop(5.0)
        go_on.set()

    asyncio.run(run())


def story(plain, undecided, events, slates):
    """Yield conditions in turn: one partition goes on while the other waits for a decision."""
    bootstrap = plain.config["bootstrap_servers"]
    send(plain, events, 1, [event("here", number) for number in range(3)])
    yield lambda: len(read_topic(bootstrap, slates)) == 3
    undecided.abort_transaction()
    send(plain, events, 0, [event("after", 9)])
    yield lambda: len(read_topic(bootstrap, slates)) == 4


async def pumped(config, answerer, steps):
    failures = []
    pump = Pump(config, answerer, take_max=10, take_within_s=0.005, fail=failures.append)
    await pump.start()

    def run():
        for condition in steps():
            deadline = monotonic() + DEADLINE_S
            while not condition():
                assert not failures, failures
                assert monotonic() < deadline

    await asyncio.to_thread(run)
    assert await pump.stop(30)
    assert not failures


class Storing:
    """Polls and stores in a thread for as long as the block runs."""

    def __init__(self, pipeline, source):
        self._pipeline, self._source = pipeline, source
        self._ended = threading.Event()
        self._failure = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()
        assert self._failure is None, self._failure

    def _run(self):
        try:
            while not self._ended.is_set():
                batch = self._source.poll(100, 0.05)
                if batch.ranges:
                    self._pipeline.store(batch)
        except Exception as err:  # noqa: BLE001 - the test ends with it
            self._failure = err
