"""Events stored from a broker per processor second, over a bare poll loop of the same client that only counts.

All sides read the same topic, in turn, in this process: its processor time counts every thread, those of the
client's network and of DuckDB too.
"""

from __future__ import annotations

from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from time import process_time, thread_time
from typing import TYPE_CHECKING, Any

from infra.bench.breakdown import by_module
from infra.bench.bus import PARTITIONS, Ends, broker_of, events_of, fill, new_topics
from infra.bench.result import Findings, Row, at_least, compared, exactly, rated
from infra.bench.timing import cpu, interleave, ratio
from infra.bench.worlds import generated, settings
from infra.databases import creating
from infra.torture.live.readback import librdkafka
from infra.wiring import pipeline_config
from storage import faults
from storage.identities import Identities
from stream.clock import WallClock
from stream.formats.decoder import TopicDecoder
from stream.kafka.bare import BareReader
from stream.kafka.starting import open_source
from stream.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from infra.bench.room import Room
    from infra.bench.timing import Work
    from stream.kafka.config import KafkaConfig
    from stream.sources.records import Decode, Records

LIMIT, GOAL = 0.45, 0.6
_TIMEOUT_S = 0.1
_MS = 1000.0
_FRESHET, _BARE, _NATIVE = "freshet, stored in DuckDB", "bare kafka-python", "bare confluent-kafka"
_SHOWN = 0.01


@dataclass(slots=True)
class _Stages:
    """Processor seconds of the storing thread by stage, and of the whole process."""

    seconds: dict[str, float] = field(default_factory=dict)
    _at: float = 0.0

    def begin(self) -> None:
        self._at = thread_time()

    def end(self, stage: str) -> None:
        now = thread_time()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._at
        self._at = now


class _Stored:
    """freshet's way from a topic into a new database: what the thread of `freshet run` that stores does."""

    def __init__(self, config: KafkaConfig, path: Path, *, max_records: int) -> None:
        self._max_records = max_records
        self._stack = ExitStack()
        loaded = settings()
        db = self._stack.enter_context(creating(path, loaded))
        self.stages = _Stages()
        decode = self._timed(TopicDecoder(loaded.settings.formats, config.items_topic))
        clock = WallClock()
        self._source = open_source(db, config, decode, start="earliest", now=clock.now())
        self._stack.enter_context(closing(self._source))
        self.pipeline = Pipeline(
            db=db,
            identities=Identities.load(db),
            engine=None,
            source=self._source,
            config=pipeline_config(loaded, None, score=False),
            clock=clock,
            ticks="calls",
        )
        self.pipeline.resume()

    def run(self, ends: Ends) -> None:
        """Store everything up to the ends."""
        wanted, stages = sum(ends.values()), self.stages
        while self.pipeline.summary.records < wanted:
            stages.begin()
            batch = self._source.poll(self._max_records, _TIMEOUT_S)
            stages.end("poll: records from the client, batch put together")
            if not batch.ranges:
                continue
            self.pipeline.store(batch)
            stages.end("commit")
            self._source.commit({key: after for key, (_, after) in batch.ranges.items()})
            stages.end("positions told to the group")

    def close(self) -> None:
        self._stack.close()

    def _timed(self, decode: Decode) -> Decode:
        def timed(*columns: Any) -> Records:  # noqa: ANN401 - as they come
            self.stages.end("poll: records from the client, batch put together")
            found = decode(*columns)
            self.stages.end("decode: bytes to columns")
            return found

        return timed

    @contextmanager
    def staged(self) -> Iterator[_Stages]:
        """Split the time of a transaction at its named points."""
        names = {
            "ingest.rows": "verdicts, ids, rows into the transaction",
            "ingest.commit": "dead letters and positions into the transaction",
        }

        def hook(point: str, _: object) -> None:
            if point in names:
                self.stages.end(names[point])

        faults.install(hook)
        try:
            yield self.stages
        finally:
            faults.install(None)


