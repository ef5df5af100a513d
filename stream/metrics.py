"""What a running service measures: every metric once, with its type, unit, labels and meaning.

Code names a metric by its constant here, so one that is not in the table cannot be counted. Nothing is ever
labeled by user or item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["counter", "gauge", "histogram"]
Unit = Literal["", "records", "events", "users", "segments", "seconds", "bytes"]

_QUICK_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_AGES_S = (60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 259_200.0, 604_800.0, 2_592_000.0)
_SIZES = (1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 50_000.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: as it is exported.
        kind: a counter only grows, a gauge is a present value, a histogram counts values by size.
        unit: of its values.
        meaning: one sentence.
        labels: by which it is split.
        buckets: upper bounds of a histogram.
    """

    name: str
    kind: Kind
    unit: Unit
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


class Metrics(Protocol):
    """Where figures go."""

    def add(self, metric: Metric, amount: float = 1, /, **labels: str) -> None:
        """Let a counter grow."""
        ...

    def set(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Give a gauge its present value."""
        ...

    def observe(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Count one value in a histogram."""
        ...


class NoMetrics:
    """Counts nothing: for a replay and for questions."""

    def add(self, metric: Metric, amount: float = 1, /, **labels: str) -> None:
        """Do nothing."""

    def set(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Do nothing."""

    def observe(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Do nothing."""


_PARTITION = ("topic", "partition")

BUILD_INFO = Metric(
    "freshet_build_info", "gauge", "", "Always 1; its labels say what runs.", ("version", "model")
)
INGEST_RECORDS = Metric(
    "freshet_ingest_records_total",
    "counter",
    "records",
    "Records stored, by what they became: interaction, item or dead (a dead letter).",
    ("outcome",),
)
INGEST_MARKED = Metric(
    "freshet_ingest_marked_total",
    "counter",
    "events",
    "Stored interactions with a verdict: late, duplicate or displaced.",
    ("mark",),
)
INGEST_BATCH_SECONDS = Metric(
    "freshet_ingest_batch_seconds",
    "histogram",
    "seconds",
    "Time to store one polled batch, its transaction included.",
    (),
    _QUICK_S,
)
INGEST_BATCH_RECORDS = Metric(
    "freshet_ingest_batch_rows", "histogram", "records", "Records of one batch.", (), _SIZES
)
POSITION = Metric(
    "freshet_consumer_position", "gauge", "", "Next offset to store.", _PARTITION
)  # fmt: skip
LAG_RECORDS = Metric(
    "freshet_consumer_lag_records",
    "gauge",
    "records",
    "Offsets of the log that are not stored yet, where the source knows.",
    _PARTITION,
)
LAG_SECONDS = Metric(
    "freshet_consumer_lag_seconds",
    "gauge",
    "seconds",
    "Age of the newest event time stored; grows on an idle partition too.",
    _PARTITION,
)
UNANSWERED = Metric(
    "freshet_unanswered_records",
    "gauge",
    "records",
    "Offsets that are stored and not answered yet.",
    _PARTITION,
)
HOLDING = Metric(
    "freshet_ingest_holding",
    "gauge",
    "",
    "1 while no records are taken from the log because too many wait for an answer, else 0.",
)
SLATES = Metric("freshet_slates_total", "counter", "", "Slates written, by reason.", ("reason",))
SHED = Metric(
    "freshet_shed_events_total",
    "counter",
    "events",
    "Scored-type events that got no slate because a newer one of the user did.",
    ("reason",),
)
SCORE_SECONDS = Metric(
    "freshet_score_seconds",
    "histogram",
    "seconds",
    "Time of one answered batch, by stage.",
    ("stage",),
    _QUICK_S,
)
SLATE_SECONDS = Metric(
    "freshet_slate_seconds_total",
    "counter",
    "seconds",
    "Time from record to slate, added up over slates, by part: poll (until a poll returned the record), store (its"
    " transaction), wait (until its answer began), apply (journal entries, and its turn), score, sink; over"
    " freshet_slates_total it is a mean.",
    ("part",),
)
SCORE_EVENTS = Metric(
    "freshet_score_batch_events", "histogram", "events", "Events of one answer.", (), _SIZES
)
EVENT_TO_SLATE = Metric(
    "freshet_event_to_recommendation_seconds",
    "histogram",
    "seconds",
    "Freshness: from the moment the log took an event (else the moment it was stored) to its written slate.",
    (),
    (*_QUICK_S, 30.0, 60.0, 300.0),
)
TOKEN_AGE = Metric(
    "freshet_token_age_seconds",
    "histogram",
    "seconds",
    "Event time from the newest interaction inside a slate's tokens to the slate.",
    (),
    _AGES_S,
)
LIVE_HITS = Metric(
    "freshet_live_hits_total",
    "counter",
    "events",
    "Whether a user's next interaction was in the user's last slate (hit) or not (miss), by that slate's reason.",
    ("reason", "outcome"),
)
SINK_RETRIES = Metric(
    "freshet_sink_retries_total", "counter", "", "Times slates had to be written again."
)
TICK_SECONDS = Metric(
    "freshet_tick_seconds", "histogram", "seconds", "Time of a tick.", (), _SLOW_S
)
COMPRESSED_USERS = Metric(
    "freshet_compress_users_total",
    "counter",
    "users",
    "Users whose due segments were compressed (ok), or not (error).",
    ("outcome",),
)
COMPRESSED_SEGMENTS = Metric(
    "freshet_compress_segments_total", "counter", "segments", "Segments compressed and stored."
)
COMPRESS_SECONDS = Metric(
    "freshet_compress_seconds",
    "histogram",
    "seconds",
    "Time of one batch of segments in the process that compresses.",
    (),
    _SLOW_S,
)
WORKER_REPLACED = Metric(
    "freshet_worker_replaced_total",
    "counter",
    "",
    "Times the process that compresses was replaced: it died, or it overran its deadline.",
    ("reason",),
)
SCHEDULER_RUNS = Metric(
    "freshet_scheduler_runs_total",
    "counter",
    "",
    "Turns of a job: ok, error, missed, or overlap (the one before was still running).",
    ("job", "outcome"),
)
LOOP_AGE = Metric(
    "freshet_loop_age_seconds", "gauge", "seconds", "Time since a loop's last turn.", ("loop",)
)
DATABASE_BYTES = Metric(
    "freshet_database_bytes",
    "gauge",
    "bytes",
    "Size of the database: its file, and the write-ahead log (wal) beside it.",
    ("part",),
)
CACHED_USERS = Metric("freshet_cached_users", "gauge", "users", "User states in memory.")
CACHED_BYTES = Metric(
    "freshet_cached_bytes", "gauge", "bytes", "Memory of those states, keys and values included."
)
CACHE_LOOKUPS = Metric(
    "freshet_cache_lookups_total",
    "counter",
    "users",
    "User states asked for: found in memory (hit), or loaded (miss).",
    ("outcome",),
)

METRICS: tuple[Metric, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
"""The table, in the order of this file."""
