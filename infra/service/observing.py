"""Figures of a running service: counted as batches are stored and answered, sampled when somebody asks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from storage.wal import wal_bytes
from stream.clock import to_ms
from stream.metrics import (
    CACHE_LOOKUPS,
    CACHED_BYTES,
    CACHED_USERS,
    DATABASE_BYTES,
    EVENT_TO_SLATE,
    LAG_RECORDS,
    LAG_SECONDS,
    LIVE_HITS,
    LOOP_AGE,
    POSITION,
    SHED,
    SLATES,
    TOKEN_AGE,
    UNANSWERED,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from infra.service.health import Health
    from storage.journal import JournalEntry
    from stream.clock import Clock
    from stream.hits import LiveHits
    from stream.metrics import Metrics
    from stream.pipeline import Pipeline
    from stream.slates import Slate
    from stream.sources import Source

_MS = 1000.0


class Observer:
    """Listens to a pipeline and counts.

    Args:
        metrics: where figures go.
        clock: when a slate was written.
        hits: compares slates with what users did next.
    """

    def __init__(self, metrics: Metrics, clock: Clock, hits: LiveHits) -> None:
        self._metrics = metrics
        self._clock = clock
        self._hits = hits
        self.commits = 0

    def stored(self, rows: pa.Table) -> None:
        """Count stored rows that follow a slate."""
        self.commits += 1
        for hit in self._hits.stored(rows):
            self._metrics.add(LIVE_HITS, reason=hit.reason, outcome=hit.outcome)

    def answered(
        self, rows: pa.Table, slates: Sequence[Slate], sheds: Sequence[JournalEntry]
    ) -> None:
        """Count slates by reason, their freshness and the age of their tokens, and what was shed."""
        self.commits += 1
        now_ms = to_ms(self._clock.now())
        arrived = _arrivals(rows) if slates else {}
        for slate in slates:
            self._metrics.add(SLATES, reason=slate.reason)
            if slate.coverage.age_s is not None:
                self._metrics.observe(TOKEN_AGE, slate.coverage.age_s)
            cause = slate.cause
            at = (
                None if cause is None else arrived.get((cause.topic, cause.partition, cause.offset))
            )
            if at is not None:
                self._metrics.observe(EVENT_TO_SLATE, max(0, now_ms - at) / _MS)
        for shed in sheds:
            self._metrics.add(SHED, shed.detail["count"], reason=shed.detail["reason"])
        self._hits.answered(slates)


def _arrivals(rows: pa.Table) -> dict[tuple[str, int, int], int]:
    """Epoch ms by position: when the log took an event, else when it was stored."""
    names = ("topic", "part", "off", "append_ts_ms", "ingested_at_ms")
    columns = (rows[name].to_pylist() for name in names)
    return {
        (topic, part, off): stored if appended is None else appended
        for topic, part, off, appended, stored in zip(*columns, strict=True)
    }


class Sampler:
    """Present values, read without touching the database's tables.

    Args:
        pipeline: whose positions, caches and file are looked at.
        source: says how far the log goes, where it knows.
        metrics: where gauges are set.
        clock: the present time.
        health: how old the loops' turns are.
    """

    def __init__(
        self, pipeline: Pipeline, source: Source, metrics: Metrics, clock: Clock, health: Health
    ) -> None:
        self._pipeline = pipeline
        self._source = source
        self._metrics = metrics
        self._clock = clock
        self._health = health
        self._lock = threading.Lock()
        self._lookups = {"hit": 0, "miss": 0}

    def sample(self) -> None:
        """Set every gauge to its present value."""
        with self._lock:
            self._positions()
            self._sizes()
            self._cache()
            for loop, age in self._health.ages().items():
                self._metrics.set(LOOP_AGE, age, loop=loop)

    def status(self) -> dict[str, Any]:
        """Return positions, loops and caches as plain data."""
        waiting = self._pipeline.waiting()
        ends = dict(self._pipeline.ingest.next_offsets)
        cache = self._cache_use()
        return {
            "at": self._clock.now(),
            "partitions": [
                {
                    "topic": topic,
                    "partition": part,
                    "stored": end,
                    "answered": waiting.get((topic, part), (end, end))[0],
                }
                for (topic, part), end in sorted(ends.items())
            ],
            "loops": self._health.ages(),
            "cache": cache,
            "not_alive": self._health.not_alive(),
            "not_ready": self._health.not_ready(),
        }

    def _positions(self) -> None:
        now_ms = to_ms(self._clock.now())
        newest = dict(self._pipeline.ingest.max_event_ms)
        waiting = self._pipeline.waiting()
        for (topic, part), end in dict(self._pipeline.ingest.next_offsets).items():
            where = {"topic": topic, "partition": str(part)}
            scored, stored = waiting.get((topic, part), (end, end))
            self._metrics.set(POSITION, end, **where)
            self._metrics.set(UNANSWERED, stored - scored, **where)
            if (topic, part) in newest:
                self._metrics.set(LAG_SECONDS, (now_ms - newest[topic, part]) / _MS, **where)

        for partition, progress in getattr(self._source, "progress", {}).items():
            if progress.lag is not None:
                where = {"topic": partition.topic, "partition": str(partition.part)}
                self._metrics.set(LAG_RECORDS, progress.lag, **where)

    def _sizes(self) -> None:
        path = self._pipeline.db.path
        self._metrics.set(DATABASE_BYTES, path.stat().st_size, part="file")
        self._metrics.set(DATABASE_BYTES, wal_bytes(path), part="wal")

    def _cache(self) -> None:
        use = self._cache_use()
        if use is None:
            return
        self._metrics.set(CACHED_USERS, use.users)
        self._metrics.set(CACHED_BYTES, use.bytes)
        for outcome, count in (("hit", use.hits), ("miss", use.misses)):
            self._metrics.add(CACHE_LOOKUPS, count - self._lookups[outcome], outcome=outcome)
            self._lookups[outcome] = count

    def _cache_use(self) -> Any:  # noqa: ANN401 - CacheUse, where there is a cache
        report = getattr(self._pipeline.scorer, "cache_use", None)
        return None if report is None else report()
