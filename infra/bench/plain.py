"""A service without a model, for latency to be measured against: everything of `freshet run` but the answer itself.

Records are stored by the same thread, delivered by the same agent with the same take window, waited for until they are
stored, and answered by a message of a slate's size that is acknowledged before the next batch. Nothing is looked up,
scored or ranked, and no scored position is written.
"""

from __future__ import annotations

import multiprocessing
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from infra.bench.worlds import settings
from infra.databases import creating
from infra.deployment.children import Child, Ended, Starter
from infra.service.assembling import assemble
from infra.service.health import Health
from infra.service.pumping import faust_pump
from infra.telemetry import PrometheusMetrics, configure_logs
from infra.wiring import pipeline_config
from storage.identities import Identities
from stream.clock import WallClock
from stream.formats.decoder import TopicDecoder
from stream.kafka.producer import Message, RecordProducer
from stream.kafka.sink import HEADERS
from stream.kafka.starting import open_source
from stream.pipeline import Pipeline
from stream.slates import Cause, Coverage, ScoredItem, Slate, encode_slate, recommendation_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from infra.deployment.children import Limits, Running
    from infra.fuse import Fuse
    from stream.kafka.config import KafkaConfig

    Key = tuple[str, int]

_MS = 1000.0
_MARK = 8_888_888_888
_ITEMS = 10


class PlainStarter(Starter):
    """Starts the service in a process of its own; command lines say nothing to it.

    Args:
        folder: where its output goes.
        db: its database.
        set_to: its settings.
    """

    def __init__(self, folder: Path, db: Path, set_to: Mapping[str, object]) -> None:
        super().__init__(folder, cold=True)
        self._log = folder / "plain.err"
        self._given = db, dict(set_to)

    def start(
        self,
        argv: Sequence[str],  # noqa: ARG002
        *,
        fuse: Fuse | None = None,  # noqa: ARG002
        limits: Limits | None = None,  # noqa: ARG002
    ) -> Running:
        """Start it."""
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_serve, args=(*self._given, self._log), daemon=True)
        process.start()
        return Child(process)

    def ended(self, code: int, wall_s: float) -> Ended:
        """Return how it ended."""
        return Ended(code, self._log.read_text(errors="replace"), None, wall_s)


class _PlainPipeline(Pipeline):
    """Its events wait for plain answers."""

    answers: PlainAnswers | None = None

    def waiting(self) -> dict[Key, tuple[int, int]]:
        return self.answers.waiting() if self.answers is not None else {}

    def answered(self) -> None:
        """Let storing go on: its events were answered."""
        self._tell()


class PlainAnswers:
    """Answers stored events with messages of one size.

    Args:
        pipeline: stores, and knows what is stored.
        kafka: where answers go.
    """

    def __init__(self, pipeline: _PlainPipeline, kafka: KafkaConfig) -> None:
        self._pipeline = pipeline
        self._topic = kafka.slates_topic
        self._source_topic = kafka.interactions_topic
        self._producer = RecordProducer(kafka)
        self._at = dict(pipeline.ingest.next_offsets)
        self._text = encode_slate(_any_slate(kafka.interactions_topic))

    def wait_stored(self, ends: Mapping[Key, int], timeout_s: float) -> bool:
        """Return whether the log is stored up to these exclusive offsets, waiting for it at most so long."""
        return self._pipeline.wait_stored(ends, timeout_s)

    def waiting(self) -> dict[Key, tuple[int, int]]:
        """Return answered and stored offset of every partition with events that are not answered."""
        stored = self._pipeline.ingest.next_offsets.items()
        return {
            key: (self._at.get(key, 0), end)
            for key, end in stored
            if key[0] == self._source_topic and self._at.get(key, 0) < end
        }

    def answered(self) -> dict[Key, int]:
        """Return the exclusive offset per partition below which everything is answered."""
        return dict(self._at)

    def answer(self, upto: Mapping[Key, int], *, shed: bool = False) -> None:  # noqa: ARG002
        """Send a message per event below these offsets; all are acknowledged at the end."""
        places = [
            (key[1], off) for key, end in upto.items() for off in range(self._at.get(key, 0), end)
        ]
        if places:
            self._producer.send([self._message(*place) for place in places])
        self._at |= upto
        self._pipeline.answered()

    def settle(self) -> None:
        """Do nothing: no position is written."""

    def _message(self, part: int, off: int) -> Message:
        place = b'"partition":%d,"offset":%d' % (part, off)
        value = self._text.replace(b'"partition":%d,"offset":%d' % (_MARK, _MARK), place)
        return Message(topic=self._topic, key=b"%d" % part, value=value, headers=HEADERS)


def _serve(db_path: Path, set_to: dict[str, object], log: Path) -> None:
    loaded = settings(set_to)
    kafka, live = loaded.settings.kafka, loaded.settings.live
    clock, metrics, health = WallClock(), PrometheusMetrics(), Health()
    with ExitStack() as stack:
        configure_logs(live.log_format, live.log_level, stream=stack.enter_context(log.open("w")))
        db = stack.enter_context(creating(db_path, loaded))
        decode = TopicDecoder(loaded.settings.formats, kafka.items_topic)
        source = open_source(db, kafka, decode, start="earliest", now=clock.now())
        stack.enter_context(closing(source))
        pipeline = _PlainPipeline(
            db=db,
            identities=Identities.load(db),
            engine=None,
            source=source,
            config=pipeline_config(loaded, None),
            clock=clock,
            ticks="calls",
        )

        pump = faust_pump(kafka, live, metrics)
        answers = pipeline.answers = PlainAnswers(pipeline, kafka)
        assemble(
            pipeline,
            source,
            live=live,
            clock=clock,
            metrics=metrics,
            resources=stack.pop_all(),
            pump=lambda _, health: pump(answers, health),
            health=health,
        ).run()


def _any_slate(topic: str) -> Slate:
    return Slate(
        id=recommendation_id(topic, 0, 0),
        user_id="user0000",
        at_ms=1_700_000_000_000,
        cause=Cause(
            topic=topic, partition=_MARK, offset=_MARK, event_id="e00000", ts=1_700_000_000_000
        ),
        items=tuple(ScoredItem(f"i{number:04d}", 1 / (number + 3)) for number in range(_ITEMS)),
        model_version="0123456789abcdef",
        coverage=Coverage(groups=4, covered_through_ms=1_700_000_000_000, age_s=1.5, recents=100),
        reason="personal",
        readout="line",
        popularity_cut_ms=1_700_000_000_000,
    )
