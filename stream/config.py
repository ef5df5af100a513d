"""Settings of the streaming layer: plain frozen records, convertible from TOML by msgspec."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["history", "scores", "both", "neither"]
FileFormat = Literal["auto", "parquet", "jsonl", "csv"]
RecordKind = Literal["interaction", "item"]
TimeUnit = Literal["s", "ms", "us", "ns"]
LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]
Encoding = Literal["auto", "json", "msgpack", "cloudevents", "confluent"]

_MINUTE_MS = 60_000
_DAY_MS = 86_400_000
_NOT_NEGATIVE = ("lateness_ms", "max_ahead_ms", "max_jump_ms", "visit_gap_ms", "max_batch_records")
_AT_LEAST_ONE = (
    "poll_ms", "take_max", "tick_interval_s", "maintain_interval_s", "worker_deadline_s", "stall_s", "drain_s",
)  # fmt: skip
_BATCH_RECORDS = 10_000
_BULK_RECORDS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EventType:
    """What interactions of one event type do.

    Attributes:
        role: "history" enters the user's history, "scores" triggers a slate, "both", or "neither"
            (stored and shown only).
        weight: what one such interaction adds to counters and popularity.
    """

    role: Role = "both"
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse weights that no sum can carry."""
        if not math.isfinite(self.weight) or self.weight < 0:
            raise ValueError(f"weight must be a finite number >= 0, not {self.weight}")

    @property
    def in_history(self) -> bool:
        """Whether such interactions enter the history."""
        return self.role in {"history", "both"}

    @property
    def scores(self) -> bool:
        """Whether such interactions trigger a slate."""
        return self.role in {"scores", "both"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """How arriving events are judged.

    A negative `value` is a return: stored and shown, never part of the history, the counters or
    popularity, and never scored, whatever its type's role.

    Attributes:
        event_types: role and weight per event type.
        unlisted: what an event type missing from `event_types` does: a role (weight 1), or
            "reject" to make it a dead letter.
        lateness_ms: how far behind the newest event time of its partition an event may arrive and
            still take its place by event time.
        max_ahead_ms: an event further ahead of its record's append time is future-dated.
        max_jump_ms: the same for logs without append times, against the watermark.
        visit_gap_ms: interactions without a session id closer than this are one visit;
            0 means the same event time.
        max_dead_share: a run stops when more than this share of the last `dead_window` records is bad.
        dead_window: records over which the share is taken.
        max_dead_run: a run stops when this many records in a row are bad.
        min_dead_records: a log that ends with fewer than `dead_window` records is judged by its whole
            share, from this many bad records on.
        max_batch_records: records per poll, so per transaction; 0 means 10,000 where slates are
            written and 50,000 where events are only stored.
        seen_bytes: memory of the filter that knows which event ids were stored, bytes; 4 per event.
    """

    event_types: dict[str, EventType] = field(default_factory=dict)
    unlisted: Literal["history", "scores", "both", "neither", "reject"] = "both"
    lateness_ms: int = 10 * _MINUTE_MS
    max_ahead_ms: int = 5 * _MINUTE_MS
    max_jump_ms: int = 60 * _DAY_MS
    visit_gap_ms: int = 30 * _MINUTE_MS
    max_dead_share: float = 0.2
    dead_window: int = 10_000
    max_dead_run: int = 1_000
    min_dead_records: int = 100
    max_batch_records: int = 0
    seen_bytes: int = 96 << 20

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, not {getattr(self, name)}")
        if not 0 <= self.max_dead_share <= 1:
            raise ValueError(f"max_dead_share must be between 0 and 1, not {self.max_dead_share}")
        for name in ("dead_window", "max_dead_run", "min_dead_records", "seen_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, not {getattr(self, name)}")

    def batch_records(self, *, scoring: bool) -> int:
        """Return how many records one poll takes: a crash repeats the slates of at most one batch."""
        return self.max_batch_records or (_BATCH_RECORDS if scoring else _BULK_RECORDS)

    def event_type(self, name: str) -> EventType | None:
        """Return what events of type `name` do; None when they are to be rejected."""
        found = self.event_types.get(name)
        if found is not None:
            return found
        return None if self.unlisted == "reject" else EventType(role=self.unlisted)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileConfig:
    """How a file becomes a log.

    Several files are one log of one partition, read one after another in sorted path order: name
    them by time. A file may be added at the end of that order, never before one already read.

    Attributes:
        columns: canonical field -> column (JSON key) of the file, for fields named differently.
            "@row" for `seq` takes the record's own offset. `text` of items may name several
            columns joined by "+".
        kind: what the records are; JSON lines may override it per line with a "kind" key.
        format: "auto" goes by the file's suffix.
        topic: logical name of the log in positions; empty takes the path's or glob's base name.
        event_type: type of interactions whose file has no such column.
        ts_unit: unit of numeric times.
        ts_format: strptime format of textual times; empty means ISO 8601. A time without a zone
            is UTC.
        delimiter: of CSV; empty means a tab for .tsv and a comma otherwise.
    """

    columns: dict[str, str] = field(default_factory=dict)
    kind: RecordKind = "interaction"
    format: FileFormat = "auto"
    topic: str = ""
    event_type: str = "interaction"
    ts_unit: TimeUnit = "ms"
    ts_format: str = ""
    delimiter: str = ""

    def __post_init__(self) -> None:
        """Refuse formats that describe nothing."""
        if self.ts_format and "%" not in self.ts_format:
            raise ValueError(f"ts_format must be a strptime format, not {self.ts_format!r}")
        if len(self.delimiter) > 1:
            raise ValueError(f"delimiter must be one character, not {self.delimiter!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFormat:
    """How the records of a topic are read.

    Attributes:
        encoding: "auto" goes by each record's headers and first byte: CloudEvents by ce_ headers or
            an application/cloudevents content type, MessagePack by its content type, schema framing
            by a zero byte, JSON otherwise. Anything else fixes it for every record of the topic.
        table: rename table for records of another shape: the name of a shipped one (personalize,
            metarank, gorse), or a path to a TOML file; empty reads freshet's own fields.
        kind: what a record is that does not say so itself.
        event_type: type of interactions that have none.
        ts_unit: unit of numeric times; a table that names one wins.
        ts_format: strptime format of textual times; empty means ISO 8601.
        append_time: take the time at which the log took a record for its event time where the record
            has none; without it such a record is bad.
    """

    encoding: Encoding = "auto"
    table: str = ""
    kind: RecordKind = "interaction"
    event_type: str = "interaction"
    ts_unit: TimeUnit = "ms"
    ts_format: str = ""
    append_time: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatsConfig:
    """How the topics of a log are read.

    Attributes:
        interactions: of the topic of interactions.
        items: of the topic of items, where a record without a value makes its key unavailable.
    """

    interactions: TopicFormat = field(default_factory=TopicFormat)
    items: TopicFormat = field(default_factory=lambda: TopicFormat(kind="item"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingConfig:
    """What a slate holds and what memory the scorer may use.

    Attributes:
        top_k: items per slate.
        filter_seen: leave out every item of the user's whole history.
        deny: item ids that never leave.
        r_max: longest recent window; beyond it the oldest segments' worth is left out at once.
        max_users: user states kept in memory.
        max_bytes: memory of those states, bytes.
    """

    top_k: int = 10
    filter_seen: bool = False
    deny: tuple[str, ...] = ()
    r_max: int = 256
    max_users: int = 10_000
    max_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshConfig:
    """When aged-out history is compressed.

    Attributes:
        segment_len: interactions per segment (n).
        r_min: newest interactions that always stay raw.
        tick_interval_s: seconds between ticks, aligned to the epoch.
        visible_delay_s: event-time seconds between a replay's tick and the moment its token groups
            become readable: the time the compression would have taken.
        batch_users: users compressed per round, so per transaction.
        chain_bytes: memory of the token chains kept between ticks, and as much again of new groups until readers
            take them in, bytes.
    """

    segment_len: int = 64
    r_min: int = 64
    tick_interval_s: int = 86_400
    visible_delay_s: int = 0
    batch_users: int = 256
    chain_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveConfig:
    """How a running service polls, answers, refreshes, reports and stops.

    Attributes:
        poll_ms: longest wait of one poll for a first record.
        store_every_ms: shortest time from one poll that returned records to the next: a transaction costs
            as much for one record as for a hundred, and keeps a core from answering.
        take_max: events answered together at most ...
        take_within_ms: ... and how long the first of them waits for others.
        settle_ms: how long the scored positions may stay behind what is answered: a transaction of
            its own per answer takes as long as scoring it. A crash repeats the slates of that time.
        shed_above: stored events without an answer above which only each user's newest is scored;
            0 never sheds.
        hold_above: stored events without an answer above which none are taken from the log until a
            quarter of them is answered: a backlog belongs there; 0 never holds.
        tick_interval_s: seconds between refresh ticks of the wall clock.
        maintain_interval_s: seconds between looks at what to rotate, merge and checkpoint.
        worker_deadline_s: longest time the process that compresses may take for one batch of
            segments; then it is replaced, and the next tick plans them anew.
        stall_s: a loop without a turn for this long is reported as not alive.
        drain_s: longest time from SIGTERM to the end.
        http_host: address of the health pages.
        http_port: port of /livez, /readyz, /metrics and /status; 0 serves none.
        log_format: "json" lines, "console" for people; "auto" goes by whether stderr is a terminal.
        log_level: least important lines that are written.
    """

    poll_ms: int = 100
    store_every_ms: int = 20
    take_max: int = 256
    take_within_ms: int = 5
    settle_ms: int = 1_000
    shed_above: int = 20_000
    hold_above: int = 200_000
    tick_interval_s: int = 60
    maintain_interval_s: int = 60
    worker_deadline_s: float = 60.0
    stall_s: float = 60.0
    drain_s: float = 20.0
    http_host: str = "127.0.0.1"
    http_port: int = 9464
    log_format: LogFormat = "auto"
    log_level: LogLevel = "info"

    def __post_init__(self) -> None:
        """Refuse values that no service can run with."""
        for name in _AT_LEAST_ONE:
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be >= 1, not {getattr(self, name)}")
        for name in (
            "store_every_ms",
            "take_within_ms",
            "settle_ms",
            "shed_above",
            "hold_above",
            "http_port",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """Everything a pipeline is told.

    Attributes:
        stream: how events are judged.
        serving: what slates hold.
        refresh: when history is compressed.
        score: whether scored event types yield slates; off for append-only loads.
        rotate_rows: interactions in the hot table that trigger a rotation into a sorted run.
        max_runs: sorted runs that trigger a merge.
        checkpoint_bytes: size of the write-ahead log from which on it is moved into the file after a rotation.
        slate_log: newest slates kept in the database; 0 keeps none.
        settle_ms: how long scored positions may stay behind what is answered; 0 moves them with every answer.
        refuse_moved: whether an event from another partition than its user's first stops the run, as it must where
            another shard or another log may hold the rest of the user; otherwise it is counted.
    """

    stream: StreamConfig = field(default_factory=StreamConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)
    refresh: RefreshConfig = field(default_factory=RefreshConfig)
    score: bool = True
    rotate_rows: int = 200_000
    max_runs: int = 16
    checkpoint_bytes: int = 32 << 20
    slate_log: int = 0
    settle_ms: int = 0
    refuse_moved: bool = False