def run(room: Room) -> Findings:
    """Fill a topic, then read it in turn: stored, counted by the same client, counted by librdkafka."""
    count, users = room.size(300_000, 3_000), room.size(20_000, 50)
    repetitions = room.size(6, 2)
    with broker_of(room) as bootstrap:
        world = generated(room.folder, users=users, events=count, items=5_000, days=60)
        events = events_of(world.log)
        config = new_topics(bootstrap)
        room.note("filling the topic")
        ends = fill(config, events)
        length = sum(len(event.value) for event in events) / len(events)
        del events
        max_records = settings().settings.stream.batch_records(scoring=True)
        sides = _Sides(room, config, ends, max_records)
        room.note("reading in turn")
        spent = interleave(
            {_FRESHET: sides.freshet, _BARE: sides.bare, _NATIVE: sides.native},
            repetitions=repetitions,
        )
        rows, stored = sides.breakdown(count)
        sides.close()
    share = ratio(cpu(spent[_BARE]), cpu(spent[_FRESHET]))
    native = ratio(cpu(spent[_NATIVE]), cpu(spent[_FRESHET]))
    units = [float(count)] * repetitions
    part = "events per processor second"
    return Findings(
        settings={
            "events": count,
            "bytes per event": round(length),
            "users": users,
            "partitions": PARTITIONS,
            "records per poll at most": max_records,
            "repetitions": repetitions,
        },
        rows=[
            *(rated(part, name, found, units) for name, found in spent.items()),
            compared("share", "freshet over bare kafka-python", share, "share"),
            compared("share", "freshet over bare confluent-kafka", native, "share"),
            *rows,
        ],
        gates=[
            at_least(
                "events stored per processor second, share of a bare kafka-python loop",
                share.value,
                LIMIT,
                goal=f">= {GOAL:g}",
            ),
            exactly("events stored of those in the topic", stored, count),
        ],
        remarks=[
            "Storing means decoded, judged, and committed to DuckDB with its position; the bare loop has the same"
            " client with the same arguments and touches no record. librdkafka checks CRCs too.",
            "Stages are processor time of the storing thread; what the client's network thread takes is the rest"
            " of the process. Modules are a profile: a map, not a measurement.",
        ],
    )


class _Sides:
    """What reads the topic, each prepared anew for every turn."""

    def __init__(self, room: Room, config: KafkaConfig, ends: Ends, max_records: int) -> None:
        self._room = room
        self._config = config
        self._ends = ends
        self._max_records = max_records
        self._open = ExitStack()
        self._turn = 0

    def freshet(self) -> Work:
        """Store everything in a new database."""
        stored = self._stored()
        return lambda: stored.run(self._ends)

    def bare(self) -> Work:
        """Count everything with the client that freshet uses."""
        self.close()
        reader = self._open.enter_context(BareReader(self._config, self._ends))
        return lambda: reader.count(max_records=self._max_records, timeout_s=_TIMEOUT_S)

    def native(self) -> Work:
        """Count everything with librdkafka."""
        self.close()
        kafka = librdkafka()
        consumer = self._open.enter_context(
            closing(
                kafka.Consumer({
                    "bootstrap.servers": self._config.bootstrap_servers,
                    "group.id": f"{self._config.group}-native",
                    "isolation.level": "read_committed",
                    "enable.auto.commit": False,
                    "auto.offset.reset": "error",
                    "check.crcs": True,
                })
            )
        )
        consumer.assign([kafka.TopicPartition(topic, part, 0) for topic, part in self._ends])
        wanted = sum(self._ends.values())

        def count() -> None:
            found = 0
            while found < wanted:
                found += len(consumer.consume(self._max_records, timeout=_TIMEOUT_S))

        return count

    def breakdown(self, count: int) -> tuple[list[Row], int]:
        """Store twice more, by stage and by module; return the rows and how many interactions are stored."""
        stored = self._stored()
        with stored.staged() as stages:
            before = process_time()
            stored.run(self._ends)
            whole = process_time() - before
        seconds = dict(stages.seconds)
        seconds["the client's other threads"] = whole - sum(seconds.values())
        part = "microseconds per event stored, by stage"
        rows = [
            Row(part=part, what=name, value=1e6 * taken / count, unit="us")
            for name, taken in seconds.items()
        ]
        rows.append(Row(part=part, what="all of it", value=1e6 * whole / count, unit="us"))
        found = stored.pipeline.summary.interactions
        profiled = self._stored()
        shares = by_module(lambda: profiled.run(self._ends))
        rows += [
            Row(part="where the storing thread's time goes", what=name, value=share, unit="share")
            for name, share in shares.items()
            if share >= _SHOWN
        ]
        return rows, found

    def close(self) -> None:
        """Close what the last turn left open."""
        self._open.close()
        self._open = ExitStack()

    def _stored(self) -> _Stored:
        self.close()
        self._turn += 1
        path = self._room.folder / f"ingest-{self._turn}.duckdb"
        stored = _Stored(self._config, path, max_records=self._max_records)
        self._open.callback(stored.close)
        return stored
